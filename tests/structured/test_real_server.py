"""Structured output of the real llama.cpp server: its grammar lets the model write nothing but what fits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import typing
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Iterator, List, Literal, Optional, Set, Tuple, Union

import pytest
from real_server import RealServer

from flynn import AsyncLlamaCppClient, Limits, LlamaCppClient, ServerError, StructuredOutputError

Annotated = typing.Annotated
Short = Annotated[str, Limits(maxLength=6)]
Digit = Annotated[int, Limits(minimum=0, maximum=9)]


class Color(enum.Enum):
    RED = "red"
    BLUE = 'light "blue"'


@dataclass
class Pet:
    name: Short
    color: Color


@dataclass
class Person:
    name: Short
    age: Annotated[int, Limits(minimum=0, maximum=120)]
    pets: Annotated[List[Pet], Limits(minItems=1, maxItems=2)]
    nickname: Optional[Short] = None


@dataclass
class Tree:
    label: Short
    left: Optional[Tree] = None
    right: Optional[Tree] = None


class Part(typing.TypedDict, total=False):
    string: Short
    decimal_part: Digit


@dataclass
class Everything:
    """One field of each kind; among them names that llama.cpp's grammars have rules for."""

    yes: bool
    count: Digit
    share: float
    nothing: None
    day: date
    hour: time
    moment: datetime
    id: uuid.UUID
    choice: Literal["a", 1, True, None, "é"]
    color: Color
    code: Annotated[str, Limits(pattern="^[A-C]{2}-[0-9]{3}$")]
    word: Annotated[str, Limits(minLength=2, maxLength=4)]
    pair: Tuple[Digit, Short]
    empty: Tuple[()]
    set: Annotated[Set[Digit], Limits(maxItems=2)]
    either: Union[Digit, Annotated[str, Limits(maxLength=3)]]
    part: Part
    number: Digit
    root: Literal["root"]
    value: Part


@pytest.fixture(scope="module")
def client(real_server: RealServer) -> Iterator[LlamaCppClient]:
    with LlamaCppClient(real_server.endpoint, timeout=300) as client:
        yield client


def test_each_kind_of_field_is_understood(client: LlamaCppClient) -> None:
    """That it could be built shows that each field fits; test_build.py has what does not."""
    made = client.chat_json("Fill in the form.", Everything, temperature=0, max_tokens=500)
    assert isinstance(made.moment, datetime)
    assert isinstance(made.id, uuid.UUID)
    assert made.root == "root"


def test_keys_come_in_the_order_of_the_fields(client: LlamaCppClient) -> None:
    with client.chat_json_stream("Invent a person with a pet.", Person, temperature=0, max_tokens=200) as stream:
        seen = [json.dumps(value) for value in stream]
    assert seen[:2] == ["{}", '{"name": ""}']
    assert list(json.loads(seen[-1]))[:3] == ["name", "age", "pets"]
    assert stream.result.name == stream.value["name"]
    assert json.loads(stream.response.content) == json.loads(seen[-1])


def test_recursive_types(client: LlamaCppClient) -> None:
    """It is for the model to end the nesting: some do not, and those that do have to fit."""
    for seed in range(10):
        with contextlib.suppress(StructuredOutputError):
            assert isinstance(client.chat_json("Draw a tree.", Tree, seed=seed, max_tokens=40), Tree)
            return
    pytest.fail("no tree ended")


def test_ten_thousand_fields(client: LlamaCppClient) -> None:
    large = dataclasses.make_dataclass("Large", [(f"field_{number}", bool) for number in range(10_000)])
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens"):
        client.chat_json("Fill in the form.", large, max_tokens=5)


def test_a_schema_that_the_server_does_not_take_is_its_own_error(client: LlamaCppClient) -> None:
    with pytest.raises(ServerError) as raised:
        client.chat_json("Hi", {"type": "no such type"}, max_tokens=5)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (Annotated[List[Digit], Limits(maxItems=3)], list),
        (Color, Color),
        (Literal["yes", "no"], str),
        (Optional[Short], (str, type(None))),
        (Digit, int),
        (bool, bool),
        ({"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}}, dict),
    ],
)
def test_an_answer_need_not_be_an_object(client: LlamaCppClient, schema: Any, kind: Any) -> None:
    assert isinstance(client.chat_json("Answer.", schema, max_tokens=60, temperature=0), kind)


def test_running_out_of_tokens_is_an_error_that_says_where(client: LlamaCppClient) -> None:
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens.*, after 12 of them") as raised:
        client.chat_json("Invent a person.", Person, max_tokens=12, temperature=0)
    assert raised.value.text.startswith("{")
    stream = client.chat_json_stream("Invent a person.", Person, max_tokens=12, temperature=0)
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens"):
        list(stream)
    assert "name" in stream.value


def test_asynchronously(real_server: RealServer) -> None:
    async def main() -> None:
        async with AsyncLlamaCppClient(real_server.endpoint, timeout=300) as client:
            pet, color = await asyncio.gather(
                client.chat_json("Invent a pet.", Pet, max_tokens=60, temperature=0),
                client.chat_json("Which color?", Color, max_tokens=20, temperature=0),
            )
            assert isinstance(pet, Pet)
            assert isinstance(color, Color)
            async with client.chat_json_stream("Invent a pet.", Pet, max_tokens=60, temperature=0) as stream:
                async for value in stream:
                    assert isinstance(value, dict)
            assert isinstance(stream.result, Pet)
            with pytest.raises(StructuredOutputError, match="ran out of tokens"):
                await client.chat_json("Invent a person.", Person, max_tokens=5)

    asyncio.run(main())
