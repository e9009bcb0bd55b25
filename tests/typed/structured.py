"""The result types of chat_json and chat_json_stream. Never run: type checkers read this file in `make lint`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Dict, List, TypedDict

from typing_extensions import assert_type

from flynn import AsyncLlamaCppClient, LlamaCppClient
from flynn.structured.answer import AsyncJSONStream, JSONStream


@dataclass
class Person:
    name: str


class Movie(TypedDict):
    title: str


class Color(enum.Enum):
    RED = "red"


def synchronous(client: LlamaCppClient) -> None:
    assert_type(client.chat_json("Hi", Person), Person)
    assert_type(client.chat_json("Hi", Movie), Movie)
    assert_type(client.chat_json("Hi", Color, timeout=5, seed=1), Color)
    assert_type(client.chat_json("Hi", List[Person]), List[Person])
    assert_type(client.chat_json("Hi", Dict[str, int]), Dict[str, int])
    assert_type(client.chat_json("Hi", {"type": "object"}), Any)
    assert_type(client.chat_json_stream("Hi", Person), JSONStream[Person])
    assert_type(client.chat_json_stream("Hi", {"type": "object"}), JSONStream[Any])
    with client.chat_json_stream("Hi", Person) as stream:
        for value in stream:
            assert_type(value, Any)
    assert_type(stream.result, Person)


async def asynchronous(client: AsyncLlamaCppClient) -> None:
    assert_type(await client.chat_json("Hi", Person), Person)
    assert_type(await client.chat_json("Hi", Movie), Movie)
    assert_type(await client.chat_json("Hi", {"type": "object"}), Any)
    assert_type(client.chat_json_stream("Hi", Person), AsyncJSONStream[Person])
    async with client.chat_json_stream("Hi", Person) as stream:
        async for value in stream:
            assert_type(value, Any)
    assert_type(stream.result, Person)
