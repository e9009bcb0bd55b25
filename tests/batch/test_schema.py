"""Checking an answer against a JSON schema. No I/O."""

from __future__ import annotations

from typing import Any, Dict, Optional

import pytest

from flynn.batch.schema import check

PERSON = {"properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
TREE: Dict[str, Any] = {"$defs": {"node": {"items": {"$ref": "#/$defs/node"}, "maxItems": 2, "type": "array"}}}
ROOT = {**TREE, "$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"type": "integer"}, 3.0, None),
        ({"type": "integer"}, True, "expected an integer, got true"),
        ({"type": ["string", "null"]}, None, None),
        ({"type": ["string", "null"]}, 1, "expected a string or null, got 1"),
        ({"const": 1}, True, "expected 1, got true"),
        ({"enum": ["a", 2]}, 2, None),
        ({"enum": ["a", 2]}, "b", 'expected "a" or 2, got "b"'),
        ({"minimum": 1}, 0, "expected minimum 1, got 0"),
        ({"minimum": 1}, "0", None),
        ({"maxLength": 2}, "abc", 'expected maxLength 2, got "abc"'),
        ({"pattern": "^a+$"}, "b", 'expected pattern ^a+$, got "b"'),
        ({"pattern": "("}, "b", None),
        ({"minItems": 1}, [], "expected minItems 1, got an array"),
        ({"items": {"type": "string"}}, ["a", 1], "[1]: expected a string, got 1"),
        ({"prefixItems": [True, {"type": "null"}], "items": False}, [1, None], None),
        ({"prefixItems": [True], "items": False}, [1, 2], "[1]: not allowed"),
        (PERSON, {"name": "Ada"}, None),
        (PERSON, {}, "name: missing"),
        (PERSON, {"name": "Ada", "age": 1}, "age: not allowed"),
        ({**PERSON, "patternProperties": {"^a": True}}, {"name": "Ada", "age": 1}, None),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, 3, "expected maximum 2, got 3"),
        ({"anyOf": [{"type": "null"}, {"minimum": 1}]}, 3, None),
        ({"anyOf": [{"type": "null"}, {"items": {"type": "null"}}]}, [1], "[0]: expected null, got 1"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "fits more than one of oneOf"),
        ({"not": {"type": "null"}}, None, "fits what `not` excludes"),
        (ROOT, [[], [[]]], None),
        (ROOT, [[], [[], [], []]], "[1]: expected maxItems 2, got an array"),
        ({"$ref": "#/nowhere"}, 1, None),
        ({"$ref": "https://example.org/schema"}, 1, None),
        ({"a/b~c": {"type": "null"}, "$ref": "#/a~1b~0c"}, 1, "expected null, got 1"),
    ],
)
def test_check_returns_where_and_why_a_value_does_not_match(schema: Any, value: Any, problem: Optional[str]) -> None:
    assert check(schema, value) == problem


def test_nested_alternatives_take_linear_time() -> None:
    schema: Dict[str, Any] = {"type": "null"}
    value: Any = 1
    for _ in range(60):  # 2 ** 60 combinations
        schema, value = {"anyOf": [{"items": schema}, {"items": schema}], "type": "array"}, [value]
    assert str(check(schema, value)).endswith("[0]: expected null, got 1")


def test_a_value_nested_too_deeply_does_not_match() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    schema = {"$ref": "#/$defs/any", "$defs": {"any": {"items": {"$ref": "#/$defs/any"}}}}
    assert check(schema, value) == "nested too deeply"
