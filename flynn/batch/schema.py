"""Whether a value fits a JSON schema. No I/O.

llama-server's grammar fails open: it drops a pattern that it cannot express, bounds of numbers that are not integers,
`not` and `if` (llama.cpp, common/json-schema-to-grammar.cpp). What is not here either, `if` or `format`, is not
checked.
Source: https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import unquote

from ..structured.mismatch import NAMES, Key, Mismatch, refuse
from ..structured.nodes import LIMITS

Keys = Tuple[Key, ...]

_IS: Dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: _IS["number"](value) and value == value // 1,
}
_ARTICLES = {name.split()[-1]: name for name in NAMES.values()}
# The keywords of `flynn.Limits`, here for any number, and with a pattern that may match anywhere in the string.
_LIMITS = {keyword: ("number" if kind == "integer" else kind, keeps) for keyword, (kind, keeps) in LIMITS.items()}
_LIMITS["pattern"] = ("string", lambda value, limit: re.search(limit, value))


def check(schema: Mapping[str, Any], value: Any) -> Optional[str]:
    """Return why a value does not fit a schema, and where; None if it fits.

    Example:
        >>> check({"properties": {"age": {"type": "integer"}}, "required": ["age"]}, {"age": "old"})
        'age: expected an integer, got "old"'
    """
    try:
        mismatch = _Checker(schema).mismatch(schema, value, ())
    except RecursionError:
        return "nested too deeply"
    return None if mismatch is None else str(mismatch)


class _Checker:
    """Checks parts of one value against parts of one schema.

    Each pair of them is checked once: otherwise `anyOf` within `anyOf` would take time exponential in the depth.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._mismatches: Dict[Tuple[int, int], Optional[Mismatch]] = {}

    def mismatch(self, schema: Any, value: Any, keys: Keys) -> Optional[Mismatch]:
        """Return why a value does not fit, None if it does."""
        pair = id(schema), id(value)
        if pair not in self._mismatches:
            self._mismatches[pair] = None  # a schema that leads back to itself for the same value adds nothing
            try:
                self._check(schema, value, keys)
            except Mismatch as mismatch:
                self._mismatches[pair] = mismatch if mismatch.keys else Mismatch(mismatch.problem, keys=keys)
        return self._mismatches[pair]

    def _check(self, schema: Any, value: Any, keys: Keys) -> None:
        if schema is False:
            raise Mismatch("not allowed")
        if not isinstance(schema, dict):
            return
        _check_value(schema, value)
        for part, member, path in self._required(schema, value, keys):
            if mismatch := self.mismatch(part, member, path):
                raise mismatch
        for keyword in ("anyOf", "oneOf"):
            results = [self.mismatch(part, value, keys) for part in _list(schema, keyword)]
            mismatches = [mismatch for mismatch in results if mismatch]
            if results and len(mismatches) == len(results):
                raise max(mismatches, key=lambda mismatch: len(mismatch.keys))
            if keyword == "oneOf" and len(mismatches) < len(results) - 1:
                raise Mismatch("fits more than one of oneOf")
        if "not" in schema and self.mismatch(schema["not"], value, keys) is None:
            raise Mismatch("fits what `not` excludes")

    def _required(self, schema: Mapping[str, Any], value: Any, keys: Keys) -> Iterator[Tuple[Any, Any, Keys]]:
        """Yield the parts of the schema that must all fit, each with its part of the value and the keys to that."""
        if "$ref" in schema:
            yield self._resolve(schema["$ref"]), value, keys
        for part in _list(schema, "allOf"):
            yield part, value, keys
        if isinstance(value, dict):
            for name in _list(schema, "required"):
                if name not in value:
                    raise Mismatch("missing", keys=(*keys, name))
            properties = schema.get("properties")
            named = properties if isinstance(properties, dict) else {}
            others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
            for name, member in value.items():
                yield named.get(name, others), member, (*keys, name)
        elif isinstance(value, list):
            first = _list(schema, "prefixItems")
            for index, item in enumerate(value):
                yield first[index] if index < len(first) else schema.get("items", True), item, (*keys, index)

    def _resolve(self, reference: Any) -> Any:
        """Return the part of the schema that a reference names; True, which anything fits, if there is none."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        part: Any = self._root
        for name in reference[1:].split("/")[1:]:
            name = unquote(name).replace("~1", "/").replace("~0", "~")
            part = part.get(name, True) if isinstance(part, dict) else True
        return part


def _check_value(schema: Mapping[str, Any], value: Any) -> None:
    """Check the keywords that look at nothing within the value."""
    types = schema.get("type", [])
    names = [name for name in (types if isinstance(types, list) else [types]) if name in _IS]
    if names and not any(_IS[name](value) for name in names):
        refuse(" or ".join(_ARTICLES[name] for name in names), value)
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(allowed, list):
        equal = [other for other in allowed if other == value]
        if not any(isinstance(other, bool) == isinstance(value, bool) for other in equal):  # for Python True is 1
            refuse(" or ".join(json.dumps(other, ensure_ascii=False) for other in allowed[:10]), value)
    for keyword, (kind, keeps) in _LIMITS.items():
        if keyword in schema and _IS[kind](value):
            try:
                fits = keeps(value, schema[keyword])
            except (TypeError, re.error):  # not a limit, or a pattern that Python cannot read
                continue
            if not fits:
                refuse(f"{keyword} {schema[keyword]}", value)


def _list(schema: Mapping[str, Any], keyword: str) -> List[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []
