"""From a JSON value to an instance of a Python type. Nothing is converted, but for an int where a float is wanted.

What is read is what `json.loads` makes: dict, list, str, int, float, bool, None.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Callable, Dict, NoReturn, Sequence, Tuple, Union

from ..nearest import suggestion
from .forms import (
    Alias,
    Chosen,
    Either,
    Fixed,
    Foreign,
    Form,
    Formatted,
    Items,
    Limited,
    Plain,
    Record,
    Table,
    form_of,
)

Key = Union[str, int]

# Exact types: True is no integer.
_TYPES: Dict[str, Tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (float, int),
    "string": (str,),
    "null": (type(None),),
}
_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_OBEYS: Dict[str, Callable[[Any, Any], object]] = {
    "minLength": lambda value, limit: len(value) >= limit,
    "maxLength": lambda value, limit: len(value) <= limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "pattern": lambda value, limit: re.search(limit, value),
}


class Misfit(ValueError):
    """A value is not of the type that is wanted.

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


def build(annotation: object, value: object) -> Any:
    """An instance of a type, from a JSON value.

    Args:
        annotation: as for `schema_of`.
        value: as `json.loads` returns it.

    Raises:
        ValueError: the value is not of that type; the message has the path of keys to what is wrong, and what was
            expected there. It is a `Misfit`.
        TypeError: JSON cannot express the type.

    Example:
        >>> build(Dict[str, Tuple[int, ...]], {"a": [1, 2]})
        {'a': (1, 2)}
        >>> build(Dict[str, Tuple[int, ...]], {"a": [1, "x"]})
        Traceback (most recent call last):
        flynn.structured.build.Misfit: a[1]: expected an integer, got "x"
    """
    return build_form(form_of(annotation), value)


def build_form(form: Form, value: object) -> Any:
    """The same, from what `form_of` made of the type."""
    try:
        return _Builder().build(form, value)
    except RecursionError:
        raise Misfit("nested too deeply") from None


class _Builder:
    def __init__(self) -> None:
        # What came of a container under a member of an Either: without it, objects nested in objects could be made that
        # take twice as long for each level. All values live as long as this does, so that each keeps its id.
        self._tried: Dict[Tuple[int, int], Any] = {}

    def build(self, form: Form, value: Any, *key: Key) -> Any:
        """Raises Misfit; `key` is that of the value in its container."""
        try:
            return _BUILD[type(form)](self, form, value)
        except Misfit as misfit:
            misfit.keys[:0] = key
            raise

    def _plain(self, form: Plain, value: Any) -> Any:
        if form.name == "any":
            return value
        if type(value) not in _TYPES[form.name]:
            _refuse(_NAMES[_TYPES[form.name][0]], value)
        return _finite(value) if form.name == "number" else value

    def _formatted(self, form: Formatted, value: Any) -> object:
        try:
            return form.read(_typed(str, value))
        except Misfit:
            raise
        except ValueError:
            _refuse(f"a {form.format}", value)

    def _chosen(self, form: Chosen, value: Any) -> object:
        for allowed, meaning in form.values:
            if type(allowed) is type(value) and allowed == value:
                return meaning
        first = [json.dumps(allowed, ensure_ascii=False) for allowed, _ in form.values[:10]]
        _refuse(" or ".join([*first, "…"] if len(form.values) > 10 else first), value)

    def _items(self, form: Items, value: Any) -> object:
        items = [self.build(form.item, item, index) for index, item in enumerate(_typed(list, value))]
        try:
            return form.make(items)
        except TypeError:  # of a Set[Any], say
            raise Misfit("expected items that a set can hold") from None

    def _fixed(self, form: Fixed, value: Any) -> object:
        if len(_typed(list, value)) != len(form.items):
            raise Misfit(f"expected {len(form.items)} items, got {len(value)}")
        return tuple(self.build(one, item, index) for index, (one, item) in enumerate(zip(form.items, value)))

    def _table(self, form: Table, value: Any) -> object:
        return {key: self.build(form.value, inner, key) for key, inner in _typed(dict, value).items()}

    def _record(self, form: Record, value: Any) -> object:
        for key in _typed(dict, value):
            if key not in form.fields:
                raise Misfit(f"{form.name} has no such key{suggestion(key, form.fields)}", keys=[key])
        for key, field in form.fields.items():
            if field.required and key not in value:
                raise Misfit("missing", keys=[key])
        values = {key: self.build(form.fields[key].form, inner, key) for key, inner in value.items()}
        try:
            return form.make(values)
        except ValueError as error:  # of a __post_init__
            raise Misfit(_in_one_line(error)) from error

    def _foreign(self, form: Foreign, value: Any) -> object:
        try:
            return form.validate(value)
        except ValueError as error:
            errors = error.errors() if hasattr(error, "errors") else []  # so pydantic says where
            if errors:
                raise Misfit(errors[0]["msg"], keys=errors[0]["loc"]) from error
            raise Misfit(_in_one_line(error)) from error

    def _limited(self, form: Limited, value: Any) -> object:
        built = self.build(form.form, value)
        for keyword, limit in form.limits.items():
            if not _OBEYS[keyword](value, limit):
                _refuse(f"{keyword} {limit}", value)
        return built

    def _alias(self, form: Alias, value: Any) -> object:
        return self.build(form.form, value)

    def _either(self, form: Either, value: Any) -> object:
        misfits = []
        for member in form.members:
            try:
                return self._try(member, value)
            except Misfit as misfit:
                misfits.append(misfit)
        nearest = max(misfits, key=lambda misfit: len(misfit.keys))
        if nearest.keys or not all(misfit.expected for misfit in misfits):
            raise nearest
        _refuse(" or ".join(misfit.expected for misfit in misfits), value)

    def _try(self, form: Form, value: Any) -> object:
        if not isinstance(value, (list, dict)):
            return self.build(form, value)
        tried = (id(form), id(value))
        if tried not in self._tried:
            try:
                self._tried[tried] = self.build(form, value)
            except Misfit as misfit:
                self._tried[tried] = misfit
        came = self._tried[tried]
        if isinstance(came, Misfit):  # a new one, since its keys grow on the way out
            raise Misfit(came.problem, expected=came.expected, keys=came.keys)
        return came


_BUILD: Dict[type, Callable[[_Builder, Any, Any], Any]] = {
    Plain: _Builder._plain,
    Formatted: _Builder._formatted,
    Chosen: _Builder._chosen,
    Items: _Builder._items,
    Fixed: _Builder._fixed,
    Table: _Builder._table,
    Either: _Builder._either,
    Limited: _Builder._limited,
    Foreign: _Builder._foreign,
    Record: _Builder._record,
    Alias: _Builder._alias,
}


def _typed(kind: type, value: Any) -> Any:
    """The value, if it is of this JSON type."""
    return value if type(value) is kind else _refuse(_NAMES[kind], value)


def _finite(value: Union[int, float]) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else _refuse("a number that a float can hold", value)


def _refuse(expected: str, value: Any) -> NoReturn:
    if isinstance(value, str):
        got = json.dumps(value if len(value) <= 60 else value[:60] + "…", ensure_ascii=False)
    elif isinstance(value, (bool, float, type(None))) or (isinstance(value, int) and value.bit_length() < 200):
        got = json.dumps(value)
    else:
        got = _NAMES.get(type(value), f"{type(value).__name__}, which is no JSON")
    raise Misfit(f"expected {expected}, got {got}", expected=expected)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
