"""Classes of pydantic, msgspec and attrs. The first two describe and build themselves."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Generic, List, Optional, Tuple, TypeVar, Union

import annotated_types
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from pydantic import BaseModel, Field
from real_server import RealServer

import flynn
from flynn import Limits, LlamaCppClient, StructuredOutputError

from . import build, schema_of

T = TypeVar("T")


class Item(BaseModel):
    name: str = Field(max_length=8)
    parts: List[Item] = Field(default=[], max_length=1)
    due: Optional[datetime.date] = None


class Note(BaseModel):
    title: str = Field(max_length=8)
    urgent: bool


class Order(BaseModel):
    items: List[Item] = Field(max_length=2)
    urgent: bool


@dataclass
class Desk:
    order: Order
    item: Item


# --- pydantic ---------------------------------------------------------------------------------------------------------


def test_the_schema_of_a_model_is_that_of_pydantic() -> None:
    assert schema_of(Order) == Order.model_json_schema()


def test_definitions_of_models_in_a_dataclass_get_unique_names() -> None:
    schema = schema_of(Desk)
    assert schema["properties"]["item"] == {"$ref": "#/$defs/Desk-Item-2"}
    assert schema["properties"]["order"]["properties"]["items"]["items"] == {"$ref": "#/$defs/Desk-Item"}
    for name in ("Desk-Item", "Desk-Item-2"):
        assert schema["$defs"][name]["properties"]["parts"]["items"] == {"$ref": f"#/$defs/{name}"}
    assert schema_of(Desk) == schema  # pydantic's own definitions were not renamed


def test_pydantic_builds_the_instance() -> None:
    order = Order(items=[Item(name="a", due=datetime.date(2024, 1, 2))], urgent=False)
    value = {"items": [{"name": "a", "due": "2024-01-02"}], "urgent": False}
    assert build(Order, value) == order
    assert build(Desk, {"order": value, "item": {"name": "b"}}) == Desk(order, Item(name="b"))


def test_a_validation_error_of_pydantic_has_the_path() -> None:
    value = {"items": [{"name": "a", "parts": [{"name": "123456789"}]}], "urgent": False}
    with pytest.raises(ValueError, match=r"^items\[0\].parts\[0\].name: String should have at most 8 characters$"):
        build(Order, value)
    with pytest.raises(ValueError, match=r"^order.items\[0\].parts\[0\].name: String should have"):
        build(Desk, {"order": value, "item": {"name": "b"}})


class Address(BaseModel):
    postcode: str = Field(pattern=r"^\d{5}$")
    number: int = Field(ge=100)


def test_patterns_and_bounds_of_a_model_are_narrowed() -> None:
    for schema in (schema_of(Address), schema_of(List[Address])["items"]):
        assert schema["properties"]["postcode"]["pattern"] == "^[0-9]{5}$"
        assert schema["properties"]["number"]["maximum"] > 10**15
    assert Address.model_json_schema()["properties"]["postcode"]["pattern"] == r"^\d{5}$"


class Lookahead(BaseModel):
    model_config = pydantic.ConfigDict(regex_engine="python-re")
    word: str = Field(pattern="^(?!x)")


def test_a_pattern_of_a_model_that_no_grammar_can_express_is_refused() -> None:
    for kind in (Lookahead, List[Lookahead]):
        with pytest.raises(
            TypeError, match=r"^schema(\[\])?: llama.cpp's grammar cannot express the pattern '\^\(\?!x"
        ):
            schema_of(kind)


class Price(BaseModel):
    amount: decimal.Decimal


def test_a_decimal_of_a_model_may_always_be_a_number() -> None:
    """Some versions of pydantic allow also a string with a lookahead, which no grammar can express."""
    assert {"type": "number"} in schema_of(Price)["properties"]["amount"]["anyOf"]
    assert build(Price, {"amount": 1.5}) == Price(amount=decimal.Decimal("1.5"))


@pydantic.dataclasses.dataclass
class Room:
    seats: int = Field(ge=100)
    name: str = Field("hall", max_length=4)


@pydantic.dataclasses.dataclass
class Crate(Generic[T]):
    content: T


def test_a_pydantic_dataclass_keeps_its_fields_and_limits() -> None:
    schema = schema_of(Room)
    assert schema["required"] == ["seats"]
    assert schema["properties"]["seats"]["minimum"] == 100
    assert schema["properties"]["name"]["maxLength"] == 4
    assert build(List[Room], [{"seats": 100}]) == [Room(seats=100)]
    with pytest.raises(ValueError, match=r"^\[0\].seats: Input should be greater than or equal to 100$"):
        build(List[Room], [{"seats": 10}])
    assert build(Crate[int], {"content": 1}) == Crate(content=1)


@dataclass
class Plain:
    count: Annotated[int, Field(ge=100, description="how many")]
    size: pydantic.PositiveInt
    rank: Annotated[int, annotated_types.Lt(9), "from 0 on"]
    code: Annotated[str, msgspec.Meta(max_length=3)] = "abc"
    rooms: Annotated[List[Room], Field(max_length=1)] = ()  # type: ignore[assignment]


def test_a_plain_dataclass_may_have_annotations_of_pydantic_and_msgspec() -> None:
    properties = schema_of(Plain)["properties"]
    assert properties["count"]["minimum"] == 100
    assert properties["count"]["description"] == "how many"
    assert properties["size"]["minimum"] == 1
    assert (properties["rank"]["maximum"], properties["rank"]["description"]) == (8, "from 0 on")
    assert properties["code"]["maxLength"] == 3
    assert properties["rooms"]["maxItems"] == 1
    value = {"count": 100, "size": 1, "rank": 1}
    assert build(Plain, value) == Plain(100, 1, 1)
    assert build(Plain, {**value, "rooms": [{"seats": 100}]}).rooms == [Room(seats=100)]
    for key, other in {"count": 99, "size": 0, "rank": 9, "code": "abcd", "rooms": [{"seats": 1}]}.items():
        with pytest.raises(ValueError, match=rf"^{key}(\[0\].seats)?: (Input should be|Expected `str` of length <= 3)"):
            build(Plain, {**value, key: other})


def test_a_pydantic_field_as_the_default_in_a_plain_dataclass_is_refused() -> None:
    """The dataclass would use the Field object itself as the value."""
    kind = make_dataclass("Kind", [("count", int, Field(ge=1))])
    with pytest.raises(TypeError, match=r"^Kind.count: Field is the default; put it into Annotated\[...\]$"):
        schema_of(kind)


def test_an_annotation_that_pydantic_cannot_express_is_a_one_line_type_error() -> None:
    annotation = Annotated[Callable[[int], int], Field(description="x")]
    with pytest.raises(TypeError, match=r"^Kind.field: [^\n]+$"):
        schema_of(make_dataclass("Kind", [("field", annotation)]))


class Standin:
    """A class with pydantic's interface."""

    def __init__(self, value: int) -> None:
        self.value = value

    @classmethod
    def model_json_schema(cls) -> object:
        return {"type": "integer"}

    @classmethod
    def model_validate(cls, value: int) -> Standin:
        if value < 0:
            raise ValueError("is\nnegative")
        return cls(value)


def test_a_class_with_the_interface_of_pydantic_is_accepted() -> None:
    assert schema_of(List[Standin]) == {"type": "array", "items": {"type": "integer"}}
    assert build(List[Standin], [5])[0].value == 5
    with pytest.raises(ValueError, match=r"^\[0\]: is negative$"):
        build(List[Standin], [-1])


# --- msgspec ----------------------------------------------------------------------------------------------------------


class Trip(msgspec.Struct):
    """Types that msgspec describes differently from Flynn."""

    place: Tuple[int, Annotated[str, msgspec.Meta(pattern=r"^\w+$", max_length=9)]]
    took: datetime.timedelta
    costs: Dict[int, decimal.Decimal] = {}
    back: Optional[Trip] = None


class Stop(msgspec.Struct):
    place: Tuple[bool, Annotated[str, msgspec.Meta(pattern=r"^\w{1,5}$")]]
    took: datetime.timedelta
    cost: decimal.Decimal


class Parcel(msgspec.Struct, Generic[T]):
    content: T


@dataclass
class Journey:
    trips: List[Trip]


TRIP = {"place": [1, "Oslo"], "took": "P0DT1H30M0S", "costs": {"7": "1.50"}}


def test_the_schema_of_a_struct_is_that_of_msgspec_narrowed() -> None:
    schema = schema_of(Trip)
    assert schema["$ref"] == "#/$defs/Trip"
    properties = schema["$defs"]["Trip"]["properties"]
    assert "items" not in properties["place"]
    assert properties["place"]["prefixItems"][1]["pattern"] == "^[0-9A-Z_a-z]+$"
    assert properties["took"]["pattern"].startswith("^P")
    assert schema_of(Journey)["properties"]["trips"]["items"] == {"$ref": "#/$defs/Journey-Trip"}


def test_msgspec_converts_the_struct() -> None:
    trip = Trip((1, "Oslo"), datetime.timedelta(hours=1.5), {7: decimal.Decimal("1.50")})
    assert build(Trip, TRIP) == trip
    assert build(Journey, {"trips": [{**TRIP, "back": TRIP}]}) == Journey(
        [Trip(trip.place, trip.took, trip.costs, trip)]
    )
    assert build(Parcel[int], {"content": 1}) == Parcel(1)
    with pytest.raises(ValueError, match=r"^trips\[0\]: Expected `str`, got `int` - at `\$.place\[1\]`$"):
        build(Journey, {"trips": [{**TRIP, "place": [1, 2]}]})


# --- attrs ------------------------------------------------------------------------------------------------------------


@attrs.define
class Crew:
    captain: str
    _size: Annotated[int, Limits(minimum=1)] = 1
    names: List[str] = attrs.field(factory=list, validator=attrs.validators.max_len(2))
    home: Any = attrs.field(default=None, converter=lambda value: value or "here")
    decks: int = attrs.field(init=False, default=3)


def test_the_schema_of_an_attrs_class_has_the_parameters_of_its_init() -> None:
    schema = schema_of(Crew)
    assert list(schema["properties"]) == ["captain", "size", "names", "home"]
    assert schema["required"] == ["captain"]
    assert schema["additionalProperties"] is False


def test_the_init_of_an_attrs_class_converts_and_validates() -> None:
    assert build(List[Crew], [{"captain": "A", "size": 2, "names": ["b"]}]) == [Crew("A", 2, ["b"])]
    with pytest.raises(ValueError, match="^size: expected minimum 1, got 0$"):
        build(Crew, {"captain": "A", "size": 0})
    with pytest.raises(ValueError, match=r"^\[0\]: Length of 'names' must be <= 2: 3$"):
        build(List[Crew], [{"captain": "A", "names": ["a", "b", "c"]}])


# --- all of them ------------------------------------------------------------------------------------------------------


def test_a_union_may_mix_the_libraries() -> None:
    union = Union[Room, Trip, Crew, None]
    assert build(union, {"captain": "A"}) == Crew("A")
    assert build(union, {"seats": 100}) == Room(seats=100)
    assert build(union, TRIP).place == (1, "Oslo")


def test_types_of_the_standard_library_import_none_of_the_libraries() -> None:
    program = """
import sys
from dataclasses import dataclass
from typing import Annotated, Dict, List, NamedTuple
from flynn import Limits
from flynn.structured.annotations import node_of
from flynn.structured.schema import schema_of
class Point(NamedTuple):
    x: Annotated[int, Limits(minimum=1)]
schema_of(node_of(Dict[int, List[Point]]))
print(*sys.modules)
"""
    root = Path(flynn.__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert "flynn.structured.grammar" in process.stdout, process.stderr
    assert not {"pydantic", "msgspec", "attr", "decimal", "datetime"} & set(process.stdout.split())


def test_the_real_server_answers_with_instances_of_these_classes(real_server: RealServer) -> None:
    with LlamaCppClient(real_server.endpoint, timeout=300) as client:
        assert isinstance(client.chat_json("Write a note.", Note, max_tokens=60, temperature=0), Note)
        with pytest.raises(StructuredOutputError, match="ran out of tokens"):
            client.chat_json("Write a note.", Note, max_tokens=3)
        address = client.chat_json("Where do you live?", Address, max_tokens=60, temperature=0)
        assert address.number >= 100
        assert isinstance(client.chat_json("Where were you?", Stop, max_tokens=150, temperature=0), Stop)
