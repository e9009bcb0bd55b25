"""Typed answers: from a Python type to a JSON schema, and from the JSON that a model writes back to the type.

    annotations  from a type to its node
    nodes        each kind of type: its schema, and how a JSON value is read; mismatch: why a value does not match
    formats      types that are strings in JSON
    schema       from a node to a JSON schema; grammar: the schema as llama.cpp obeys it
    partial      JSON that is still growing
    answer       what is sent for an answer of a type, and how a reply becomes an instance

Nothing here does I/O, and all of it is imported only when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Limits:
    """Limits of a value, for Annotated, under their names in JSON schema. The server lets a model write nothing else.

    Args:
        minLength, maxLength: characters of a string; minLength up to 2,000.
        pattern: a regular expression for the whole string: literals, classes, groups, `|` and repeats up to 2,000.
            `\\d`, `\\w` and `\\s` stand for ASCII characters. Put the length into it: `[a-z]{1,9}`.
        minimum, maximum, exclusiveMinimum, exclusiveMaximum: of an integer, which has at most 16 digits. llama-server
            has no limits for other numbers.
        minItems, maxItems: of an array; minItems up to 2,000.

    Limits that llama.cpp's grammar cannot express are a TypeError before anything is sent.

    Example:
        >>> Age = Annotated[int, Limits(minimum=0, maximum=120)]
        >>> Name = Annotated[str, Limits(maxLength=40), "first name and surname"]
        >>> Postcode = Annotated[str, Limits(pattern="[0-9]{5}")]
    """

    minLength: Optional[int] = None
    maxLength: Optional[int] = None
    pattern: Optional[str] = None
    minimum: Optional[int] = None
    maximum: Optional[int] = None
    exclusiveMinimum: Optional[int] = None
    exclusiveMaximum: Optional[int] = None
    minItems: Optional[int] = None
    maxItems: Optional[int] = None
