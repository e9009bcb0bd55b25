"""`AsyncConversation`: `Conversation`, awaited."""

from __future__ import annotations

from typing import Any, List, Optional

from ..aio import AsyncChatStream, AsyncLlamaCppClient, awaited, streamed
from ..models.messages import AnyMessage
from . import Conversation


class AsyncConversation:
    """`Conversation` for asyncio: the same names, `chat` and `fit` awaited.

    Args:
        client: the server's client.
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
    chat_stream = streamed(Conversation.chat_stream, AsyncChatStream)

    def save(self, path: str) -> None:
        """Write the whole conversation to a file; see `Conversation.save`."""
        self._client.save(path)

    def load(self, path: str) -> None:
        """Continue the conversation in a file; see `Conversation.load`."""
        self._client.load(path)

    @property
    def messages(self) -> List[AnyMessage]:
        """The messages sent before the next prompt, without the system prompt. You may change them."""
        return self._client.messages

    @property
    def dropped(self) -> List[AnyMessage]:
        """The messages that are no longer sent, the oldest first."""
        return self._client.dropped
