"""A function as a tool: its description for the model, and its arguments from what the model writes. No I/O.

docstring  the descriptions in a docstring
typed      functions and types in a chat request, and their reply
loop       the requests and calls of `run_tools`; run: what it returns
"""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

from ..structured.annotations import node_of
from ..structured.nodes import Node, build
from ..structured.schema import schema_of
from .docstring import parse_docstring

_OWN_DEFINITION = "describe it yourself: flynn.Tool(function, definition)"


class ArgumentsError(ValueError):
    """The arguments of a call do not match the function. The message, one line, is for the model."""


class Tool:
    """A function that a model may call.

    Args:
        function: any callable. Its name, its docstring (Google, NumPy or Sphinx style) and its signature describe it to
            the model. Its annotations decide what the model may write and what the function gets, a dataclass for
            example; a parameter without an annotation gets any JSON.
        definition: what to send to the model instead, in OpenAI's form. The function then gets plain JSON as keywords.

    Attributes:
        name: the name by which the model calls the function.
        definition: what is sent to the model.
        asynchronous: whether the function is defined with `async def`.

    Raises:
        TypeError: the function has no name, or JSON cannot express one of its parameters.
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
        >>> Tool(get_weather).parse('{"city": "Paris"}')
        {'city': 'Paris'}
    """

    def __init__(self, function: Callable[..., Any], definition: Optional[Mapping[str, Any]] = None) -> None:
        if not callable(function):
            raise TypeError(f"a tool is a function or a flynn.Tool, not {type(function).__name__}")
        self.function = function
        self.asynchronous = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._node: Optional[Node] = None  # of the arguments, if the signature describes them
        self.definition: Mapping[str, Any] = self._describe() if definition is None else definition
        try:
            self.name = str(self.definition["function"]["name"])
        except (KeyError, TypeError):
            raise ValueError('a definition is {"type": "function", "function": {"name": ..., ...}}') from None

    def _describe(self) -> Dict[str, Any]:
        """Return the definition that follows from signature and docstring."""
        function = self.function
        fixed: Mapping[str, Any] = {}
        if isinstance(function, functools.partial):
            fixed, function = function.keywords, function.func  # the model cannot change what the user has set
        name = getattr(function, "__name__", "")
        if not name.isidentifier():  # a lambda, or an object with __call__
            raise TypeError(f"{function!r:.100} has no name; {_OWN_DEFINITION}")
        try:
            self._signature = inspect.signature(self.function)
        except ValueError:
            raise TypeError(f"{name}: its parameters are not known; {_OWN_DEFINITION}") from None
        parameters = [parameter for parameter in self._signature.parameters.values() if parameter.name not in fixed]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{name}: {parameter} cannot be expressed in JSON; {_OWN_DEFINITION}")
        parameters.sort(key=lambda one: one.default is not one.empty)  # llama.cpp writes the required ones first
        # A TypedDict of the parameters, so that their annotations are read as all others are.
        declared = {
            "__annotations__": {one.name: Any if one.annotation is one.empty else one.annotation for one in parameters},
            "__required_keys__": {one.name for one in parameters if one.default is one.empty},
            "__module__": function.__module__ or __name__,  # where annotations that are strings are looked up
        }
        self._node = node_of(type(name, (dict,), declared))
        schema = schema_of(self._node)
        description, descriptions = parse_docstring(inspect.getdoc(function))
        for key in schema["properties"].keys() & descriptions:
            schema["properties"][key].setdefault("description", descriptions[key])
        return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}

    def parse(self, arguments: str) -> Dict[str, Any]:
        """Return the arguments of a call by name, as the types of the function's parameters.

        Args:
            arguments: JSON, as the model wrote it.

        Raises:
            ArgumentsError: they are not JSON, or do not match the function.
        """
        values = decode_arguments(arguments)
        try:
            return values if self._node is None else build(self._node, values)
        except ValueError as error:
            raise ArgumentsError(str(error)) from None

    def bind(self, arguments: str) -> Callable[[], Any]:
        """Return the function with the arguments of a call. Raises ArgumentsError, as `parse` does."""
        values = self.parse(arguments)
        if self._node is None:
            return functools.partial(self.function, **values)
        bound = inspect.BoundArguments(self._signature, values)  # type: ignore[arg-type]
        bound.apply_defaults()
        return functools.partial(self.function, *bound.args, **bound.kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name})"


def listed(tools: Iterable[Any]) -> List[Any]:
    """Return the tools as a list. Raises TypeError for what is not iterable, a single function for example."""
    if not isinstance(tools, Iterable):
        raise TypeError(f"tools must be a list, not {type(tools).__name__}: tools=[...]")
    return list(tools)


def named(tools: Iterable[Tool]) -> Dict[str, Tool]:
    """Return the tools by name. Raises ValueError if two have the same one."""
    by_name: Dict[str, Tool] = {}
    for tool in tools:
        if tool.name in by_name:
            raise ValueError(f"two tools have the name {tool.name!r}")
        by_name[tool.name] = tool
    return by_name


def decode_arguments(text: str, **options: Any) -> Dict[str, Any]:
    """Read the arguments of a call, with these options of `json.loads`. Raises ArgumentsError."""
    try:
        values = json.loads(text or "{}", **options)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ArgumentsError(f"the arguments are not JSON: {problem}") from None
    if not isinstance(values, dict):
        raise ArgumentsError("the arguments are not a JSON object with a member for each")
    return values
