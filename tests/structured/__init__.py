"""Typed answers: types to schemas, JSON to instances."""

from __future__ import annotations

from typing import Any

from flynn.structured import nodes, schema
from flynn.structured.annotations import node_of


def schema_of(annotation: Any) -> Any:
    return schema.schema_of(node_of(annotation))


def build(annotation: Any, value: object) -> Any:
    return nodes.build(node_of(annotation), value)
