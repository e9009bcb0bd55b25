"""Python functions that the user names, `module:function` or `file.py:function`, for the model to call."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from contextlib import closing, redirect_stdout
from types import ModuleType
from typing import Any, Callable, Generator, List, Mapping, Optional, Sequence, Tuple

from ..errors import suggestion
from ..models.local.llamacpp import LlamaCppClient
from ..models.messages import AnyMessage
from ..models.types import ChatResponse, Message
from ..tools import Tool
from ..tools.run import ToolRun
from .answer import show
from .exits import UsageError
from .terminal import Terminal


def answer_with_tools(
    client: LlamaCppClient,
    messages: Sequence[AnyMessage],
    names: Sequence[str],
    options: Mapping[str, Any],
    keep: Callable[[List[AnyMessage]], None],
    terminal: Terminal,
    *,
    text: bool = True,
) -> Tuple[ChatResponse, Optional[float]]:
    """Show the answer of a model that may call functions, and return it with what `show` returns.

    What the functions print goes to standard error. `keep` is called with the conversation up to and including the
    answer, or as much of it as was written before an interruption.
    """
    with redirect_stdout(sys.stderr):
        tools = [_load_tool(name) for name in names]
        try:
            run = client.run_tools(messages, tools, stream=True, **options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"--tool: {error}") from None
        reply: List[str] = []  # the pieces of text of the last one
        try:
            first = show(closing(_steps(run, reply)), terminal, text=text)
        finally:
            conversation = run.messages  # in whole rounds
            is_answered = isinstance(conversation[-1], Message) and conversation[-1].role == "assistant"
            if not is_answered and (reply or len(conversation) > len(messages)):
                # Even if it is empty: some templates refuse two prompts in a row.
                conversation.append(Message("assistant", "".join(reply)))
            if len(conversation) > len(messages):
                keep(conversation)
        return run.answer(), first


def _steps(run: ToolRun, reply: List[str]) -> Generator[Any, None, None]:
    with run:
        for step in run:
            if step.type == "tool_result":
                reply.clear()
            elif step.type == "content" and step.choice == 0:
                reply.append(step.text)
            yield step


def _load_tool(name: str) -> Tool:
    """Import a function and return it as a tool; a `Tool` of that name as it is."""
    place, _, function = name.rpartition(":")
    try:
        if not place or not function.isidentifier():
            raise UsageError("expected MODULE:FUNCTION or FILE.py:FUNCTION")
        module = _import(place)
        value = getattr(module, function, None)
        if not callable(value) and not isinstance(value, Tool):
            problem = f"there is no {function!r}" if value is None else f"{function!r} is not a function"
            near = suggestion(function, [name for name, value in vars(module).items() if callable(value)])
            raise UsageError(f"{problem} in {getattr(module, '__file__', place)}{near}")
        tool = value if isinstance(value, Tool) else Tool(value)
        if tool.asynchronous:
            raise UsageError("the function is asynchronous; only a plain one can be called here")
        return tool
    except (UsageError, TypeError) as error:  # the latter from Tool
        raise UsageError(f"--tool {name}: {error}") from None


def _import(place: str) -> ModuleType:
    """Import a module, or the file of one. Raises UsageError with what is wrong with it, whatever that is."""
    try:
        if place.endswith(".py"):
            return _import_file(os.path.realpath(os.path.expanduser(place)))
        _add_to_path(os.curdir)
        return importlib.import_module(place)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{place}.".startswith(f"{absent}."):
            raise UsageError(f"there is no module {absent!r}, neither here nor on sys.path") from None
        raise UsageError(f"cannot import {place}: {_cause(error)}") from None


def _import_file(path: str) -> ModuleType:
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
    """Search a folder last, so that no file there can replace a module that Python itself needs."""
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
