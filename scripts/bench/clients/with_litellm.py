"""litellm, with llama-server as an OpenAI-compatible endpoint, as its documentation shows."""

from typing import Any, AsyncIterator, Dict, Iterator

import litellm

from . import MESSAGES

Client = Dict[str, Any]


def connect(url: str) -> Client:
    return {"model": "openai/local", "api_base": f"{url}/v1", "api_key": "none", "messages": MESSAGES}


def texts(client: Client, tokens: int) -> Iterator[str]:
    for chunk in litellm.completion(**client, max_tokens=tokens, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def ask(client: Client) -> str:
    return str(litellm.completion(**client, max_tokens=64).choices[0].message.content)


connect_async = connect


async def texts_async(client: Client, tokens: int) -> AsyncIterator[str]:
    async for chunk in await litellm.acompletion(**client, max_tokens=tokens, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content
