"""LangChain with its package for llama-server, langchain-llama-cpp."""

from typing import AsyncIterator, Iterator

from langchain_llama_cpp import ChatLlama

from . import PROMPT


def connect(url: str) -> ChatLlama:
    return ChatLlama(model="local", base_url=url)


def texts(client: ChatLlama, tokens: int) -> Iterator[str]:
    for chunk in client.stream(PROMPT, max_tokens=tokens):
        if chunk.content:
            yield str(chunk.content)


def ask(client: ChatLlama) -> str:
    return str(client.invoke(PROMPT, max_tokens=64).content)


connect_async = connect


async def texts_async(client: ChatLlama, tokens: int) -> AsyncIterator[str]:
    async for chunk in client.astream(PROMPT, max_tokens=tokens):
        if chunk.content:
            yield str(chunk.content)
