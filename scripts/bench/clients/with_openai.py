"""openai-python."""

from typing import AsyncIterator, Iterator

from openai import AsyncOpenAI, OpenAI

from . import MESSAGES


def connect(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none")


def texts(client: OpenAI, tokens: int) -> Iterator[str]:
    chunks = client.chat.completions.create(model="local", messages=MESSAGES, max_tokens=tokens, stream=True)
    for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def ask(client: OpenAI) -> str:
    reply = client.chat.completions.create(model="local", messages=MESSAGES, max_tokens=64)
    return str(reply.choices[0].message.content)


def connect_async(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none")


async def texts_async(client: AsyncOpenAI, tokens: int) -> AsyncIterator[str]:
    chunks = await client.chat.completions.create(model="local", messages=MESSAGES, max_tokens=tokens, stream=True)
    async for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content
