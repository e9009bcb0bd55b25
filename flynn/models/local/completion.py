"""Text that is continued or filled in, without a chat template: what those routes take and answer. No I/O.

Source: `tools/server/README.md`, and `server-task.cpp` and `server-context.cpp` beside it, in ggml-org/llama.cpp.
"""

from __future__ import annotations

from ...dataclass import dataclass, field, fields
from ..request import ChatRequest
from ..types import ContentEvent, Usage
from .decode import decode_error, decode_json, decode_timings, expect_object, get, integers, objects
from .decode_stream import decode_progress
from .encode import check_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union

    from ..types import ProgressEvent, Timings

    # A prompt is text, tokens, both mixed, or an object in the server's own form; and there may be several.
    Prompts = Union[str, Mapping[str, Any], Sequence[Union[int, str, Mapping[str, Any], Sequence[Union[int, str]]]]]
    CompletionEvent = Union[ContentEvent, ProgressEvent, "CompletionDoneEvent"]


# Those that the completion routes have in common with the chat route.
_OPTIONS = tuple(option.name for option in fields(ChatRequest) if option.metadata.get("completion"))


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt.

    Attributes:
        content: what the model wrote, without the prompt.
        tokens: the IDs of that; of a reply in one piece only if `return_tokens` was asked for. A stream lacks those
            that end within a character, which the server does not send.
        stop_type: why it ended: `"eos"`, `"limit"` (of tokens), `"word"` (one of `stop`); None while it goes on.
        stopping_word: the one of `stop` that ended it, which is not in `content`; else empty.
        usage: tokens that it cost; None if the server did not say.
        timings: how long it took; None while it goes on.
        logprobs: one mapping a token, as the server sends them, if `n_probs` was asked for.
        raw: the server's JSON, untouched. Of a stream, the last chunk.
    """

    content: str
    tokens: Sequence[int] = ()
    stop_type: Optional[str] = None
    stopping_word: str = ""
    usage: Optional[Usage] = None
    timings: Optional[Timings] = None
    logprobs: Sequence[Mapping[str, Any]] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class CompletionResponse:
    """The reply to a request for completions. What a `Completion` says is also here, for the first one.

    Attributes:
        choices: the completions: `n_cmpl` of the first prompt, then those of the second, and so on.
        raw: the server's JSON, untouched: an object, or a list of them where there are several completions. Of a
            stream, the last chunk of each.
    """

    choices: Sequence[Completion]
    raw: Any = field(default=None, repr=False)

    @property
    def content(self) -> str:
        return self.choices[0].content

    @property
    def tokens(self) -> Sequence[int]:
        return self.choices[0].tokens

    @property
    def stop_type(self) -> Optional[str]:
        return self.choices[0].stop_type

    @property
    def stopping_word(self) -> str:
        return self.choices[0].stopping_word

    @property
    def usage(self) -> Optional[Usage]:
        return self.choices[0].usage

    @property
    def timings(self) -> Optional[Timings]:
        return self.choices[0].timings

    @property
    def logprobs(self) -> Sequence[Mapping[str, Any]]:
        return self.choices[0].logprobs


@dataclass(frozen=True)
class CompletionDoneEvent:
    """The end of a stream of completions.

    Attributes:
        response: all that came, assembled.
    """

    response: CompletionResponse
    choice: int = 0
    type: Literal["done"] = "done"


def encode_completion(
    prompt: Mapping[str, Any], options: Mapping[str, Any], defaults: Mapping[str, Any], *, stream: bool = False
) -> Dict[str, Any]:
    """The body of a request to a completion route.

    Args:
        prompt: the fields that the route has for it.
        options: given by the caller.
        defaults: the client's, for fields that the caller does not set; those of the chat route alone are left out.
    """
    check_options(options, (*_OPTIONS, "extra"))
    body = {name: value for name, value in prompt.items() if value is not None}
    extra: Dict[str, Any] = {}
    for given in (defaults, options):
        body.update((name, given[name]) for name in _OPTIONS if given.get(name) is not None)
        extra.update(given.get("extra") or {})
    if stream:
        body.update(stream=True, return_progress=True)  # progress always, as in `encode_chat`
    return {**body, **extra}


def count_completions(body: Mapping[str, Any]) -> int:
    """How many completions a body asks for: a stream of them has no other sign of its end.

    A list is one prompt if any number is in it, else a list of prompts (`tokenize_input_prompts`, server-common.cpp).
    """
    prompt = body.get("prompt")
    several = isinstance(prompt, (list, tuple)) and not any(isinstance(item, (int, float)) for item in prompt)
    return (len(prompt) if several and prompt else 1) * (body.get("n_cmpl") or body.get("n") or 1)


def decode_completions(value: Any) -> CompletionResponse:
    """The reply to a request without `stream`."""
    choices = []
    for raw in objects({"response": value if isinstance(value, list) else [value]}, "response"):
        whole = _CompletionSoFar()
        whole.take(raw)
        choices.append(whole.completion())
    return CompletionResponse(tuple(choices or [Completion("")]), value)


class _CompletionSoFar:
    """The pieces of one completion."""

    def __init__(self) -> None:
        self.content: List[str] = []
        self.tokens: List[int] = []
        self.logprobs: List[Mapping[str, Any]] = []
        self.last: Mapping[str, Any] = {}

    def take(self, raw: Mapping[str, Any]) -> Tuple[str, List[Dict[str, Any]]]:
        """Add what came; its text and log-probabilities."""
        self.last = raw
        self.tokens += integers(raw, "tokens")
        content, logprobs = get(raw, "content", ""), objects(raw, "completion_probabilities")
        self.content.append(content)
        self.logprobs += logprobs
        return content, logprobs

    def completion(self) -> Completion:
        raw, timings = self.last, decode_timings(self.last)
        evaluated, predicted = get(raw, "tokens_evaluated", 0), get(raw, "tokens_predicted", 0)
        stop_type = get(raw, "stop_type", "none")
        return Completion(
            "".join(self.content),
            tuple(self.tokens),
            None if stop_type == "none" else stop_type,
            get(raw, "stopping_word", ""),
            Usage(evaluated, predicted, timings.cache_n if timings else 0) if "tokens_evaluated" in raw else None,
            timings,
            tuple(self.logprobs),
            raw,
        )


class CompletionStreamDecoder:
    """A `flynn.models.local.stream.Decoder` of completions.

    Args:
        count: completions to come.
        progress: whether to give progress events, which every stream has.
    """

    def __init__(self, count: int, *, progress: bool = False) -> None:
        self.done = False
        self._missing = count
        self._progress = progress
        self._choices: Dict[int, _CompletionSoFar] = {}

    def feed(self, data: bytes) -> List[CompletionEvent]:
        chunk = expect_object(decode_json(data), "event")
        if "error" in chunk:
            raise decode_error(None, data)
        index = get(chunk, "index", 0)
        if "prompt_progress" in chunk:  # with a content and a token that are none
            return [decode_progress(get(chunk, "prompt_progress", {}), index)] if self._progress else []
        content, logprobs = self._choices.setdefault(index, _CompletionSoFar()).take(chunk)
        events: List[CompletionEvent] = []
        if content or logprobs:
            events.append(ContentEvent(content, index, tuple(logprobs)))
        if chunk.get("stop") is not False:  # the last of a completion; `response_fields` may have taken its "stop"
            self._missing -= 1
            if self._missing <= 0:
                self.done = True
                events.append(CompletionDoneEvent(self.response()))
        return events

    def response(self) -> CompletionResponse:
        choices = [so_far.completion() for _, so_far in sorted(self._choices.items())] or [Completion("")]
        raws = [choice.raw for choice in choices]
        return CompletionResponse(tuple(choices), raws[0] if len(raws) == 1 else raws)
