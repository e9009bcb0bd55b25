"""Every exception that Flynn raises, and `suggestion` for their messages.

Errors that mirror a built-in (a refused connection, a timeout, a bad value) are also that built-in. No other exception
is raised for a failure of a server, a network or a file.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional, TypeVar

Self = TypeVar("Self", bound="FlynnError")


class FlynnError(Exception):
    """The base of every error that Flynn raises.

    Attributes:
        hint: what to do about it, in one line; empty if the message says it. From Python 3.11 on it is also a note of
            the exception, so that a traceback shows it.
    """

    hint: str = ""

    def advise(self: Self, hint: str) -> Self:
        """Set the hint, and return the error."""
        self.hint = hint
        if hasattr(self, "add_note"):
            self.add_note(hint)
        return self


class ServerNotRunningError(FlynnError, ConnectionError):
    """Nothing listens at the endpoint: refused, no such socket, no route, or a name that does not resolve."""

    @classmethod
    def at(cls, endpoint: str) -> ServerNotRunningError:
        return cls(f"llama-server not running at {endpoint}")


class RequestTimeoutError(FlynnError, TimeoutError):
    """The call took longer than its `timeout`."""

    def __init__(self, message: str = "llama-server request timed out") -> None:
        super().__init__(message)


class ServerError(FlynnError):
    """The server answered 4xx or 5xx, or sent an error event in a stream. The message is the server's own.

    Attributes:
        status: the HTTP status, or the `code` of an error event; None if the event has none.
        type: the server's name for the kind of error, e.g. `"invalid_request_error"`; None if it sent none.
        body: the body of the error, decoded as text.
        retry_after: seconds to wait, from the Retry-After header; None without one.
    """

    retry_after: Optional[float] = None

    def __init__(
        self, message: str, *, status: Optional[int] = None, type: Optional[str] = None, body: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.body = status, type, body


class AuthenticationError(ServerError):
    """401 or 403: the token is missing or wrong."""


class ContextSizeError(ServerError):
    """The prompt is longer than the context of a slot (400 `exceed_context_size_error`).

    Attributes:
        n_prompt_tokens, n_ctx: the length of the prompt and of the context in tokens; None if unknown.
    """

    n_prompt_tokens: Optional[int] = None
    n_ctx: Optional[int] = None


class ModelLoadingError(ServerError):
    """The model was still loading when the timeout had passed (503 "Loading model")."""


class NotSupportedError(ServerError):
    """501: the server was not started for this route, e.g. embeddings without `--embeddings`."""


class StreamInterruptedError(FlynnError, ConnectionError):
    """A stream was cut and could not be resumed.

    Attributes:
        partial: the ChatResponse or CompletionResponse so far. Its finish_reason is None, unless the cut came after the
            last token.
    """

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial


class ToolRoundsError(FlynnError):
    """The model still calls tools after `max_rounds` requests of `run_tools`.

    Attributes:
        response: the last reply. Its tool calls were not executed.
    """

    def __init__(self, message: str, response: Any = None) -> None:
        super().__init__(message)
        self.response = response


class ProtocolError(FlynnError):
    """The peer does not speak HTTP, SSE or JSON correctly, or sends more than the limits allow."""


class ConnectionLostError(ProtocolError, ConnectionError):
    """The connection was closed or reset before a one-shot answer, or in the middle of it.

    It is a ProtocolError because the message is incomplete (RFC 9112 section 8), and a ConnectionError because the
    request may succeed if it is sent again.

    Attributes:
        answered: whether any of the answer was received.
    """

    answered = True


class StructuredOutputError(FlynnError, ValueError):
    """The model's answer does not fit the requested type, or the model ran out of tokens before its end.

    The message says what is wrong and where, as a path of keys.

    Attributes:
        response: the ChatResponse, or the part received.
        text: the text that the model generated.
    """

    def __init__(self, message: str, response: Any = None) -> None:
        super().__init__(message)
        self.response = response

    @property
    def text(self) -> str:
        return str(self.response.content) if self.response else ""


class RequestError(FlynnError, ValueError):
    """A request is invalid: the message says why. Nothing was sent."""


class _LocatedError(FlynnError):
    """An error at a place: the message has the file, line, column and key before the problem, as far as known."""

    def __init__(
        self,
        problem: str,
        file: Optional[str] = None,
        line: Optional[int] = None,
        column: Optional[int] = None,
        key: Optional[str] = None,
    ) -> None:
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(": ".join(part for part in (place, key, problem) if part))
        self.problem, self.file, self.line, self.column, self.key = problem, file, line, column, key


class FileError(_LocatedError, OSError):
    """A file cannot be read or written, or its content is wrong.

    Attributes:
        problem: what is wrong; the message has the place before it.
        file: the file's path; None for an image or a recording.
        line, column: 1-based, None when unknown.
    """


class ConfigError(_LocatedError, ValueError):
    """A configuration file, or a value that configures a client, is wrong.

    The message says where (file, line, column and key path, as far as known), what is wrong and what is allowed.

    Attributes:
        problem: what is wrong; the message has the place before it.
        file: the file's path; None for a value from elsewhere.
        line, column: 1-based, None when unknown.
        key: the dotted key path, e.g. `"models.local.timeout"`, None when unknown.
    """


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a message that suggests the nearest of the allowed names; empty if none is near.

    Example:
        >>> "unknown key 'endpont'" + suggestion("endpont", ["endpoint", "model"])
        "unknown key 'endpont'; did you mean 'endpoint'?"
    """
    import difflib

    near = difflib.get_close_matches(name[:100], allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
