"""Why a value does not match its type."""

from __future__ import annotations

import json
from typing import Any, NoReturn, Optional, Sequence, Union

Key = Union[str, int]

# By exact type: True is not an integer.
NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


class Mismatch(ValueError):
    """A value does not match its type.

    Attributes:
        problem: what was expected, and what the value is.
        expected: what was expected; empty where that alone says little.
        keys: the keys and indices that lead to the value.
    """

    def __init__(self, problem: str, *, expected: str = "", keys: Sequence[Key] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.keys = list(keys)

    def __str__(self) -> str:
        return f"{key_path(self.keys)}: {self.problem}" if self.keys else self.problem


def key_path(keys: Sequence[Key]) -> str:
    """Format keys as one line, without the middle of a very long path.

    Example:
        >>> key_path(["people", 2, "full name"])
        'people[2]["full name"]'
    """
    if len(keys) > 20:
        return f"{key_path(keys[:10])}…{key_path(keys[-10:])}"
    path = ""
    for key in keys:
        if isinstance(key, str) and key.isidentifier():
            path += f".{key:.60}" if path else f"{key:.60}"
        else:
            path += f"[{json.dumps(key[:60] if isinstance(key, str) else key)}]"
    return path


def expect(kind: type, value: Any) -> Any:
    """Return the value. Raises Mismatch if it is not of exactly this type."""
    return value if type(value) is kind else refuse(NAMES[kind], value)


def refuse(expected: str, value: Any) -> NoReturn:
    """Raise Mismatch, and show the value."""
    if isinstance(value, str):
        shown = json.dumps(value if len(value) <= 60 else value[:60] + "…", ensure_ascii=False)
    elif value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 200):
        shown = json.dumps(value)
    else:
        shown = NAMES.get(type(value), f"{type(value).__name__}, which is not a JSON value")
    raise Mismatch(f"expected {expected}, got {shown}", expected=expected)


def in_one_line(error: BaseException, limit: Optional[int] = 200) -> str:
    """Return the message of any exception, up to `limit` characters; its class if it is empty or `str` raises."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    return message[:limit] or type(error).__name__
