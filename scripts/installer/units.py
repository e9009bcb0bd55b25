"""The units on disk and in systemd: what would change, putting it in place with a backup, starting, removing."""

from __future__ import annotations

import difflib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable

from . import systemd
from .errors import EXIT_UNAVAILABLE, InstallError
from .files import free_name, write_atomically
from .unit import ALL_UNITS, MARK, PROXY_SERVICE, PROXY_SOCKET, SERVICE

TOO_MANY_RESTARTS = 3


def difference(units: Mapping[str, str], unit_dir: Path) -> str:
    """A unified diff from what is there to what shall be; units that are no longer wanted end in nothing."""
    text = []
    for name in ALL_UNITS:
        path = unit_dir / name
        old, new = _text(path), units.get(name, "")
        if path.exists() and old != new:
            lines = difflib.unified_diff(
                old.splitlines(True), new.splitlines(True), str(path), str(path) if new else "/dev/null"
            )
            text += [line if line.endswith("\n") else f"{line}\n" for line in lines]
    return "".join(text)


def changed(units: Mapping[str, str], unit_dir: Path) -> bool:
    """Whether any unit is missing, different, or no longer wanted."""
    return any(_text(unit_dir / name) != units.get(name, "") for name in ALL_UNITS)


def put_in_place(units: Mapping[str, str], unit_dir: Path, say: Callable[[str], None]) -> None:
    """Writes what differs and removes what is no longer wanted; what was there is kept as `NAME.backup-DATE`."""
    for name in ALL_UNITS:
        path, new = unit_dir / name, units.get(name, "")
        if _text(path) == new:
            continue
        if path.exists():
            backup = free_name(path, time.strftime(".backup-%Y%m%d-%H%M%S"))
            shutil.copy2(path, backup)
            say(f"kept the old {name} as {backup}")
        if new:
            write_atomically(path, new)
            say(f"wrote {path}")
        else:
            path.unlink()


def front(units: Mapping[str, str]) -> str:
    """The unit that is enabled: the service itself, or the socket that starts it."""
    return PROXY_SOCKET if PROXY_SOCKET in units else SERVICE


def stop_what_changes(units: Mapping[str, str], unit_dir: Path, environ: Mapping[str, str]) -> None:
    """Stops and disables the running units of the other kind, before the files are changed."""
    for name in (PROXY_SOCKET, PROXY_SERVICE, SERVICE):
        if (unit_dir / name).exists() and name != front(units):
            if systemd.is_active(environ, name):
                systemd.control(environ, "stop", name)
            if _text(unit_dir / name) != units.get(name, "") and systemd.is_enabled(environ, name):
                systemd.control(environ, "disable", name)


def start(units: Mapping[str, str], environ: Mapping[str, str], *, anew: bool) -> bool:
    """Has systemd read the units, enables and starts them.

    Args:
        anew: whether something changed, so that what runs has to be started again.

    Returns:
        Whether anything had to be done.
    """
    name = front(units)
    # A run that was cut off may have written units that systemd has not read yet.
    anew = anew or any(systemd.state(environ, unit)["NeedDaemonReload"] == "yes" for unit in units)
    if anew:
        systemd.control(environ, "daemon-reload")
    enabled, active = systemd.is_enabled(environ, name), systemd.is_active(environ, name)
    if not enabled:
        systemd.control(environ, "enable", name)
    if anew or not active:
        for unit in units:
            systemd.forget_failure(environ, unit)
        systemd.control(environ, "restart", name)
    return anew or not (enabled and active)


def still_alive(environ: Mapping[str, str]) -> None:
    """Raises InstallError, with the end of the log, once the service has failed or keeps being restarted."""
    known = systemd.state(environ, SERVICE)
    if known["ActiveState"] != "failed" and int(known["NRestarts"] or 0) < TOO_MANY_RESTARTS:
        return
    log = systemd.last_lines(environ) or "(no log: see make service-logs)"
    # CLD_EXITED of waitid(2) is 1; the others mean a signal.
    how = ("exit code " if known["ExecMainCode"] == "1" else "signal ") + known["ExecMainStatus"]
    told = f"{SERVICE} does not stay up (last ended with {how}, started again {known['NRestarts']} times)"
    raise InstallError(told, hint=log, status=EXIT_UNAVAILABLE)


def remove(unit_dir: Path, environ: Mapping[str, str], say: Callable[[str], None], *, running: bool) -> None:
    """Stops, disables and deletes our units.

    Args:
        running: whether the user's systemd can be talked to; else only the files go.
    """
    present = [name for name in (PROXY_SOCKET, PROXY_SERVICE, SERVICE) if (unit_dir / name).exists()]
    for name in present:
        if running:
            systemd.control(environ, "disable", "--now", name)
        for wants in unit_dir.glob(f"*.wants/{name}"):
            wants.unlink()
        (unit_dir / name).unlink()
        say(f"removed {unit_dir / name}")
    if present and running:
        systemd.control(environ, "daemon-reload")
        for name in present:
            systemd.forget_failure(environ, name)


def foreign(unit_dir: Path) -> list[Path]:
    """Units of our names that this installer did not write."""
    paths = [unit_dir / name for name in ALL_UNITS if (unit_dir / name).exists()]
    return [path for path in paths if MARK not in _text(path)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if os.path.lexists(path) else ""
