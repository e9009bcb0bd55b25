"""Text without a chat template: completion and infill. Types, decoders and the methods of the client.

Source: `tools/server/README.md`, and `server-task.cpp` and `server-context.cpp` beside it, in ggml-org/llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from ..request import ChatRequest, check_options
from ..types import ContentEvent, ProgressEvent, Timings, Usage
from .decode import decode_event, decode_json, decode_progress, decode_timings, get, integers, objects
from .encode import encode_json
from .stream import StreamRoutes, TextStream
from .transport import OWN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options import CompletionOptions

# A prompt is text, tokens, a mix of both, or an object in the server's own form; or a list of these.
Prompts = Union[str, Mapping[str, Any], Sequence[Union[int, str, Mapping[str, Any], Sequence[Union[int, str]]]]]

# The options that the completion routes have in common with the chat route.
_OPTIONS = tuple(option.name for option in fields(ChatRequest) if option.metadata.get("completion"))


@dataclass
class Completion:
    """One completion of one prompt.

    Attributes:
        content: the text that the model generated, without the prompt.
        tokens: the IDs of its tokens; in a one-shot reply only with `return_tokens`. A stream lacks tokens that end
            inside a character: the server does not send them.
        stop_type: why it ended: `"eos"`, `"limit"` (of tokens), `"word"` (one of `stop`); None before its end.
        stopping_word: the one of `stop` that ended it, which is not in `content`; empty if none did.
        usage: token counts; None if the server sent none.
        timings: how long it took; None before its end.
        logprobs: one mapping a token, as the server sends them, with `n_probs`.
        raw: the server's JSON, untouched; of a stream, the last chunk.
    """

    content: str
    tokens: Sequence[int] = ()
    stop_type: Optional[str] = None
    stopping_word: str = ""
    usage: Optional[Usage] = None
    timings: Optional[Timings] = None
    logprobs: Sequence[Mapping[str, Any]] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class CompletionResponse:
    """The reply to a request for completions. It has the properties of the first `Completion`.

    Attributes:
        choices: the completions: `n_cmpl` of the first prompt, then those of the second, and so on.
        raw: the server's JSON, untouched: an object, or a list of them if there are several completions; of a stream,
            the last chunk of each.
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


@dataclass
class CompletionDoneEvent:
    """The end of a stream of completions.

    Attributes:
        response: the assembled response.
    """

    response: CompletionResponse
    choice: int = 0
    type: Literal["done"] = field(default="done", init=False)


CompletionEvent = Union[ContentEvent, ProgressEvent, CompletionDoneEvent]


def encode_completion(
    prompt: Mapping[str, Any], options: Mapping[str, Any], defaults: Mapping[str, Any], *, stream: bool = False
) -> Dict[str, Any]:
    """Return the body of a request to a completion route.

    Args:
        prompt: the route's fields for the prompt.
        options: the caller's.
        defaults: the client's, for fields that the caller does not set. Fields of the chat route alone are left out.
    """
    check_options(options, (*_OPTIONS, "extra"))
    body = {name: value for name, value in prompt.items() if value is not None}
    extra: Dict[str, Any] = {}
    for given in (defaults, options):
        body.update((name, given[name]) for name in _OPTIONS if given.get(name) is not None)
        extra.update(given.get("extra") or {})
    if stream:
        body.update(stream=True, return_progress=True)  # always ask for progress, as in `encode_chat`
    return {**body, **extra}


def count_completions(body: Mapping[str, Any]) -> int:
    """Return the number of completions that a body asks for: a stream of them has no other sign of its end.

    A list with a number in it is one prompt, any other list a list of prompts (`tokenize_input_prompts` in
    server-common.cpp).
    """
    prompt = body.get("prompt")
    several = isinstance(prompt, (list, tuple)) and not any(isinstance(item, (int, float)) for item in prompt)
    return (len(prompt) if several and prompt else 1) * (body.get("n_cmpl") or body.get("n") or 1)


def decode_completions(data: bytes) -> CompletionResponse:
    """Return the reply to a request without `stream`."""
    value = decode_json(data)
    choices = []
    for raw in objects({"response": value if isinstance(value, list) else [value]}, "response"):
        pieces = _CompletionSoFar()
        pieces.add(raw)
        choices.append(pieces.completion())
    return CompletionResponse(tuple(choices or [Completion("")]), value)


class _CompletionSoFar:
    """The pieces of one completion."""

    def __init__(self) -> None:
        self.content: List[str] = []
        self.tokens: List[int] = []
        self.logprobs: List[Mapping[str, Any]] = []
        self.last: Mapping[str, Any] = {}

    def add(self, raw: Mapping[str, Any]) -> Tuple[str, List[Dict[str, Any]]]:
        """Add a chunk. Returns its text and log-probabilities."""
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
        count: number of completions in the stream.
        progress: whether to return progress events. Every stream has them, see `encode_chat`.
    """

    def __init__(self, count: int, *, progress: bool = False) -> None:
        self.done = False
        self._missing = count
        self._progress = progress
        self._choices: Dict[int, _CompletionSoFar] = {}

    def feed(self, data: bytes) -> List[CompletionEvent]:
        chunk = decode_event(data)
        index = get(chunk, "index", 0)
        if "prompt_progress" in chunk:  # its content and token are placeholders
            return [decode_progress(get(chunk, "prompt_progress", {}), index)] if self._progress else []
        content, logprobs = self._choices.setdefault(index, _CompletionSoFar()).add(chunk)
        events: List[CompletionEvent] = []
        if content or logprobs:
            events.append(ContentEvent(content, index, tuple(logprobs)))
        if chunk.get("stop") is not False:  # the last chunk of a completion; `response_fields` may remove its "stop"
            self._missing -= 1
            if self._missing <= 0:
                self.done = True
                events.append(CompletionDoneEvent(self.response()))
        return events

    def response(self) -> CompletionResponse:
        choices = [so_far.completion() for _, so_far in sorted(self._choices.items())] or [Completion("")]
        raws = [choice.raw for choice in choices]
        return CompletionResponse(tuple(choices), raws[0] if len(raws) == 1 else raws)


class CompletionStream(TextStream):
    """Completions while they are generated. Returned by `LlamaCppClient.complete_stream`; see `ServerStream`."""

    if TYPE_CHECKING:

        @property
        def response(self) -> CompletionResponse: ...

        def __next__(self) -> CompletionEvent: ...


class TextRoutes(StreamRoutes):
    """The part of `LlamaCppClient` that completes plain text."""

    def complete(
        self,
        /,
        prompt: Prompts,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionResponse:
        """Return the completion of a text, in one piece. No chat template is applied.

        Args:
            prompt: a text, a list of tokens, a mixed list, a mapping in the server's own form (`prompt_string`,
                `multimodal_data`), or a list of such prompts.
            headers: sent with this request besides the client's.
            options: fields of `ChatRequest` without those of chat: `n_predict`, `temperature`, `stop`, `n_probs`, …

        Raises:
            TypeError: an option is not one of the route's.

        Example:
            >>> client.complete("The sky is", n_predict=3).content
            ' blue today'
        """
        body = encode_completion({"prompt": prompt}, options, self.defaults)
        return self._completions("/completion", body, timeout, headers)

    def _completions(
        self, path: str, body: Mapping[str, Any], timeout: Optional[float], headers: Optional[Mapping[str, str]]
    ) -> CompletionResponse:
        data = encode_json(body)
        response: CompletionResponse = self.transport.fetch(
            "POST", path, data, timeout, headers=headers, decode=decode_completions
        )
        return response

    def complete_stream(
        self,
        /,
        prompt: Prompts,
        *,
        timeout: Optional[float] = OWN,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionStream:
        """Stream the completion of a text while it is generated. The request is sent when iteration begins.

        Args:
            prompt, headers, options: as for `complete`.
            timeout, resume, resume_for: as for `chat_stream`.

        Returns:
            An iterator of events of the types `"content"`, `"progress"` and `"done"`; see `ServerStream`.
        """
        body = encode_completion({"prompt": prompt}, options, self.defaults, stream=True)
        progress = options.get("return_progress", self.defaults.get("return_progress"))
        decoder = CompletionStreamDecoder(count_completions(body), progress=bool(progress))
        data = encode_json(body)
        streamed = self._stream("/completion", data, body.get("model"), timeout, headers, resume, resume_for)
        return CompletionStream(streamed, decoder)

    def infill(
        self,
        /,
        input_prefix: str,
        input_suffix: str,
        *,
        prompt: Optional[str] = None,
        input_extra: Optional[Sequence[Mapping[str, str]]] = None,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionResponse:
        """Return the code that fills the gap between two pieces of code.

        Args:
            input_prefix: the code before the gap.
            input_suffix: the code after the gap.
            prompt: the beginning of the code in the gap.
            input_extra: other files, each as `{"filename": …, "text": …}`.
            headers, options: as for `complete`.

        Raises:
            NotSupportedError: the model does not support infill.

        Example:
            >>> client.infill("def add(a, b):\\n    return ", "\\n").content
            'a + b'
        """
        gap = {"input_prefix": input_prefix, "input_suffix": input_suffix, "prompt": prompt, "input_extra": input_extra}
        return self._completions("/infill", encode_completion(gap, options, self.defaults), timeout, headers)
