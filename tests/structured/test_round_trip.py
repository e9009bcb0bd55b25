"""Random types and values: a value becomes the instance that it was written from, and nothing else is accepted.

A small validator of JSON schema, written from the specification alone, decides which values a schema allows. `build`
has to agree with it on each of them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import random
import re
import string
import typing
from typing import Any, Callable, Dict, List, Literal, Optional, Tuple, Union

import pytest

from flynn import Limits

from . import build, schema_of

Annotated = typing.Annotated

Rng = random.Random
# An annotation, and a function that returns a random value of it, as JSON and as an instance.
Kind = Tuple[Any, Callable[[Rng], Tuple[Any, Any]]]


def word(rng: Rng) -> str:
    return "".join(rng.choices(string.ascii_lowercase + 'é"\\ ', k=rng.randrange(1, 6)))


def by_name(pairs: Dict[str, Tuple[Any, Any]]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Split values that are each a pair of JSON and instance into two dictionaries."""
    encoded = {name: value for name, (value, _) in pairs.items()}
    return encoded, {name: instance for name, (_, instance) in pairs.items()}


# --- kinds of types ---------------------------------------------------------------------------------------------------


def plain(rng: Rng) -> Kind:
    def same(make: Callable[[Rng], Any]) -> Callable[[Rng], Tuple[Any, Any]]:
        def value(rng: Rng) -> Tuple[Any, Any]:
            instance = make(rng)
            return instance, instance

        return value

    kinds: List[Kind] = [
        (bool, same(lambda rng: rng.random() < 0.5)),
        (int, same(lambda rng: rng.randrange(-99, 99))),
        (float, same(lambda rng: rng.uniform(-9, 9))),
        (str, same(word)),
        (type(None), same(lambda rng: None)),
        (Annotated[str, Limits(minLength=1, maxLength=5)], same(word)),
        (Annotated[str, Limits(pattern="^[a-c]{2}$")], same(lambda rng: "".join(rng.choices("abc", k=2)))),
        (Annotated[int, Limits(minimum=0, exclusiveMaximum=9)], same(lambda rng: rng.randrange(9))),
    ]
    return rng.choice(kinds)


def literal(rng: Rng) -> Kind:
    values = rng.sample(["a", "b", 1, 2, True, None], 3)
    return Literal[tuple(values)], lambda rng: (chosen := rng.choice(values), chosen)


def enumeration(rng: Rng) -> Kind:
    kind = enum.Enum("Choice", {f"M{number}": word(rng) for number in range(3)})  # type: ignore[misc]
    return kind, lambda rng: ((member := rng.choice(list(kind))).value, member)


def container(rng: Rng, depth: int) -> Kind:
    item, make_item = random_kind(rng, depth + 1)

    def items(make: Callable[[List[Any]], Any], least: int = 0) -> Callable[[Rng], Tuple[Any, Any]]:
        def value(rng: Rng) -> Tuple[Any, Any]:
            pairs = [make_item(rng) for _ in range(rng.randrange(least, 4))]
            return [encoded for encoded, _ in pairs], make([instance for _, instance in pairs])

        return value

    def table(rng: Rng) -> Tuple[Any, Any]:
        return by_name({word(rng): make_item(rng) for _ in range(rng.randrange(4))})

    return rng.choice(
        [
            (List[item], items(list)),
            (Tuple[item, ...], items(tuple)),
            (Annotated[List[item], Limits(minItems=1, maxItems=3)], items(list, 1)),
            (Dict[str, item], table),
        ]
    )


def fixed(rng: Rng, depth: int) -> Kind:
    kinds = [random_kind(rng, depth + 1) for _ in range(rng.randrange(1, 4))]

    def value(rng: Rng) -> Tuple[Any, Any]:
        pairs = [make(rng) for _, make in kinds]
        return [encoded for encoded, _ in pairs], tuple(instance for _, instance in pairs)

    return Tuple[tuple(kind for kind, _ in kinds)], value


def optional(rng: Rng, depth: int) -> Kind:
    inner, make = random_kind(rng, depth + 1)
    return Optional[inner], lambda rng: (None, None) if rng.random() < 0.3 else make(rng)


def tagged(rng: Rng, depth: int) -> Kind:
    """A union of two records that differ in a tag."""
    kinds = [record(rng, depth + 1, tag) for tag in ("one", "two")]
    return Union[kinds[0][0], kinds[1][0]], lambda rng: rng.choice(kinds)[1](rng)


def record(rng: Rng, depth: int, tag: Optional[str] = None) -> Kind:
    names = rng.sample(["a", "b", "some_name", "type", "string", "x1", "decimal_part", "value"], rng.randrange(1, 5))
    kinds = {name: random_kind(rng, depth + 1) for name in names}
    defaults = {name for name in names if rng.random() < 0.3}
    declared: List[Any] = [(name, kinds[name][0]) for name in names if name not in defaults]
    declared += [(name, Optional[kinds[name][0]], None) for name in names if name in defaults]
    if tag:
        declared.insert(0, ("tag", Literal[tag]))
    kind = dataclasses.make_dataclass(f"Record{rng.randrange(3)}", declared)

    def value(rng: Rng) -> Tuple[Any, Any]:
        pairs = {name: kinds[name][1](rng) for name in names if name not in defaults or rng.random() < 0.5}
        if tag:
            pairs["tag"] = (tag, tag)
        encoded, fields = by_name(pairs)
        return encoded, kind(**fields)

    return kind, value


def typed_dict(rng: Rng, depth: int) -> Kind:
    kinds = {name: random_kind(rng, depth + 1) for name in rng.sample(["a", "b b", "ç", "type"], rng.randrange(1, 4))}
    total = rng.random() < 0.5
    kind = typing.TypedDict("Some", {name: inner for name, (inner, _) in kinds.items()}, total=total)  # type: ignore

    def value(rng: Rng) -> Tuple[Any, Any]:
        return by_name({name: make(rng) for name, (_, make) in kinds.items() if total or rng.random() < 0.5})

    return kind, value


def named_tuple(rng: Rng, depth: int) -> Kind:
    names = rng.sample(["a", "b", "type", "x1"], rng.randrange(1, 4))
    kinds = {name: random_kind(rng, depth + 1) for name in names}
    kind = typing.NamedTuple("Some", [(name, inner) for name, (inner, _) in kinds.items()])  # type: ignore

    def value(rng: Rng) -> Tuple[Any, Any]:
        encoded, fields = by_name({name: make(rng) for name, (_, make) in kinds.items()})
        return encoded, kind(**fields)

    return kind, value


def table_of_choices(rng: Rng, depth: int) -> Kind:
    """A dictionary whose keys are those of a Literal or an Enum."""
    inner, make = random_kind(rng, depth + 1)
    keys = [("one", "one"), ("2", 2), ("true", True)]
    kind: Any = Literal["one", 2, True]
    if rng.random() < 0.5:
        kind = enum.Enum("Key", {"A": "one", "B": 2})
        keys = [("one", kind.A), ("2", kind.B)]

    def value(rng: Rng) -> Tuple[Any, Any]:
        entries = [(text, key, *make(rng)) for text, key in keys if rng.random() < 0.5]
        return {text: encoded for text, _, encoded, _ in entries}, {key: instance for _, key, _, instance in entries}

    return Dict[kind, inner], value


def random_kind(rng: Rng, depth: int = 0) -> Kind:
    if depth > 3 or rng.random() < 0.3:
        return rng.choice([plain, plain, plain, literal, enumeration])(rng)
    kinds = [container, fixed, optional, tagged, record, record, typed_dict, named_tuple, table_of_choices]
    return rng.choice(kinds)(rng, depth)


# --- what a schema allows ---------------------------------------------------------------------------------------------

TYPES: Dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def allows(schema: Dict[str, Any], value: Any, root: Dict[str, Any]) -> bool:
    """True if the schema allows the value. Knows the keywords that Flynn uses; any other is a KeyError."""
    if "$ref" in schema:
        return allows(root["$defs"][schema["$ref"][len("#/$defs/") :]], value, root)
    if "anyOf" in schema:
        return any(allows(member, value, root) for member in schema["anyOf"])
    keywords = {
        "$defs": lambda limit: True,
        "type": lambda limit: TYPES[limit](value),
        "enum": lambda limit: json.dumps(value) in [json.dumps(allowed) for allowed in limit],
        "properties": lambda limit: all(allows(limit[key], value[key], root) for key in value if key in limit),
        "required": lambda limit: set(limit) <= set(value),
        "additionalProperties": lambda limit: all(
            key in schema.get("properties", ()) or (limit and allows(limit, value[key], root)) for key in value
        ),
        "items": lambda limit: all(allows(limit, item, root) for item in value),
        "prefixItems": lambda limit: all(allows(one, item, root) for one, item in zip(limit, value)),
        "minItems": lambda limit: len(value) >= limit,
        "maxItems": lambda limit: len(value) <= limit,
        "minLength": lambda limit: len(value) >= limit,
        "maxLength": lambda limit: len(value) <= limit,
        "pattern": lambda limit: re.search(limit, value) is not None,
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
    }
    return all(keywords[keyword](limit) for keyword, limit in schema.items())


def changed(rng: Rng, value: Any) -> Any:
    """Return the value with one part replaced or removed."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], *([] if rng.random() < 0.2 else [changed(rng, value[place])]), *value[place + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        new = {name: changed(rng, inner) if name == key else inner for name, inner in value.items()}
        if rng.random() < 0.3:
            del new[key]
        return new
    return rng.choice([None, True, 0, 1, -1, 2.5, "a", "one", "ab", "", [], {}, [1], {"a": 1}, {"new": None}])


@pytest.mark.parametrize("seed", range(300))
def test_build_and_schema_agree_on_random_types_and_values(seed: int) -> None:
    rng = random.Random(f"types {seed}")
    annotation, make = random_kind(rng)
    schema = json.loads(json.dumps(schema_of(annotation)))
    for _ in range(10):
        encoded, instance = make(rng)
        value = json.loads(json.dumps(encoded))
        assert allows(schema, value, schema), (schema, value)
        assert repr(build(annotation, value)) == repr(instance)
        other = changed(rng, value)
        try:
            build(annotation, other)
            accepted = True
        except ValueError:
            accepted = False
        assert accepted == allows(schema, other, schema), (annotation, schema, other)
