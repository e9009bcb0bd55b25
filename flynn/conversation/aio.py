"""`AsyncConversation`: `Conversation`, awaited."""

from __future__ import annotations

from typing import Any, List, Optional

from ..aio import AsyncChatStream, AsyncLlamaCppClient, awaited
from ..models.messages import AnyMessage
from ..models.types import Prompt
from . import Conversation


class AsyncConversation:
    """`Conversation` for asyncio: the same names, `chat` and `fit` awaited.

    Args:
        client: of the server.
        system, options: as for `Conversation`. A rule is called in the thread of the call, with a `Conversation`.

    Example:
        >>> async def talk(client):
        ...     conversation = AsyncConversation(client, "Be brief.")
        ...     print((await conversation.chat("Why is the sky blue?")).content)
        ...     async for text in conversation.chat_stream("And at dusk?").text():
        ...         print(text, end="")
    """

    def __init__(self, client: AsyncLlamaCppClient, system: Optional[str] = None, **options: Any) -> None:
        self._client = Conversation(client.synchronous, system, **options)

    chat = awaited(Conversation.chat)
    fit = awaited(Conversation.fit)

    def chat_stream(self, /, prompt: Prompt, **options: Any) -> AsyncChatStream:
        """Answer a prompt, piece by piece as it is generated; see `Conversation.chat_stream`."""
        return AsyncChatStream(self._client.chat_stream(prompt, **options))

    def save(self, path: str) -> None:
        """Write all that was said to a file; see `Conversation.save`."""
        self._client.save(path)

    def load(self, path: str) -> None:
        """Go on with the conversation in a file; see `Conversation.load`."""
        self._client.load(path)

    @property
    def messages(self) -> List[AnyMessage]:
        """What is sent before the next prompt, the system prompt apart. Yours to change."""
        return self._client.messages

    @property
    def dropped(self) -> List[AnyMessage]:
        """What is not sent any more, the oldest first."""
        return self._client.dropped
