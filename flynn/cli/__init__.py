"""The command `flynn`: what commands there are, how it begins, and in which exit code it ends.

A command is a module of this package; one costs the import of no other one.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, List, NoReturn, Optional, Protocol, Sequence, Tuple

from ..errors import FlynnError, suggestion
from .exits import CLOSED_PIPE, DONE, EXIT_CODES, INTERRUPTED, NOT_RUNNING, USAGE, UsageError, exit_code
from .terminal import Terminal

if TYPE_CHECKING:
    from .options import Given, Parser  # loaded when there is a command to parse


class Command(Protocol):
    """A module of this package that is a command."""

    EXAMPLES: str

    def add_options(self, parser: Parser) -> None: ...

    def run(self, given: Given, terminal: Terminal) -> int: ...


# Each is a module here, shaped like `Command`.
COMMANDS = {
    "ask": "Answer one prompt, streamed as it is generated.",
    "chat": "Hold a conversation.",
    "batch": "Answer many prompts from a file; run it again to go on where it stopped.",
    "status": "Tell whether the server is up, and what it runs.",
    "embed": "Turn texts into vectors.",
    "tokens": "Count the tokens of a text.",
    "completion": "Print what makes a shell complete the options of flynn.",
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command.

    Args:
        argv: its arguments, by default the process's own.

    Returns:
        The exit code, one of `EXIT_CODES`, or 128 and the number of the signal that ended it.

    Example:
        >>> main(["ask", "Why is the sky blue?"])                                            # doctest: +SKIP
        The sky appears blue because ...
        0
    """
    terminal = Terminal(sys.stdout, sys.stderr)
    _accept_any_input()
    caught = _end_by_exception()
    try:
        try:
            argv = sys.argv[1:] if argv is None else argv
            if not argv or argv[0] not in COMMANDS:
                return _without_command(argv, terminal)
            command, parser = load(argv[0])
            return command.run(parser.parse(argv[1:]), terminal)
        except SystemExit as end:  # --help, --version, a signal
            terminal.flush()
            return end.code if isinstance(end.code, int) else DONE
    except (Exception, KeyboardInterrupt) as error:
        return report(error, terminal)
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def load(name: str) -> Tuple[Command, Parser]:
    """A command, and the parser of its arguments."""
    from importlib import import_module

    from .options import Parser

    command: Command = import_module(f".{name}", __name__)
    codes = f"exit codes: {', '.join(map(str, EXIT_CODES))}; flynn --help tells what they mean"
    parser = Parser(f"flynn {name}", COMMANDS[name], f"examples:\n{command.EXAMPLES}\n\n{codes}")
    command.add_options(parser)
    if not getattr(command, "OFFLINE", False):
        parser.add_connection_options()
    return command, parser


def _without_command(argv: Sequence[str], terminal: Terminal) -> int:
    """Say which commands there are, or what is wrong with the one that was meant."""
    from .. import __version__
    from .options import Parser

    commands = "\n".join(f"  {name:<12}{purpose}" for name, purpose in COMMANDS.items())
    codes = "\n".join(f"  {code:<12}{meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        "flynn",
        "Talk to a local llama-server.",
        f"commands:\n{commands}\n\nexit codes:\n{codes}\n\nflynn COMMAND --help tells more of one.",
        usage="flynn COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"flynn {__version__}")
    if not argv:
        terminal.say(parser.format_help().rstrip())
        return USAGE
    if argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if argv[0].startswith("-"):
        raise UsageError(f"unknown option {argv[0]!r}: the options of a command follow it (see flynn --help)")
    raise UsageError(f"unknown command {argv[0]!r}{suggestion(argv[0], COMMANDS)} (there is: {', '.join(COMMANDS)})")


def _accept_any_input() -> None:
    """Read what is not in the terminal's encoding as U+FFFD instead of failing; where that is ASCII, read UTF-8."""
    import codecs
    import io

    if isinstance(sys.stdin, io.TextIOWrapper):
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")


def _end_by_exception() -> List[signal.Signals]:
    """Let SIGTERM and SIGHUP leave by way of `finally`: a resumable stream has to tell the server to stop.

    Returns:
        Those of them for which this was done.
    """

    def leave(number: int, frame: Optional[FrameType]) -> NoReturn:
        raise SystemExit(128 + number)

    caught = []
    for number in [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]:  # not on Windows
        try:
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
                signal.signal(number, leave)
                caught.append(number)
        except ValueError:
            pass  # not in the main thread, which alone may set this
    return caught


def report(error: BaseException, terminal: Terminal) -> int:
    """Say in one line what went wrong, where that is not plain already, and return the exit code.

    Raises:
        BaseException: the error itself, if it is neither Flynn's nor the system's but a bug.
    """
    ended = exit_code(error)
    try:
        if ended == CLOSED_PIPE:
            terminal.abandon()
        elif ended == INTERRUPTED:
            terminal.break_line()
        elif isinstance(error, FlynnError):
            terminal.fail(f"{error}{'; flynn status tells what to do' if ended == NOT_RUNNING else ''}")
        elif isinstance(error, MemoryError):
            terminal.fail("out of memory")
        elif isinstance(error, OSError):
            terminal.abandon()
            terminal.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        else:
            raise error
    except OSError:
        terminal.abandon()
    return ended
