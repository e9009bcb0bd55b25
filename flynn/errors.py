"""Every exception that leaves Flynn, and `suggestion` for their messages.

Those that mirror a built-in (a refused connection, a timeout, a bad value) are also that built-in. Nothing else is
raised for what a server, a network or a file does.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional, TypeVar, Union

Self = TypeVar("Self", bound="FlynnError")


class FlynnError(Exception):
    """The root of every error that Flynn raises.

    Attributes:
        hint: what to do about it, in one line; empty where the message says all. From Python 3.11 on it is also a note
            of the exception, so that a traceback shows it.
    """

    hint: str = ""

    def advise(self: Self, hint: str) -> Self:
        """Set the hint, and return the error."""
        self.hint = hint
        if hasattr(self, "add_note"):
            self.add_note(hint)
        return self


class ServerNotRunningError(FlynnError, ConnectionError):
    """Nothing listens there: refused, no such socket, no route, or a name that does not resolve."""

    @classmethod
    def at(cls, endpoint: str) -> ServerNotRunningError:
        return cls(f"llama-server not running at {endpoint}")


class RequestTimeoutError(FlynnError, TimeoutError):
    """The limit that `timeout` sets has passed."""

    def __init__(self, message: str = "llama-server request timed out") -> None:
        super().__init__(message)


class ServerError(FlynnError):
    """The server answered 4xx or 5xx, or sent an error event in a stream. The message is the server's own.

    Attributes:
        status: the HTTP status, or the `code` of an error event; None when the event had none.
        type: the server's name for the kind of error, e.g. `"invalid_request_error"`; None when it gave none.
        body: the error as it came, decoded as text.
        retry_after: seconds after which the server wants to be asked again; None if it did not say.
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
        n_prompt_tokens, n_ctx: the lengths of both in tokens, None if the server did not say.
    """

    n_prompt_tokens: Optional[int] = None
    n_ctx: Optional[int] = None


class ModelLoadingError(ServerError):
    """The model was still loading when the timeout had passed (503 "Loading model")."""


class NotSupportedError(ServerError):
    """501: this server was not started for that route, e.g. embeddings without `--embeddings`."""


class StreamInterruptedError(FlynnError, ConnectionError):
    """A stream was cut and could not be resumed.

    Attributes:
        partial: the ChatResponse, or CompletionResponse, so far; how it ended is None unless the cut came after the
            last token.
    """

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial


class ToolRoundsError(FlynnError):
    """The model still called tools after as many rounds as `run_tools` may take.

    Attributes:
        response: the last reply; its calls were not executed.
    """

    def __init__(self, message: str, response: Any = None) -> None:
        super().__init__(message)
        self.response = response


class ProtocolError(FlynnError):
    """The peer does not speak HTTP, SSE or JSON, or sends more than the limits allow."""


class ConnectionLostError(ProtocolError, ConnectionError):
    """The connection was closed or reset in the middle of an answer that is not a stream, or before any of it came.

    A ProtocolError, since an incomplete message is one (RFC 9112 section 8), and a ConnectionError, since to send the
    request again may well succeed.

    Attributes:
        answered: whether any of the answer had come.
    """

    answered = True


class StructuredOutputError(FlynnError, ValueError):
    """What the model wrote does not fit the schema that was asked for, or the model ran out of tokens before its end.

    The message says what is wrong, and where, as a path of keys. No ProtocolError, since the server did what it should.

    Attributes:
        response: the ChatResponse, as far as it came.
        text: what the model wrote.
    """

    def __init__(self, message: str, response: Any = None) -> None:
        super().__init__(message)
        self.response = response

    @property
    def text(self) -> str:
        return str(self.response.content) if self.response else ""


class RequestError(FlynnError, ValueError):
    """A request cannot be sent as it is: the message says what is wrong with it. Nothing was sent."""


class FileError(FlynnError, OSError):
    """A file that was named cannot be read or written, or holds something else than it should.

    Attributes:
        problem: what is wrong; the message has it after the place.
        file: the file's path; None for an image or a recording that has no other name.
        line, column: 1-based, None when unknown.
    """

    def __init__(
        self, problem: str, file: Optional[str] = None, line: Optional[int] = None, column: Optional[int] = None
    ) -> None:
        super().__init__(": ".join(part for part in (_place(file, line, column), problem) if part))
        self.problem, self.file, self.line, self.column = problem, file, line, column


class ConfigError(FlynnError, ValueError):
    """A configuration file, or a value that configures a client, is wrong.

    The message says where (file, line, column and key path, as far as known), what is wrong and what is allowed.

    Attributes:
        file: the file's path, None for a value that came from elsewhere.
        line, column: 1-based, None when unknown.
        key: the dotted key path, e.g. `"models.local.timeout"`, None when unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Optional[str] = None,
        line: Optional[int] = None,
        column: Optional[int] = None,
        key: Optional[str] = None,
    ) -> None:
        super().__init__(": ".join(part for part in (_place(file, line, column), key, message) if part))
        self.file, self.line, self.column, self.key = file, line, column, key


def _place(*parts: Union[str, int, None]) -> str:
    return ":".join(str(part) for part in parts if part is not None)


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """The end of a message that tells which name was probably meant; empty when none of `allowed` is near.

    Example:
        >>> "unknown key 'endpont'" + suggestion("endpont", ["endpoint", "model"])
        "unknown key 'endpont'; did you mean 'endpoint'?"
    """
    import difflib

    near = difflib.get_close_matches(name[:100], allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
