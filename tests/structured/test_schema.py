"""The JSON schema of a Python type."""

from __future__ import annotations

import collections
import collections.abc
import enum
import sys
import typing
import uuid
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Dict,
    FrozenSet,
    Generic,
    List,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

import pytest
import typing_extensions

from flynn import Limits

from . import schema_of

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


class Point(NamedTuple):
    x: int
    label: str = ""


T = TypeVar("T")
U = TypeVar("U")
OTHER = "the other one"


@dataclass
class Box(Generic[T]):
    value: T
    others: List[T] = field(default_factory=list)


@dataclass
class Pair(Generic[T, U]):
    one: Box[U]
    other: Annotated[Optional[T], OTHER] = None


@dataclass
class Numbers(Box[int]):
    pass


@dataclass
class Twisted(Box[List[T]], Generic[T]):
    pass


class Tagged(typing_extensions.TypedDict, Generic[T]):
    tag: T
    more: typing_extensions.NotRequired[List[T]]


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
        (
            Annotated[int, Limits(minimum=0, maximum=9), "n"],
            {"type": "integer", "minimum": 0, "maximum": 9, "description": "n"},
        ),
        (Annotated[str, Limits(pattern=r"^\d$")], {"type": "string", "pattern": "^[0-9]$"}),
        (Path, {"type": "string", "format": "path"}),
        (Dict[int, str], {"type": "object", "additionalProperties": STRING}),
        (Dict[date, str], {"type": "object", "additionalProperties": STRING}),
        (
            Dict[Color, str],
            {"type": "object", "properties": {"red": STRING, "2": STRING}, "additionalProperties": False},
        ),
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


def test_the_schema_of_a_dataclass_has_the_parameters_of_its_init_in_order() -> None:
    schema = schema_of(Person)
    assert schema == {
        "type": "object",
        "properties": {"name": STRING, "address": ADDRESS, "tags": {"type": "array", "items": STRING}},
        "required": ["name", "address"],
        "additionalProperties": False,
    }
    assert list(schema["properties"]) == ["name", "address", "tags"]


def test_an_init_var_is_a_property() -> None:
    kind = make_dataclass("Kind", [("a", int), ("b", InitVar[int])])
    assert schema_of(kind)["properties"] == {"a": INTEGER, "b": INTEGER}


def test_a_named_tuple_is_an_object_of_its_fields() -> None:
    assert schema_of(Point) == {
        "type": "object",
        "properties": {"x": INTEGER, "label": STRING},
        "required": ["x"],
        "additionalProperties": False,
    }
    assert schema_of(collections.namedtuple("Pair", "a b"))["properties"] == {"a": ANYTHING, "b": ANYTHING}


def test_type_arguments_of_a_generic_class_replace_its_type_variables() -> None:
    assert schema_of(Box[str])["properties"] == {"value": STRING, "others": {"type": "array", "items": STRING}}
    assert schema_of(Numbers)["properties"] == {"value": INTEGER, "others": {"type": "array", "items": INTEGER}}
    pair = schema_of(Pair[int, str])["properties"]
    assert pair["one"]["properties"]["value"] == STRING
    assert pair["other"] == {"anyOf": [INTEGER, {"type": "null"}], "description": OTHER}
    tagged = schema_of(Tagged[int])
    assert tagged["properties"] == {"tag": INTEGER, "more": {"type": "array", "items": INTEGER}}
    assert tagged["required"] == ["tag"]


def test_a_generic_class_has_a_definition_for_each_type_argument() -> None:
    schema = schema_of(Tuple[Box[int], Box[int], Box[str], Box[str]])
    assert [item["$ref"] for item in schema["prefixItems"]] == ["#/$defs/Box"] * 2 + ["#/$defs/Box-2"] * 2


def test_a_duration_and_a_decimal_are_strings_with_a_pattern() -> None:
    for kind, format in ((timedelta, "duration"), (Decimal, "decimal")):
        assert schema_of(kind) == {"type": "string", "format": format, "pattern": schema_of(kind)["pattern"]}


def test_a_type_used_twice_is_defined_once() -> None:
    schema = schema_of(Couple)
    assert schema["properties"] == {
        "one": {"$ref": "#/$defs/Couple-Address"},
        "other": {"$ref": "#/$defs/Couple-Address"},
    }
    assert schema["$defs"] == {"Couple-Address": ADDRESS}


def test_a_recursive_type_is_a_reference() -> None:
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


def test_a_typed_dict_has_its_required_keys() -> None:
    schema = schema_of(More)
    assert list(schema["properties"]) == ["verbose", "level", "name"]
    assert schema["required"] == ["name"]
    assert schema["additionalProperties"] is False


class Flag(typing_extensions.TypedDict):
    name: str
    level: typing_extensions.NotRequired[Annotated[int, Limits(minimum=0)]]
    kind: typing_extensions.Literal["a"]


class Loose(typing_extensions.TypedDict, total=False):
    name: typing_extensions.Required[str]
    level: typing_extensions.ReadOnly[int]


@pytest.mark.parametrize(("kind", "keys"), [(Flag, ["name", "level", "kind"]), (Loose, ["name", "level"])])
def test_typed_dicts_of_typing_extensions_have_their_required_keys(kind: Any, keys: List[str]) -> None:
    """Annotations are strings in this file, so the classes themselves do not know which keys are required."""
    schema = schema_of(kind)
    assert list(schema["properties"]) == keys
    assert schema["required"] == [key for key in keys if key != "level"]


def test_a_class_in_a_function_may_name_itself_and_classes_of_its_module() -> None:
    @dataclass
    class Node:
        next: Optional[Node]
        address: Optional[Address] = None

    assert schema_of(Node)["$defs"]["Node"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/Node"}


def test_two_classes_of_the_same_name_have_two_definitions() -> None:
    one, other = (make_dataclass("Ünit", [("value", kind)]) for kind in (int, str))
    schema = schema_of(Tuple[one, one, other, other])
    assert [item["$ref"] for item in schema["prefixItems"]] == ["#/$defs/nit"] * 2 + ["#/$defs/nit-2"] * 2
    assert [definition["properties"]["value"] for definition in schema["$defs"].values()] == [INTEGER, STRING]


def test_names_of_definitions_begin_with_the_name_of_the_outer_type() -> None:
    """llama.cpp merges the definitions of all tools, so those of two tools must not share a name."""
    one, other = (make_dataclass(name, [("a", Tree), ("b", Tree)]) for name in ("first_tool", "second_tool"))
    assert list(schema_of(one)["$defs"]) == ["first-tool-Tree"]
    assert list(schema_of(other)["$defs"]) == ["second-tool-Tree"]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="X | Y is new in Python 3.10")
def test_unions_may_be_written_with_a_bar() -> None:
    kind = make_dataclass(
        "Kind", [("a", "int | None"), ("b", "list[str | Address]")], namespace={"__module__": __name__}
    )
    assert schema_of(kind)["properties"] == {
        "a": {"anyOf": [INTEGER, {"type": "null"}]},
        "b": {"type": "array", "items": {"anyOf": [STRING, ADDRESS]}},
    }


@pytest.mark.skipif(sys.version_info >= (3, 10), reason="the advice is for Python 3.9")
def test_unions_written_with_a_bar_are_an_error_with_advice_on_python_3_9() -> None:
    kind = make_dataclass("Kind", [("a", "int | None")])
    with pytest.raises(
        TypeError, match=r"^Kind: its annotations cannot be read: .*; Python 3.9 needs Optional\[X\], Union"
    ):
        schema_of(kind)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_a_type_alias_may_be_recursive() -> None:
    names: Dict[str, Any] = {}
    exec("type Nested = list[int | Nested]\ntype Plain = list[int]", names)
    nested = {"type": "array", "items": {"anyOf": [INTEGER, {"$ref": "#/$defs/Nested"}]}}
    assert schema_of(names["Nested"]) == {"$ref": "#/$defs/Nested", "$defs": {"Nested": nested}}
    assert schema_of(names["Plain"]) == {"type": "array", "items": INTEGER}


# --- unsupported types ------------------------------------------------------------------------------------------------


def dataclass_with(annotation: Any) -> Any:
    return make_dataclass("Kind", [("field", annotation)])


class Nothing(enum.Enum):
    pass


class Tuples(enum.Enum):
    RED = (255, 0, 0)


class Endless(enum.Enum):
    MOST = float("inf")


class Words(str):
    pass


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (complex, "Kind.field: complex cannot be expressed in JSON; what can: bool, int, "),
        (bytes, "Kind.field: bytes cannot be"),
        (Words, "Kind.field: Words cannot be"),
        (typing.Callable[[int], int], "Kind.field: Callable cannot be"),
        (typing.TypeVar("T"), "Kind.field: ~T cannot be"),
        (typing.Type[int], "Kind.field: type cannot be"),
        (5, "Kind.field: 5 cannot be"),
        (Address("x"), "Kind.field: Address("),
        (List[bytes], "Kind.field[]: bytes cannot be"),
        (Tuple[int, bytes], "Kind.field[1]: bytes cannot be"),
        (Dict[str, List[bytes]], "Kind.field[][]: bytes cannot be"),
        (Dict[List[int], str], "Kind.field: the keys of a JSON object are strings and cannot be typing.List[int]"),
        (Dict[Any, str], "Kind.field: the keys of a JSON object are strings and cannot be "),
        (Box, "Box.value: ~T cannot be"),
        (Twisted[int], "Kind.field: ~T stands for two types in Twisted and its bases; rename one"),
        (Set[List[int]], "Kind.field: typing.List[int] cannot be in a set: it has no hash"),
        (Set[Address], "Kind.field: Address cannot be in a set: it has no hash"),
        (Literal[b"x"], "Kind.field: JSON has no b'x'; choose from strings and numbers"),
        (Tuples, "Kind.field: JSON has no (255, 0, 0); choose"),
        (Endless, "Kind.field: JSON has no inf; choose"),
        (Nothing, "Kind.field: there is nothing to choose from"),
        (List["Missing"], "Kind: its annotations cannot be read: name 'Missing' is not defined"),  # type: ignore  # noqa: F821
        (Annotated[float, Limits(minimum=0)], "Kind.field: minimum is not a limit of this type (its limits: none)"),
        (
            Annotated[int, Limits(maxLength=5)],
            "Kind.field: maxLength is not a limit of this type (its limits: minimum, ",
        ),
        (Annotated[str, Limits(maxLength=True)], "Kind.field: maxLength must be an int, not True"),
        (Annotated[str, Limits(pattern=5)], "Kind.field: pattern must be a string, not 5"),  # type: ignore[arg-type]
        (Annotated[str, Limits(pattern="^($")], "Kind.field: '^($' is not a valid pattern: missing )"),
        (Annotated[str, Limits(pattern="(?=x)")], "Kind.field: llama.cpp's grammar cannot express the pattern '(?=x)'"),
        (Annotated[str, Limits(pattern="x", maxLength=5)], "Kind.field: llama.cpp ignores minLength and maxLength "),
        (Annotated[str, Limits(minLength=5, maxLength=2)], "Kind.field: minLength must be between 0 and maxLength"),
        (Annotated[int, Limits(minimum=5, maximum=2)], "Kind.field: no integer of at most 16 digits is within "),
        (Annotated[int, Limits(minimum=10**400)], "Kind.field: no integer of at most 16 digits is within "),
    ],
)
def test_an_unsupported_type_is_a_type_error_with_its_path(annotation: Any, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        schema_of(dataclass_with(annotation))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_type_given_by_its_name_is_refused() -> None:
    with pytest.raises(TypeError, match="^schema: 'Person' is the name of a type and cannot be looked up here$"):
        schema_of("Person")


@pytest.mark.parametrize("deeper", [schema_of, lambda annotation: schema_of(annotation)])
def test_a_type_nested_too_deeply_is_a_type_error(deeper: Any) -> None:
    """Also at the depth where the type can be read but its schema not built: one of two stack depths meets it."""
    annotation: Any = int
    for _ in range(2000):
        annotation = list[annotation]
        try:
            deeper(annotation)
        except TypeError as error:
            assert str(error) == "schema: nested too deeply"
            break
    else:
        pytest.fail("no error")


def test_a_class_may_have_ten_thousand_fields() -> None:
    kind = make_dataclass("Kind", [(f"field_{number}", int) for number in range(10_000)])
    assert len(schema_of(kind)["required"]) == 10_000
