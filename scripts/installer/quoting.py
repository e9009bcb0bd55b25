"""Escape words for the lines of a unit file, so that systemd passes each on unchanged.

The rules: systemd.service(5) "Command lines", systemd.syntax(7) "Quoting", systemd.unit(5) "Specifiers".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import EXIT_USAGE, InstallError

_PLAIN = re.compile(r"[\w%+,./:=@^-]+", re.ASCII)
_NOT_IN_PROGRAMS = "\"'\\"  # string_is_safe() of systemd's src/basic/string-util.c refuses such a path
_NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def exec_line(program: str, arguments: Sequence[str]) -> str:
    """Return the value of ExecStart= that runs the program at an absolute path with exactly these arguments.

    Raises:
        InstallError: the path is relative, or a word contains a NUL character.

    >>> print(exec_line("/bin/echo", ["50 %", "$HOME"]))
    /bin/echo "50 %%" "$$HOME"
    """
    if not program.startswith("/"):
        raise InstallError(f"{program!r}: systemd needs the absolute path of a program", status=EXIT_USAGE)
    if not program.isprintable() or any(char in program for char in _NOT_IN_PROGRAMS):
        return exec_line("/bin/sh", ["-c", 'exec "$0" "$@"', program, *arguments])
    # Variables are not expanded in the program's path, so its $ stay single.
    return " ".join([_word(program), *(_word(text).replace("$", "$$") for text in arguments)])


def _word(text: str) -> str:
    if "\0" in text:
        raise InstallError(f"{text!r}: an argument cannot contain a NUL character", status=EXIT_USAGE)
    escaped = text.replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return escaped
    return '"' + "".join(_NAMED.get(char) or _escaped(char) for char in escaped) + '"'


def _escaped(char: str) -> str:
    """Return a printable character unchanged; escape others, and bytes that are not UTF-8, in hexadecimal digits."""
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
