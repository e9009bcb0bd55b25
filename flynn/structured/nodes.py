"""A type as a graph of nodes: each writes its JSON schema, and builds an instance from a JSON value.

A JSON value is what `json.loads` returns. Nothing is converted, except an int where a float is expected.
"""

from __future__ import annotations

import json
import math
import operator
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Type

from ..errors import suggestion
from .mismatch import NAMES, Key, Mismatch, expect, in_one_line, refuse

Schema = Dict[str, Any]

# Memo of union attempts by (member, container). Without it, nested unions take time exponential in depth. All values
# live as long as the memo does, so each keeps its id.
Memo = Dict[Tuple[int, int], Any]


# The keywords of `Limits`: the JSON type that each is for, and its check.
LIMITS: Dict[str, Tuple[str, Callable[[Any, Any], object]]] = {
    "minLength": ("string", lambda value, limit: len(value) >= limit),
    "maxLength": ("string", lambda value, limit: len(value) <= limit),
    "pattern": ("string", lambda value, limit: re.fullmatch(limit, value, re.ASCII)),
    "minimum": ("integer", operator.ge),
    "maximum": ("integer", operator.le),
    "exclusiveMinimum": ("integer", operator.gt),
    "exclusiveMaximum": ("integer", operator.lt),
    "minItems": ("array", lambda value, limit: len(value) >= limit),
    "maxItems": ("array", lambda value, limit: len(value) <= limit),
}


def build(node: Node, value: object) -> Any:
    """Build an instance from a JSON value.

    Raises:
        Mismatch: the value does not match the type. The message has the path of keys to it, and what was expected.

    Example:
        >>> build(node_of(Dict[str, Tuple[int, ...]]), {"a": [1, 2]})
        {'a': (1, 2)}
        >>> build(node_of(Dict[str, Tuple[int, ...]]), {"a": [1, "x"]})
        Traceback (most recent call last):
        flynn.structured.mismatch.Mismatch: a[1]: expected an integer, got "x"
    """
    try:
        return node.build(value, {})
    except RecursionError:
        raise Mismatch("nested too deeply") from None


class Writer(Protocol):
    """Writes the schemas of nodes: `flynn.structured.schema.SchemaWriter`."""

    def write(self, node: Node) -> Schema: ...
    def adopt(self, schema: Schema) -> Schema: ...


class Node(Protocol):
    def schema(self, writer: Writer) -> Schema: ...
    def build(self, value: Any, memo: Memo) -> Any: ...


class Anything:
    def schema(self, writer: Writer) -> Schema:
        # Not {}, for which llama.cpp allows only objects.
        return {"type": ["object", "array", "string", "number", "boolean", "null"]}

    def build(self, value: Any, memo: Memo) -> Any:
        return value


@dataclass(frozen=True)
class Scalar:
    """A value of exactly one type."""

    kind: type

    @property
    def name(self) -> str:
        return NAMES[self.kind].split()[-1]

    def schema(self, writer: Writer) -> Schema:
        return {"type": self.name}

    def build(self, value: Any, memo: Memo) -> Any:
        return expect(self.kind, value)


class Number(Scalar):
    def build(self, value: Any, memo: Memo) -> float:
        if type(value) is not int:
            expect(float, value)
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        refuse("a number that a float can hold", value)


@dataclass(frozen=True)
class Formatted:
    """A string in a format, and what reads it."""

    format: str
    read: Callable[[str], object]

    def schema(self, writer: Writer) -> Schema:
        return {"type": "string", "format": self.format}

    def build(self, value: Any, memo: Memo) -> object:
        try:
            return self.read(expect(str, value))
        except (ValueError, ArithmeticError) as error:
            if isinstance(error, Mismatch):
                raise
            refuse(f"a {self.format}", value)


@dataclass(frozen=True)
class Enumeration:
    """One of several values: each as JSON, and what it stands for."""

    values: Sequence[Tuple[Any, object]]

    def schema(self, writer: Writer) -> Schema:
        values = [value for value, _ in self.values]
        kinds = {type(value) for value in values}
        return {**({"type": Scalar(kinds.pop()).name} if len(kinds) == 1 else {}), "enum": values}

    def build(self, value: Any, memo: Memo) -> object:
        for allowed, meaning in self.values:
            if type(allowed) is type(value) and allowed == value:
                return meaning
        first = [json.dumps(allowed, ensure_ascii=False) for allowed, _ in self.values[:10]]
        refuse(" or ".join([*first, "…"] if len(self.values) > 10 else first), value)


@dataclass(frozen=True)
class Array:
    """An array of any length; `make` turns the list of its items into the instance."""

    item: Node
    make: Callable[[List[Any]], object]

    def schema(self, writer: Writer) -> Schema:
        return {"type": "array", "items": writer.write(self.item)}

    def build(self, value: Any, memo: Memo) -> object:
        items = [_build_inner(self.item, item, index, memo) for index, item in enumerate(expect(list, value))]
        try:
            return self.make(items)
        except TypeError:  # of a Set[Any], say
            raise Mismatch("expected items that a set can hold") from None


@dataclass(frozen=True)
class FixedArray:
    """An array with a node for each place: a tuple."""

    items: Sequence[Node]

    def schema(self, writer: Writer) -> Schema:
        items = [writer.write(item) for item in self.items]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def build(self, value: Any, memo: Memo) -> object:
        if len(expect(list, value)) != len(self.items):
            raise Mismatch(f"expected {len(self.items)} items, got {len(value)}")
        return tuple(_build_inner(node, item, index, memo) for index, (node, item) in enumerate(zip(self.items, value)))


@dataclass(frozen=True)
class Dictionary:
    """An object with any keys, or with those of an enumeration."""

    key: Node
    value: Node

    def schema(self, writer: Writer) -> Schema:
        value = writer.write(self.value)
        if not isinstance(self.key, Enumeration):
            return {"type": "object", "additionalProperties": value}
        keys = [key if isinstance(key, str) else json.dumps(key) for key, _ in self.key.values]
        return {"type": "object", "properties": dict.fromkeys(keys, value), "additionalProperties": False}

    def build(self, value: Any, memo: Memo) -> object:
        return {
            self._key(key): _build_inner(self.value, inner, key, memo) for key, inner in expect(dict, value).items()
        }

    def _key(self, text: str) -> Any:
        """The key as it is, or what it is as JSON: keys of JSON are always strings."""
        try:
            return self.key.build(text, {})
        except Mismatch as mismatch:
            try:
                return self.key.build(json.loads(text), {})
            except ValueError:
                raise Mismatch(f"as a key, {mismatch.problem}", keys=[text]) from None


class Named:
    """A node that may lead back to itself."""

    shared = False  # whether it occurs more than once

    def __init__(self, name: str) -> None:
        self.name = name


class Alias(Named):
    """`type X = ...`"""

    node: Node

    def schema(self, writer: Writer) -> Schema:
        return writer.write(self.node)

    def build(self, value: Any, memo: Memo) -> Any:
        return self.node.build(value, memo)


class Struct(Named):
    """An object with known keys: a dataclass, a TypedDict, a NamedTuple or an attrs class."""

    def __init__(self, name: str, make: Callable[..., object]) -> None:
        super().__init__(name)
        self.make = make
        self.fields: Dict[str, Node] = {}
        self.required: List[str] = []

    def schema(self, writer: Writer) -> Schema:
        return {
            "type": "object",
            "properties": {key: writer.write(node) for key, node in self.fields.items()},
            "required": list(self.required),
            "additionalProperties": False,
        }

    def build(self, value: Any, memo: Memo) -> object:
        for key in expect(dict, value):
            if key not in self.fields:
                raise Mismatch(f"{self.name} has no such key{suggestion(key, self.fields)}", keys=[key])
        for key in self.required:
            if key not in value:
                raise Mismatch("missing", keys=[key])
        values = {key: _build_inner(self.fields[key], inner, key, memo) for key, inner in value.items()}
        try:
            return self.make(**values)
        except (TypeError, ValueError) as error:  # of a __post_init__ or a validator
            raise Mismatch(in_one_line(error)) from error


@dataclass(frozen=True)
class Foreign:
    """A type with its own schema and its own conversion: of pydantic, msgspec, or any class that has both."""

    own: Schema
    convert: Callable[[Any], object]
    error: Type[Exception] = ValueError  # what `convert` raises

    def schema(self, writer: Writer) -> Schema:
        return writer.adopt(self.own)

    def build(self, value: Any, memo: Memo) -> object:
        try:
            return self.convert(value)
        except self.error as error:
            if hasattr(error, "errors") and (errors := error.errors()):  # pydantic's, with the place
                raise Mismatch(errors[0]["msg"], keys=errors[0]["loc"]) from error
            raise Mismatch(in_one_line(error)) from error


@dataclass(frozen=True)
class Limited:
    """A node with what Annotated adds to it."""

    node: Node
    limits: Mapping[str, Any]
    description: Optional[str]

    def schema(self, writer: Writer) -> Schema:
        described = {} if self.description is None else {"description": self.description}
        return {**writer.write(self.node), **self.limits, **described}

    def build(self, value: Any, memo: Memo) -> object:
        built = self.node.build(value, memo)
        for keyword, limit in self.limits.items():
            if not LIMITS[keyword][1](value, limit):
                refuse(f"{keyword} {limit}", value)
        return built


@dataclass(frozen=True)
class AnyOf:
    """The first of several nodes that the value matches."""

    members: Sequence[Node]

    def schema(self, writer: Writer) -> Schema:
        return {"anyOf": [writer.write(member) for member in self.members]}

    def build(self, value: Any, memo: Memo) -> object:
        mismatches = []
        for member in self.members:
            attempt = id(member), id(value)
            outcome = memo.get(attempt)
            if outcome is None:
                try:
                    outcome = member.build(value, memo)
                except Mismatch as mismatch:
                    outcome = mismatch
                if isinstance(value, (list, dict)):
                    memo[attempt] = outcome
            if not isinstance(outcome, Mismatch):
                return outcome
            mismatches.append(outcome)
        nearest = max(mismatches, key=lambda mismatch: len(mismatch.keys))
        if nearest.keys or not all(mismatch.expected for mismatch in mismatches):
            # A copy, since its keys grow on the way out.
            raise Mismatch(nearest.problem, expected=nearest.expected, keys=nearest.keys)
        refuse(" or ".join(mismatch.expected for mismatch in mismatches), value)


def _build_inner(node: Node, value: Any, key: Key, memo: Memo) -> Any:
    """Build what is in a container; a mismatch gets its key."""
    try:
        return node.build(value, memo)
    except Mismatch as mismatch:
        mismatch.keys.insert(0, key)
        raise
