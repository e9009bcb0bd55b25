"""A function as a tool: what the model is told of it, and how what the model writes becomes its arguments. No I/O.

    docstring  what a docstring says of a function
    rounds     the calls of a run with tools; run: the requests of one
"""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any, Callable, Container, Dict, Mapping, Optional

from ..structured.annotations import node_of
from ..structured.nodes import Node, build
from ..structured.schema import schema_of
from .docstring import parse_docstring

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
        self._node: Optional[Node] = None  # of what the model writes, where the signature tells
        self.definition: Mapping[str, Any] = self._describe() if definition is None else definition
        try:
            self.name = str(self.definition["function"]["name"])
        except (KeyError, TypeError):
            raise ValueError('a definition is {"type": "function", "function": {"name": ..., ...}}') from None

    def _describe(self) -> Dict[str, Any]:
        """The definition that the signature and the docstring make."""
        function = self.function
        fixed: Container[str] = ()
        if isinstance(function, functools.partial):
            fixed, function = function.keywords, function.func  # what the user has set is not the model's
        name = getattr(function, "__name__", "")
        if not name.isidentifier():  # a lambda, or an object with __call__
            raise TypeError(f"{function!r:.100} has no name; {_GIVE_A_DEFINITION}")
        try:
            self._signature = inspect.signature(self.function)
        except ValueError:
            raise TypeError(f"{name}: its parameters are not known; {_GIVE_A_DEFINITION}") from None
        parameters = [one for one in self._signature.parameters.values() if one.name not in fixed]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{name}: {parameter} cannot be expressed in JSON; {_GIVE_A_DEFINITION}")
        parameters.sort(key=lambda one: one.default is not one.empty)  # llama.cpp has the required ones written first
        # A TypedDict, so that what holds for its annotations holds for these.
        declared = {
            "__annotations__": {one.name: Any if one.annotation is one.empty else one.annotation for one in parameters},
            "__required_keys__": {one.name for one in parameters if one.default is one.empty},
            "__module__": function.__module__ or __name__,  # where those that are only names have their meaning
        }
        self._node = node_of(type(name, (dict,), declared))
        schema = schema_of(self._node)
        description, said = parse_docstring(inspect.getdoc(function))
        for key in schema["properties"].keys() & said:
            schema["properties"][key].setdefault("description", said[key])
        return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}

    def bind(self, arguments: str) -> Callable[[], Any]:
        """The function with its arguments, JSON as the model wrote it; raises ArgumentsError if they do not fit."""
        values = decode_arguments(arguments)
        if self._node is None:
            return functools.partial(self.function, **values)
        try:
            bound = inspect.BoundArguments(self._signature, build(self._node, values))
        except ValueError as error:
            raise ArgumentsError(str(error)) from None
        bound.apply_defaults()
        return functools.partial(self.function, *bound.args, **bound.kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name})"


def decode_arguments(text: str, **options: Any) -> Dict[str, Any]:
    """The arguments of a call by name, read with these options of `json.loads`; raises ArgumentsError."""
    try:
        values = json.loads(text or "{}", **options)
    except (ValueError, RecursionError) as error:
        raise ArgumentsError(f"the arguments are not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ArgumentsError("the arguments are not a JSON object, with a member for each")
    return values
