"""How a value is not what it has to be."""

from __future__ import annotations

import json
from typing import Any, NoReturn, Sequence, Union

Key = Union[str, int]

# Of exact types: True is no integer.
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
    """A value is not what it has to be.

    Attributes:
        problem: what was expected, and what there is.
        expected: only the former; empty where that says little.
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
    """Where a value is, in one line; the middle of a very long path is left out.

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


def typed(kind: type, value: Any) -> Any:
    """The value, if it is of this JSON type."""
    return value if type(value) is kind else refuse(NAMES[kind], value)


def refuse(expected: str, value: Any) -> NoReturn:
    if isinstance(value, str):
        got = json.dumps(value if len(value) <= 60 else value[:60] + "…", ensure_ascii=False)
    elif value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 200):
        got = json.dumps(value)
    else:
        got = NAMES.get(type(value), f"{type(value).__name__}, which is no JSON")
    raise Mismatch(f"expected {expected}, got {got}", expected=expected)


def in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
