"""The unit on disk and in systemd: show its changes, write it with a backup, start and remove it."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

from . import systemd
from .errors import EXIT_UNAVAILABLE, InstallError
from .files import free_name, write_atomically
from .unit import MARK, NEW_PORT, SERVICE

TOO_MANY_RESTARTS = 3
SILENT_SECONDS = 10.0  # longest time until llama-server listens, which it does before loading the model
# Obsolete units of earlier versions, which started the server on demand. llama-server now frees its memory itself.
PROXY_SOCKET = "llama-server-proxy.socket"
PROXY_SERVICE = "llama-server-proxy.service"
ALL_UNITS = (PROXY_SOCKET, PROXY_SERVICE, SERVICE)
# Lines of the unit that earlier versions wrote and this version does not.
_OLD_LINES = frozenset(
    {
        "# Five failed starts and it stays down: a model that cannot be loaded is not tried for ever.",
        "StartLimitBurst=5",
        "# Twenty starts within so many seconds and it stays down: a model that cannot be loaded is not tried "
        "for ever. Starts by",
        "# hand count, too; `systemctl --user reset-failed llama-server` forgets them.",
        "# The whole group is gone within 30 s of a stop, and with it what the model took of main and GPU memory.",
        "# Under memory pressure the model goes before the desktop does; a dump of its memory helps nobody.",
        "# What a user manager can enforce: it may drop no capabilities, and mounts nothing without user namespaces.",
    }
)
_LISTENING = re.compile(r"listening on https?://(?:\[[^\]]*\]|[^:/]*):(\d{1,5})\b")
_FAILURE = re.compile(r"\b(?:error|failed|couldn't|cannot|unable|terminate|what\(\))", re.IGNORECASE)


def difference(text: str, unit_dir: Path) -> str:
    """Return a unified diff from the existing units to the new one; obsolete units are shown as deleted."""
    lines = []
    for name in ALL_UNITS:
        path = unit_dir / name
        old, new = _text(path), text if name == SERVICE else ""
        if old is not None and old != new:
            diff = difflib.unified_diff(
                old.splitlines(True), new.splitlines(True), str(path), str(path) if new else "/dev/null"
            )
            lines += [line if line.endswith("\n") else f"{line}\n" for line in diff]
    return "".join(lines)


def is_known_update(text: str, unit_dir: Path) -> bool:
    """Return True if the existing unit has only lines of earlier versions, so that the update needs no consent."""
    old = _text(unit_dir / SERVICE)
    if (
        old is None
        or MARK not in old
        or any(_text(unit_dir / name) is not None for name in (PROXY_SOCKET, PROXY_SERVICE))
    ):
        return False
    return set(old.splitlines()) <= set(text.splitlines()) | _OLD_LINES


def changed(text: str, unit_dir: Path) -> bool:
    """Return True if the unit is missing or different, or an obsolete unit exists."""
    return any(_text(unit_dir / name) != (text if name == SERVICE else None) for name in ALL_UNITS)


def write(text: str, unit_dir: Path, say: Callable[[str], None]) -> None:
    """Write the unit if it differs and delete obsolete units. The old units are kept as `NAME.backup-DATE`."""
    for name in ALL_UNITS:
        path, new = unit_dir / name, text if name == SERVICE else None
        old = _text(path)
        if old == new:
            continue
        if old is not None:
            backup = free_name(path, time.strftime(".backup-%Y%m%d-%H%M%S"))
            shutil.copy2(path, backup)
            say(f"kept the old {name} as {backup}")
        if new is not None:
            write_atomically(path, new)
            say(f"wrote {path}")
        else:
            path.unlink()


def stop_old(unit_dir: Path, environ: Mapping[str, str]) -> None:
    """Stop and disable the obsolete units, before their files are deleted."""
    for name in (PROXY_SOCKET, PROXY_SERVICE):
        if _text(unit_dir / name) is not None:
            systemd.control(environ, "disable", "--now", name)


def start(environ: Mapping[str, str], *, restart: bool) -> bool:
    """Let systemd reload the unit, enable and start it.

    Args:
        restart: True if something changed, so that a running service has to be restarted.

    Returns:
        True if systemd had to do anything.

    Raises:
        InstallError: systemctl failed.
    """
    # An interrupted run may have written a unit that systemd has not loaded yet.
    restart = restart or systemd.state(environ, SERVICE)["NeedDaemonReload"] == "yes"
    if restart:
        systemd.control(environ, "daemon-reload")
    enabled, active = systemd.is_enabled(environ, SERVICE), systemd.is_active(environ, SERVICE)
    if not enabled:
        systemd.control(environ, "enable", SERVICE)
    if restart or not active:
        systemd.forget_failure(environ, SERVICE)
        systemd.control(environ, "restart", SERVICE)
    return restart or not (enabled and active)


def check_alive(environ: Mapping[str, str], port: Optional[int], seconds: float) -> None:
    """Check that waiting for the service still makes sense.

    Args:
        port: the port that the service should listen on; None for a UNIX socket.
        seconds: the time since the start.

    Raises:
        InstallError: the service has failed, keeps restarting, or listens on another port. The reason is from the log
            of this start. Without a log, llama-server's new default port is probed.
    """
    state = systemd.state(environ, SERVICE)
    log = systemd.log_of(environ, state["InvocationID"])
    # How a start ended is known only in the pause before the next start.
    runs, restarts = state["ExecMainCode"] == "0", int(state["NRestarts"] or 0)
    if state["ActiveState"] != "failed" and (restarts < TOO_MANY_RESTARTS or runs):
        ports = [int(number) for line in log for number in _LISTENING.findall(line)]
        if not log and seconds > SILENT_SECONDS and not _listens(port) and _listens(NEW_PORT):
            ports = [NEW_PORT]
        if port is not None and ports and port not in ports:
            hint = "Its environment or options set the port. To see them: systemctl --user cat llama-server"
            raise InstallError(f"llama-server listens on port {ports[-1]}, not on {port}", hint=hint)
        return
    # CLD_EXITED of waitid(2) is 1; the other codes mean a signal.
    status = ("exit code " if state["ExecMainCode"] == "1" else "signal ") + state["ExecMainStatus"]
    message = f"{SERVICE} keeps failing (last with {status}, restarted {restarts} times)"
    reasons = [line for line in log if _FAILURE.search(line)][-5:] or log[-15:] or ["(no log; try make service-logs)"]
    raise InstallError(message, hint="\n".join(reasons), status=EXIT_UNAVAILABLE)


def _listens(port: Optional[int]) -> bool:
    """Return True if a process listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def remove(unit_dir: Path, environ: Mapping[str, str], say: Callable[[str], None], *, running: bool) -> None:
    """Stop, disable and delete our units.

    Args:
        running: True if the user's systemd is reachable; otherwise only the files are deleted.

    Raises:
        InstallError: systemctl failed.
    """
    names = present(unit_dir)
    for name in names:
        if running:
            systemd.control(environ, "disable", "--now", name)
        for wants in unit_dir.glob(f"*.wants/{name}"):
            wants.unlink()
        (unit_dir / name).unlink(missing_ok=True)
        say(f"removed {unit_dir / name}")
    if names and running:
        systemd.control(environ, "daemon-reload")
        for name in names:
            systemd.forget_failure(environ, name)


def present(unit_dir: Path) -> list[str]:
    """Return the names of our units that exist."""
    return [name for name in ALL_UNITS if os.path.lexists(unit_dir / name)]


def foreign(unit_dir: Path) -> list[Path]:
    """Return the paths of units with our names that this installer did not write."""
    paths = [unit_dir / name for name in ALL_UNITS]
    return [path for path in paths if MARK not in (_text(path) or MARK)]


def port_of(unit_dir: Path) -> Optional[int]:
    """Return the port in the existing unit; None if it has none."""
    text = _text(unit_dir / SERVICE) or ""
    match = re.search(r"^ExecStart=.* --port (\d{1,5})\b", text, re.MULTILINE)
    match = match or re.search(r"^Environment=LLAMA_ARG_PORT=(\d{1,5})$", text, re.MULTILINE)
    return int(match[1]) if match else None


def _text(path: Path) -> Optional[str]:
    """Return the text of a unit; None if it does not exist.

    Raises:
        InstallError: the unit is masked (a link to /dev/null), a broken link, not a file, or cannot be read.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink() and os.path.realpath(path) == os.devnull:
        raise InstallError(f"{path.name} is masked", hint=f"Run: systemctl --user unmask {path.name}")
    if not path.is_file():
        problem = f"a broken link to {os.readlink(path)}" if path.is_symlink() else "not a file"
        raise InstallError(f"{path} is {problem}", hint="Move it away, then run the installer again.")
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InstallError(f"{path}: cannot be read: {error.strerror or error}") from error
