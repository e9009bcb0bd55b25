"""Flynn, with typed events."""

from flynn import LlamaCppClient

from . import PROMPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import AsyncIterator, Iterator

    from flynn import AsyncLlamaCppClient


def connect(url: str) -> LlamaCppClient:
    return LlamaCppClient(url)


def texts(client: LlamaCppClient, tokens: int, model: "str | None" = None) -> "Iterator[str]":
    with client.chat_stream(PROMPT, max_tokens=tokens, model=model) as stream:
        for event in stream:
            if event.type == "content":
                yield event.text


def ask(client: LlamaCppClient) -> str:
    return client.chat(PROMPT, max_tokens=64).content


def connect_async(url: str) -> "AsyncLlamaCppClient":
    from flynn import AsyncLlamaCppClient

    return AsyncLlamaCppClient(url)


async def texts_async(client: "AsyncLlamaCppClient", tokens: int) -> "AsyncIterator[str]":
    async with client.chat_stream(PROMPT, max_tokens=tokens) as stream:
        async for event in stream:
            if event.type == "content":
                yield event.text
