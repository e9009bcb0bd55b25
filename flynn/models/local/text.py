"""Text without a chat template: completion and infill. Types, decoders and the methods of the client.

Source: `tools/server/README.md`, and `server-task.cpp` and `server-context.cpp` beside it, in ggml-org/llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Mapping, Optional, Sequence, Union

from ..request import ChatRequest, check_options
from ..types import ContentEvent, ProgressEvent, Timings, Usage
from .decode import decode_event, decode_json, decode_progress, decode_timings, get, integers, objects
from .encode import encode_json, with_defaults
from .stream import StreamRoutes, TextStream
from .transport import OWN, Headers, Timeout

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
    """The end of a stream of completions: `response` is the assembled response."""

    response: CompletionResponse
    choice: int = 0
    type: Literal["done"] = field(default="done", init=False)


CompletionEvent = Union[ContentEvent, ProgressEvent, CompletionDoneEvent]


def encode_completion(
    prompt: Mapping[str, Any], options: Mapping[str, Any], defaults: Mapping[str, Any], *, stream: bool = False
) -> Dict[str, Any]:
    """Return the body of a request: the route's fields for the prompt, and the options of all completion routes."""
    check_options(options, (*_OPTIONS, "extra"))
    request = with_defaults(ChatRequest((), **options), defaults)
    body = {**prompt, **{name: getattr(request, name) for name in _OPTIONS}}
    if stream:
        body.update(stream=True, return_progress=True)  # always ask for progress, as in `encode_chat`
    return {**{name: value for name, value in body.items() if value is not None}, **(request.extra or {})}


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
    items = objects({"response": value if isinstance(value, list) else [value]}, "response")
    return CompletionResponse(tuple(map(_completion, items)) or (Completion(""),), value)


def _completion(raw: Mapping[str, Any]) -> Completion:
    """Return a completion, or the part of it in one chunk of a stream."""
    timings, usage, stop_type = decode_timings(raw), None, get(raw, "stop_type", "none")
    if "tokens_evaluated" in raw:
        prompt_tokens, completion_tokens = get(raw, "tokens_evaluated", 0), get(raw, "tokens_predicted", 0)
        usage = Usage(prompt_tokens, completion_tokens, timings.cache_n if timings else 0)
    return Completion(
        get(raw, "content", ""),
        tuple(integers(raw, "tokens")),
        None if stop_type == "none" else stop_type,
        get(raw, "stopping_word", ""),
        usage,
        timings,
        tuple(objects(raw, "completion_probabilities")),
        raw,
    )


def _joined(parts: Sequence[Completion]) -> Completion:
    """Return the completion that these are the parts of."""
    content = "".join(part.content for part in parts)
    tokens = tuple(token for part in parts for token in part.tokens)
    logprobs = tuple(entry for part in parts for entry in part.logprobs)
    return replace(parts[-1], content=content, tokens=tokens, logprobs=logprobs)


class CompletionStreamDecoder:
    """A `flynn.models.local.stream.Decoder` of `count` completions.

    Every stream has progress events, see `encode_chat`; they are returned only with `progress`.
    """

    def __init__(self, count: int, *, progress: bool = False) -> None:
        self.done = False
        self._missing = count
        self._progress = progress
        self._parts: Dict[int, List[Completion]] = {}

    def feed(self, data: bytes) -> List[CompletionEvent]:
        chunk = decode_event(data)
        index = get(chunk, "index", 0)
        if "prompt_progress" in chunk:  # its content and token are placeholders
            return [decode_progress(get(chunk, "prompt_progress", {}), index)] if self._progress else []
        part = _completion(chunk)
        parts = self._parts.setdefault(index, [part])
        if parts[-1] is not part:
            parts[-1].raw = {}  # of the chunks, only the last is kept
            parts.append(part)
        events: List[CompletionEvent] = []
        if part.content or part.logprobs:
            events.append(ContentEvent(part.content, index, part.logprobs))
        if chunk.get("stop") is not False:  # the last chunk of a completion; `response_fields` may remove its "stop"
            self._missing -= 1
            if self._missing <= 0:
                self.done = True
                events.append(CompletionDoneEvent(self.response()))
        return events

    def response(self) -> CompletionResponse:
        choices = [_joined(parts) for _, parts in sorted(self._parts.items())] or [Completion("")]
        raws = [choice.raw for choice in choices]
        return CompletionResponse(tuple(choices), raws[0] if len(raws) == 1 else raws)


class CompletionStream(TextStream[CompletionEvent, CompletionResponse]):
    """Completions while they are generated. Returned by `LlamaCppClient.complete_stream`; see `ServerStream`."""


class TextRoutes(StreamRoutes):
    """The part of `LlamaCppClient` that completes plain text."""

    def complete(
        self, prompt: Prompts, *, timeout: Timeout = OWN, headers: Headers = None, **options: Unpack[CompletionOptions]
    ) -> CompletionResponse:
        """Return the completion of a text, in one piece. No chat template is applied.

        Args:
            prompt: a text, a list of tokens, a mixed list, a mapping in the server's own form (`prompt_string`,
                `multimodal_data`), or a list of such prompts.
            headers: as for `chat`.
            options: fields of `ChatRequest` without those of chat: `n_predict`, `temperature`, `stop`, `n_probs`, …
                Any other is a TypeError.

        Example:
            >>> client.complete("The sky is", n_predict=3).content
            ' blue today'
        """
        return self._complete("/completion", {"prompt": prompt}, options, timeout, headers)

    def complete_stream(
        self,
        prompt: Prompts,
        *,
        timeout: Timeout = OWN,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        headers: Headers = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionStream:
        """Stream the completion of a text while it is generated. The request is sent when iteration begins.

        Arguments as for `complete`; `timeout`, `resume` and `resume_for` as for `chat_stream`. Returns an iterator of
        events of the types `"content"`, `"progress"` and `"done"`; see `ServerStream`.
        """
        body = encode_completion({"prompt": prompt}, options, self.defaults, stream=True)
        progress = options.get("return_progress", self.defaults.get("return_progress"))
        decoder = CompletionStreamDecoder(count_completions(body), progress=bool(progress))
        data, model = encode_json(body), body.get("model")
        return CompletionStream(self._stream("/completion", data, model, timeout, headers, resume, resume_for), decoder)

    def infill(
        self,
        input_prefix: str,
        input_suffix: str,
        *,
        prompt: Optional[str] = None,
        input_extra: Optional[Sequence[Mapping[str, str]]] = None,
        timeout: Timeout = OWN,
        headers: Headers = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionResponse:
        """Return the code that fills the gap between two. Raises NotSupportedError if the model does not support that.

        Args:
            input_prefix, input_suffix: the code before the gap, and after it.
            prompt: the beginning of the code in the gap.
            input_extra: other files, each as `{"filename": …, "text": …}`.
            headers, options: as for `complete`.

        Example:
            >>> client.infill("def add(a, b):\\n    return ", "\\n").content
            'a + b'
        """
        gap = {"input_prefix": input_prefix, "input_suffix": input_suffix, "prompt": prompt, "input_extra": input_extra}
        return self._complete("/infill", gap, options, timeout, headers)

    def _complete(
        self, path: str, prompt: Mapping[str, Any], options: Mapping[str, Any], timeout: Timeout, headers: Headers
    ) -> CompletionResponse:
        data = encode_json(encode_completion(prompt, options, self.defaults))
        return self.transport.fetch("POST", path, data, timeout, headers=headers, decode=decode_completions)
