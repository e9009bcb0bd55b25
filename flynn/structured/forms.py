"""What an annotation means as JSON: a graph of small forms. The only place that knows Python's typing.

Schemas (`schema.py`) and instances (`build.py`) are both made from these forms.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .limits import Limits

_KNOWN = (
    "bool, int, float, str, None, Any, Literal, Enum, list, tuple, set, dict, Union, dataclasses, TypedDict, "
    "date, time, datetime, UUID, and classes with model_json_schema and model_validate"
)


# --- the forms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """A JSON type and no more.

    Attributes:
        name: `"boolean"`, `"integer"`, `"number"`, `"string"`, `"null"`, or `"any"`.
    """

    name: str


@dataclass(frozen=True)
class Formatted:
    """A string in a format that llama-server knows, and what reads it."""

    format: str
    read: Callable[[str], object]


@dataclass(frozen=True)
class Chosen:
    """One of some values: each as JSON, and what it stands for."""

    values: Sequence[Tuple[Any, object]]


@dataclass(frozen=True)
class Items:
    """An array of any length, and what is made of the list of its items."""

    item: Form
    make: Callable[[List[Any]], object]


@dataclass(frozen=True)
class Fixed:
    """An array with a form for each place: a tuple."""

    items: Sequence[Form]


@dataclass(frozen=True)
class Table:
    """An object with any keys."""

    value: Form


@dataclass(frozen=True)
class Either:
    """The first of several forms that fits."""

    members: Sequence[Form]


@dataclass(frozen=True)
class Limited:
    """A form with what Annotated adds to it.

    Attributes:
        limits: keywords of JSON schema that a value has to obey.
        description: for the model.
    """

    form: Form
    limits: Mapping[str, Any]
    description: Optional[str]


@dataclass(frozen=True)
class Foreign:
    """A class that makes its own schema and its own instances, as pydantic's do."""

    schema: Callable[[], Dict[str, Any]]
    validate: Callable[[Any], object]


@dataclass(frozen=True)
class Field:
    """A key of a `Record`; what is not required has a default, or may be left out."""

    form: Form
    required: bool


@dataclass(eq=False)
class Record:
    """An object with known keys: a dataclass or a TypedDict. Its fields may lead back to it."""

    name: str
    make: Callable[[Dict[str, Any]], object]
    fields: Dict[str, Field] = dataclasses.field(default_factory=dict)


@dataclass(eq=False)
class Alias:
    """A form with a name (`type X = ...`), which may lead back to it."""

    name: str
    form: Form


Form = Union[Plain, Formatted, Chosen, Items, Fixed, Table, Either, Limited, Foreign, Record, Alias]

_ANY, _NUMBER = Plain("any"), Plain("number")
_PLAIN: Dict[Any, Plain] = {
    bool: Plain("boolean"),
    int: Plain("integer"),
    float: _NUMBER,
    str: Plain("string"),
    type(None): Plain("null"),
    object: _ANY,
}
_ARRAYS: Dict[Any, Callable[[List[Any]], object]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    set: set,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    frozenset: frozenset,
}
_TABLES = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

# By name, so that neither module is imported for it: the format, and from the class to its own reader.
_FORMATS: Dict[str, Tuple[str, Callable[[Any], Callable[[str], object]]]] = {
    "datetime.date": ("date", lambda kind: kind.fromisoformat),
    "datetime.time": ("time", lambda kind: lambda text: kind.fromisoformat(_offset(text))),
    "datetime.datetime": ("date-time", lambda kind: lambda text: kind.fromisoformat(_offset(text))),
    "uuid.UUID": ("uuid", lambda kind: kind),
}

# The keywords that llama-server's grammar obeys (llama.cpp, common/json-schema-to-grammar.cpp), by JSON type.
_LIMITS = {
    "string": ("minLength", "maxLength", "pattern"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "array": ("minItems", "maxItems"),
}

# typing's own, and those of typing_extensions, are known by name: they say something of a field, not of its value.
_WRAPPERS = ("Required", "NotRequired", "ReadOnly", "Final")


def _offset(text: str) -> str:
    """Python reads the offset Z only from 3.11 on."""
    return text[:-1] + "+00:00" if text.endswith("Z") else text


# --- from annotations to forms ----------------------------------------------------------------------------------------


def form_of(annotation: object, where: str = "schema") -> Form:
    """What an annotation means as JSON.

    Args:
        annotation: a type, or what typing makes of types.
        where: what it annotates, for the message of an error; by default "schema".

    Raises:
        TypeError: JSON cannot express it; one line that says what, and where.
    """
    try:
        return _Reader().read(annotation, where)
    except RecursionError:
        raise TypeError(f"{where}: nested too deeply") from None


class _Reader:
    def __init__(self) -> None:
        self._named: Dict[Any, Union[Record, Alias]] = {}  # so that what leads back to itself finds itself

    def read(self, annotation: Any, where: str) -> Form:
        if annotation is Any:
            return _ANY
        if annotation is typing.Tuple:  # its origin and arguments are those of Tuple[()]
            annotation = tuple
        if annotation is None:
            return _PLAIN[type(None)]
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(origin, typing.get_args(annotation), where)
        if isinstance(annotation, type):
            return self._class(annotation, where)
        if type(annotation).__name__ == "TypeAliasType":
            return self._alias(annotation, where)
        if hasattr(annotation, "__supertype__"):  # of a NewType
            return self.read(annotation.__supertype__, where)
        if isinstance(annotation, (str, typing.ForwardRef)):
            name = getattr(annotation, "__forward_arg__", annotation)
            raise TypeError(f"{where}: {name!r:.100} is the name of a type and cannot be looked up here")
        raise _inexpressible(annotation, where)

    def _class(self, kind: Any, where: str) -> Form:
        if kind in _PLAIN:
            return _PLAIN[kind]
        if kind in self._named:
            return self._named[kind]
        if kind in _ARRAYS or kind in _TABLES:
            return self._generic(kind, (), where)
        if kind is tuple:
            return Items(_ANY, tuple)
        if issubclass(kind, enum.Enum):
            return _chosen([(member.value, member) for member in kind], where)
        if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate"):
            return Foreign(kind.model_json_schema, kind.model_validate)
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind)
        if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
            return self._typed_dict(kind)
        format = _FORMATS.get(f"{kind.__module__}.{kind.__qualname__}")
        if format is not None:
            return Formatted(format[0], format[1](kind))
        raise _inexpressible(kind, where)

    def _generic(self, origin: Any, arguments: Tuple[Any, ...], where: str) -> Form:
        name = getattr(origin, "_name", None)
        if name == "Literal":
            return _chosen([(v.value if isinstance(v, enum.Enum) else v, v) for v in arguments], where)
        if name in _WRAPPERS:
            return self.read(arguments[0], where)
        if origin is typing.Annotated:
            return _limited(self.read(arguments[0], where), arguments[1:], where)
        if origin is Union or origin is getattr(types, "UnionType", Union):
            members = [self.read(argument, where) for argument in arguments]
            return Either(sorted(members, key=lambda member: member == _NUMBER))  # 1 is an int where both are allowed
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
            return self._tuple(arguments, where)
        raise _inexpressible(origin, where)

    def _tuple(self, arguments: Tuple[Any, ...], where: str) -> Form:
        if len(arguments) == 2 and arguments[1] is ...:
            return Items(self.read(arguments[0], f"{where}[]"), tuple)
        if arguments == ((),):  # Python 3.9's and 3.10's Tuple[()]
            arguments = ()
        return Fixed([self.read(argument, f"{where}[{index}]") for index, argument in enumerate(arguments)])

    def _alias(self, alias: Any, where: str) -> Form:
        if alias not in self._named:
            named = self._named[alias] = Alias(alias.__name__, _ANY)
            named.form = self.read(alias.__value__, where)
        return self._named[alias]

    def _dataclass(self, kind: Any) -> Form:
        record = self._named[kind] = Record(kind.__name__, lambda values: kind(**values))
        hints = _hints(kind)
        for name, field in kind.__dataclass_fields__.items():  # also the InitVars, which fields() leaves out
            hint = hints[name]
            if not field.init or hint is typing.ClassVar or typing.get_origin(hint) is typing.ClassVar:
                continue
            if isinstance(hint, dataclasses.InitVar):
                hint = hint.type
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            record.fields[name] = Field(self.read(hint, f"{kind.__qualname__}.{name}"), required)
        return record

    def _typed_dict(self, kind: Any) -> Form:
        record = self._named[kind] = Record(kind.__name__, dict)
        for name, hint in _hints(kind).items():
            # Where annotations are strings, the class could not see these itself.
            said = getattr(typing.get_origin(hint), "_name", None)
            required = said == "Required" or (name in kind.__required_keys__ and said != "NotRequired")
            record.fields[name] = Field(self.read(hint, f"{kind.__qualname__}.{name}"), required)
        return record


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


_SCALARS = (bool, int, str, float, type(None))


def _chosen(values: List[Tuple[Any, object]], where: str) -> Form:
    if not values:
        raise TypeError(f"{where}: there is nothing to choose from")
    for value, _ in values:
        if type(value) not in _SCALARS or value in (math.inf, -math.inf) or value != value:
            raise TypeError(f"{where}: JSON has no {value!r:.100}; choose from strings and numbers")
    return Chosen(values)


def _limited(form: Form, metadata: Sequence[Any], where: str) -> Form:
    """A string describes, and `Limits` limit; the rest of the metadata is somebody else's."""
    kind = "array" if isinstance(form, Items) else form.name if isinstance(form, Plain) else ""
    keywords: Dict[str, Any] = {}
    description = None
    for one in metadata:
        if isinstance(one, str):
            description = one
        elif isinstance(one, Limits):
            keywords.update((name, limit) for name, limit in vars(one).items() if limit is not None)
    for keyword, limit in keywords.items():
        allowed = _LIMITS.get(kind, ())
        if keyword not in allowed:
            raise TypeError(
                f"{where}: {keyword} is no limit of this type; limits of it: {', '.join(allowed) or 'none'}"
            )
        _check_limit(keyword, limit, where)
    return Limited(form, keywords, description)


def _check_limit(keyword: str, limit: Any, where: str) -> None:
    if keyword != "pattern":
        if type(limit) is not int:
            raise TypeError(f"{where}: {keyword} is an int, not {limit!r:.100}")
        return
    if not isinstance(limit, str) or not limit.startswith("^") or not limit.endswith("$"):
        raise TypeError(f"{where}: a pattern for llama-server begins with ^ and ends with $, not {limit!r:.100}")
    try:
        re.compile(limit)
    except re.error as error:
        raise TypeError(f"{where}: {limit!r:.100} is no pattern: {error}") from None


def _inexpressible(annotation: Any, where: str) -> TypeError:
    return TypeError(f"{where}: {_name(annotation)} cannot be expressed in JSON; what can: {_KNOWN}")


def _name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return str(annotation.__qualname__) if plain else f"{annotation!r:.100}"
