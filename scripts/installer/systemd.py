"""Talking to the user's systemd: is it there, and what it does with our units."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import Optional

from .errors import EXIT_UNAVAILABLE, InstallError

_PREPARE = 'To prepare everything all the same: make install-service ARGS="--no-start …"'


def runtime_dir(environ: Mapping[str, str]) -> str:
    """The user's XDG_RUNTIME_DIR, also where a login (by `su`, in a cron job) left the variable out."""
    return environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"


def why_not(environ: Mapping[str, str]) -> Optional[InstallError]:
    """None if the user's systemd can be talked to, else what is wrong and what to type."""
    system = platform.system()
    if system != "Linux":
        return InstallError(f"{system} has no systemd: only Linux has", hint=_PREPARE, status=EXIT_UNAVAILABLE)
    if not shutil.which("systemctl", path=environ.get("PATH")) or not os.path.isdir("/run/systemd/system"):
        return InstallError("systemd does not run on this machine", hint=_without_systemd(), status=EXIT_UNAVAILABLE)
    if os.path.exists(os.path.join(runtime_dir(environ), "systemd", "private")):
        done = _systemctl(environ, "show-environment")
        if done.returncode == 0:
            return None
        said = done.stderr.strip()
    else:
        said = "no manager of this user runs (a login by ssh or su may have none)"
    user = environ.get("USER") or str(os.getuid())
    hint = f"sudo loginctl enable-linger {user}\nexport XDG_RUNTIME_DIR=/run/user/{os.getuid()}\nthen run it again."
    return InstallError(f"the user's systemd cannot be reached: {said}", hint=hint, status=EXIT_UNAVAILABLE)


def _without_systemd() -> str:
    if "microsoft" in platform.release().lower():
        how = r"In WSL: printf '[boot]\nsystemd=true\n' | sudo tee -a /etc/wsl.conf   then in Windows: wsl --shutdown"
        return f"{how}\n{_PREPARE}"
    return f"In a container nothing starts services: run llama-server as its main process instead.\n{_PREPARE}"


def control(environ: Mapping[str, str], *arguments: str) -> str:
    """Runs `systemctl --user` and returns what it printed.

    Raises:
        InstallError: it failed; the message is systemctl's own.
    """
    done = _systemctl(environ, *arguments)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise InstallError(f"systemctl --user {' '.join(arguments)}: {said}")
    return done.stdout


def state(environ: Mapping[str, str], unit: str) -> dict[str, str]:
    """What systemd knows of a unit: its state, which start this is, and how its main process ended."""
    names = "ActiveState,NRestarts,NeedDaemonReload,ExecMainCode,ExecMainStatus,InvocationID"
    lines = control(environ, "show", f"--property={names}", unit).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def is_active(environ: Mapping[str, str], unit: str) -> bool:
    return _systemctl(environ, "is-active", unit).returncode == 0


def is_enabled(environ: Mapping[str, str], unit: str) -> bool:
    return _systemctl(environ, "is-enabled", unit).returncode == 0


def log_of(environ: Mapping[str, str], invocation: str, count: int = 200) -> list[str]:
    """The end of what one start of a unit wrote; empty where there is no journal, or it cannot be read.

    Args:
        invocation: the start's InvocationID.
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
    """Lets the user's services run from boot on, without a login.

    Raises:
        InstallError: it needs an administrator, or logind does not run.
    """
    user = environ.get("USER") or str(os.getuid())
    try:
        done = subprocess.run(["loginctl", "enable-linger"], env=dict(environ), capture_output=True, text=True)
        said = done.stderr.strip() if done.returncode else None
    except OSError as error:
        said = str(error)
    if said is not None:
        raise InstallError(f"--linger: {said}", hint=f"sudo loginctl enable-linger {user}")


def lingers(environ: Mapping[str, str]) -> bool:
    """Whether the user's services run without a login; False where logind does not tell."""
    command = ["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"]
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == "yes"


def forget_failure(environ: Mapping[str, str], unit: str) -> None:
    """Takes a unit off the list of failed ones, if it is there."""
    _systemctl(environ, "reset-failed", unit)


def _systemctl(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemctl", "--user", *arguments]
    try:
        return subprocess.run(command, env=environment(environ), capture_output=True, text=True)
    except OSError as error:
        raise InstallError(f"systemctl cannot be run: {error}", status=EXIT_UNAVAILABLE) from error


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What systemctl and journalctl are run with."""
    return {**environ, "XDG_RUNTIME_DIR": runtime_dir(environ), "SYSTEMD_PAGER": "cat"}
