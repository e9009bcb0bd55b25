"""A JSON schema as llama.cpp's grammar obeys it.

llama.cpp drops without an error what its grammar cannot express, and gets some bounds wrong (common/json-schema.cpp and
common/json-schema-to-grammar.cpp, seen on builds 11549 and 11669). So every schema is narrowed before it is sent: each
value that the narrowed schema allows is one that the given schema allows. What cannot be narrowed is a TypeError.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

# Patterns for string formats that llama.cpp does not know, as strict as a model needs to fill them in.
_FORMATS = {
    "duration": "^P[0-9]{1,5}DT[0-9]{1,2}H[0-9]{1,2}M[0-9]{1,2}S$",
    "decimal": "^-?[0-9]{1,16}([.][0-9]{1,16})?$",
}
MAX_INTEGER = 10**16 - 1  # llama.cpp writes integers of at most 16 digits
MAX_LENGTH = 10**9  # within an int of C++
MAX_REPEATS = 2000  # MAX_REPETITION_THRESHOLD in llama-grammar.cpp


def narrow(schema: Any) -> Any:
    """Return a JSON schema, or a list of them, that llama.cpp obeys, and that allows nothing that `schema` does not.

    Raises:
        TypeError: a pattern or a limit cannot be expressed in a grammar.
    """
    if isinstance(schema, (list, tuple)):
        return [narrow(member) for member in schema]
    if not isinstance(schema, Mapping):
        return schema
    narrowed: Dict[str, Any] = dict(schema)
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs") and isinstance(value, Mapping):
            narrowed[keyword] = {name: narrow(inner) for name, inner in value.items()}
        elif keyword in ("anyOf", "oneOf") and isinstance(value, (list, tuple)):
            narrowed[keyword] = _alternatives(value)
        elif keyword in ("items", "prefixItems", "additionalProperties", "allOf"):
            narrowed[keyword] = narrow(value)
        elif keyword == "pattern" and isinstance(value, str):
            narrowed[keyword] = translate(value)
    if narrowed.get("items") is False:  # llama.cpp allows no items after `prefixItems`, and no `false` as a schema
        del narrowed["items"]
    if narrowed.get("type") == "string" and narrowed.get("format") in _FORMATS:
        narrowed.setdefault("pattern", _FORMATS[narrowed["format"]])
    if narrowed.get("type") == "integer":
        _bound(narrowed)
    _count(narrowed, "minLength", "maxLength")
    _count(narrowed, "minItems", "maxItems")
    return narrowed


def _alternatives(members: Sequence[Any]) -> List[Any]:
    """Narrow the members of an anyOf. Those that cannot be are left out, unless none remains."""
    narrowed: List[Any] = []
    errors: List[TypeError] = []
    for member in members:
        try:
            narrowed.append(narrow(member))
        except TypeError as error:
            errors.append(error)
    if errors and not narrowed:
        raise errors[0]
    return narrowed


# By keyword: from the limit to the least or the greatest integer within it.
_LEAST: Dict[str, Callable[[float], int]] = {"minimum": math.ceil, "exclusiveMinimum": lambda n: math.floor(n) + 1}
_MOST: Dict[str, Callable[[float], int]] = {"maximum": math.floor, "exclusiveMaximum": lambda n: math.ceil(n) - 1}


def _bound(schema: Dict[str, Any]) -> None:
    """Give an integer both bounds or none: for `minimum: 100` alone llama.cpp allows 10."""

    def bounds(keywords: Mapping[str, Callable[[float], int]]) -> List[int]:
        given = [key for key in keywords if isinstance(schema.get(key), (int, float)) and abs(schema[key]) < math.inf]
        return [keywords[key](schema.pop(key)) for key in given]

    lower, upper = bounds(_LEAST), bounds(_MOST)
    least, most = max([-MAX_INTEGER, *lower]), min([MAX_INTEGER, *upper])
    if least > most:
        raise TypeError("no integer of at most 16 digits is within the limits")
    if lower or upper:
        schema.update(minimum=least, maximum=most)


def _count(schema: Dict[str, Any], least: str, most: str) -> None:
    """Refuse counts that llama.cpp cannot express. Where they contradict each other, it takes all of the memory."""
    minimum, maximum = schema.get(least, 0), schema.get(most, MAX_LENGTH)
    if isinstance(minimum, int) and isinstance(maximum, int):
        if not 0 <= minimum <= min(maximum, MAX_REPEATS):
            raise TypeError(f"{least} must be between 0 and {most}, and at most {MAX_REPEATS} for llama.cpp's grammar")
        if maximum > MAX_LENGTH:
            schema[most] = MAX_LENGTH


# --- patterns ---------------------------------------------------------------------------------------------------------

# Python's own parser of regular expressions, so that a pattern means here what it means to re.fullmatch.
_sre: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

Ranges = List[Tuple[int, int]]  # of code points, inclusive
_CATEGORIES: Dict[str, Ranges] = {
    "CATEGORY_DIGIT": [(48, 57)],
    "CATEGORY_SPACE": [(9, 13), (32, 32)],
    "CATEGORY_WORD": [(48, 57), (65, 90), (95, 95), (97, 122)],
}
# Characters that JSON has only as an escape: the code points of each, and of what follows its backslash.
_JSON_ESCAPES = {9: 116, 10: 110, 13: 114, 34: 34, 92: 92}


def translate(pattern: str) -> str:
    """Return a pattern that llama.cpp obeys, and that lets through only strings which match `pattern` as a whole.

    llama.cpp knows literals, classes, groups, `|` and repeats. It applies a pattern to the JSON text, in which quotes,
    backslashes and line breaks are escapes. `\\d`, `\\s` and `\\w` stand for ASCII characters, as in JSON schema.

    Raises:
        TypeError: the pattern is not valid, or not made of these alone.

    Example:
        >>> translate(r"yes|no\\d{1,3}")
        '^(yes|no[0-9]{1,3})$'
    """
    try:
        tree = _sre.parse(pattern, re.ASCII)
    except (re.error, OverflowError, FutureWarning) as error:
        raise TypeError(f"{pattern!r:.100} is not a valid pattern: {error}") from None
    try:
        if tree.state.flags & ~(re.ASCII | re.VERBOSE):
            raise _Inexpressible
        return f"^{_sequence(tree, True, True)}$"
    except _Inexpressible:
        raise TypeError(
            f"llama.cpp's grammar cannot express the pattern {pattern!r:.100}: use literals, classes, groups, | and "
            f"repeats up to {MAX_REPEATS}; no lookarounds, backreferences, word boundaries, inner anchors or flags"
        ) from None


class _Inexpressible(Exception):
    """No grammar can express this."""


def _sequence(tree: Any, first: bool, last: bool) -> str:
    """Translate a sequence of items. The first and the last item of the whole pattern may be anchors."""
    parts: List[str] = []
    for index, (code, argument) in enumerate(tree):
        code, at_start, at_end = str(code), first and not parts, last and index == len(tree) - 1
        if code == "LITERAL":
            parts.append(_class([(argument, argument)]))
        elif code in ("NOT_LITERAL", "ANY"):
            other = 10 if code == "ANY" else argument
            parts.append(_class(_complement([(other, other)])))
        elif code == "IN":
            parts.append(_class(_members(argument)))
        elif code == "BRANCH":
            branches = [_sequence(branch, at_start, at_end) for branch in argument[1]]
            parts.append(f"({'|'.join(branches)})")
        elif code == "SUBPATTERN" and not argument[1] and not argument[2]:  # without flags
            parts.append(f"({_sequence(argument[3], at_start, at_end)})")
        elif code in ("MAX_REPEAT", "MIN_REPEAT"):  # greedy or lazy: the same strings
            parts.append(_repeated(*argument))
        elif code != "AT" or not (at_start if "BEGINNING" in str(argument) else at_end and "END" in str(argument)):
            raise _Inexpressible
    return "".join(parts)


def _repeated(least: int, most: int, tree: Any) -> str:
    if least > MAX_REPEATS or MAX_LENGTH < most < _sre.MAXREPEAT:
        raise _Inexpressible
    part = _sequence(tree, False, False)
    # In parentheses, since llama.cpp would repeat the literals before an escaped one too, and only a byte of others.
    alone = len(tree) == 1 and "REPEAT" not in str(tree[0][0]) and (part[0] in "([" or (len(part) == 1 and part < "~"))
    if not alone:
        part = f"({part})"
    counts = str(least) if least == most else f"{least},{'' if most == _sre.MAXREPEAT else most}"
    return part + {"0,": "*", "1,": "+", "0,1": "?"}.get(counts, f"{{{counts}}}")


def _members(members: Any) -> Ranges:
    """Return the characters of a class."""
    ranges: Ranges = []
    negated = False
    for code, argument in members:
        if str(code) == "NEGATE":
            negated = True
        elif str(code) == "CATEGORY":
            category = _CATEGORIES[str(argument).replace("_NOT_", "_")]
            ranges = ranges + (_complement(category) if "_NOT_" in str(argument) else category)
        else:  # LITERAL or RANGE
            ranges.append((argument, argument) if str(code) == "LITERAL" else argument)
    return _complement(ranges) if negated else ranges


def _complement(ranges: Ranges) -> Ranges:
    complement, start = [], 0
    for low, high in [*sorted(ranges), (sys.maxunicode + 1, 0)]:
        if low > start:
            complement.append((start, low - 1))
        start = max(start, high + 1)
    return complement


def _class(ranges: Ranges) -> str:
    """Write a class of characters, as JSON text has them."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        written = json.dumps(chr(ranges[0][0]), ensure_ascii=False)[1:-1]
        return re.sub(r"[\\^$.\[\](){}|*+?]", r"\\\g<0>", written)
    plain = _complement([(0, 31), (34, 34), (92, 92), *_complement(ranges)])
    escapes = [(e, e) for code, e in _JSON_ESCAPES.items() if any(low <= code <= high for low, high in ranges)]
    brackets = ([_bracketed(plain)] if plain else []) + ([rf"\\{_bracketed(escapes)}"] if escapes else [])
    if not brackets:
        raise _Inexpressible
    return f"({'|'.join(brackets)})" if escapes else brackets[0]


def _bracketed(ranges: Ranges) -> str:
    return f"[{''.join(_code(low) if low == high else f'{_code(low)}-{_code(high)}' for low, high in ranges)}]"


def _code(code: int) -> str:
    if code < 128 and (chr(code).isalnum() or chr(code) in " _"):
        return chr(code)
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
