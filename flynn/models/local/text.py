"""Text without a chat template: completion, infill, tokens. Types, decoders and the methods of the client.

Source: `tools/server/README.md`, and `server-task.cpp` and `server-context.cpp` beside it, in ggml-org/llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union, overload

from ...errors import ProtocolError
from ..request import ChatRequest
from ..types import ContentEvent, ProgressEvent, Timings, Usage
from .decode import decode_error, decode_json, decode_progress, decode_timings, expect_object, get, integers, objects
from .encode import check_options, encode_json
from .resumable import StreamRoutes
from .stream import TextStream
from .transport import OWN

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options import CompletionOptions

# A prompt is text, tokens, both mixed, or an object in the server's own form; and there may be several.
Prompts = Union[str, Mapping[str, Any], Sequence[Union[int, str, Mapping[str, Any], Sequence[Union[int, str]]]]]
Text = Union[str, Sequence[Union[int, str]]]

# The options that the completion routes have in common with the chat route.
_OPTIONS = tuple(option.name for option in fields(ChatRequest) if option.metadata.get("completion"))


@dataclass
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


@dataclass
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


@dataclass
class CompletionDoneEvent:
    """The end of a stream of completions.

    Attributes:
        response: all that came, assembled.
    """

    response: CompletionResponse
    choice: int = 0
    type: Literal["done"] = field(default="done", init=False)


CompletionEvent = Union[ContentEvent, ProgressEvent, CompletionDoneEvent]


@dataclass
class TokenPiece:
    """A token and what it stands for.

    Attributes:
        id: the token.
        piece: text, or bytes where they are no UTF-8 by themselves.
    """

    id: int
    piece: Union[str, bytes]


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


def decode_completions(data: bytes) -> CompletionResponse:
    """Return the reply to a request without `stream`."""
    value = decode_json(data)
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


def decode_pieces(value: Any) -> List[TokenPiece]:
    items = objects(expect_object(value), "tokens")
    try:
        pieces = [p if isinstance(p := item.get("piece"), str) else bytes(integers(item, "piece")) for item in items]
    except ValueError:
        raise ProtocolError("expected the bytes of a token as numbers from 0 to 255") from None
    return [TokenPiece(get(item, "id", 0), piece) for item, piece in zip(items, pieces)]


class CompletionStream(TextStream):
    """Completions as they are generated. Made by `LlamaCppClient.complete_stream`; see `ServerStream`."""

    if TYPE_CHECKING:

        @property
        def response(self) -> CompletionResponse: ...

        def __next__(self) -> CompletionEvent: ...


class TextRoutes(StreamRoutes):
    """The part of `LlamaCppClient` that works on plain text."""

    def complete(
        self,
        /,
        prompt: Prompts,
        *,
        timeout: Optional[float] = OWN,
        headers: Optional[Mapping[str, str]] = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionResponse:
        """Continue a text, in one piece. No chat template is applied.

        Args:
            prompt: a text, a list of tokens, a list of both, a mapping in the server's own form (`prompt_string`,
                `multimodal_data`), or a list of such prompts.
            headers: sent with this request besides the client's.
            options: fields of `ChatRequest`, without those of chat: `n_predict`, `temperature`, `stop`, `n_probs`, …

        Raises:
            TypeError: an option is none of the route's.

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
        """Continue a text, piece by piece as it is generated. The request is sent when iteration begins.

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
        """Fill the gap between two pieces of code.

        Args:
            input_prefix: what is before the gap.
            input_suffix: what is after it.
            prompt: how the filling begins.
            input_extra: other files, each as `{"filename": …, "text": …}`.
            headers, options: as for `complete`.

        Raises:
            NotSupportedError: the model was not made for it.

        Example:
            >>> client.infill("def add(a, b):\\n    return ", "\\n").content
            'a + b'
        """
        gap = {"input_prefix": input_prefix, "input_suffix": input_suffix, "prompt": prompt, "input_extra": input_extra}
        return self._completions("/infill", encode_completion(gap, options, self.defaults), timeout, headers)

    @overload
    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = ...,
        parse_special: bool = ...,
        with_pieces: Literal[False] = ...,
        timeout: Optional[float] = ...,
    ) -> List[int]: ...

    @overload
    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = ...,
        parse_special: bool = ...,
        with_pieces: Literal[True],
        timeout: Optional[float] = ...,
    ) -> List[TokenPiece]: ...

    def tokenize(
        self,
        text: Text,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: bool = False,
        timeout: Optional[float] = OWN,
    ) -> Union[List[int], List[TokenPiece]]:
        """The tokens of a text.

        Args:
            text: any text; no chat template is applied. A list may mix texts and tokens.
            add_special: add what the model wants at the beginning, such as BOS.
            parse_special: take `<|im_start|>` and the like for the tokens that they name.
            with_pieces: return each token together with what it stands for.

        Example:
            >>> client.tokenize("Hello world", with_pieces=True)
            [TokenPiece(id=19556, piece='Hello'), TokenPiece(id=905, piece=' world')]
        """
        body = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": with_pieces}
        reply = expect_object(self._post("/tokenize", timeout, body))
        if not with_pieces:
            return integers(reply, "tokens")
        return decode_pieces(reply)

    def detokenize(self, tokens: Sequence[int], *, timeout: Optional[float] = OWN) -> str:
        """The text of tokens."""
        return get(expect_object(self._post("/detokenize", timeout, {"tokens": list(tokens)})), "content", "")
