"""From an annotation to its form. The only place that knows Python's typing."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import types
import typing
from collections import abc
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple, Union

from . import Limits
from .nodes import (
    LIMITS,
    Alias,
    Anything,
    Chosen,
    Either,
    Fixed,
    Foreign,
    Formatted,
    Items,
    Limited,
    Node,
    Number,
    Plain,
    Struct,
    Table,
)

_KNOWN = (
    "bool, int, float, str, None, Any, Literal, Enum, list, tuple, set, dict, Union, dataclasses, TypedDict, "
    "date, time, datetime, UUID, and classes with model_json_schema and model_validate"
)
_ANY = Anything()
_PLAIN: Dict[type, Plain] = {kind: Plain(kind) for kind in (bool, int, str, type(None))}
_PLAIN[float] = Number(float)
_ARRAYS: Dict[Any, Any] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    frozenset: frozenset,
}
_TABLES = (dict, abc.Mapping, abc.MutableMapping)

# By name, so that neither module is imported for it.
_FORMATS = {"datetime.date": "date", "datetime.time": "time", "datetime.datetime": "date-time", "uuid.UUID": "uuid"}

# typing's own, and those of typing_extensions, are known by name: they say something of a field, not of its value.
_WRAPPERS = ("Required", "NotRequired", "ReadOnly", "Final")


def node_of(annotation: object) -> Node:
    """What an annotation means as JSON.

    Args:
        annotation: a dataclass, a TypedDict, or whatever else can be an annotation in them.

    Raises:
        TypeError: JSON cannot express it; one line that says what, and where.
    """
    try:
        return _Reader().read(annotation, "schema")
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class _Reader:
    def __init__(self) -> None:
        self._named: Dict[Any, Union[Struct, Alias]] = {}  # so that what leads back to itself finds itself

    def read(self, annotation: Any, where: str) -> Node:
        if annotation is Any or annotation is object:
            return _ANY
        if annotation is None:
            annotation = type(None)
        if annotation is typing.Tuple:  # its origin and arguments are those of Tuple[()]
            annotation = tuple
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(origin, typing.get_args(annotation), where)
        alias = type(annotation).__name__ == "TypeAliasType"
        if alias or isinstance(annotation, type):
            if annotation in self._named:
                self._named[annotation].shared = True
                return self._named[annotation]
            return self._alias(annotation, where) if alias else self._class(annotation, where)
        if hasattr(annotation, "__supertype__"):  # of a NewType
            return self.read(annotation.__supertype__, where)
        if isinstance(annotation, (str, typing.ForwardRef)):
            name = getattr(annotation, "__forward_arg__", annotation)
            raise TypeError(f"{where}: {name!r:.100} is the name of a type and cannot be looked up here")
        raise _inexpressible(annotation, where)

    def _class(self, kind: Any, where: str) -> Node:
        if kind in _PLAIN:
            return _PLAIN[kind]
        if kind in _ARRAYS or kind in _TABLES:
            return self._generic(kind, (), where)
        if kind is tuple:
            return Items(_ANY, tuple)
        if issubclass(kind, enum.Enum):
            return _chosen([(member.value, member) for member in kind], where)
        if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate"):
            return Foreign(kind)
        if dataclasses.is_dataclass(kind):
            return self._record(kind, kind, _of_dataclass(kind))
        if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
            return self._record(kind, dict, _of_typed_dict(kind))
        format = _FORMATS.get(f"{kind.__module__}.{kind.__qualname__}")
        if format is not None:
            return Formatted(format, getattr(kind, "fromisoformat", kind))
        raise _inexpressible(kind, where)

    def _generic(self, origin: Any, arguments: Tuple[Any, ...], where: str) -> Node:
        name = getattr(origin, "_name", None)
        if name == "Literal":
            return _chosen([(v.value if isinstance(v, enum.Enum) else v, v) for v in arguments], where)
        if name in _WRAPPERS:
            return self.read(arguments[0], where)
        if origin is typing.Annotated:
            return _limited(self.read(arguments[0], where), arguments[1:], where)
        if origin is Union or origin is getattr(types, "UnionType", Union):
            members = [self.read(argument, where) for argument in arguments]
            return Either(sorted(members, key=lambda one: isinstance(one, Number)))  # 1 is an int where both may be
        if origin in _ARRAYS:
            item = arguments[0] if arguments else Any
            if _ARRAYS[origin] is not list and getattr(typing.get_origin(item) or item, "__hash__", 0) is None:
                raise TypeError(f"{where}: {_name(item)} cannot be in a set: it has no hash")
            return Items(self.read(item, f"{where}[]"), _ARRAYS[origin])
        if origin in _TABLES:
            key, value = arguments or (str, Any)
            if key is not str:
                raise TypeError(f"{where}: the keys of a JSON object are str, not {_name(key)}")
            return Table(self.read(value, f"{where}[]"))
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is ...:
                return Items(self.read(arguments[0], f"{where}[]"), tuple)
            if arguments == ((),):  # Python 3.9's and 3.10's Tuple[()]
                arguments = ()
            return Fixed([self.read(argument, f"{where}[{index}]") for index, argument in enumerate(arguments)])
        raise _inexpressible(origin, where)

    def _alias(self, alias: Any, where: str) -> Node:
        named = self._named[alias] = Alias(alias.__name__)
        named.form = self.read(alias.__value__, where)
        return named

    def _record(self, kind: Any, make: Any, declared: Iterable[Tuple[str, Any, bool]]) -> Node:
        record = self._named[kind] = Struct(kind.__name__, make)
        for name, hint, required in declared:
            record.fields[name] = self.read(hint, f"{kind.__qualname__}.{name}")
            if required:
                record.required.append(name)
        return record


# What a class declares: name, annotation, and whether it is required. What is not has a default, or may be left out.


def _of_dataclass(kind: Any) -> Iterator[Tuple[str, Any, bool]]:
    hints = _hints(kind)
    for name, field in kind.__dataclass_fields__.items():  # also the InitVars, which fields() leaves out
        hint = hints[name]
        if field.init and hint is not typing.ClassVar and typing.get_origin(hint) is not typing.ClassVar:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            yield name, hint.type if isinstance(hint, dataclasses.InitVar) else hint, required


def _of_typed_dict(kind: Any) -> Iterator[Tuple[str, Any, bool]]:
    for name, hint in _hints(kind).items():
        # Where annotations are strings, the class could not see these itself.
        said = getattr(typing.get_origin(hint), "_name", None)
        yield name, hint, said == "Required" or (name in kind.__required_keys__ and said != "NotRequired")


def _hints(kind: Any) -> Dict[str, Any]:
    """The annotations of a class, names in them looked up where it was defined. A function's class knows itself."""
    try:
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError:
            return typing.get_type_hints(kind, localns={kind.__name__: kind}, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        advice = "; Python 3.9 wants Optional[X], Union[X, Y]" if "operand type(s) for |" in str(error) else ""
        raise TypeError(f"{kind.__qualname__}: its annotations cannot be read: {error}{advice}") from None


def _chosen(values: List[Tuple[Any, object]], where: str) -> Node:
    if not values:
        raise TypeError(f"{where}: there is nothing to choose from")
    for value, _ in values:
        if type(value) not in _PLAIN or (type(value) is float and not math.isfinite(value)):
            raise TypeError(f"{where}: JSON has no {value!r:.100}; choose from strings and numbers")
    return Chosen(values)


def _limited(form: Node, metadata: Sequence[Any], where: str) -> Node:
    """A string describes, and `Limits` limit; the rest of the metadata is somebody else's."""
    kind = "array" if isinstance(form, Items) else form.name if isinstance(form, Plain) else ""
    allowed = [keyword for keyword, (limited, _) in LIMITS.items() if limited == kind]
    limits: Dict[str, Any] = {}
    description = None
    for one in metadata:
        if isinstance(one, str):
            description = one
        elif isinstance(one, Limits):
            limits.update((name, limit) for name, limit in vars(one).items() if limit is not None)
    for keyword, limit in limits.items():
        if keyword not in allowed:
            of_it = ", ".join(allowed) or "none"
            raise TypeError(f"{where}: {keyword} is no limit of this type; limits of it: {of_it}")
        if keyword == "pattern":
            _check_pattern(limit, where)
        elif type(limit) is not int:
            raise TypeError(f"{where}: {keyword} is an int, not {limit!r:.100}")
    return Limited(form, limits, description)


def _check_pattern(pattern: Any, where: str) -> None:
    if not isinstance(pattern, str) or not pattern.startswith("^") or not pattern.endswith("$"):
        raise TypeError(f"{where}: a pattern for llama-server begins with ^ and ends with $, not {pattern!r:.100}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise TypeError(f"{where}: {pattern!r:.100} is no pattern: {error}") from None


def _inexpressible(annotation: Any, where: str) -> TypeError:
    return TypeError(f"{where}: {_name(annotation)} cannot be expressed in JSON; what can: {_KNOWN}")


def _name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return str(annotation.__qualname__) if plain else f"{annotation!r:.100}"
