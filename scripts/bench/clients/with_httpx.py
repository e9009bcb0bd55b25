"""httpx with httpx-sse; the program parses the JSON of each event."""

import json
from typing import AsyncIterator, Iterator

import httpx
from httpx_sse import aconnect_sse, connect_sse

from . import MESSAGES

PATH = "/v1/chat/completions"


def connect(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60)


def texts(client: httpx.Client, tokens: int) -> Iterator[str]:
    body = {"messages": MESSAGES, "max_tokens": tokens, "stream": True}
    with connect_sse(client, "POST", PATH, json=body) as source:
        for event in source.iter_sse():
            if event.data != "[DONE]":
                yield from pieces(event.data)


def pieces(data: str) -> Iterator[str]:
    choices = json.loads(data)["choices"]
    if choices and choices[0]["delta"].get("content"):
        yield choices[0]["delta"]["content"]


def ask(client: httpx.Client) -> str:
    reply = client.post(PATH, json={"messages": MESSAGES, "max_tokens": 64}).json()
    return str(reply["choices"][0]["message"]["content"])


def connect_async(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=60)


async def texts_async(client: httpx.AsyncClient, tokens: int) -> AsyncIterator[str]:
    body = {"messages": MESSAGES, "max_tokens": tokens, "stream": True}
    async with aconnect_sse(client, "POST", PATH, json=body) as source:
        async for event in source.aiter_sse():
            if event.data != "[DONE]":
                for text in pieces(event.data):
                    yield text
