"""The command `flynn`: what commands there are, how it begins, and in which exit code it ends.

A command is a module of this package; one costs the import of no other one.
"""

from __future__ import annotations

import signal
import sys

from ..errors import (
    AuthenticationError,
    ConfigError,
    FlynnError,
    ModelLoadingError,
    RequestTimeoutError,
    ServerNotRunningError,
    suggestion,
)
from .screen import Screen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import List, NoReturn, Optional, Protocol, Sequence, Tuple

    from .options import Given, Parser

    class Command(Protocol):
        """A module of this package that is a command."""

        EXAMPLES: str

        def add_options(self, parser: Parser) -> None: ...

        def run(self, given: Given, screen: Screen) -> int: ...


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

# Those from 64 on are sysexits(3)'s, 130 and 141 a shell's for SIGINT and SIGPIPE.
DONE, FAILED, USAGE, NOT_RUNNING, TRY_AGAIN, NOT_AUTHORISED, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 69, 75, 77, 130, 141
EXIT_CODES = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage or configuration",
    NOT_RUNNING: "server not running",
    TRY_AGAIN: "timed out or still loading",
    NOT_AUTHORISED: "not authorised",
    INTERRUPTED: "interrupted",
    CLOSED_PIPE: "output closed",
}
_CODES = {
    BrokenPipeError: CLOSED_PIPE,
    KeyboardInterrupt: INTERRUPTED,
    ServerNotRunningError: NOT_RUNNING,
    RequestTimeoutError: TRY_AGAIN,
    ModelLoadingError: TRY_AGAIN,
    AuthenticationError: NOT_AUTHORISED,
    ConfigError: USAGE,
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
    screen = Screen(sys.stdout, sys.stderr)
    _accept_any_input()
    caught = _end_by_exception()
    try:
        try:
            argv = sys.argv[1:] if argv is None else argv
            if not argv or argv[0] not in COMMANDS:
                return _without_command(argv, screen)
            command, parser = load(argv[0])
            return command.run(parser.parse(argv[1:]), screen)
        except SystemExit as end:  # --help, --version, a signal
            screen.flush()
            return end.code if isinstance(end.code, int) else DONE
    except (Exception, KeyboardInterrupt) as error:
        return report(error, screen)
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


def _without_command(argv: Sequence[str], screen: Screen) -> int:
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
        screen.say(parser.format_help().rstrip())
        return USAGE
    if argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    if argv[0].startswith("-"):
        raise ConfigError(f"unknown option {argv[0]!r}: the options of a command follow it (see flynn --help)")
    raise ConfigError(f"unknown command {argv[0]!r}{suggestion(argv[0], COMMANDS)} (there is: {', '.join(COMMANDS)})")


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
    for number in (signal.SIGTERM, signal.SIGHUP):
        try:
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
                signal.signal(number, leave)
                caught.append(number)
        except ValueError:
            pass  # not in the main thread, which alone may set this
    return caught


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends in."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)


def report(error: BaseException, screen: Screen) -> int:
    """Say in one line what went wrong, where that is not plain already, and return the exit code.

    Raises:
        BaseException: the error itself, if it is neither Flynn's nor the system's but a bug.
    """
    ended = exit_code(error)
    try:
        if ended == CLOSED_PIPE:
            screen.abandon()
        elif ended == INTERRUPTED:
            screen.break_line()
        elif isinstance(error, FlynnError):
            screen.fail(f"{error}{'; flynn status tells what to do' if ended == NOT_RUNNING else ''}")
        elif isinstance(error, MemoryError):
            screen.fail("out of memory")
        elif isinstance(error, OSError):
            screen.abandon()
            screen.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        else:
            raise error
    except OSError:
        screen.abandon()
    return ended
