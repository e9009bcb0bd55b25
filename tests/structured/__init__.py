"""From types to schemas, and from JSON to instances of types."""

from __future__ import annotations

from typing import Any

from flynn.structured import forms, schema
from flynn.structured.annotations import form_of


def schema_of(annotation: Any) -> Any:
    return schema.schema_of(form_of(annotation))


def build(annotation: Any, value: object) -> Any:
    return forms.build(form_of(annotation), value)
