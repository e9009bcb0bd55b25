"""How many tokens a request is, with as few questions to the server as can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from ..errors import AuthenticationError, ServerError
from ..models.local.encode import encode_json, encode_message, encode_prompt
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.request import ChatRequest
from ..models.types import ChatResponse

LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")  # the fields of a request for the length of the answer
_TEMPLATE = 256  # tokens that a chat template may add of its own; if it is more, the server refuses what is too long
_BYTES = 3  # of a token, where nobody counts


class TokenCount:
    """Knows the context of a server, and the tokens of requests.

    Each answer tells the tokens of all that was said until then, and a text has no more tokens than bytes. So a prompt
    that cannot be too long need not be counted.
    """

    def __init__(self, client: LlamaCppClient) -> None:
        self.counts = True  # until it turns out that the server does not
        self._client = client
        self._n_ctx: Optional[int] = None
        self._asked = False
        # The last request that was measured: its messages, the rest of it, its tokens.
        self._measured: Tuple[List[AnyMessage], Optional[ChatRequest], int] = ([], None, 0)

    @property
    def n_ctx(self) -> Optional[int]:
        """The context of a slot in tokens; None where the server does not tell before a prompt is too long."""
        if not self._asked:
            try:
                self._n_ctx = self._client.props().n_ctx
            except AuthenticationError:
                raise
            except ServerError:
                pass  # a proxy that lets only the chat through
            self._asked = True
        return self._n_ctx

    @n_ctx.setter
    def n_ctx(self, n_ctx: int) -> None:
        self._n_ctx, self._asked = n_ctx, True

    def at_most(self, request: ChatRequest) -> int:
        """As many tokens as a request may have, without asking."""
        messages, rest, tokens = self._measured
        if rest == _rest(request) and request.messages[: len(messages)] == messages:
            return tokens + sum(map(size, request.messages[len(messages) :]))
        return whole_size(request) + _TEMPLATE

    def count(self, request: ChatRequest) -> int:
        """The tokens of a request; about as many, where the server does not count."""
        try:
            tokens = self._client.count_tokens(request)
        except ServerError as error:
            if error.status not in (404, 501):
                raise
            self.counts = False  # an old server, or a proxy that lets only the chat through
            return whole_size(request) // _BYTES
        self._measured = (list(request.messages), _rest(request), tokens)
        return tokens

    def learn(self, request: ChatRequest, response: ChatResponse) -> None:
        """Take what an answer tells about the request with the answer after it."""
        if response.usage:
            messages = [*request.messages, response.message]
            self._measured = (messages, _rest(request), response.usage.total_tokens)


def size(message: AnyMessage) -> int:
    """Bytes of a message in a request."""
    return len(encode_json(encode_message(message)))


def whole_size(request: ChatRequest) -> int:
    """Bytes of a request."""
    return len(encode_json(encode_prompt(request)))


def _rest(request: ChatRequest) -> ChatRequest:
    """All of a request that may matter to how its messages are written out."""
    nothing: Dict[str, Any] = dict.fromkeys(LIMITS)
    return replace(request, messages=(), **nothing)
