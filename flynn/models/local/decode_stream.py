"""A chat stream's events as typed events and, assembled, as the response. No I/O."""

from __future__ import annotations

from json.decoder import scanstring  # type: ignore[attr-defined]

from ..types import (
    ChatResponse,
    Choice,
    ContentEvent,
    DoneEvent,
    Message,
    ProgressEvent,
    ReasoningEvent,
    ToolCall,
    ToolCallEvent,
    Usage,
)
from .decode import (
    decode_error,
    decode_json,
    decode_logprobs,
    decode_timings,
    decode_tool_call,
    decode_usage,
    expect_object,
    get,
    objects,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, Union

    from ..types import StreamEvent, Timings

_LONG = 4096  # bytes; events that hold so much are few
_PATIENCE = 8  # events that are not alike, after which a pattern that was of no use is given up for another
_PROBE = b"\\u0000"
_TEXTS = {"content": "content", "reasoning": "reasoning_content"}  # where the server has the text of an event


class Repeat:
    """The pattern of the events that come, learned from one of them.

    For each token llama-server sends some 250 bytes, of which all but the text are those of the event before. Where the
    bytes before a string and those after it are the same, a JSON reader comes to the same result but for that string:
    so only the string is read. With it a stream costs less than `json.loads` of its events alone would.

    Example:
        >>> repeat = Repeat()
        >>> repeat.learn(b'{"choices":[{"delta":{"content":"Hi"}}]}', "content")
        True
        >>> repeat.read(b'{"choices":[{"delta":{"content":"there"}}]}'), repeat.read(b'{"choices":[{"delta":{}}]}')
        ('there', None)
    """

    def __init__(self) -> None:
        self._before = self._after = b"\0"  # no JSON begins so
        self._start = self._end = 0
        self._uses = self._misses = 0

    def read(self, data: bytes) -> Optional[str]:
        """The string in which an event differs; None if it differs elsewhere, or is no JSON."""
        if data.startswith(self._before) and data.endswith(self._after):
            try:
                literal = data[self._start : self._end].decode()  # with the quote that ends it
                text, length = scanstring(literal, 0)
            except ValueError:
                return None
            if length == len(literal):
                self._uses += 1
                return text  # type: ignore[no-any-return]
        return None

    def learn(self, data: bytes, key: str) -> bool:
        """Take an event for the pattern of those to come, unless the present pattern is in use; whether that is done.

        Args:
            data: the event, which is JSON.
            key: the member of `choices[0].delta` that is going to differ.
        """
        self._misses += 1
        before, opening, literal = data.partition(f'"{key}":"'.encode())
        if (not self._uses and 1 < self._misses < _PATIENCE) or not opening or _PROBE in data:
            return False
        self._uses = 0
        self._misses = 1
        before += opening
        rest = literal.decode()
        after = rest[scanstring(rest, 0)[1] - 1 :].encode()
        # That this string is the one there shows by another in its place, which the event has nowhere.
        if decode_json(before + _PROBE + after)["choices"][0]["delta"].get(key) != "\0":
            return False
        self._before, self._after = before, after
        self._start, self._end = len(before), 1 - len(after)
        return True


class _ChoiceSoFar:
    """The pieces of one choice."""

    def __init__(self) -> None:
        self.content: List[str] = []
        self.reasoning: List[str] = []
        self.calls: Dict[int, Tuple[List[str], List[str], List[str]]] = {}  # id, name, arguments: their fragments
        self.logprobs: List[Mapping[str, Any]] = []
        self.finish_reason: Optional[str] = None

    def choice(self) -> Choice:
        calls = tuple(ToolCall(*("".join(pieces) for pieces in call)) for _, call in sorted(self.calls.items()))
        message = Message("assistant", "".join(self.content), calls, reasoning="".join(self.reasoning) or None)
        return Choice(message, self.finish_reason, tuple(self.logprobs))


class ChatStreamDecoder:
    """A `flynn.models.local.stream.Decoder` of a chat.

    Args:
        progress: whether to give progress events, which every stream has.

    Example:
        >>> decoder = ChatStreamDecoder()
        >>> decoder.feed(b'{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}')
        [ContentEvent(text='Hi', choice=0, logprobs=(), type='content')]
        >>> decoder.response().content
        'Hi'
    """

    def __init__(self, *, progress: bool = False) -> None:
        self.done = False
        self._progress = progress
        self._choices: Dict[int, _ChoiceSoFar] = {}
        self._usages: List[Usage] = []
        self._timings: Optional[Timings] = None
        self._last = b"{}"
        self._repeat = Repeat()
        self._repeated: Tuple[List[str], Type[Union[ContentEvent, ReasoningEvent]], int] = ([], ContentEvent, 0)

    def feed(self, data: bytes) -> List[StreamEvent]:
        text = self._repeat.read(data)
        if text:
            pieces, kind, index = self._repeated
            pieces.append(text)
            self._last = data
            return [kind(text, index)]
        if data == b"[DONE]":
            self.done = True
            return [DoneEvent(self.response())]
        chunk = expect_object(decode_json(data), "event")
        if "error" in chunk:
            raise decode_error(None, data)
        self._last = data
        events: List[StreamEvent] = []
        index = 0
        for item in objects(chunk, "choices"):
            index = get(item, "index", 0)
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _ChoiceSoFar()
            self._take(item, index, choice, events)
        if self._progress and "prompt_progress" in chunk:
            events.append(decode_progress(get(chunk, "prompt_progress", {}), index))
        if "usage" in chunk:
            usage = decode_usage(chunk)
            if usage:
                self._usages.append(usage)
        if "timings" in chunk:
            self._timings = decode_timings(chunk)
        if len(events) == 1 and "usage" not in chunk and len(data) < _LONG:
            self._expect_more(data, chunk, events[0])
        return events

    def _expect_more(self, data: bytes, chunk: Dict[str, Any], event: StreamEvent) -> None:
        """If all that an event did was to add text, the next ones will probably do the same."""
        if (
            ((event.type == "content" and not event.logprobs) or event.type == "reasoning")
            and len(chunk["choices"]) == 1
            and self._repeat.learn(data, _TEXTS[event.type])
        ):
            self._repeated = (getattr(self._choices[event.choice], event.type), type(event), event.choice)

    def _take(self, item: Mapping[str, Any], index: int, choice: _ChoiceSoFar, events: List[StreamEvent]) -> None:
        delta: Dict[str, Any] = get(item, "delta", {})
        reasoning = get(delta, "reasoning_content", "")
        if reasoning:
            choice.reasoning.append(reasoning)
            events.append(ReasoningEvent(reasoning, index))
        logprobs = decode_logprobs(item) if "logprobs" in item else ()
        choice.logprobs.extend(logprobs)
        content = get(delta, "content", "")
        if content or logprobs:
            choice.content.append(content)
            events.append(ContentEvent(content, index, logprobs))
        if "tool_calls" in delta:
            for call in objects(delta, "tool_calls"):
                number, fragment = get(call, "index", 0), decode_tool_call(call)
                pieces = (fragment.id, fragment.name, fragment.arguments)
                for so_far, piece in zip(choice.calls.setdefault(number, ([], [], [])), pieces):
                    so_far.append(piece)
                events.append(ToolCallEvent(number, *pieces, index))
        if item.get("finish_reason") is not None:
            choice.finish_reason = get(item, "finish_reason", "")

    def response(self) -> ChatResponse:
        choices = [so_far.choice() for _, so_far in sorted(self._choices.items())]
        usage = None
        if self._usages:
            # With n > 1 each choice ends with a usage of its own; the prompt was read once.
            completion_tokens = sum(usage.completion_tokens for usage in self._usages)
            usage = Usage(self._usages[-1].prompt_tokens, completion_tokens, self._usages[0].cached_tokens)
        last = decode_json(self._last)
        choices = choices or [_ChoiceSoFar().choice()]
        return ChatResponse(tuple(choices), usage, self._timings, get(last, "id", ""), get(last, "model", ""), last)


def decode_progress(progress: Mapping[str, Any], choice: int) -> ProgressEvent:
    total, cached, processed = (get(progress, key, 0) for key in ("total", "cache", "processed"))
    return ProgressEvent(total, cached, processed, get(progress, "time_ms", 0), choice)
