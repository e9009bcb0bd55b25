"""Chat: the methods of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple

from ...errors import ProtocolError
from ..types import ChatRequest, ChatResponse, Prompt
from .decode import ChatStreamDecoder, decode_chat, expect_object, get
from .encode import chat_request, encode_chat, encode_prompt, with_defaults
from .stream import ChatStream, StreamRoutes
from .transport import OWN, Headers, Timeout

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ...tools.typed import TypedRequest
    from ..options import ChatOptions

_CHAT = "/v1/chat/completions"


class ChatRoutes(StreamRoutes):
    """The part of `LlamaCppClient` that chats."""

    def chat(
        self, request: Prompt, *, timeout: Timeout = OWN, headers: Headers = None, **options: Unpack[ChatOptions]
    ) -> ChatResponse:
        """Return the answer to a request, in one piece.

        llama-server checks for a disconnected client only once a second, and only when idle. Prefer `chat_stream` for
        calls that you may cancel.

        Args:
            request: a prompt, a sequence of `Message` or mappings, or a `ChatRequest`.
            headers: sent with this request besides the client's.
            options: fields of `ChatRequest`. `tools` may hold functions: `reply.tool_calls[0].parsed` has the arguments
                for one. `response_format` may be a type, as for `chat_json`: `reply.parsed` is the instance.

        Raises:
            TypeError: an option is not a field of `ChatRequest`, or JSON cannot express a function or a type.
            StructuredOutputError: an answer or the arguments of a call do not fit, or a call was forced and is missing.

        Example:
            >>> client.chat([Message("user", "Hi")], temperature=0).content
            'Hello! How can I help you today?'
        """
        request, typed = without_python(self._given(request, options))
        body = encode_chat(request, stream=False)
        response = self.transport.fetch("POST", _CHAT, body, timeout, headers=headers, decode=decode_chat)
        return typed.read(response) if typed else response

    def chat_stream(
        self,
        request: Prompt,
        *,
        timeout: Timeout = OWN,
        headers: Headers = None,
        resume: Optional[bool] = None,
        resume_for: Optional[float] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream:
        """Return an iterator of events: the answer while it is generated. See `ServerStream` for what it raises.

        The request is sent when iteration begins.

        Args:
            request, headers, options: as for `chat`.
            timeout: longest silence, in seconds.
            resume: after a cut connection, go on where the stream stopped; False by default. The server then keeps the
                last 4 MiB that it sent until the stream ends or is closed. If this process is killed, the server
                generates to the end and forgets the stream 300 seconds later.
            resume_for: seconds to try to resume after a cut, 60 by default.

        Example:
            >>> with client.chat_stream("Hi") as stream:
            ...     for event in stream:
            ...         if event.type == "content":
            ...             print(event.text, end="")
        """
        request, typed = without_python(self._given(request, options))
        body = encode_chat(request, stream=True)
        streamed = self._stream(_CHAT, body, request.model, timeout, headers, resume, resume_for)
        progress = bool(request.return_progress)
        return ChatStream(streamed, typed.decoder(progress) if typed else ChatStreamDecoder(progress=progress))

    def count_tokens(self, /, request: Prompt, *, timeout: Timeout = OWN, **options: Any) -> int:
        """Return the number of prompt tokens of a `chat` request, chat template included."""
        body = encode_prompt(without_python(self._given(request, options))[0])
        reply = expect_object(self.transport.json("POST", f"{_CHAT}/input_tokens", body, timeout))
        count = get(reply, "input_tokens", -1)
        if count < 0:
            raise ProtocolError("expected a number of tokens as 'input_tokens', got none")
        return count

    def apply_template(self, /, request: Prompt, *, timeout: Timeout = OWN, **options: Any) -> str:
        """Return the prompt that the chat template makes of a request. `complete` takes it, changed or not.

        Example:
            >>> client.apply_template("Hi")
            '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        body = encode_prompt(without_python(self._given(request, options))[0])
        return get(expect_object(self.transport.json("POST", "/apply-template", body, timeout)), "prompt", "")

    def end_reasoning(self, id: str, *, timeout: Timeout = OWN) -> bool:
        """Make a reasoning model stop thinking and answer. Its request needs `reasoning_control=True`.

        Returns False if no such answer is being generated. `id` is that of the answer: `stream.response.id`, set after
        the first event.

        Example:
            >>> stream = client.chat_stream("Why?", reasoning_control=True)
            >>> for event in stream:
            ...     if event.type == "reasoning" and time.monotonic() > limit:
            ...         client.end_reasoning(stream.response.id)
        """
        reply = self._post(f"{_CHAT}/control", timeout, {"id": id, "action": "reasoning_end"})
        return get(expect_object(reply), "success", False)

    def _given(self, prompt: Prompt, options: Mapping[str, Any]) -> ChatRequest:
        """The request with the client's defaults, and perhaps with functions and types in it."""
        return with_defaults(chat_request(prompt, options), self.defaults)


def without_python(request: ChatRequest) -> Tuple[ChatRequest, Optional[TypedRequest]]:
    """Replace functions and types in a request by JSON. Returns the request, and what reads its reply.

    The latter is None if the request holds neither functions nor types, and forces no call.
    """
    tools = request.tools if isinstance(request.tools, (list, tuple)) else [request.tools]
    values = [request.response_format, request.json_schema, *tools]
    if request.tool_choice in (None, "auto", "none") and all(v is None or isinstance(v, Mapping) for v in values):
        return request, None
    from ...tools.typed import TypedRequest

    typed = TypedRequest(request)
    return typed.request, typed
