"""A function as a tool: what the model is told of it, and how what the model writes becomes its arguments. No I/O."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from typing import Any

from ..structured.build import build
from ..structured.schema import schema_of
from .docstring import parse_docstring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Mapping, Optional, Sequence

_GIVE_A_DEFINITION = "describe it yourself: flynn.Tool(function, definition)"


class ArgumentsError(ValueError):
    """A call, as the model wrote it, cannot be made. The message, in one line, is for the model."""


class Tool:
    """A function that a model may call.

    Args:
        function: what is called. Its name, its docstring (Google, NumPy or Sphinx style) and its signature tell the
            model what it does. Its annotations decide what the model may write and what the function gets, a dataclass
            for example; a parameter without an annotation gets any JSON.
        definition: what the model is told instead, in the form of `ChatRequest.tools`. The function then gets what the
            model wrote, as keywords and plain JSON.

    Attributes:
        name: by which the model calls it.
        asynchronous: whether it is defined with `async def`.

    Raises:
        TypeError: the function has no name, or has a parameter that cannot be expressed in JSON.
        ValueError: the definition has no name.

    Example:
        >>> def get_weather(city: str, days: int = 1) -> str:
        ...     '''Tell the weather.
        ...
        ...     Args:
        ...         city: its name in English
        ...     '''
        >>> Tool(get_weather).definition["function"]["parameters"]["properties"]["city"]
        {'type': 'string', 'description': 'its name in English'}
    """

    def __init__(self, function: Callable[..., Any], definition: Optional[Mapping[str, Any]] = None) -> None:
        if not callable(function):
            raise TypeError(f"a tool is a function or a flynn.Tool, not {type(function).__name__}")
        self.function = function
        self.asynchronous = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._parameters = _Parameters(function) if definition is None else None
        self.definition: Mapping[str, Any] = self._parameters.definition if self._parameters else definition or {}
        try:
            self.name = str(self.definition["function"]["name"])
        except (KeyError, TypeError):
            raise ValueError('a definition is {"type": "function", "function": {"name": ..., ...}}') from None

    def bind(self, arguments: str) -> Callable[[], Any]:
        """The function with its arguments.

        Args:
            arguments: JSON, as the model wrote it; an empty text means that there are none.

        Raises:
            ArgumentsError: they do not fit.
        """
        values = decode_arguments(arguments)
        if self._parameters is None:
            return functools.partial(self.function, **values)
        return self._parameters.bind(values)

    def __repr__(self) -> str:
        return f"Tool({self.name})"


def decode_arguments(text: str) -> Dict[str, Any]:
    """The arguments of a call, as the model wrote them, by name.

    Raises:
        ArgumentsError: they are no JSON object.
    """
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ArgumentsError(f"the arguments are not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ArgumentsError("the arguments are not a JSON object, with a member for each")
    return values


class _Parameters:
    """The parameters of a function as the fields of a dataclass, so that what holds for those holds for them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        fixed: Mapping[str, Any] = {}
        described = function
        if isinstance(function, functools.partial):
            fixed, described = function.keywords, function.func  # what the user has set is not the model's
        name = getattr(described, "__name__", "")
        if not name.isidentifier():  # a lambda, or an object with __call__
            raise TypeError(f"{described!r:.100} has no name; {_GIVE_A_DEFINITION}")
        try:
            self._signature = inspect.signature(function)
        except ValueError:
            raise TypeError(f"{name}: its parameters are not known; {_GIVE_A_DEFINITION}") from None
        self._fields = _fields(name, [p for p in self._signature.parameters.values() if p.name not in fixed])
        self._fields.__module__ = described.__module__  # where annotations that are only names have their meaning
        parameters = schema_of(self._fields)
        description, said = parse_docstring(inspect.getdoc(described))
        for key in parameters["properties"].keys() & said:
            parameters["properties"][key].setdefault("description", said[key])
        about = {"name": name, "description": description, "parameters": parameters}
        self.definition: Mapping[str, Any] = {"type": "function", "function": about}

    def bind(self, values: Mapping[str, Any]) -> Callable[[], Any]:
        try:
            built = build(self._fields, values)
        except ValueError as error:
            raise ArgumentsError(str(error)) from None
        bound = inspect.BoundArguments(self._signature, vars(built))  # knows which of them go without their names
        return functools.partial(self._function, *bound.args, **bound.kwargs)


def _fields(name: str, parameters: Sequence[inspect.Parameter]) -> type:
    """A dataclass with a field for each parameter, those without a default first, as it has to be."""
    required: List[Any] = []
    optional: List[Any] = []
    for parameter in parameters:
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: {parameter} cannot be expressed in JSON; {_GIVE_A_DEFINITION}")
        if parameter.default is parameter.empty:
            required.append((parameter.name, annotation))
        else:
            default = dataclasses.field(default_factory=functools.partial(_itself, parameter.default))
            optional.append((parameter.name, annotation, default))
    return dataclasses.make_dataclass(name, [*required, *optional], eq=False, repr=False)


def _itself(value: Any) -> Any:
    return value
