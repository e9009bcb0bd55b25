"""The interface that every client of a model has, wherever the model runs."""

from __future__ import annotations

from typing import Any, Iterator, Protocol, runtime_checkable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .types import ChatResponse, Prompt, StreamEvent


@runtime_checkable
class ModelClient(Protocol):
    """A client of a model."""

    def chat(self, request: Prompt, **options: Any) -> ChatResponse:
        """Answer a request, in one piece."""

    def chat_stream(self, request: Prompt, **options: Any) -> EventStream:
        """Answer a request, piece by piece as it is generated."""

    def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class EventStream(Protocol):
    """What `chat_stream` returns: an iterator of events, and a context manager."""

    @property
    def response(self) -> ChatResponse:
        """All that came so far."""

    def text(self) -> Iterator[str]:
        """Only the text, piece by piece."""

    def close(self) -> None:
        """Make the model stop."""

    def __iter__(self) -> Iterator[StreamEvent]: ...

    def __next__(self) -> StreamEvent: ...

    def __enter__(self) -> EventStream: ...

    def __exit__(self, *error: object) -> None: ...
