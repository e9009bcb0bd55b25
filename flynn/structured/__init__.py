"""Typed answers: from a Python type to a JSON schema, and from the JSON that a model writes back to the type.

    annotations  from a type to its form: what it means as JSON
    forms        from a value to an instance; mismatch: why there is none
    schema       from a form to a JSON schema
    partial      JSON that is still growing
    answer       what is sent for an answer of a type, and how a reply becomes one, whole and piece by piece

Nothing here does I/O, and all of it is loaded only when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Limits:
    """Limits of a value, for Annotated, under their names in JSON schema. The server lets a model write nothing else.

    Args:
        minLength, maxLength: characters of a string.
        pattern: of all of a string, from `^` to `$`; what llama-server knows of it is in its README on grammars.
        minimum, maximum, exclusiveMinimum, exclusiveMaximum: of an integer. llama-server has none for other numbers.
        minItems, maxItems: of an array.

    Example:
        >>> Age = Annotated[int, Limits(minimum=0, maximum=120)]
        >>> Name = Annotated[str, Limits(maxLength=40), "first name and surname"]
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
