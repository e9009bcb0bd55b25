"""Python functions that the user names: `module:function`, or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any, Iterator, Mapping, Sequence

from ..errors import suggestion
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..tools import Tool
from ..tools.run import ToolRun
from .exits import UsageError


@contextmanager
def tool_run(
    client: LlamaCppClient, messages: Sequence[AnyMessage], names: Sequence[str], options: Mapping[str, Any]
) -> Iterator[ToolRun]:
    """Start a run with functions as tools. Within the `with` block, what they print goes to standard error.

    Raises:
        UsageError: a function cannot be imported, or cannot be a tool.
    """
    with redirect_stdout(sys.stderr):
        tools = [_load_tool(name) for name in names]
        try:
            run = client.run_tools(messages, tools, stream=True, **options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--tool: {error}") from None
        yield run


def _load_tool(name: str) -> Tool:
    """Import a function and return it as a tool; a `Tool` of that name as it is.

    The current folder is searched last, so that no file there can replace a module that Python itself needs.
    """
    option = f"--tool {name}"
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise UsageError(f"{option}: expected MODULE:FUNCTION or FILE.py:FUNCTION")
    try:
        module = _run_file(place) if place.endswith(".py") else _import(place)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{option}: cannot import {place}: {_cause(error)}") from None
    value = getattr(module, function, None)
    if not callable(value) and not isinstance(value, Tool):
        names = [name for name, value in vars(module).items() if callable(value)]
        what = f"there is no {function!r}" if value is None else f"{function!r} is not a function"
        file = getattr(module, "__file__", place)
        raise UsageError(f"{option}: {what} in {file}{suggestion(function, names)}")
    try:
        tool = value if isinstance(value, Tool) else Tool(value)
    except TypeError as error:
        raise UsageError(f"{option}: {error}") from None
    if tool.asynchronous:
        raise UsageError(f"{option}: the function is asynchronous; only a plain one can be called here")
    return tool


def _import(name: str) -> ModuleType:
    _add_to_path(os.curdir)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"there is no module {error.name!r}, neither here nor on sys.path") from None
        raise


def _run_file(path: str) -> ModuleType:
    path = os.path.realpath(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}")
    if path not in sys.modules:  # no module of any other kind has such a name
        _add_to_path(os.path.dirname(path))  # for what it imports itself
        spec = importlib.util.spec_from_file_location(path, path)
        assert spec is not None and spec.loader is not None  # the name ends in .py
        module = sys.modules[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[path]


def _add_to_path(folder: str) -> None:
    folder = os.path.abspath(folder)
    if folder not in sys.path:
        sys.path.append(folder)


def _cause(error: BaseException) -> str:
    """Return in one line what was raised, and where."""
    if isinstance(error, SystemExit):
        return "it ends the program; put what is not to be imported under if __name__ == '__main__'"
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return message  # with its file and line
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{message} ({last.filename}, line {last.lineno})"
