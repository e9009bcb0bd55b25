"""ollama-python, with the responses of an Ollama server: lines of JSON."""

from typing import AsyncIterator, Iterator

from ollama import AsyncClient, Client

from . import MESSAGES


def connect(url: str) -> Client:
    return Client(host=url)


def texts(client: Client, tokens: int) -> Iterator[str]:
    for part in client.chat(model="local", messages=MESSAGES, options={"num_predict": tokens}, stream=True):
        if part.message.content:
            yield part.message.content


def ask(client: Client) -> str:
    return str(client.chat(model="local", messages=MESSAGES, options={"num_predict": 64}).message.content)


def connect_async(url: str) -> AsyncClient:
    return AsyncClient(host=url)


async def texts_async(client: AsyncClient, tokens: int) -> AsyncIterator[str]:
    parts = await client.chat(model="local", messages=MESSAGES, options={"num_predict": tokens}, stream=True)
    async for part in parts:
        if part.message.content:
            yield part.message.content
