"""From an annotation to its node. The only place that knows Python's typing, and the classes of other libraries."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import math
import types
import typing
from collections import abc
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from . import Limits, nodes
from .formats import FORMATS
from .grammar import narrow
from .mismatch import in_one_line
from .nodes import ANYTHING, LIMITS, SCALARS, Definition, Node
from .schema import schema_of

_KNOWN = (
    "bool, int, float, str, None, Any, Literal, Enum, list, tuple, set, dict, Union, dataclasses, TypedDict, "
    "NamedTuple, date, time, datetime, timedelta, Decimal, Path, UUID, and classes of pydantic, msgspec and attrs"
)
_ARRAYS: Dict[Any, Any] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    frozenset: frozenset,
}
_DICTIONARIES = (dict, abc.Mapping, abc.MutableMapping)

# Known by name, since typing and typing_extensions each have their own. They concern a field, not its value.
_WRAPPERS = ("Required", "NotRequired", "ReadOnly", "Final")


def node_of(annotation: object) -> Node:
    """Return the node of an annotation: a dataclass, or anything else that can annotate a field of one.

    Raises:
        TypeError: the annotation has no JSON form. The message, one line, says what and where.
    """
    try:
        return _Reader().read(annotation, "schema")
    except RecursionError:
        raise TypeError("schema: nested too deeply") from None


class _Reader:
    def __init__(self) -> None:
        self._named: Dict[Any, Node] = {}  # classes with fields, and aliases

    def read(self, annotation: Any, where: str) -> Node:
        """Return the node of an annotation. `where` is its place, for messages."""
        if annotation is Any or annotation is object:
            return ANYTHING
        if annotation is None:
            return SCALARS[type(None)]
        if annotation is tuple or annotation is typing.Tuple:  # their origin and arguments are those of Tuple[()]
            return nodes.array(ANYTHING, tuple)
        origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
        if type(origin).__name__ == "TypeAliasType":
            meaning = _substituted(origin.__value__, dict(zip(origin.__type_params__, arguments)))
            return self._definition(annotation, origin.__name__, lambda: self.read(meaning, where))
        if arguments and (node := self._special_form(annotation, origin, arguments, where)):
            return node
        if isinstance(origin, type):
            return self._container(origin, arguments, where) or self._class(annotation, origin, arguments, where)
        if hasattr(annotation, "__supertype__"):  # a NewType
            return self.read(annotation.__supertype__, where)
        if isinstance(annotation, (str, typing.ForwardRef)):
            name = getattr(annotation, "__forward_arg__", annotation)
            raise TypeError(f"{where}: {name!r:.100} is the name of a type and cannot be looked up here")
        raise _inexpressible(origin, where)

    def _special_form(self, annotation: Any, origin: Any, arguments: Sequence[Any], where: str) -> Optional[Node]:
        name = getattr(origin, "_name", None)
        if name == "Literal":
            return _enumeration([(v.value if isinstance(v, enum.Enum) else v, v) for v in arguments], where)
        if name in _WRAPPERS:
            return self.read(arguments[0], where)
        if origin is typing.Annotated:
            libraries = [_METADATA.get(type(item).__module__.partition(".")[0], "") for item in arguments[1:]]
            foreign = _foreign(max(libraries), annotation, where) if any(libraries) else None
            return _annotated(foreign or self.read(arguments[0], where), arguments[1:], where)
        if origin is Union or origin is getattr(types, "UnionType", Union):
            return nodes.union([self.read(argument, where) for argument in arguments])
        return None

    def _container(self, kind: Any, arguments: Sequence[Any], where: str) -> Optional[Node]:
        if kind in _ARRAYS:
            item = arguments[0] if arguments else Any
            if _ARRAYS[kind] is not list and getattr(typing.get_origin(item) or item, "__hash__", 0) is None:
                raise TypeError(f"{where}: {_name(item)} cannot be in a set: it has no hash")
            return nodes.array(self.read(item, f"{where}[]"), _ARRAYS[kind])
        if kind in _DICTIONARIES:
            key, value = arguments or (str, Any)
            key_node = self.read(key, where)
            if not nodes.can_be_key(key_node):
                raise TypeError(f"{where}: the keys of a JSON object are strings and cannot be {_name(key)}")
            return nodes.dictionary(key_node, self.read(value, f"{where}[]"))
        if kind is tuple:
            if len(arguments) == 2 and arguments[1] is ...:
                return nodes.array(self.read(arguments[0], f"{where}[]"), tuple)
            if arguments == ((),):  # Python 3.9's and 3.10's Tuple[()]
                arguments = ()
            items = [self.read(argument, f"{where}[{index}]") for index, argument in enumerate(arguments)]
            return nodes.fixed_array(items)
        return None

    def _class(self, annotation: Any, kind: Any, arguments: Sequence[Any], where: str) -> Node:
        if kind in SCALARS:
            return SCALARS[kind]
        if issubclass(kind, enum.Enum):
            return _enumeration([(member.value, member) for member in kind], where)
        format, read = FORMATS.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}", ("", None))
        if read:
            return nodes.formatted(format, functools.partial(read, kind))
        for attribute, library in _CLASSES:
            if hasattr(kind, attribute):
                return _foreign(library, annotation, where)
        return self._definition(annotation, kind.__name__, lambda: self._struct(kind, arguments, where))

    def _struct(self, kind: Any, arguments: Sequence[Any], where: str) -> Node:
        """The node of a class with fields, and with arguments where it is generic."""
        fields: Dict[str, Node] = {}
        required = []
        variables = _variables(kind, arguments, where)
        for name, hint, is_required in _fields_of(kind, where):
            fields[name] = self.read(_substituted(hint, variables), f"{kind.__qualname__}.{name}")
            if is_required:
                required.append(name)
        return nodes.struct(kind.__name__, dict if issubclass(kind, dict) else kind, fields, required)

    def _definition(self, annotation: Any, name: str, read: Callable[[], Node]) -> Node:
        """Return the node of a type that may occur again, also within itself. It is read once."""
        if annotation in self._named:
            self._named[annotation].schema["$ref"].shared = True
            return self._named[annotation]
        definition = Definition(name)
        node = self._named[annotation] = Node({"$ref": definition}, ANYTHING.build)  # for now
        meaning = read()
        definition.schema, node.build = meaning.schema, meaning.build
        return node


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


def _foreign(library: str, annotation: Any, where: str) -> Node:
    """The node of an annotation that a library describes, and whose values it converts."""
    try:
        if not library:
            node = nodes.foreign(annotation.model_json_schema(), annotation.model_validate)
        elif library == "msgspec":
            msgspec = importlib.import_module(library)
            convert = functools.partial(msgspec.convert, type=annotation, str_keys=True)
            node = nodes.foreign(msgspec.json.schema(annotation), convert, msgspec.ValidationError)
        else:
            adapter = importlib.import_module(library).TypeAdapter(annotation)
            node = nodes.foreign(adapter.json_schema(), adapter.validate_python)
        schema_of(node)  # raises if llama.cpp's grammar cannot express it
    except Exception as error:
        raise TypeError(f"{where}: {in_one_line(error)}") from error
    return node


def _fields_of(kind: Any, where: str) -> Iterator[Tuple[str, Any, bool]]:
    """Yield the name and the annotation of each field of a class, and whether it must be there."""
    if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
        for name, hint in _hints(kind).items():
            # Where annotations are strings, the class itself could not see these wrappers.
            wrapper = getattr(typing.get_origin(hint), "_name", None)
            yield name, hint, wrapper == "Required" or (name in kind.__required_keys__ and wrapper != "NotRequired")
    elif any(hasattr(kind, attribute) for attribute in ("__dataclass_fields__", "__attrs_attrs__", "_field_defaults")):
        hints = _hints(kind)
        for field in getattr(kind, "__attrs_attrs__", ()):
            hints[field.alias] = hints.get(field.name, field.type or Any)
        for name, parameter in inspect.signature(kind).parameters.items():
            if type(parameter.default).__module__.startswith("pydantic."):
                raise TypeError(f"{kind.__qualname__}.{name}: Field is the default; put it into Annotated[...]")
            hint = hints.get(name, Any)
            required = parameter.default is parameter.empty
            yield name, hint.type if isinstance(hint, dataclasses.InitVar) else hint, required
    else:
        raise _inexpressible(kind, where)


def _hints(kind: Any) -> Dict[str, Any]:
    """Return the annotations of a class. Names are looked up in its module, and a class in a function knows itself."""
    try:
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError:
            return typing.get_type_hints(kind, localns={kind.__name__: kind}, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        advice = "; Python 3.9 needs Optional[X], Union[X, Y]" if "operand type(s) for |" in str(error) else ""
        raise TypeError(f"{kind.__qualname__}: its annotations cannot be read: {error}{advice}") from None


def _variables(kind: Any, arguments: Sequence[Any], where: str) -> Dict[Any, Any]:
    """Return what the type variables of a generic class and its bases stand for."""
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
    return hint[tuple(variables.get(parameter, parameter) for parameter in parameters)] if parameters else hint


# --- values -----------------------------------------------------------------------------------------------------------


def _enumeration(choices: List[Tuple[Any, object]], where: str) -> Node:
    if not choices:
        raise TypeError(f"{where}: there is nothing to choose from")
    for value, _ in choices:
        if type(value) not in SCALARS or (type(value) is float and not math.isfinite(value)):
            raise TypeError(f"{where}: JSON has no {value!r:.100}; choose from strings and numbers")
    return nodes.enumeration(choices)


def _annotated(node: Node, metadata: Sequence[Any], where: str) -> Node:
    """Add the metadata of Annotated: a string is the description, `Limits` are limits, anything else is ignored."""
    limits: Dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, str):
            node = Node({**node.schema, "description": item}, node.build)
        elif isinstance(item, Limits):
            limits.update((keyword, limit) for keyword, limit in vars(item).items() if limit is not None)
    try:
        _check_limits(limits, node.schema)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    return nodes.limited(node, limits) if limits else node


def _check_limits(limits: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    kind = schema.get("type") if schema.keys() <= {"type", "items", "description"} else None
    allowed = [keyword for keyword, (of_kind, _) in LIMITS.items() if of_kind == kind]
    for keyword, limit in limits.items():
        if keyword not in allowed:
            raise TypeError(f"{keyword} is not a limit of this type (its limits: {', '.join(allowed) or 'none'})")
        limit_type, name = (str, "a string") if keyword == "pattern" else (int, "an int")
        if type(limit) is not limit_type:
            raise TypeError(f"{keyword} must be {name}, not {limit!r:.100}")
    if "pattern" in limits and len(limits) > 1:
        raise TypeError("llama.cpp ignores minLength and maxLength beside a pattern; write them into it: {1,9}")
    narrow({"type": kind, **limits})


def _inexpressible(annotation: Any, where: str) -> TypeError:
    return TypeError(f"{where}: {_name(annotation)} cannot be expressed in JSON; what can: {_KNOWN}")


def _name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return str(annotation.__qualname__) if plain else f"{annotation!r:.100}"
