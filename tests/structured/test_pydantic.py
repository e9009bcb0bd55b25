"""Classes that make their own schema and instances: pydantic's."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import List, Optional

import pytest
from pydantic import BaseModel, Field
from real_server import RealServer

from flynn import LlamaCppClient, StructuredOutputError

from . import build, schema_of


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


def test_its_schema_is_its_own() -> None:
    assert schema_of(Order) == Order.model_json_schema()


def test_inside_a_dataclass_its_definitions_get_names_of_their_own() -> None:
    schema = schema_of(Desk)
    assert schema["properties"]["item"] == {"$ref": "#/$defs/Desk-Item-2"}
    assert schema["properties"]["order"]["properties"]["items"]["items"] == {"$ref": "#/$defs/Desk-Item"}
    for name in ("Desk-Item", "Desk-Item-2"):
        assert schema["$defs"][name]["properties"]["parts"]["items"] == {"$ref": f"#/$defs/{name}"}
    assert schema_of(Desk) == schema  # the class's own was not changed


def test_it_makes_its_own_instances() -> None:
    order = Order(items=[Item(name="a", due=datetime.date(2024, 1, 2))], urgent=False)
    value = {"items": [{"name": "a", "due": "2024-01-02"}], "urgent": False}
    assert build(Order, value) == order
    assert build(Desk, {"order": value, "item": {"name": "b"}}) == Desk(order, Item(name="b"))


def test_what_it_refuses_is_an_error_that_says_where() -> None:
    value = {"items": [{"name": "a", "parts": [{"name": "123456789"}]}], "urgent": False}
    with pytest.raises(ValueError, match=r"^items\[0\].parts\[0\].name: String should have at most 8 characters$"):
        build(Order, value)
    with pytest.raises(ValueError, match=r"^order.items\[0\].parts\[0\].name: String should have"):
        build(Desk, {"order": value, "item": {"name": "b"}})


def test_an_answer_of_the_real_server(real_server: RealServer) -> None:
    with LlamaCppClient(real_server.endpoint, timeout=300) as client:
        assert isinstance(client.chat_json("Write a note.", Note, max_tokens=60, temperature=0), Note)
        with pytest.raises(StructuredOutputError, match="ran out of tokens"):
            client.chat_json("Write a note.", Note, max_tokens=3)


class Standin:
    """The same interface without pydantic."""

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


def test_a_class_with_the_same_interface_does_as_well() -> None:
    assert schema_of(List[Standin]) == {"type": "array", "items": {"type": "integer"}}
    assert build(List[Standin], [5])[0].value == 5
    with pytest.raises(ValueError, match=r"^\[0\]: is negative$"):
        build(List[Standin], [-1])
