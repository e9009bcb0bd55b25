"""From an annotation to its node. The only place that knows Python's typing, and the classes of other libraries."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import math
import types
import typing
from collections import abc
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from . import Limits
from .formats import FORMATS
from .grammar import narrow
from .mismatch import in_one_line
from .nodes import (
    LIMITS,
    Alias,
    AnyOf,
    Anything,
    Array,
    Dictionary,
    Enumeration,
    FixedArray,
    Foreign,
    Formatted,
    Limited,
    Node,
    Number,
    Scalar,
    Struct,
)

_KNOWN = (
    "bool, int, float, str, None, Any, Literal, Enum, list, tuple, set, dict, Union, dataclasses, TypedDict, "
    "NamedTuple, date, time, datetime, timedelta, Decimal, Path, UUID, and classes of pydantic, msgspec and attrs"
)
_ANY = Anything()
_SCALARS: Dict[type, Scalar] = {kind: Scalar(kind) for kind in (bool, int, str, type(None))}
_SCALARS[float] = Number(float)
_ARRAYS: Dict[Any, Any] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    frozenset: frozenset,
}
_DICTIONARIES = (dict, abc.Mapping, abc.MutableMapping)

# Known by name, since typing and typing_extensions each have their own. They concern a field, not its value.
_WRAPPERS = ("Required", "NotRequired", "ReadOnly", "Final")


def node_of(annotation: object) -> Node:
    """Return the node of an annotation.

    Args:
        annotation: a dataclass, a TypedDict, or anything else that can annotate a field of one.

    Raises:
        TypeError: the annotation has no JSON form. The message, one line, says what and where.
    """
    try:
        return _NodeReader().read(annotation, "schema")
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class _NodeReader:
    def __init__(self) -> None:
        self._named: Dict[Any, Union[Struct, Alias]] = {}  # so that a recursive type finds itself

    def read(self, annotation: Any, where: str) -> Node:
        if annotation is Any or annotation is object:
            return _ANY
        if annotation is None:
            annotation = type(None)
        if annotation is typing.Tuple:  # its origin and arguments are those of Tuple[()]
            annotation = tuple
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation), where)
        if type(annotation).__name__ == "TypeAliasType":
            return self._alias(annotation, where)
        if isinstance(annotation, type):
            return self._class(annotation, where)
        if hasattr(annotation, "__supertype__"):  # a NewType
            return self.read(annotation.__supertype__, where)
        if isinstance(annotation, (str, typing.ForwardRef)):
            name = getattr(annotation, "__forward_arg__", annotation)
            raise TypeError(f"{where}: {name!r:.100} is the name of a type and cannot be looked up here")
        raise _inexpressible(annotation, where)

    def _class(self, kind: Any, where: str) -> Node:
        if kind in _SCALARS:
            return _SCALARS[kind]
        if kind in _ARRAYS or kind in _DICTIONARIES:
            return self._generic(kind, kind, (), where)
        if kind is tuple:
            return Array(_ANY, tuple)
        if issubclass(kind, enum.Enum):
            return _enumeration([(member.value, member) for member in kind], where)
        format, read = FORMATS.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}", ("", None))
        if read:
            return Formatted(format, functools.partial(read, kind))
        return self._struct(kind, kind, (), where)

    def _generic(self, annotation: Any, origin: Any, arguments: Tuple[Any, ...], where: str) -> Node:
        name = getattr(origin, "_name", None)
        if name == "Literal":
            return _enumeration([(v.value if isinstance(v, enum.Enum) else v, v) for v in arguments], where)
        if name in _WRAPPERS:
            return self.read(arguments[0], where)
        if origin is typing.Annotated:
            libraries = [_METADATA.get(type(one).__module__.partition(".")[0], "") for one in arguments[1:]]
            foreign = _foreign(max(libraries), annotation, where) if any(libraries) else None
            return _limited(foreign or self.read(arguments[0], where), arguments[1:], where)
        if origin is Union or origin is getattr(types, "UnionType", Union):
            members = [self.read(argument, where) for argument in arguments]
            return AnyOf(sorted(members, key=lambda one: isinstance(one, Number)))  # 1 is an int where both may be
        if origin in _ARRAYS:
            item = arguments[0] if arguments else Any
            if _ARRAYS[origin] is not list and getattr(typing.get_origin(item) or item, "__hash__", 0) is None:
                raise TypeError(f"{where}: {_name(item)} cannot be in a set: it has no hash")
            return Array(self.read(item, f"{where}[]"), _ARRAYS[origin])
        if origin in _DICTIONARIES:
            key, value = arguments or (str, Any)
            key_node = self.read(key, where)
            if not isinstance(getattr(key_node, "node", key_node), (Scalar, Formatted, Enumeration)):
                raise TypeError(f"{where}: the keys of a JSON object are strings and cannot be {_name(key)}")
            return Dictionary(key_node, self.read(value, f"{where}[]"))
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is ...:
                return Array(self.read(arguments[0], f"{where}[]"), tuple)
            if arguments == ((),):  # Python 3.9's and 3.10's Tuple[()]
                arguments = ()
            return FixedArray([self.read(argument, f"{where}[{index}]") for index, argument in enumerate(arguments)])
        if type(origin).__name__ == "TypeAliasType":
            return self.read(_substituted(origin.__value__, dict(zip(origin.__type_params__, arguments))), where)
        if not isinstance(origin, type):
            raise _inexpressible(origin, where)
        return self._struct(annotation, origin, arguments, where)

    def _alias(self, alias: Any, where: str) -> Node:
        if alias in self._named:
            self._named[alias].shared = True
            return self._named[alias]
        named = self._named[alias] = Alias(alias.__name__)
        named.node = self.read(alias.__value__, where)
        return named

    def _struct(self, annotation: Any, kind: Any, arguments: Sequence[Any], where: str) -> Node:
        """The node of a class with fields, and with arguments where it is generic."""
        if annotation in self._named:
            self._named[annotation].shared = True
            return self._named[annotation]
        for attribute, library in _CLASSES:
            if hasattr(kind, attribute):
                return _foreign(library, annotation, where)
        fields = _fields_of(kind)
        if fields is None:
            raise _inexpressible(kind, where)
        make = dict if issubclass(kind, dict) else kind
        struct = self._named[annotation] = Struct(kind.__name__, make)
        variables = _variables(kind, arguments, where)
        for name, hint, required in fields:
            struct.fields[name] = self.read(_substituted(hint, variables), f"{kind.__qualname__}.{name}")
            if required:
                struct.required.append(name)
        return struct


# --- classes ----------------------------------------------------------------------------------------------------------

# The libraries that have a schema and a conversion of their own, by what their classes have and where the metadata of
# an Annotated comes from.
_CLASSES = (
    ("model_json_schema", ""),
    ("__get_pydantic_core_schema__", "pydantic"),
    ("__pydantic_validator__", "pydantic"),
    ("__struct_fields__", "msgspec"),
)
_METADATA = {"annotated_types": "pydantic", "pydantic": "pydantic", "msgspec": "msgspec"}


def _foreign(library: str, annotation: Any, where: str) -> Foreign:
    """Have a library describe an annotation and convert its values."""
    try:
        if not library:
            foreign = Foreign(annotation.model_json_schema(), annotation.model_validate)
        elif library == "msgspec":
            msgspec = importlib.import_module(library)
            convert = functools.partial(msgspec.convert, type=annotation, str_keys=True)
            foreign = Foreign(msgspec.json.schema(annotation), convert, msgspec.ValidationError)
        else:
            adapter = importlib.import_module(library).TypeAdapter(annotation)
            foreign = Foreign(adapter.json_schema(), adapter.validate_python)
        narrow(foreign.own)
    except Exception as error:
        raise TypeError(f"{where}: {in_one_line(error)}") from error
    return foreign


def _fields_of(kind: Any) -> Optional[Iterator[Tuple[str, Any, bool]]]:
    """The fields of a class: name, annotation, and whether it has no default and must be there. None: it has none."""
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind)
    if hasattr(kind, "__attrs_attrs__"):
        return _of_attrs(kind)
    if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
        return _of_typed_dict(kind)
    if issubclass(kind, tuple) and hasattr(kind, "_field_defaults"):
        hints = _hints(kind)
        return ((name, hints.get(name, Any), name not in kind._field_defaults) for name in kind._fields)
    return None


def _of_dataclass(kind: Any) -> Iterator[Tuple[str, Any, bool]]:
    hints = _hints(kind)
    for name, field in kind.__dataclass_fields__.items():  # also the InitVars, which fields() leaves out
        hint = hints[name]
        if field.init and hint is not typing.ClassVar and typing.get_origin(hint) is not typing.ClassVar:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if type(field.default).__module__.startswith("pydantic.") and not hasattr(kind, "__pydantic_validator__"):
                raise TypeError(f"{kind.__qualname__}.{name}: Field is the default; put it into Annotated[...]")
            yield name, hint.type if isinstance(hint, dataclasses.InitVar) else hint, required


def _of_attrs(kind: Any) -> Iterator[Tuple[str, Any, bool]]:
    hints, nothing = _hints(kind), importlib.import_module("attr").NOTHING
    for field in kind.__attrs_attrs__:
        if field.init:
            yield field.alias, hints.get(field.name, field.type or Any), field.default is nothing


def _of_typed_dict(kind: Any) -> Iterator[Tuple[str, Any, bool]]:
    for name, hint in _hints(kind).items():
        # Where annotations are strings, the class itself could not see these wrappers.
        wrapper = getattr(typing.get_origin(hint), "_name", None)
        yield name, hint, wrapper == "Required" or (name in kind.__required_keys__ and wrapper != "NotRequired")


def _hints(kind: Any) -> Dict[str, Any]:
    """The annotations of a class. Names are looked up in its module; a class of a function also knows itself."""
    try:
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError:
            return typing.get_type_hints(kind, localns={kind.__name__: kind}, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        advice = "; Python 3.9 needs Optional[X], Union[X, Y]" if "operand type(s) for |" in str(error) else ""
        raise TypeError(f"{kind.__qualname__}: its annotations cannot be read: {error}{advice}") from None


def _variables(kind: Any, arguments: Sequence[Any], where: str) -> Dict[Any, Any]:
    """What the type variables of a generic class and its bases stand for."""
    variables = dict(zip(getattr(kind, "__parameters__", ()), arguments))
    for base in getattr(kind, "__orig_bases__", ()):
        inner = [_substituted(argument, variables) for argument in typing.get_args(base)]
        for variable, meaning in _variables(typing.get_origin(base) or base, inner, where).items():
            if variables.setdefault(variable, meaning) != meaning:
                raise TypeError(f"{where}: {variable} stands for two types in {_name(kind)} and its bases; rename one")
    return variables


def _substituted(hint: Any, variables: Mapping[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    return hint[tuple(variables.get(one, one) for one in parameters)] if parameters else hint


# --- values -----------------------------------------------------------------------------------------------------------


def _enumeration(values: List[Tuple[Any, object]], where: str) -> Node:
    if not values:
        raise TypeError(f"{where}: there is nothing to choose from")
    for value, _ in values:
        if type(value) not in _SCALARS or (type(value) is float and not math.isfinite(value)):
            raise TypeError(f"{where}: JSON has no {value!r:.100}; choose from strings and numbers")
    return Enumeration(values)


def _limited(node: Node, metadata: Sequence[Any], where: str) -> Node:
    """Add what Annotated says: a string is the description, `Limits` are limits, anything else means nothing here."""
    kind = "array" if isinstance(node, Array) else node.name if isinstance(node, Scalar) else ""
    allowed = [keyword for keyword, (of_kind, _) in LIMITS.items() if of_kind == kind]
    limits: Dict[str, Any] = {}
    description = None
    for one in metadata:
        if isinstance(one, str):
            description = one
        elif isinstance(one, Limits):
            limits.update((name, limit) for name, limit in vars(one).items() if limit is not None)
    for keyword, limit in limits.items():
        if keyword not in allowed:
            raise TypeError(
                f"{where}: {keyword} is not a limit of this type (its limits: {', '.join(allowed) or 'none'})"
            )
        if type(limit) is not (str if keyword == "pattern" else int):
            raise TypeError(
                f"{where}: {keyword} must be {'a string' if keyword == 'pattern' else 'an int'}, not {limit!r:.100}"
            )
    if "pattern" in limits and len(limits) > 1:
        raise TypeError(
            f"{where}: llama.cpp ignores minLength and maxLength beside a pattern; write them into it: {{1,9}}"
        )
    try:
        narrow({"type": kind, **limits})
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    return Limited(node, limits, description)


def _inexpressible(annotation: Any, where: str) -> TypeError:
    return TypeError(f"{where}: {_name(annotation)} cannot be expressed in JSON; what can: {_KNOWN}")


def _name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return str(annotation.__qualname__) if plain else f"{annotation!r:.100}"
