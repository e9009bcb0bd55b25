"""Structured output of the real llama.cpp server, whose grammar lets the model write only valid values."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import re
import typing
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Dict, Generic, Iterator, List, Literal, NamedTuple, Optional, Set, Tuple, TypeVar, Union

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


class Point(NamedTuple):
    x: Digit
    y: Digit


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    content: T


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
    point: Point
    box: Box[Digit]
    table: Dict[Color, bool]
    took: timedelta
    cost: Decimal
    root: Literal["root"]
    value: Part


@pytest.fixture(scope="module")
def client(real_server: RealServer) -> Iterator[LlamaCppClient]:
    with LlamaCppClient(real_server.endpoint, timeout=300) as client:
        yield client


def test_every_kind_of_field_is_filled_in(client: LlamaCppClient) -> None:
    """Building the instance checks each field; test_build.py has the invalid values."""
    everything = client.chat_json("Fill in the form.", Everything, temperature=0, max_tokens=700)
    assert isinstance(everything.moment, datetime)
    assert isinstance(everything.id, uuid.UUID)
    assert isinstance(everything.took, timedelta)
    assert everything.root == "root"


# Each contains something that llama.cpp lacks or gets wrong if the pattern is sent unchanged.
PATTERNS = [
    r"^\d{5}$", r"\w{3,8}", r"^\d{3}\s\d{2}$", r"[^\d\s]{4}", r"\/[a-z]+\/", r"a\.*b", "é{2}", ".{1,12}", "[ -~]{1,12}",
    r'"[a-z]{2}"', r"[A-Z]:\\[a-z]{1,5}", r"[a-z]{2}\n[a-z]{2}", "^yes$|^no$", r"(?:\d{1,3}\.){3}\d{1,3}",
    r"(?P<a>x|)y?", r"\$\d{1,3}(,\d{3})*", r"[\w.+-]{1,9}@[\w-]{1,9}\.[a-z]{2,3}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_model_writes_only_strings_that_match_the_pattern(client: LlamaCppClient, pattern: str) -> None:
    kind = Annotated[str, Limits(pattern=pattern)]
    for seed in range(3):
        response = client.chat(
            "Write something.", response_format=kind, seed=seed, temperature=1.5, max_tokens=60, verbose=True
        )
        assert re.fullmatch(pattern, response.parsed, re.ASCII)
        assert " ::= " in response.raw["__verbose"]["generation_settings"]["grammar"]


@pytest.mark.parametrize(
    ("limits", "least", "most"),
    [
        (Limits(minimum=100), 100, 10**16),
        (Limits(minimum=205, maximum=1234), 205, 1234),
        (Limits(maximum=-100), -(10**16), -100),
        (Limits(exclusiveMinimum=5, maximum=7), 6, 7),
        (Limits(minimum=0, exclusiveMinimum=8, maximum=9), 9, 9),
        (Limits(minimum=-(2**63), maximum=2**63), -(10**16), 10**16),
    ],
)
def test_the_model_writes_only_integers_within_the_limits(
    client: LlamaCppClient, limits: Limits, least: int, most: int
) -> None:
    for seed in range(5):
        number = client.chat_json("A number?", Annotated[int, limits], seed=seed, temperature=2.0, max_tokens=40)
        assert least <= number <= most


@dataclass
class Verdict:
    color: Color
    reason: Short


def test_typed_answers_have_choices_usage_and_timings(client: LlamaCppClient) -> None:
    reply = client.chat("Which color?", response_format=Verdict, n=2, temperature=1.0, max_tokens=80)
    assert [type(choice.parsed) for choice in reply.choices] == [Verdict, Verdict]
    assert reply.parsed is reply.choices[0].parsed
    assert reply.usage is not None
    assert reply.timings is not None
    with client.chat_stream("Which color?", response_format=Verdict, temperature=0, max_tokens=80) as stream:
        assert "".join(event.text for event in stream if event.type == "content") == stream.response.content
    assert isinstance(stream.response.parsed, Verdict)


def test_the_server_accepts_the_messages_of_a_retry(client: LlamaCppClient) -> None:
    """Three tokens are never enough. Each retry sends two messages more."""
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens.*, after 3 of them"):
        client.chat_json("Invent a person.", Person, max_tokens=3, retries=2)


def test_keys_come_in_the_order_of_the_fields(client: LlamaCppClient) -> None:
    with client.chat_json_stream("Invent a person with a pet.", Person, temperature=0, max_tokens=200) as stream:
        seen = [json.dumps(value) for value in stream]
    assert seen[:2] == ["{}", '{"name": ""}']
    assert list(json.loads(seen[-1]))[:3] == ["name", "age", "pets"]
    assert stream.result.name == stream.value["name"]
    assert json.loads(stream.response.content) == json.loads(seen[-1])


def test_a_recursive_type_is_answered(client: LlamaCppClient) -> None:
    """Only the model can end the nesting, and with some seeds it does not. If it does, the answer must be valid."""
    for seed in range(10):
        with contextlib.suppress(StructuredOutputError):
            assert isinstance(client.chat_json("Draw a tree.", Tree, seed=seed, max_tokens=40), Tree)
            return
    pytest.fail("no answer was complete")


def test_a_class_may_have_ten_thousand_fields(client: LlamaCppClient) -> None:
    large = dataclasses.make_dataclass("Large", [(f"field_{number}", bool) for number in range(10_000)])
    with pytest.raises(StructuredOutputError, match="^the model ran out of tokens"):
        client.chat_json("Fill in the form.", large, max_tokens=5)


def test_a_schema_that_the_server_refuses_is_a_server_error(client: LlamaCppClient) -> None:
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


def test_the_asynchronous_client_returns_instances(real_server: RealServer) -> None:
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
