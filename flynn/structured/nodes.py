"""A type as a graph of nodes. Each kind of type is one function here: its JSON schema, and how a value is read.

A JSON value is what `json.loads` returns. Nothing is converted, except an int where a float is expected.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Dict, List, Mapping, Sequence, Tuple, Type

from ..errors import suggestion
from .mismatch import NAMES, Key, Mismatch, expect, in_one_line, refuse

Schema = Dict[str, Any]

# Memo of union attempts by (member, container). Without it, nested unions take time exponential in depth. All values
# live as long as the memo does, so each keeps its id.
Memo = Dict[Tuple[int, int], Any]


@dataclass(eq=False)
class Node:
    """A type. A `$ref` in its schema is a `Definition`: schema.py writes that. `build` returns an instance."""

    schema: Schema
    build: Callable[[Any, Memo], Any]


@dataclass(eq=False)
class Definition:
    """A schema with a name: in `$defs` if it is used more than once or leads back to itself, otherwise in place."""

    name: str
    schema: Schema = field(default_factory=dict)
    shared: bool = False


def build(node: Node, value: object) -> Any:
    """Build an instance from a JSON value.

    Raises:
        Mismatch: the value does not match the type. The message has the path of keys to it, and what was expected.

    Example:
        >>> build(node_of(Dict[str, Tuple[int, ...]]), {"a": [1, 2]})
        {'a': (1, 2)}
    """
    try:
        return node.build(value, {})
    except RecursionError:
        raise Mismatch("nested too deeply") from None


def _build_inner(node: Node, value: Any, key: Key, memo: Memo) -> Any:
    """Build what is in a container; a mismatch gets its key."""
    try:
        return node.build(value, memo)
    except Mismatch as mismatch:
        mismatch.keys.insert(0, key)
        raise


# --- scalars ----------------------------------------------------------------------------------------------------------


def _scalar(kind: type) -> Node:
    return Node({"type": _type_name(kind)}, lambda value, memo: expect(kind, value))


def _type_name(kind: type) -> str:
    return NAMES[kind].split()[-1]


def _build_float(value: Any, memo: Memo) -> float:
    if type(value) is not int:
        expect(float, value)
    return float(value) if abs(value) <= sys.float_info.max else refuse("a number that a float can hold", value)


# llama.cpp allows only objects for the schema {}.
ANYTHING = Node({"type": ["object", "array", "string", "number", "boolean", "null"]}, lambda value, memo: value)
SCALARS: Dict[type, Node] = {
    **{kind: _scalar(kind) for kind in (bool, int, str, type(None))},
    float: Node({"type": "number"}, _build_float),
}


def formatted(format: str, read: Callable[[str], object]) -> Node:
    """A string in a format."""

    def build(value: Any, memo: Memo) -> object:
        expect(str, value)
        try:
            return read(value)
        except (ValueError, ArithmeticError):
            refuse(f"a {format}", value)

    return Node({"type": "string", "format": format}, build)


def enumeration(choices: Sequence[Tuple[Any, object]]) -> Node:
    """One of several scalars: each as JSON, and the instance that it stands for."""
    values = [value for value, _ in choices]
    types = {_type_name(type(value)) for value in values}

    def build(value: Any, memo: Memo) -> object:
        for allowed, instance in choices:
            if type(allowed) is type(value) and allowed == value:
                return instance
        shown = [json.dumps(allowed, ensure_ascii=False) for allowed in values[:10]]
        refuse(" or ".join([*shown, "…"] if len(values) > 10 else shown), value)

    return Node({"type": types.pop(), "enum": values} if len(types) == 1 else {"enum": values}, build)


# --- containers -------------------------------------------------------------------------------------------------------


def array(item: Node, make: Callable[[List[Any]], object]) -> Node:
    """An array of any length; `make` turns the list of its items into the instance."""

    def build(value: Any, memo: Memo) -> object:
        items = [_build_inner(item, inner, index, memo) for index, inner in enumerate(expect(list, value))]
        try:
            return make(items)
        except TypeError:  # of a Set[Any], say
            raise Mismatch("expected items that a set can hold") from None

    return Node({"type": "array", "items": item.schema}, build)


def fixed_array(items: Sequence[Node]) -> Node:
    """An array with a type for each place: a tuple."""
    count = len(items)

    def build(value: Any, memo: Memo) -> object:
        if len(expect(list, value)) != count:
            raise Mismatch(f"expected {count} items, got {len(value)}")
        return tuple(_build_inner(items[index], inner, index, memo) for index, inner in enumerate(value))

    prefix = [item.schema for item in items]
    return Node({"type": "array", "prefixItems": prefix, "minItems": count, "maxItems": count}, build)


def can_be_key(node: Node) -> bool:
    schema = getattr(node.schema.get("$ref"), "schema", node.schema)  # of an alias
    return "enum" in schema or schema.get("type") in ("string", "integer", "number", "boolean", "null")


def dictionary(key: Node, item: Node) -> Node:
    """An object with any keys, or with those of an enumeration."""

    def build_key(text: str) -> Any:
        try:
            return key.build(text, {})
        except Mismatch as mismatch:
            try:
                return key.build(json.loads(text), {})  # 1 is written "1": all keys of JSON are strings
            except ValueError:
                raise Mismatch(f"as a key, {mismatch.problem}", keys=[text]) from None

    def build(value: Any, memo: Memo) -> object:
        return {build_key(text): _build_inner(item, inner, text, memo) for text, inner in expect(dict, value).items()}

    if "enum" not in key.schema:
        return Node({"type": "object", "additionalProperties": item.schema}, build)
    keys = [choice if isinstance(choice, str) else json.dumps(choice) for choice in key.schema["enum"]]
    properties = dict.fromkeys(keys, item.schema)
    return Node({"type": "object", "properties": properties, "additionalProperties": False}, build)


def struct(name: str, make: Callable[..., object], fields: Mapping[str, Node], required: Collection[str]) -> Node:
    """An object with known keys: a dataclass, a TypedDict, a NamedTuple or an attrs class."""

    def build(value: Any, memo: Memo) -> object:
        for key in expect(dict, value):
            if key not in fields:
                raise Mismatch(f"{name} has no such key{suggestion(key, fields)}", keys=[key])
        for key in required:
            if key not in value:
                raise Mismatch("missing", keys=[key])
        values = {key: _build_inner(fields[key], inner, key, memo) for key, inner in value.items()}
        try:
            return make(**values)
        except (TypeError, ValueError) as error:  # of a __post_init__ or a validator
            raise Mismatch(in_one_line(error)) from error

    properties = {key: node.schema for key, node in fields.items()}
    return Node(
        {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}, build
    )


# --- others -----------------------------------------------------------------------------------------------------------


def foreign(schema: Any, convert: Callable[[Any], object], error_type: Type[Exception] = ValueError) -> Node:
    """A type with its own schema and its own conversion, which raises `error_type`: of pydantic or msgspec, say."""
    definitions = {name: Definition(name, shared=True) for name in schema.get("$defs", ())}
    references = {f"#/$defs/{name}": definition for name, definition in definitions.items()}

    def refer(part: Schema) -> Schema:
        if isinstance(part.get("$ref"), str):
            part["$ref"] = references.get(part["$ref"], part["$ref"])
        return part

    def build(value: Any, memo: Memo) -> object:
        try:
            return convert(value)
        except error_type as error:
            if hasattr(error, "errors") and (errors := error.errors()):  # pydantic's, with the place
                raise Mismatch(errors[0]["msg"], keys=errors[0]["loc"]) from error
            raise Mismatch(in_one_line(error)) from error

    copy = json.loads(json.dumps(schema), object_hook=refer)
    for name, part in copy.pop("$defs", {}).items():
        definitions[name].schema = part
    return Node(copy, build)


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


def limited(node: Node, limits: Mapping[str, Any]) -> Node:
    """A node with limits, under their names in JSON schema."""

    def build(value: Any, memo: Memo) -> object:
        instance = node.build(value, memo)
        for keyword, limit in limits.items():
            if not LIMITS[keyword][1](value, limit):
                refuse(f"{keyword} {limit}", value)
        return instance

    return Node({**node.schema, **limits}, build)


def union(members: Sequence[Node]) -> Node:
    """The first of several nodes that the value matches."""
    members = sorted(members, key=lambda node: node.schema.get("type") == "number")  # 1 is an int where both may be

    def build(value: Any, memo: Memo) -> object:
        if not isinstance(value, (list, dict)):
            memo = {}  # equal scalars may be one object, at places that have nothing to do with each other
        mismatches: List[Mismatch] = []
        for member in members:
            attempt = id(member), id(value)
            if attempt not in memo:
                try:
                    memo[attempt] = member.build(value, memo)
                except Mismatch as mismatch:
                    memo[attempt] = mismatch
            if not isinstance(memo[attempt], Mismatch):
                return memo[attempt]
            mismatches.append(memo[attempt])
        nearest = max(mismatches, key=lambda mismatch: len(mismatch.keys))
        if nearest.keys or not all(mismatch.expected for mismatch in mismatches):
            # A copy, since its keys grow on the way out.
            raise Mismatch(nearest.problem, expected=nearest.expected, keys=nearest.keys)
        refuse(" or ".join(mismatch.expected for mismatch in mismatches), value)

    return Node({"anyOf": [member.schema for member in members]}, build)
