"""The context of a server, and the number of tokens of a request."""

from __future__ import annotations

from typing import Optional

from ..errors import AuthenticationError, ServerError
from ..models.local.chat import without_python
from ..models.local.encode import encode_json, encode_prompt
from ..models.local.llamacpp import LlamaCppClient
from ..models.request import ChatRequest

_TEMPLATE = 256  # tokens that a chat template may add; if it adds more, the server refuses a prompt that is too long


class TokenCount:
    """The context of a server, and the tokens of requests.

    Attributes:
        counts: whether the server counts tokens, as far as known.
    """

    def __init__(self, client: LlamaCppClient) -> None:
        self.counts = True
        self._client = client
        self._n_ctx: Optional[int] = None
        self._asked = False
        self._per_byte = 1 / 3  # tokens

    @property
    def n_ctx(self) -> Optional[int]:
        """The context of a slot in tokens; None if the server tells it only when a prompt is too long."""
        if not self._asked:
            try:
                self._n_ctx = self._client.props().n_ctx
            except AuthenticationError:
                raise
            except ServerError:
                pass  # a proxy that passes only the chat route
            self._asked = True
        return self._n_ctx

    def learn(self, request: ChatRequest, tokens: int, n_ctx: int) -> None:
        """Remember the tokens of a request that the server has refused, and its context."""
        self._per_byte = tokens / _size(request)
        self._n_ctx, self._asked = n_ctx, True

    def surely_fits(self, request: ChatRequest, room: int) -> bool:
        """Return whether a request cannot have more tokens than `room`: a text has no more tokens than bytes."""
        return _size(request) + _TEMPLATE <= room

    def count(self, request: ChatRequest) -> int:
        """Return the tokens of a request, images apart; an estimate if the server does not count."""
        try:
            if self.counts:
                return self._client.count_tokens(request)
        except ServerError as error:
            if error.status not in (404, 501):
                raise
            self.counts = False  # an old server, or a proxy that passes only the chat route
        return self.estimate(request)

    def estimate(self, request: ChatRequest) -> int:
        """Return about how many tokens a request has, by its bytes."""
        return round(_size(request) * self._per_byte)


def _size(request: ChatRequest) -> int:
    """Return the bytes of a request."""
    return len(encode_json(encode_prompt(without_python(request)[0])))
