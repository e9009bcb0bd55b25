"""Run systemctl, journalctl and loginctl for the user's systemd."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import Optional

from .errors import EXIT_UNAVAILABLE, InstallError

_PREPARE = 'To prepare everything without starting it: make install-service ARGS="--no-start …"'


def runtime_dir(environ: Mapping[str, str]) -> str:
    """Return the user's XDG_RUNTIME_DIR, or its default: `su` and cron do not set the variable."""
    return environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"


def problem(environ: Mapping[str, str]) -> Optional[InstallError]:
    """Return None if the user's systemd is reachable, else an error with the commands that help."""
    system = platform.system()
    if system != "Linux":
        return InstallError(f"{system} has no systemd: a service needs Linux", hint=_PREPARE, status=EXIT_UNAVAILABLE)
    if not shutil.which("systemctl", path=environ.get("PATH")) or not os.path.isdir("/run/systemd/system"):
        return InstallError("systemd does not run on this machine", hint=_without_systemd(), status=EXIT_UNAVAILABLE)
    if os.path.exists(os.path.join(runtime_dir(environ), "systemd", "private")):
        done = _systemctl(environ, "show-environment")
        if done.returncode == 0:
            return None
        reason = done.stderr.strip()
    else:
        reason = "no user manager is running (a login by ssh or su may not start one)"
    user = environ.get("USER") or str(os.getuid())
    hint = f"sudo loginctl enable-linger {user}\nexport XDG_RUNTIME_DIR=/run/user/{os.getuid()}\nThen run it again."
    return InstallError(f"the user's systemd cannot be reached: {reason}", hint=hint, status=EXIT_UNAVAILABLE)


def _without_systemd() -> str:
    if "microsoft" in platform.release().lower():
        command = (
            r"In WSL: printf '[boot]\nsystemd=true\n' | sudo tee -a /etc/wsl.conf   then in Windows: wsl --shutdown"
        )
        return f"{command}\n{_PREPARE}"
    return f"In a container without systemd, run llama-server as the main process.\n{_PREPARE}"


def control(environ: Mapping[str, str], *arguments: str) -> str:
    """Run `systemctl --user`. Returns its output.

    Raises:
        InstallError: systemctl failed; the message quotes it.
    """
    done = _systemctl(environ, *arguments)
    if done.returncode:
        reason = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise InstallError(f"systemctl --user {' '.join(arguments)}: {reason}")
    return done.stdout


def state(environ: Mapping[str, str], unit: str) -> dict[str, str]:
    """Return some properties of a unit by name: its state, invocation ID, and how its main process ended."""
    names = "ActiveState,NRestarts,NeedDaemonReload,ExecMainCode,ExecMainStatus,InvocationID"
    lines = control(environ, "show", f"--property={names}", unit).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def is_active(environ: Mapping[str, str], unit: str) -> bool:
    return _systemctl(environ, "is-active", unit).returncode == 0


def is_enabled(environ: Mapping[str, str], unit: str) -> bool:
    return _systemctl(environ, "is-enabled", unit).returncode == 0


def log_of(environ: Mapping[str, str], invocation: str, count: int = 200) -> list[str]:
    """Return the last log lines of one start of a unit; empty if there is no readable journal.

    Args:
        invocation: the InvocationID of the start.
        count: the number of lines.
    """
    if not invocation:
        return []
    command = ["journalctl", "-q", "--no-pager", "-o", "cat", "-n", str(count), f"_SYSTEMD_INVOCATION_ID={invocation}"]
    try:
        done = subprocess.run(
            command, env=environment(environ), capture_output=True, text=True, errors="replace", timeout=30
        )
        return done.stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def enable_linger(environ: Mapping[str, str]) -> None:
    """Let the user's services start at boot, without a login.

    Raises:
        InstallError: it needs an administrator, or logind is not running.
    """
    user = environ.get("USER") or str(os.getuid())
    try:
        done = subprocess.run(["loginctl", "enable-linger"], env=dict(environ), capture_output=True, text=True)
        failure = done.stderr.strip() if done.returncode else None
    except OSError as error:
        failure = str(error)
    if failure is not None:
        raise InstallError(f"--linger: {failure}", hint=f"Run: sudo loginctl enable-linger {user}")


def lingers(environ: Mapping[str, str]) -> bool:
    """Return True if lingering is enabled; False if logind does not answer."""
    command = ["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"]
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == "yes"


def forget_failure(environ: Mapping[str, str], unit: str) -> None:
    """Clear the failed state of a unit and its count of starts."""
    _systemctl(environ, "reset-failed", unit)


def _systemctl(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemctl", "--user", *arguments]
    try:
        return subprocess.run(command, env=environment(environ), capture_output=True, text=True)
    except OSError as error:
        raise InstallError(f"systemctl cannot be run: {error}", status=EXIT_UNAVAILABLE) from error


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for systemctl and journalctl."""
    return {**environ, "XDG_RUNTIME_DIR": runtime_dir(environ), "SYSTEMD_PAGER": "cat"}
