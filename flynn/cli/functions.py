"""Python functions that the user names: `module:function`, or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from types import ModuleType

from ..errors import suggestion
from ..tools import Tool
from .exits import UsageError


def load_tool(name: str) -> Tool:
    """The function as a tool, or the `Tool` of that name, its module imported.

    A module is looked for where Python does, and last in the current folder, so that no file there can take the place
    of one that Python itself wants.
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
    found = getattr(module, function, None)
    if not callable(found) and not isinstance(found, Tool):
        names = [name for name, value in vars(module).items() if callable(value)]
        what = f"there is no {function!r}" if found is None else f"{function!r} is no function"
        file = getattr(module, "__file__", place)
        raise UsageError(f"{option}: {what} in {file}{suggestion(function, names)}")
    try:
        tool = found if isinstance(found, Tool) else Tool(found)
    except TypeError as error:
        raise UsageError(f"{option}: {error}") from None
    if tool.asynchronous:
        raise UsageError(f"{option}: the function is asynchronous; it has to be a plain one here")
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
    """What was raised, and where, in one line."""
    if isinstance(error, SystemExit):
        return "it ends the program; what is not for import belongs under if __name__ == '__main__'"
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return said  # with its file and line
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said} ({last.filename}, line {last.lineno})"
