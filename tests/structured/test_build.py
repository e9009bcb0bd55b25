"""Building an instance of a Python type from a JSON value."""

from __future__ import annotations

import enum
import json
import uuid
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Dict,
    FrozenSet,
    Generic,
    List,
    Literal,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    TypedDict,
    TypeVar,
    Union,
)

import pytest

from flynn import Limits

from . import build


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Pet:
    name: str
    color: Color = Color.RED


@dataclass
class Person:
    name: str
    age: Optional[int] = None
    pets: List[Pet] = field(default_factory=list)
    best: Optional[Person] = None


class Options(TypedDict, total=False):
    level: int
    pet: Pet


class Point(NamedTuple):
    x: int
    y: float = 0.5


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    value: T
    inner: Optional[Box[T]] = None


@dataclass
class Labelled(Box[int]):
    label: str = ""


VALID = [
    (bool, "true", True),
    (int, "-5", -5),
    (float, "1.5", 1.5),
    (str, '"x"', "x"),
    (None, "null", None),
    (Any, '{"a": [1, null]}', {"a": [1, None]}),
    (date, '"2024-02-29"', date(2024, 2, 29)),
    (time, '"10:00:00.123Z"', time(10, 0, 0, 123000, timezone.utc)),
    (datetime, '"2024-02-29T10:00:00+00:00"', datetime(2024, 2, 29, 10, tzinfo=timezone.utc)),
    (uuid.UUID, '"12345678-1234-5678-1234-567812345678"', uuid.UUID("12345678123456781234567812345678")),
    (Literal["a", 1, True], "true", True),
    (Literal["a", 1, True], "1", 1),
    (Literal[Color.BLUE], "2", Color.BLUE),
    (Color, '"red"', Color.RED),
    (Optional[int], "null", None),
    (Union[float, int], "1", 1),
    (Union[int, str, List[int]], "[1]", [1]),
    (List[int], "[1, 2]", [1, 2]),
    (Set[int], "[1, 2, 1]", {1, 2}),
    (FrozenSet[str], '["a"]', frozenset("a")),
    (Tuple[int, ...], "[1, 2]", (1, 2)),
    (Tuple[int, str], '[1, "a"]', (1, "a")),
    (Tuple[()], "[]", ()),
    (Dict[str, Pet], '{"a b": {"name": "Rex"}}', {"a b": Pet("Rex")}),
    (Options, '{"pet": {"name": "Rex", "color": 2}}', {"pet": Pet("Rex", Color.BLUE)}),
    (Person, '{"name": "A", "pets": [{"name": "R"}]}', Person("A", None, [Pet("R")])),
    (Person, '{"name": "A", "best": {"name": "B"}, "age": 3}', Person("A", 3, [], Person("B"))),
    (Point, '{"x": 1}', Point(1)),
    (List[Point], '[{"x": 1, "y": 2}]', [Point(1, 2.0)]),
    (Box[int], '{"value": 1, "inner": {"value": 2}}', Box(1, Box(2))),
    (Box[Box[str]], '{"value": {"value": "a"}}', Box(Box("a"))),
    (Labelled, '{"value": 1, "label": "a"}', Labelled(1, None, "a")),
    (Dict[int, str], '{"1": "a", "-20": "b"}', {1: "a", -20: "b"}),
    (Dict[bool, int], '{"true": 1}', {True: 1}),
    (Dict[Literal["a", 1], int], '{"a": 5, "1": 6}', {"a": 5, 1: 6}),
    (Dict[Color, int], '{"red": 1, "2": 3}', {Color.RED: 1, Color.BLUE: 3}),
    (Dict[date, int], '{"2024-02-29": 1}', {date(2024, 2, 29): 1}),
    (Decimal, '"-12.50"', Decimal("-12.50")),
    (Path, '"a/b.Z"', Path("a/b.Z")),
    (timedelta, '"P1DT2H3M4S"', timedelta(days=1, hours=2, minutes=3, seconds=4)),
    (timedelta, '"PT1.5S"', timedelta(seconds=1.5)),
]


@pytest.mark.parametrize(("annotation", "text", "instance"), VALID)
def test_a_valid_value_becomes_an_instance(annotation: Any, text: str, instance: object) -> None:
    built = build(annotation, json.loads(text))
    assert built == instance
    assert type(built) is type(instance)


def test_an_integer_becomes_a_float_where_the_type_is_float() -> None:
    built = build(float, 1)
    assert (built, type(built)) == (1.0, float)


INVALID = [
    (int, "true", "expected an integer, got true"),
    (int, "1.0", "expected an integer, got 1.0"),
    (int, '"1"', 'expected an integer, got "1"'),
    (bool, "1", "expected a boolean, got 1"),
    (str, "1", "expected a string, got 1"),
    (float, '"1"', 'expected a number, got "1"'),
    (float, "true", "expected a number, got true"),
    (float, "1e999", "expected a number that a float can hold, got Infinity"),
    (float, "1" * 400, "expected a number that a float can hold, got an integer"),
    (None, "0", "expected null, got 0"),
    (date, '"2023-02-29"', 'expected a date, got "2023-02-29"'),
    (date, "5", "expected a string, got 5"),
    (uuid.UUID, '"x"', 'expected a uuid, got "x"'),
    (Literal["a", 1], "true", 'expected "a" or 1, got true'),
    (Color, '"green"', 'expected "red" or 2, got "green"'),
    (Optional[int], '"x"', 'expected an integer or null, got "x"'),
    (List[int], '{"a": 1}', "expected an array, got an object"),
    (List[List[int]], '[[1], [2, "x"]]', '[1][1]: expected an integer, got "x"'),
    (Tuple[int, str], "[1]", "expected 2 items, got 1"),
    (Dict[str, Dict[str, int]], '{"a b": {"c": null}}', '["a b"].c: expected an integer, got null'),
    (Person, "[]", "expected an object, got an array"),
    (Person, '{"age": 1}', "name: missing"),
    (Person, '{"name": "A", "pet": []}', "pet: Person has no such key; did you mean 'pets'?"),
    (Person, '{"name": "A", "pets": [{"name": "R"}, {"name": 5}]}', "pets[1].name: expected a string, got 5"),
    (Person, '{"name": "A", "best": {"name": "B", "best": {}}}', "best.best.name: missing"),
    (Set[Any], "[1, [2]]", "expected items that a set can hold"),
    (Options, '{"level": "x"}', 'level: expected an integer, got "x"'),
    (Point, "[1, 2]", "expected an object, got an array"),
    (Point, '{"y": 1}', "x: missing"),
    (Box[int], '{"value": 1, "inner": {"value": "x"}}', 'inner.value: expected an integer, got "x"'),
    (Dict[int, str], '{"x": "a"}', 'x: as a key, expected an integer, got "x"'),
    (Dict[int, str], '{"1.5": "a"}', '["1.5"]: as a key, expected an integer, got "1.5"'),
    (
        Dict[int, str],
        json.dumps({"9" * 5000: "a"}),
        f'["{"9" * 60}"]: as a key, expected an integer, got "{"9" * 60}…"',
    ),
    (Dict[int, str], json.dumps({"[" * 100_000: "a"}), "nested too deeply"),
    (Dict[Color, int], '{"green": 1}', 'green: as a key, expected "red" or 2, got "green"'),
    (Dict[Color, int], '{"red": "x"}', 'red: expected an integer, got "x"'),
    (Decimal, '"NaN"', 'expected a decimal, got "NaN"'),
    (Decimal, '"1,5"', 'expected a decimal, got "1,5"'),
    (Decimal, "1.5", "expected a string, got 1.5"),
    (timedelta, '"P"', 'expected a duration, got "P"'),
    (timedelta, '"PT"', 'expected a duration, got "PT"'),
    (timedelta, '"P1Y"', 'expected a duration, got "P1Y"'),
    (timedelta, '"P99999999999999999999D"', 'expected a duration, got "P99999999999999999999D"'),
    (str, json.dumps(["x" * 10**6]), "expected a string, got an array"),
    (int, json.dumps("x" * 10**6), 'expected an integer, got "' + "x" * 60 + '…"'),
]


@pytest.mark.parametrize(("annotation", "text", "message"), INVALID)
def test_an_invalid_value_is_an_error_with_its_path(annotation: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        build(annotation, json.loads(text))
    assert str(raised.value) == message


LIMITS = [
    (Annotated[int, Limits(minimum=3)], 3, 2),
    (Annotated[int, Limits(maximum=3)], 3, 4),
    (Annotated[int, Limits(exclusiveMinimum=3)], 4, 3),
    (Annotated[int, Limits(exclusiveMaximum=3)], 2, 3),
    (Annotated[str, Limits(minLength=2)], "éé", "é"),
    (Annotated[str, Limits(maxLength=2)], "éé", "ééé"),
    (Annotated[str, Limits(pattern="^a|b$")], "b", "xb"),
    (Annotated[str, Limits(pattern="^[a-z]{2}$")], "ab", "ab\n"),
    (Annotated[str, Limits(pattern="[a-z]{2}")], "ab", "abc"),
    (Annotated[str, Limits(pattern=r"\d")], "5", "٥"),
    (Annotated[List[int], Limits(minItems=1)], [1], []),
    (Annotated[List[int], Limits(maxItems=1)], [1], [1, 2]),
]


@pytest.mark.parametrize(("annotation", "within", "beyond"), LIMITS)
def test_a_value_beyond_a_limit_is_an_error(annotation: Any, within: Any, beyond: Any) -> None:
    assert build(annotation, within) == within
    with pytest.raises(ValueError, match="^expected [a-z]+[A-Z]?[a-z]* (3|2|1|[^ ]*), got "):
        build(annotation, beyond)


# --- hostile values ---------------------------------------------------------------------------------------------------


@dataclass
class One:
    child: Union[One, Other, None]
    x: int


@dataclass
class Other:
    child: Union[One, Other, None]
    x: bool


def test_nested_unions_take_linear_time() -> None:
    """Only `x`, after the child, tells One from Other: trying both at each level would take 2**100 steps."""
    text = '{"child":' * 100 + "null" + ',"x":"neither"}' * 100
    with pytest.raises(ValueError, match='^(child[.]?){10}…(child[.]){9}x: expected an integer, got "neither"$'):
        build(One, json.loads(text))
    with pytest.raises(ValueError, match='^child.child.x: expected an integer, got "neither"$'):
        build(One, json.loads('{"child":{"child":{"child":null,"x":"neither"},"x":1},"x":1}'))
    text = '{"child":' * 100 + "null" + "".join(',"x":true}' if level % 2 else ',"x":1}' for level in range(100))
    instance, depth = build(Union[One, Other], json.loads(text)), 0
    while instance is not None:
        assert type(instance) is (One if instance.x is not True else Other)
        instance, depth = instance.child, depth + 1
    assert depth == 100


def test_a_value_nested_too_deeply_is_an_error() -> None:
    value: Any = None
    for _ in range(100_000):
        value = {"name": "A", "best": value}
    with pytest.raises(ValueError, match="^nested too deeply$"):
        build(Person, value)


def test_a_value_that_is_not_json_is_named_by_its_type() -> None:
    with pytest.raises(ValueError, match="^expected an integer, got bytes, which is not a JSON value$"):
        build(int, b"1")


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise (TypeError if self.value < 0 else ValueError)(f"{self.value} is\nnot positive")


def test_an_exception_of_the_class_is_a_one_line_error() -> None:
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"^\[1\]: {value} is not positive$"):
            build(List[Positive], [{"value": 1}, {"value": value}])
