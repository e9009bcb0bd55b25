"""`Conversation`: a history that fits the context.

fitting  which messages can be dropped; no I/O
stream   a streamed answer that joins the conversation
cache    why the server read a prompt again
file     the file of a conversation
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..errors import AuthenticationError, ContextSizeError, ServerError
from ..models.local.chat import without_python
from ..models.local.encode import chat_request, encode_json, encode_prompt, with_defaults
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.stream import ChatStream
from ..models.messages import AnyMessage
from ..models.request import ChatRequest
from ..models.types import ChatResponse, Message, Prompt
from ..trace import nothing, reporter
from .cache import why_read_anew
from .file import read_messages, write_messages
from .fitting import Turn, droppable, half_more, without
from .stream import ConversationStream

T = TypeVar("T")
# Called with a conversation of the turns that do not fit; returns the messages that take their place.
Rule = Callable[["Conversation"], Sequence[AnyMessage]]

_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")  # the fields that limit the answer's length
_OF_STREAMS = ("resume", "resume_for")
_OF_CALLS = ("timeout", "headers", *_OF_STREAMS)  # options that are not fields of the request
_TEMPLATE = 256  # tokens that a chat template may add; if it adds more, the server refuses a prompt that is too long
_BYTES = 3  # bytes a token, if the server does not count
_SUMMARISE = (
    "Summarise our conversation so far in at most {} words, for yourself: you will not see it again. "
    "Keep names, numbers, facts, decisions and open questions."
)


def drop(oldest: Conversation) -> Sequence[AnyMessage]:
    """Drop the oldest turns. A rule for `Conversation`."""
    return ()


def summarise(oldest: Conversation) -> Sequence[AnyMessage]:
    """Let the model summarise the oldest turns, in up to an eighth of the context. A rule for `Conversation`.

    The summary is a normal turn: the answer to a question after the old turns. So the server's prompt cache has
    everything before it, and later the summary is itself summarised with the turns after it.
    """
    limit = max(1, (oldest.n_ctx or 0) // 8)
    reply = oldest.chat(_SUMMARISE.format(limit // 2), max_tokens=limit)
    return oldest.messages[-2:] if reply.content else ()


class Conversation:
    """A history of messages that is shortened to fit the server's context before each request.

    It always sends the system prompt, the user's last message and the messages that the answer follows, and never the
    result of a tool without its call. If the whole is too long, the oldest turns are dropped, many at a time (see
    `fitting.half_more`).

    A call that fails leaves the conversation as it was. Use it from one thread at a time.

    Args:
        client: the server's client.
        system: the system prompt, None for none.
        reserve: tokens to keep free for the answer. By default the request's `max_tokens`, otherwise a quarter of the
            context; at most half of the context, and less if the newest messages need more.
        rule: what happens to turns that do not fit: `drop`, `summarise`, or a function that takes a conversation of
            these turns and returns the messages that replace them (dropped if they do not fit). It may `chat` with the
            conversation that it gets. It is called again, with more turns, if the server still refuses the prompt.
        options: options of every request, as for `LlamaCppClient.chat`; those of `chat_stream` apply to streams.

    Attributes:
        messages: the messages sent before the next prompt, without the system prompt. You may change them.
        dropped: the messages that are no longer sent, the oldest first.
        system, reserve, rule, options: as above. You may change them.

    Example:
        >>> conversation = Conversation(client, "Be brief.", rule=summarise)                 # doctest: +SKIP
        >>> conversation.chat("Why is the sky blue?").content                                # doctest: +SKIP
        'Because air scatters blue light more than red light.'
        >>> for text in conversation.chat_stream("And at dusk?").text():                     # doctest: +SKIP
        ...     print(text, end="")
    """

    def __init__(
        self,
        client: LlamaCppClient,
        system: Optional[str] = None,
        *,
        reserve: Optional[int] = None,
        rule: Rule = drop,
        **options: Any,
    ) -> None:
        self.system = system
        self.reserve = reserve
        self.rule = rule
        self.options = options
        self.messages: List[AnyMessage] = []
        self.dropped: List[AnyMessage] = []
        self._client = client
        self._last: Optional[Tuple[ChatRequest, ChatResponse]] = None
        self._n_ctx: Any = ...  # not asked yet
        self._counts = True  # whether the server counts tokens, as far as known

    @property
    def n_ctx(self) -> Optional[int]:
        """The context in tokens; None if the server tells it only when a prompt is too long. Raises FlynnError."""
        if self._n_ctx is ...:
            try:
                self._n_ctx = self._client.props().n_ctx
            except AuthenticationError:
                raise
            except ServerError:
                self._n_ctx = None  # a proxy that passes only the chat route
        return self._n_ctx  # type: ignore[no-any-return]

    def chat(self, /, prompt: Prompt, **options: Any) -> ChatResponse:
        """Return the answer to a prompt, in one piece. Prompt and answer join the conversation.

        Args:
            prompt: the next text, or messages such as the results of tools.
            options: as for `LlamaCppClient.chat`.

        Raises:
            ContextSizeError: the messages that are always sent do not fit.
            FlynnError: as for `LlamaCppClient.chat`, also while tokens are counted or old turns summarised.
        """
        call_options, options = self._split(options, apart=_OF_STREAMS)
        turn, response = self._send(prompt, options, lambda request: self._client.chat(request, **call_options))
        self._add(turn, response)
        return response

    def chat_stream(self, /, prompt: Prompt, **options: Any) -> ConversationStream:
        """Stream the answer to a prompt while it is generated. Options as for `LlamaCppClient.chat_stream`."""
        call_options, options = self._split(options)

        def send(request: ChatRequest) -> ChatStream:
            return self._client.chat_stream(request, **call_options).__enter__()

        return ConversationStream(lambda: self._send(prompt, options, send), self._add)

    def fit(self, /, prompt: Prompt, **options: Any) -> List[AnyMessage]:
        """Shorten the conversation to fit a prompt, and return all messages to send.

        For requests that you send yourself: add the prompt and the answer to `messages`. Raises what `chat` raises.
        """
        turn = self._fit(prompt, self._split(options)[1])
        self._keep(turn, [])
        return list(turn.request.messages)

    def save(self, path: str) -> None:
        """Write the whole conversation to a file, dropped messages included, as a JSON list of messages.

        It replaces a file of a conversation, as a whole or not at all. Raises FileError if the file is another, or
        cannot be written.
        """
        write_messages(path, [*self._instructions, *self.dropped, *self.messages])

    def load(self, path: str) -> None:
        """Continue the conversation in a file. Raises FileError if it cannot be read, or is not a conversation."""
        messages = read_messages(path)
        self.system = None
        if messages and messages[0]["role"] == "system" and isinstance(messages[0].get("content"), str):
            self.system = messages.pop(0)["content"]
        self.messages, self.dropped = messages, []

    # --- sending ------------------------------------------------------------------------------------------------------

    def _split(self, options: Mapping[str, Any], apart: Sequence[str] = ()) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Return the options of the call and those of the request, without the conversation's own in `apart`."""
        own = {name: value for name, value in self.options.items() if name not in apart}
        options = {**own, **options}
        return {name: options.pop(name) for name in _OF_CALLS if name in options}, options

    def _send(self, prompt: Prompt, options: Mapping[str, Any], send: Callable[[ChatRequest], T]) -> Tuple[Turn, T]:
        turn = whole = self._fit(prompt, options)
        groups = droppable([*whole.history, *whole.prompt])
        dropped = 0
        while True:
            try:
                return turn, send(turn.request)
            except ContextSizeError as error:
                # The context was unknown or has changed, or there are images, whose tokens are not counted.
                if not error.n_ctx or dropped == len(groups):
                    raise
                self._n_ctx = error.n_ctx
                dropped = half_more(dropped, len(groups))
                room = error.n_ctx - 1 if dropped < len(groups) else -1  # in the end without what the rule returns
                turn = self._shortened(whole, groups[:dropped], room)

    def _add(self, turn: Turn, response: ChatResponse) -> None:
        """Add prompt and answer to the conversation; an answer that was cut short without its tool calls."""
        message = response.message
        if response.finish_reason is None:
            message = replace(message, tool_calls=())
            if not message.content:
                return  # some templates refuse two prompts in a row
        self._keep(turn, [*turn.prompt, message])
        last, self._last = self._last, (turn.request, response)
        report = reporter(self._client.transport.trace)
        if report is not nothing and last and last[1].usage:
            why = why_read_anew(self._client, last[0], turn.request, response, expected=last[1].usage.prompt_tokens)
            if why:
                report("cache", message=why)

    def _keep(self, turn: Turn, more: List[AnyMessage]) -> None:
        self.messages[:] = [*turn.history, *more]
        self.dropped += turn.dropped

    # --- fitting ------------------------------------------------------------------------------------------------------

    @property
    def _instructions(self) -> List[AnyMessage]:
        return [] if self.system is None else [Message("system", self.system)]

    def _with(self, request: ChatRequest, messages: List[AnyMessage]) -> ChatRequest:
        return replace(request, messages=[*self._instructions, *messages])

    def _fit(self, prompt: Prompt, options: Mapping[str, Any]) -> Turn:
        """Return the messages to send with a prompt: all of them, if the server does not tell how many fit."""
        request = with_defaults(chat_request(prompt, options), self._client.defaults)
        new = list(request.messages)
        messages = [*self.messages, *new]
        whole = Turn(self._with(request, messages), list(self.messages), new, [])
        if self.n_ctx is None:
            return whole
        limits = [limit for name in _LIMITS if (limit := getattr(request, name) or 0) > 0]
        reserve = min([self.n_ctx // 2, *(limits or [self.n_ctx // 4])]) if self.reserve is None else self.reserve
        room = self.n_ctx - reserve
        if _size(whole.request) + _TEMPLATE <= room:
            return whole
        groups = droppable(messages)
        dropped = 0
        while (tokens := self._count(self._with(request, without(messages, groups[:dropped])))) > room:
            if dropped == len(groups):
                break
            dropped = half_more(dropped, len(groups))
        if tokens > (self.n_ctx - 1 if self.reserve is None else room) and self._counts:
            raise _too_long(tokens, self.n_ctx, self.reserve)
        return self._shortened(whole, groups[:dropped], room)

    def _shortened(self, turn: Turn, groups: List[List[int]], room: int) -> Turn:
        """Return a turn without these groups, or with what the rule puts in their place, if that fits."""
        messages = [*turn.history, *turn.prompt]
        old = [messages[index] for group in groups for index in group]
        history, rest = without(turn.history, groups), without(messages, groups)
        summary = self._apply_rule(old, turn.request.model) if old else []
        request = self._with(turn.request, [*summary, *rest])
        if summary and self._count(request) > room:
            summary, request = [], self._with(turn.request, rest)
        dropped = [message for message in old if not any(message is other for other in summary)]
        return Turn(request, [*summary, *history], rest[len(history) :], [*turn.dropped, *dropped])

    def _count(self, request: ChatRequest) -> int:
        """Return the tokens of a request, images apart; an estimate if the server does not count."""
        try:
            if self._counts:
                return self._client.count_tokens(request)
        except ServerError as error:
            if error.status not in (404, 405, 501):
                raise
            self._counts = False  # an old server, or a proxy that passes only the chat route
        return _size(request) // _BYTES

    def _apply_rule(self, old: List[AnyMessage], model: Optional[str]) -> List[AnyMessage]:
        """Return the messages that take the place of the old ones."""
        oldest = Conversation(self._client, self.system, model=model)
        oldest.messages = old[:]
        oldest._n_ctx, oldest._counts = self._n_ctx, self._counts
        return list(self.rule(oldest))


def _size(request: ChatRequest) -> int:
    """Return the bytes of a request. A text has no more tokens than bytes."""
    return len(encode_json(encode_prompt(without_python(request)[0])))


def _too_long(tokens: int, n_ctx: int, reserve: Optional[int]) -> ContextSizeError:
    kept = f", of which {reserve} are kept for the answer" if reserve else ""
    error = ContextSizeError(
        f"the prompt, with what has to go with it, is {tokens} tokens long; the context is {n_ctx}{kept}",
        type="exceed_context_size_error",
    )
    error.n_prompt_tokens, error.n_ctx = tokens, n_ctx
    return error
