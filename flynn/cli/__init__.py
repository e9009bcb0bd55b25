"""The command `flynn`: its subcommands, how it starts, and the exit code that it ends with.

Each subcommand is a module of this package. It has EXAMPLES, the end of its help; `add_options(parser)`;
`run(given, terminal)`, which returns the exit code; and OFFLINE = True if it needs no server. Running one imports none
of the others.
"""

from __future__ import annotations

import codecs
import io
import signal
import sys
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, List, NoReturn, Optional, Sequence

from ..errors import FlynnError, suggestion
from .exits import CLOSED_PIPE, DONE, EXIT_CODES, FAILED, INTERRUPTED, USAGE, UsageError, exit_code, explain
from .terminal import Terminal

if TYPE_CHECKING:
    from .options import Parser  # imported only when there is a command line to parse

COMMANDS = {
    "ask": "Answer one prompt, streamed as it is generated.",
    "chat": "Hold a conversation.",
    "batch": "Answer many prompts from a file; run it again to go on where it stopped.",
    "models": "List, load, unload, download and delete the models of a server.",
    "status": "Show whether the server is up, and what it runs.",
    "embed": "Turn texts into vectors.",
    "tokens": "Count the tokens of a text.",
    "completion": "Print the script that makes a shell complete flynn's options.",
}
_VARIABLES = {
    "FLYNN_ENDPOINT": "the server, in place of the configuration's",
    "FLYNN_AUTH_TOKEN": "its token",
    "FLYNN_CONFIG": "the configuration file",
    "FLYNN_HISTORY": "set to nothing: no history of prompts and answers is kept",
    "FLYNN_LOG": "debug: log each request on standard error; prompts: with its body",
    "NO_COLOR": "set to anything: no colours",
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: one of `EXIT_CODES`, or 128 plus the number of the signal that ended it.

    Example:
        >>> main(["ask", "Why is the sky blue?"])                                            # doctest: +SKIP
        The sky appears blue because ...
        0
    """
    terminal = Terminal(sys.stdout, sys.stderr)
    _accept_any_input()
    handled = _end_by_exception()
    if handled and argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handled.append(signal.SIGINT)  # another Ctrl-C while the interpreter ends would print a traceback
    try:
        try:
            argv = sys.argv[1:] if argv is None else argv
            if argv and argv[0] == "help":
                argv = [*argv[1:], "--help"]
            if not argv or argv[0] not in COMMANDS:
                return _without_command(argv, terminal)
            given = load(argv[0]).parse(argv[1:])
            code: int = given.run(given, terminal)
            return code
        except SystemExit as end:  # --help, --version, a signal
            terminal.write("")  # flushes what argparse has printed
            return end.code if isinstance(end.code, int) else DONE
    except (Exception, KeyboardInterrupt) as error:
        return report(error, terminal)
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def load(name: str) -> Parser:
    """Return the parser of a subcommand's arguments; what it parses has the subcommand's `run`."""
    from .options import Parser

    command = import_module(f".{name}", __name__)
    codes = f"exit codes: {', '.join(map(str, EXIT_CODES))}; flynn --help explains them"
    parser = Parser(f"flynn {name}", COMMANDS[name], f"examples:\n{command.EXAMPLES}\n\n{codes}")
    parser.set_defaults(run=command.run)
    command.add_options(parser)
    if not getattr(command, "OFFLINE", False):
        parser.add_connection_options()
    return parser


def _without_command(argv: Sequence[str], terminal: Terminal) -> int:
    """Show the help, or say what is wrong with the name of the command."""
    from .. import __version__
    from .options import Parser

    epilog = ""
    for title, items in ("commands", COMMANDS), ("environment", _VARIABLES), ("exit codes", EXIT_CODES):
        lines = "".join(f"  {name!s:<18}{meaning}\n" for name, meaning in items.items())
        epilog += f"{title}:\n{lines}\n"
    epilog += 'Run "flynn COMMAND --help" for details.'
    parser = Parser("flynn", "Talk to a local llama-server.", epilog, usage="flynn COMMAND ...")
    parser.add_argument("--version", action="version", version=f"flynn {__version__}")
    if not argv:
        terminal.say(parser.format_help().rstrip())
        return USAGE
    if argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if argv[0].startswith("-"):
        raise UsageError(f"unknown option {argv[0]!r}: the options of a command follow it (see flynn --help)")
    near = suggestion(argv[0], COMMANDS)
    raise UsageError(f"unknown command {argv[0]!r}{near} (expected one of: {', '.join(COMMANDS)})")


def _accept_any_input() -> None:
    """Read bytes that are invalid in the terminal's encoding as U+FFFD instead of failing. Read ASCII as UTF-8."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")


def _end_by_exception() -> List[int]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that a resumable stream can tell the server to stop.

    Returns those of them whose handler was set.
    """

    def leave(number: int, frame: Optional[FrameType]) -> NoReturn:
        raise SystemExit(128 + number)

    handled = []
    with suppress(ValueError):  # only the main thread may set handlers
        for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):  # Windows has no SIGHUP
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
                signal.signal(number, leave)
                handled.append(number)
    return handled


def report(error: BaseException, terminal: Terminal) -> int:
    """Say in one line what went wrong, unless that is plain already, and return the exit code. Raises what is a bug."""
    code = exit_code(error)
    is_of_system = isinstance(error, (OSError, MemoryError)) and not isinstance(error, FlynnError)
    if code == FAILED and not is_of_system and not isinstance(error, FlynnError):
        raise error
    try:
        if is_of_system:
            terminal.abandon()
        if code in (CLOSED_PIPE, INTERRUPTED):
            terminal.break_line()
        else:
            terminal.fail(explain(error))
    except OSError:
        terminal.abandon()
    return code
