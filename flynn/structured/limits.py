"""What a value may be beside its type."""

from __future__ import annotations

from ..dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
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
