"""`Conversation`: a history that fits the context.

fitting   which messages may go, and how many have to: without I/O
token_count  how many tokens a request is
stream    an answer that joins the conversation as it ends
cache     why a prompt was read anew
file      the file that a conversation is kept in
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from ..errors import ContextSizeError, FlynnError
from ..models.local.encode import chat_request, with_defaults
from ..models.local.llamacpp import LlamaCppClient
from ..models.local.stream import ChatStream
from ..models.messages import AnyMessage
from ..models.request import ChatRequest
from ..models.types import ChatResponse, Message, Prompt
from ..trace import nothing, reporter
from .cache import why_read_anew
from .file import read_messages, write_messages
from .fitting import Turn, droppable, how_many, without
from .stream import ConversationStream
from .token_count import LIMITS, TokenCount, size, whole_size

T = TypeVar("T")
# Gets a conversation that holds the turns which do not fit; returns the messages that take their place.
Rule = Callable[["Conversation"], Sequence[AnyMessage]]

_OF_STREAMS = ("resume", "resume_for")
_OF_THE_CALL = ("timeout", *_OF_STREAMS)  # and not of the request
_SUMMARISE = (
    "Summarise our conversation so far in at most {} words, for yourself: you will not see it again. "
    "Keep names, numbers, facts, decisions and open questions."
)


def drop(oldest: Conversation) -> Sequence[AnyMessage]:
    """A rule: forget the oldest turns."""
    return ()


def summarise(oldest: Conversation) -> Sequence[AnyMessage]:
    """A rule: have the model sum the oldest turns up, in up to an eighth of the context.

    The summary is a turn like any other: it answers a question that ends the old turns, so that the server's prompt
    cache knows all that comes before it, and one day it is summed up with the turns that followed it.
    """
    limit = max(1, (oldest.n_ctx or 0) // 8)
    reply = oldest.chat(_SUMMARISE.format(limit // 2), max_tokens=limit)
    return oldest.messages[-2:] if reply.content else ()


class Conversation:
    """What was said, made to fit the server's context before each request.

    The system prompt, what the user said last and what the answer is to follow upon are always sent, and no result of a
    tool without its call. When all together is too long, the oldest turns go, many at a time (`how_many`).

    Args:
        client: of the server.
        system: the system prompt, None for none.
        reserve: tokens to keep free for the answer. By default the `max_tokens` of the request, or else a quarter of
            the context; then no more than half of it, and less where the newest messages leave no more.
        rule: what becomes of the turns that do not fit: `drop`, `summarise`, or any function that takes a conversation,
            of these turns alone, and returns the messages that take their place (if these do not fit, they are
            dropped). It may `chat` with the conversation that it gets.
        options: of every request, as for `LlamaCppClient.chat`; those of `chat_stream` apply to streams.

    Attributes:
        messages: what is sent before the next prompt, the system prompt apart. Yours to change.
        dropped: what is not sent any more, the oldest first.
        system, reserve, rule, options: as above, and yours to change.

    A call that fails leaves the conversation as it was. For one thread at a time.

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
        self._token_count = TokenCount(client)

    @property
    def n_ctx(self) -> Optional[int]:
        """The context in tokens; None where the server does not tell before a prompt is too long.

        Raises:
            FlynnError: the server cannot be asked.
        """
        return self._token_count.n_ctx

    def chat(self, /, prompt: Prompt, **options: Any) -> ChatResponse:
        """Answer a prompt, in one piece; then prompt and answer are part of the conversation.

        Args:
            prompt: what comes next: text, or messages, such as the results of tools.
            options: as for `LlamaCppClient.chat`.

        Raises:
            ContextSizeError: what is always sent does not fit.
            FlynnError: as for `LlamaCppClient.chat`, also while tokens are counted or old turns are summed up.
        """
        how, options = self._parted(options, apart=_OF_STREAMS)
        turn, response = self._send(prompt, options, lambda request: self._client.chat(request, **how))
        self._add(turn, response)
        return response

    def chat_stream(self, /, prompt: Prompt, **options: Any) -> ConversationStream:
        """`chat`, piece by piece as the answer is generated; options as for `LlamaCppClient.chat_stream`."""
        how, options = self._parted(options)

        def send(request: ChatRequest) -> ChatStream:
            return self._client.chat_stream(request, **how).__enter__()

        return ConversationStream(lambda: self._send(prompt, options, send), self._add)

    def fit(self, /, prompt: Prompt, **options: Any) -> List[AnyMessage]:
        """Shorten the conversation as far as a prompt needs it, and return all that is to be sent with it.

        For requests that are not made here: what comes of them is yours to add to `messages`. Otherwise as `chat`.
        """
        turn = self._fit(prompt, self._parted(options)[1])
        self._keep(turn, [])
        return list(turn.request.messages)

    def save(self, path: str) -> None:
        """Write all that was said to a file, what was dropped included: a JSON list of messages.

        An older conversation is replaced, whatever happens as a whole; no other file is.

        Raises:
            FileError: there is a file that holds something else, or it cannot be written.
        """
        write_messages(path, [*self._instructions, *self.dropped, *self.messages])

    def load(self, path: str) -> None:
        """Go on with the conversation in a file.

        Raises:
            FileError: the file holds something else, or cannot be read.
        """
        messages = read_messages(path)
        self.system = None
        if messages and messages[0]["role"] == "system" and isinstance(messages[0].get("content"), str):
            self.system = messages.pop(0)["content"]
        self.messages, self.dropped = messages, []

    # --- sending ------------------------------------------------------------------------------------------------------

    def _parted(self, options: Mapping[str, Any], apart: Sequence[str] = ()) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """The options that are of the call, and those that are of the request; own ones in `apart` are neither."""
        own = {name: value for name, value in self.options.items() if name not in apart}
        options = {**own, **options}
        return {name: options.pop(name) for name in _OF_THE_CALL if name in options}, options

    def _send(self, prompt: Prompt, options: Mapping[str, Any], send: Callable[[ChatRequest], T]) -> Tuple[Turn, T]:
        turn = self._fit(prompt, options)
        try:
            return turn, send(turn.request)
        except ContextSizeError as error:
            # The context was not known or is another one now, or there are images, whose tokens are not counted.
            if not error.n_ctx or not error.n_prompt_tokens or not droppable([*turn.history, *turn.prompt]):
                raise
            self._token_count.n_ctx = error.n_ctx
            turn = self._fit(prompt, options, error.n_prompt_tokens)
            return turn, send(turn.request)

    def _add(self, turn: Turn, response: ChatResponse) -> None:
        """Prompt and answer become part of the conversation; an answer that was cut short, as far as it makes sense."""
        message = response.message
        if response.finish_reason is None:
            message = replace(message, tool_calls=())
            if not message.content:
                return  # two prompts in a row are refused by some templates
        self._keep(turn, [*turn.prompt, message])
        self._token_count.learn(turn.request, response)
        self._explain(turn.request, response)

    def _explain(self, request: ChatRequest, response: ChatResponse) -> None:
        """Tell who listens why a prompt was read anew, where one was."""
        last, self._last = self._last, (request, response)
        report = reporter(self._client.transport.trace)
        if report is not nothing and last and last[1].usage:
            try:
                message = why_read_anew(self._client, last[0], last[1].usage.prompt_tokens, request, response)
            except FlynnError as error:
                message = f"the prompts cannot be compared: {error}"
            if message:
                report("cache", message=message)

    def _keep(self, turn: Turn, more: List[AnyMessage]) -> None:
        self.messages[:] = [*turn.history, *more]
        self.dropped += turn.dropped

    # --- fitting ------------------------------------------------------------------------------------------------------

    @property
    def _instructions(self) -> List[AnyMessage]:
        return [] if self.system is None else [Message("system", self.system)]

    def _with(self, request: ChatRequest, messages: List[AnyMessage]) -> ChatRequest:
        return replace(request, messages=[*self._instructions, *messages])

    def _fit(self, prompt: Prompt, options: Mapping[str, Any], tokens: Optional[int] = None) -> Turn:
        """What is to be sent with a prompt; `tokens` are of the whole conversation with it, if known."""
        request = with_defaults(chat_request(prompt, options), self._client.defaults)
        asked = list(request.messages)
        request = self._with(request, [*self.messages, *asked])
        whole = Turn(request, list(self.messages), asked, [])
        if self.n_ctx is None:
            return whole
        room = self.n_ctx - self._reserve(request, self.n_ctx)
        if tokens is None:
            if self._token_count.at_most(request) <= room:
                return whole
            tokens = self._token_count.count(request)
        return whole if tokens <= room else self._shortened(whole, tokens, room, self.n_ctx)

    def _reserve(self, request: ChatRequest, n_ctx: int) -> int:
        if self.reserve is not None:
            return self.reserve
        limits = [limit for name in LIMITS if (limit := getattr(request, name) or 0) > 0]
        return min([n_ctx // 2, *(limits or [n_ctx // 4])])

    def _shortened(self, whole: Turn, tokens: int, room: int, n_ctx: int) -> Turn:
        messages = [*whole.history, *whole.prompt]
        groups = droppable(messages)
        sizes = [whole_size(whole.request)]
        for group in groups:
            sizes.append(sizes[-1] - sum(size(messages[place]) for place in group))

        def count(number: int) -> int:
            return self._token_count.count(self._with(whole.request, without(messages, groups[:number])))

        number, tokens = how_many(sizes, tokens, room, count)
        if tokens > (n_ctx - 1 if self.reserve is None else room) and self._token_count.counts:
            raise _too_long(tokens, n_ctx, self.reserve)
        gone = groups[:number]
        old = [messages[place] for group in gone for place in group]
        history, rest = without(whole.history, gone), without(messages, gone)
        instead = self._instead_of(old, whole.request.model) if old else []
        request = self._with(whole.request, [*instead, *rest])
        if tokens + sum(map(size, instead)) > room and self._token_count.count(request) > room:
            instead, request = [], self._with(whole.request, rest)
        dropped = [message for message in old if not any(message is other for other in instead)]
        return Turn(request, [*instead, *history], rest[len(history) :], dropped)

    def _instead_of(self, old: List[AnyMessage], model: Optional[str]) -> List[AnyMessage]:
        oldest = Conversation(self._client, self.system, model=model)
        oldest.messages[:] = old
        oldest._token_count = self._token_count  # which knows the context
        return list(self.rule(oldest))


def _too_long(tokens: int, n_ctx: int, reserve: Optional[int]) -> ContextSizeError:
    kept = f", of which {reserve} are kept for the answer" if reserve else ""
    error = ContextSizeError(
        f"the prompt, with what has to go with it, is {tokens} tokens long; the context is {n_ctx}{kept}",
        type="exceed_context_size_error",
    )
    error.n_prompt_tokens, error.n_ctx = tokens, n_ctx
    return error
