"""What a value has to be, as a graph of forms: each knows its JSON schema, and makes an instance of a value.

A value is what `json.loads` makes. Nothing is converted, but for an int where a float is wanted.
"""

from __future__ import annotations

import json
import math
import operator
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from ..errors import suggestion
from .mismatch import NAMES, Key, Mismatch, in_one_line, refuse, typed

Schema = Dict[str, Any]

# What came of a container under a member of an Either: without it, objects nested in objects could be made that take
# twice as long for each level. All values live as long as this does, so that each keeps its id.
Tried = Dict[Tuple[int, int], Any]


def _at_least(value: Any, limit: int) -> bool:
    return len(value) >= limit


def _at_most(value: Any, limit: int) -> bool:
    return len(value) <= limit


# The keywords that llama-server's grammar obeys (llama.cpp, common/json-schema-to-grammar.cpp): of which JSON type, and
# whether a value obeys.
LIMITS: Dict[str, Tuple[str, Callable[[Any, Any], object]]] = {
    "minLength": ("string", _at_least),
    "maxLength": ("string", _at_most),
    "pattern": ("string", lambda value, limit: re.search(limit, value)),
    "minimum": ("integer", operator.ge),
    "maximum": ("integer", operator.le),
    "exclusiveMinimum": ("integer", operator.gt),
    "exclusiveMaximum": ("integer", operator.lt),
    "minItems": ("array", _at_least),
    "maxItems": ("array", _at_most),
}


def build(form: Node, value: object) -> Any:
    """An instance, from a JSON value.

    Raises:
        Mismatch: the value does not fit. The message has the path of keys to it, and what was expected there.

    Example:
        >>> build(node_of(Dict[str, Tuple[int, ...]]), {"a": [1, 2]})
        {'a': (1, 2)}
        >>> build(node_of(Dict[str, Tuple[int, ...]]), {"a": [1, "x"]})
        Traceback (most recent call last):
        flynn.structured.mismatch.Mismatch: a[1]: expected an integer, got "x"
    """
    try:
        return form.build(value, {})
    except RecursionError:
        raise Mismatch("nested too deeply") from None


class Writer(Protocol):
    """Writes the schemas of nodes: `flynn.structured.schema.SchemaWriter`."""

    def write(self, node: Node) -> Schema: ...
    def adopt(self, schema: Schema) -> Schema: ...


class Node(Protocol):
    def schema(self, writer: Writer) -> Schema: ...
    def build(self, value: Any, tried: Tried) -> Any: ...


class Anything:
    def schema(self, writer: Writer) -> Schema:
        # Not {}, of which llama.cpp makes any object.
        return {"type": ["object", "array", "string", "number", "boolean", "null"]}

    def build(self, value: Any, tried: Tried) -> Any:
        return value


@dataclass(frozen=True)
class Plain:
    """A value of exactly one type."""

    kind: type

    @property
    def name(self) -> str:
        return NAMES[self.kind].split()[-1]

    def schema(self, writer: Writer) -> Schema:
        return {"type": self.name}

    def build(self, value: Any, tried: Tried) -> Any:
        return typed(self.kind, value)


class Number(Plain):
    def build(self, value: Any, tried: Tried) -> float:
        if type(value) is not int:
            typed(float, value)
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        refuse("a number that a float can hold", value)


@dataclass(frozen=True)
class Formatted:
    """A string in a format that llama-server knows, and what reads it."""

    format: str
    read: Callable[[str], object]

    def schema(self, writer: Writer) -> Schema:
        return {"type": "string", "format": self.format}

    def build(self, value: Any, tried: Tried) -> object:
        text = typed(str, value)
        try:  # Python reads the offset Z only from 3.11 on
            return self.read(text[:-1] + "+00:00" if text.endswith("Z") else text)
        except ValueError:
            refuse(f"a {self.format}", value)


@dataclass(frozen=True)
class Chosen:
    """One of some values: each as JSON, and what it stands for."""

    values: Sequence[Tuple[Any, object]]

    def schema(self, writer: Writer) -> Schema:
        values = [value for value, _ in self.values]
        kinds = {type(value) for value in values}
        return {**({"type": Plain(kinds.pop()).name} if len(kinds) == 1 else {}), "enum": values}

    def build(self, value: Any, tried: Tried) -> object:
        for allowed, meaning in self.values:
            if type(allowed) is type(value) and allowed == value:
                return meaning
        first = [json.dumps(allowed, ensure_ascii=False) for allowed, _ in self.values[:10]]
        refuse(" or ".join([*first, "…"] if len(self.values) > 10 else first), value)


@dataclass(frozen=True)
class Items:
    """An array of any length, and what is made of the list of its items."""

    item: Node
    make: Callable[[List[Any]], object]

    def schema(self, writer: Writer) -> Schema:
        return {"type": "array", "items": writer.write(self.item)}

    def build(self, value: Any, tried: Tried) -> object:
        items = [_inner(self.item, item, index, tried) for index, item in enumerate(typed(list, value))]
        try:
            return self.make(items)
        except TypeError:  # of a Set[Any], say
            raise Mismatch("expected items that a set can hold") from None


@dataclass(frozen=True)
class Fixed:
    """An array with a form for each place: a tuple."""

    items: Sequence[Node]

    def schema(self, writer: Writer) -> Schema:
        items = [writer.write(item) for item in self.items]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def build(self, value: Any, tried: Tried) -> object:
        if len(typed(list, value)) != len(self.items):
            raise Mismatch(f"expected {len(self.items)} items, got {len(value)}")
        return tuple(_inner(form, item, index, tried) for index, (form, item) in enumerate(zip(self.items, value)))


@dataclass(frozen=True)
class Table:
    """An object with any keys."""

    value: Node

    def schema(self, writer: Writer) -> Schema:
        return {"type": "object", "additionalProperties": writer.write(self.value)}

    def build(self, value: Any, tried: Tried) -> object:
        return {key: _inner(self.value, inner, key, tried) for key, inner in typed(dict, value).items()}


class Named:
    """A form that may lead back to itself."""

    shared = False  # whether it occurs more than once

    def __init__(self, name: str) -> None:
        self.name = name


class Alias(Named):
    """`type X = ...`"""

    form: Node

    def schema(self, writer: Writer) -> Schema:
        return writer.write(self.form)

    def build(self, value: Any, tried: Tried) -> Any:
        return self.form.build(value, tried)


class Struct(Named):
    """An object with known keys: a dataclass or a TypedDict."""

    def __init__(self, name: str, make: Callable[..., object]) -> None:
        super().__init__(name)
        self.make = make
        self.fields: Dict[str, Node] = {}
        self.required: List[str] = []

    def schema(self, writer: Writer) -> Schema:
        return {
            "type": "object",
            "properties": {key: writer.write(form) for key, form in self.fields.items()},
            "required": list(self.required),
            "additionalProperties": False,
        }

    def build(self, value: Any, tried: Tried) -> object:
        for key in typed(dict, value):
            if key not in self.fields:
                raise Mismatch(f"{self.name} has no such key{suggestion(key, self.fields)}", keys=[key])
        for key in self.required:
            if key not in value:
                raise Mismatch("missing", keys=[key])
        values = {key: _inner(self.fields[key], inner, key, tried) for key, inner in value.items()}
        try:
            return self.make(**values)
        except ValueError as error:  # of a __post_init__
            raise Mismatch(in_one_line(error)) from error


@dataclass(frozen=True)
class Foreign:
    """A class that makes its own schema and its own instances, as pydantic's do."""

    kind: Any

    def schema(self, writer: Writer) -> Schema:
        return writer.adopt(self.kind.model_json_schema())

    def build(self, value: Any, tried: Tried) -> object:
        try:
            return self.kind.model_validate(value)
        except ValueError as error:
            if hasattr(error, "errors") and (errors := error.errors()):  # so pydantic says where
                raise Mismatch(errors[0]["msg"], keys=errors[0]["loc"]) from error
            raise Mismatch(in_one_line(error)) from error


@dataclass(frozen=True)
class Limited:
    """A form with what Annotated adds to it."""

    form: Node
    limits: Mapping[str, Any]
    description: Optional[str]

    def schema(self, writer: Writer) -> Schema:
        described = {} if self.description is None else {"description": self.description}
        return {**writer.write(self.form), **self.limits, **described}

    def build(self, value: Any, tried: Tried) -> object:
        built = self.form.build(value, tried)
        for keyword, limit in self.limits.items():
            if not LIMITS[keyword][1](value, limit):
                refuse(f"{keyword} {limit}", value)
        return built


@dataclass(frozen=True)
class Either:
    """The first of several forms that fits."""

    members: Sequence[Node]

    def schema(self, writer: Writer) -> Schema:
        return {"anyOf": [writer.write(member) for member in self.members]}

    def build(self, value: Any, tried: Tried) -> object:
        mismatches = []
        for member in self.members:
            attempt = id(member), id(value)
            came = tried.get(attempt)
            if came is None:
                try:
                    came = member.build(value, tried)
                except Mismatch as mismatch:
                    came = mismatch
                if isinstance(value, (list, dict)):
                    tried[attempt] = came
            if not isinstance(came, Mismatch):
                return came
            mismatches.append(came)
        nearest = max(mismatches, key=lambda mismatch: len(mismatch.keys))
        if nearest.keys or not all(mismatch.expected for mismatch in mismatches):
            # A new one, since its keys grow on the way out.
            raise Mismatch(nearest.problem, expected=nearest.expected, keys=nearest.keys)
        refuse(" or ".join(mismatch.expected for mismatch in mismatches), value)


def _inner(form: Node, value: Any, key: Key, tried: Tried) -> Any:
    """What is made of a value in a container."""
    try:
        return form.build(value, tried)
    except Mismatch as mismatch:
        mismatch.keys.insert(0, key)
        raise
