"""The number of tokens of a request, with as few requests to the server as possible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from ..errors import AuthenticationError, ServerError
from ..models.local.chat import without_python
from ..models.local.encode import encode_json, encode_message, encode_prompt
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.request import ChatRequest
from ..models.types import ChatResponse

LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")  # the fields that limit the answer's length
_TEMPLATE = 256  # tokens that a chat template may add; if it adds more, the server refuses a prompt that is too long
_BYTES = 3  # bytes a token, if the server does not count


class TokenCount:
    """The context of a server, and the tokens of requests.

    Each answer tells the number of tokens up to then, and a text has no more tokens than bytes. So a prompt that cannot
    be too long need not be counted.
    """

    def __init__(self, client: LlamaCppClient) -> None:
        self.counts = True  # whether the server counts tokens, as far as known
        self._client = client
        self._n_ctx: Optional[int] = None
        self._asked = False
        # The last request that was measured: its messages, the rest of it, its tokens.
        self._measured: Tuple[List[AnyMessage], Optional[ChatRequest], int] = ([], None, 0)

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

    @n_ctx.setter
    def n_ctx(self, n_ctx: int) -> None:
        self._n_ctx, self._asked = n_ctx, True

    def at_most(self, request: ChatRequest) -> int:
        """Return an upper bound on the request's tokens, without asking the server."""
        messages, rest, tokens = self._measured
        if rest == _rest(request) and request.messages[: len(messages)] == messages:
            return tokens + sum(map(size, request.messages[len(messages) :]))
        return whole_size(request) + _TEMPLATE

    def count(self, request: ChatRequest) -> int:
        """Return the tokens of a request; an estimate if the server does not count."""
        try:
            tokens = self._client.count_tokens(request)
        except ServerError as error:
            if error.status not in (404, 501):
                raise
            self.counts = False  # an old server, or a proxy that passes only the chat route
            return whole_size(request) // _BYTES
        self._measured = (list(request.messages), _rest(request), tokens)
        return tokens

    def learn(self, request: ChatRequest, response: ChatResponse) -> None:
        """Remember the number of tokens of the request together with its answer."""
        if response.usage:
            messages = [*request.messages, response.message]
            self._measured = (messages, _rest(request), response.usage.total_tokens)


def size(message: AnyMessage) -> int:
    """Return the bytes of a message in a request."""
    return len(encode_json(encode_message(message)))


def whole_size(request: ChatRequest) -> int:
    """Return the bytes of a request."""
    return len(encode_json(encode_prompt(without_python(request)[0])))


def _rest(request: ChatRequest) -> ChatRequest:
    """Return the request without its messages and limits: everything else may change the tokens of a message."""
    nothing: Dict[str, Any] = dict.fromkeys(LIMITS)
    return replace(request, messages=(), **nothing)
