"""From a Python type to a JSON schema."""

from __future__ import annotations

import collections.abc
import enum
import typing
import uuid
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import date, datetime, time
from typing import Any, ClassVar, Dict, FrozenSet, List, Literal, NewType, Optional, Sequence, Set, Tuple, Union

import pytest

from flynn import Limits
from flynn.structured.schema import schema_of

Annotated = typing.Annotated


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Address:
    street: str
    number: Optional[int] = None


@dataclass
class Person:
    kind: ClassVar[str] = "person"
    name: str
    address: Address
    tags: List[str] = field(default_factory=list)
    age: int = field(init=False)


@dataclass
class Tree:
    label: str
    children: List[Tree]


@dataclass
class Couple:
    one: Address
    other: Address


class Options(typing.TypedDict, total=False):
    verbose: bool
    level: int


class More(Options):
    name: str


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
ANYTHING = {"type": ["object", "array", "string", "number", "boolean", "null"]}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (bool, {"type": "boolean"}),
        (int, INTEGER),
        (float, {"type": "number"}),
        (str, STRING),
        (None, {"type": "null"}),
        (Any, ANYTHING),
        (object, ANYTHING),
        (date, {"type": "string", "format": "date"}),
        (time, {"type": "string", "format": "time"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1, True, None], {"enum": ["a", 1, True, None]}),
        (Literal[Color.RED], {"type": "string", "enum": ["red"]}),
        (Color, {"enum": ["red", 2]}),
        (Optional[str], {"anyOf": [STRING, {"type": "null"}]}),
        (Union[float, int], {"anyOf": [INTEGER, {"type": "number"}]}),
        (List[int], {"type": "array", "items": INTEGER}),
        (list, {"type": "array", "items": ANYTHING}),
        (Sequence[int], {"type": "array", "items": INTEGER}),
        (collections.abc.Sequence, {"type": "array", "items": ANYTHING}),
        (Set[int], {"type": "array", "items": INTEGER}),
        (FrozenSet[str], {"type": "array", "items": STRING}),
        (Tuple[int, ...], {"type": "array", "items": INTEGER}),
        (tuple, {"type": "array", "items": ANYTHING}),
        (Tuple, {"type": "array", "items": ANYTHING}),
        (Tuple[int, str], {"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "maxItems": 2}),
        (Tuple[()], {"type": "array", "prefixItems": [], "minItems": 0, "maxItems": 0}),
        (Dict[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (dict, {"type": "object", "additionalProperties": ANYTHING}),
        (typing.Mapping[str, int], {"type": "object", "additionalProperties": INTEGER}),
        (NewType("Name", str), STRING),
        (Annotated[str, "of a city"], {"type": "string", "description": "of a city"}),
        (Annotated[str, Limits(maxLength=9), object()], {"type": "string", "maxLength": 9}),
        (
            Annotated[List[int], Limits(minItems=1, maxItems=3)],
            {"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 3},
        ),
        (Annotated[int, Limits(minimum=0), "years"], {"type": "integer", "minimum": 0, "description": "years"}),
        (
            Annotated[str, Limits(pattern="^a+$"), "d"],
            {"type": "string", "pattern": "^a+$", "description": "d"},
        ),
    ],
)
def test_each_kind_of_annotation_has_its_schema(annotation: Any, schema: Any) -> None:
    assert schema_of(annotation) == schema


ADDRESS = {
    "type": "object",
    "properties": {"street": STRING, "number": {"anyOf": [INTEGER, {"type": "null"}]}},
    "required": ["street"],
    "additionalProperties": False,
}


def test_a_dataclass_is_an_object_of_what_its_init_takes_in_order() -> None:
    schema = schema_of(Person)
    assert schema == {
        "type": "object",
        "properties": {"name": STRING, "address": ADDRESS, "tags": {"type": "array", "items": STRING}},
        "required": ["name", "address"],
        "additionalProperties": False,
    }
    assert list(schema["properties"]) == ["name", "address", "tags"]


def test_an_init_var_is_a_field_as_any_other() -> None:
    kind = make_dataclass("Kind", [("a", int), ("b", InitVar[int])])
    assert schema_of(kind)["properties"] == {"a": INTEGER, "b": INTEGER}


def test_what_occurs_twice_is_defined_once() -> None:
    schema = schema_of(Couple)
    assert schema["properties"] == {
        "one": {"$ref": "#/$defs/Couple-Address"},
        "other": {"$ref": "#/$defs/Couple-Address"},
    }
    assert schema["$defs"] == {"Couple-Address": ADDRESS}


def test_what_leads_back_to_itself_is_a_reference() -> None:
    assert schema_of(Tree) == {
        "$ref": "#/$defs/Tree",
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {"label": STRING, "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                "required": ["label", "children"],
                "additionalProperties": False,
            }
        },
    }


def test_a_typed_dict_requires_what_it_says() -> None:
    schema = schema_of(More)
    assert list(schema["properties"]) == ["verbose", "level", "name"]
    assert schema["required"] == ["name"]
    assert schema["additionalProperties"] is False
