"""The unit on disk and in systemd: what would change, putting it in place with a backup, starting, removing."""

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
SILENT_SECONDS = 10.0  # it listens before it loads its model
# Earlier versions started the server on demand with these. They are removed: it now gives its memory back by itself.
PROXY_SOCKET = "llama-server-proxy.socket"
PROXY_SERVICE = "llama-server-proxy.service"
ALL_UNITS = (PROXY_SOCKET, PROXY_SERVICE, SERVICE)
# Lines that earlier versions wrote into the unit and this one does not.
_OLD_LINES = frozenset(
    {
        "# Five failed starts and it stays down: a model that cannot be loaded is not tried for ever.",
        "StartLimitBurst=5",
    }
)
_LISTENING = re.compile(r"listening on https?://(?:\[[^\]]*\]|[^:/]*):(\d{1,5})\b")
_FAILURE = re.compile(r"\b(?:error|failed|couldn't|cannot|unable|terminate|what\(\))", re.IGNORECASE)


def difference(text: str, unit_dir: Path) -> str:
    """A unified diff from what is there to what shall be; units that are no longer wanted end in nothing."""
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


def is_mended(text: str, unit_dir: Path) -> bool:
    """Whether all that changes is what earlier versions wrote otherwise, so that nobody need be asked."""
    old = _text(unit_dir / SERVICE)
    if (
        old is None
        or MARK not in old
        or any(_text(unit_dir / name) is not None for name in (PROXY_SOCKET, PROXY_SERVICE))
    ):
        return False
    return set(old.splitlines()) <= set(text.splitlines()) | _OLD_LINES


def changed(text: str, unit_dir: Path) -> bool:
    """Whether the unit is missing or different, or one is there that is no longer wanted."""
    return any(_text(unit_dir / name) != (text if name == SERVICE else None) for name in ALL_UNITS)


def put_in_place(text: str, unit_dir: Path, say: Callable[[str], None]) -> None:
    """Writes what differs and removes what is no longer wanted; what was there is kept as `NAME.backup-DATE`."""
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
    """Stops and disables what earlier versions started the server with, before the files are removed."""
    for name in (PROXY_SOCKET, PROXY_SERVICE):
        if _text(unit_dir / name) is not None:
            systemd.control(environ, "disable", "--now", name)


def start(environ: Mapping[str, str], *, anew: bool) -> bool:
    """Has systemd read the unit, enables and starts it.

    Args:
        anew: whether something changed, so that what runs has to be started again.

    Returns:
        Whether anything had to be done.
    """
    # A run that was cut off may have written a unit that systemd has not read yet.
    anew = anew or systemd.state(environ, SERVICE)["NeedDaemonReload"] == "yes"
    if anew:
        systemd.control(environ, "daemon-reload")
    enabled, active = systemd.is_enabled(environ, SERVICE), systemd.is_active(environ, SERVICE)
    if not enabled:
        systemd.control(environ, "enable", SERVICE)
    if anew or not active:
        systemd.forget_failure(environ, SERVICE)
        systemd.control(environ, "restart", SERVICE)
    return anew or not (enabled and active)


def still_alive(environ: Mapping[str, str], port: Optional[int], seconds: float) -> None:
    """Raises InstallError once waiting for the service is pointless.

    That is: it has failed, it keeps being restarted, or it listens at another port. The reason comes from the log of
    this start; where there is no log, llama-server's other usual port is looked at.

    Args:
        port: where it should listen; None for a UNIX socket.
        seconds: how long it has been waited for.
    """
    known = systemd.state(environ, SERVICE)
    log = systemd.log_of(environ, known["InvocationID"])
    # While a start goes on, it is not known yet how it ends: that is seen in the pause before the next.
    runs, restarts = known["ExecMainCode"] == "0", int(known["NRestarts"] or 0)
    if known["ActiveState"] != "failed" and (restarts < TOO_MANY_RESTARTS or runs):
        ports = [int(number) for line in log for number in _LISTENING.findall(line)]
        if not log and seconds > SILENT_SECONDS and not _listens(port) and _listens(NEW_PORT):
            ports = [NEW_PORT]
        if port is not None and ports and port not in ports:
            hint = "Something in its environment or options says so: systemctl --user cat llama-server"
            raise InstallError(f"llama-server listens at port {ports[-1]}, not at {port}", hint=hint)
        return
    # CLD_EXITED of waitid(2) is 1; the others mean a signal.
    how = ("exit code " if known["ExecMainCode"] == "1" else "signal ") + known["ExecMainStatus"]
    told = f"{SERVICE} does not stay up (last ended with {how}, started again {restarts} times)"
    reasons = [line for line in log if _FAILURE.search(line)][-5:] or log[-15:] or ["(no log: see make service-logs)"]
    raise InstallError(told, hint="\n".join(reasons), status=EXIT_UNAVAILABLE)


def _listens(port: Optional[int]) -> bool:
    """Whether anything listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def remove(unit_dir: Path, environ: Mapping[str, str], say: Callable[[str], None], *, running: bool) -> None:
    """Stops, disables and deletes our units.

    Args:
        running: whether the user's systemd can be talked to; else only the files go.
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
    """The units of our names that are there."""
    return [name for name in ALL_UNITS if os.path.lexists(unit_dir / name)]


def foreign(unit_dir: Path) -> list[Path]:
    """Units of our names that this installer did not write."""
    paths = [unit_dir / name for name in ALL_UNITS]
    return [path for path in paths if MARK not in (_text(path) or MARK)]


def port_of(unit_dir: Path) -> Optional[int]:
    """The port that the unit in place says; None if it says none."""
    text = _text(unit_dir / SERVICE) or ""
    found = re.search(r"^ExecStart=.* --port (\d{1,5})\b", text, re.MULTILINE)
    found = found or re.search(r"^Environment=LLAMA_ARG_PORT=(\d{1,5})$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _text(path: Path) -> Optional[str]:
    """The text of a unit, None if there is none.

    Raises:
        InstallError: something else has its name: a folder, a link to nothing, or to /dev/null, as `mask` makes it.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink() and os.path.realpath(path) == os.devnull:
        raise InstallError(f"{path.name} is masked", hint=f"systemctl --user unmask {path.name}")
    if not path.is_file():
        what = f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "not a file"
        raise InstallError(f"{path} is {what}", hint="Move it away, then run this again.")
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InstallError(f"{path}: cannot be read: {error.strerror or error}") from error
