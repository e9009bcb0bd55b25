"""A private systemd user manager for a test, with its own folders and cgroup, which are removed afterwards."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from .booted import SYSTEMD, booted

INSTALLER = Path(__file__).resolve().parents[2] / "scripts" / "install_service.py"
CGROUPS = Path("/sys/fs/cgroup")
_FIRST_FREE_UID = 70_000  # lower user IDs may belong to accounts: https://systemd.io/UIDS-GIDS/


class Session:
    """The home and the environment variables of a user. `run` runs the installer with them."""

    def __init__(self, root: Path, runtime: Optional[Path] = None) -> None:
        self.root = root
        self.home = root / "home"
        self.runtime = runtime or root / "run"
        self.home.mkdir()
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        self.unit_dir = self.home / ".config" / "systemd" / "user"
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LANG", "LC_"))}
        self.environ = {
            **kept,
            "HOME": str(self.home),
            "USER": "tester",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }

    @property
    def models(self) -> Path:
        return self.root / "models"

    def run(
        self, *arguments: str, environ: Optional[dict[str, str]] = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the installer until it ends."""
        return self.python(str(INSTALLER), *arguments, environ=environ, timeout=timeout)

    def python(
        self, *arguments: str, environ: Optional[dict[str, str]] = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**self.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def flynn(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run flynn with the configuration that the installer wrote, for at most so many seconds."""
        command = ["timeout", str(seconds), sys.executable, "-m", "flynn", *arguments]
        return subprocess.run(
            command,
            cwd=INSTALLER.parents[1],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def start(self, *arguments: str, environ: Optional[dict[str, str]] = None) -> subprocess.Popen[str]:
        """Start the installer and return at once."""
        return subprocess.Popen(
            [sys.executable, str(INSTALLER), *arguments],
            env={**self.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def systemctl(self, *arguments: str) -> str:
        command = ["systemctl", "--user", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip()

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", f"--property={name}", "--value", unit)


def why_no_manager() -> Optional[str]:
    """Return what is missing to start a private user manager; None if nothing is."""
    if SYSTEMD is None or not shutil.which("systemctl"):
        return "systemd is not installed (apt-get install systemd)"
    if os.getuid() != 0:
        return "a private user manager needs root"
    return None


@contextlib.contextmanager
def private_manager(session: Session) -> Iterator[None]:
    """Run `systemd --user` for the session, with its own cgroup and a journal, until the block ends."""
    with booted():
        yield from _manager(session)


@contextlib.contextmanager
def runtime_dir() -> Iterator[Path]:
    """Create /run/user/UID for an unused user ID, as logind does: the journal searches it for units."""
    run = Path("/run/user")
    created = not run.exists()
    run.mkdir(exist_ok=True)
    uids = range(_FIRST_FREE_UID + os.getpid() % 1000, 2**31)
    folder = next(folder for folder in (run / str(uid) for uid in uids) if not folder.exists())
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            if created:
                run.rmdir()


def _manager(session: Session) -> Iterator[None]:
    uid = session.runtime.name
    name = f"user.slice/user-{uid}.slice/user@{uid}.service"  # tells the journal which user a line belongs to
    roots = [CGROUPS / "systemd", CGROUPS / "unified", CGROUPS]
    groups = [root / name for root in roots if (root / "cgroup.procs").exists()]
    for group in groups:
        group.mkdir(parents=True)
    log = (session.root / "systemd.log").open("w")
    enter = " && ".join([f"echo $$ > {group}/cgroup.procs" for group in groups] + [f"exec {SYSTEMD} --user"])
    environ = {**session.environ, "SYSTEMD_LOG_TARGET": "console"}
    manager = subprocess.Popen(["/bin/sh", "-c", enter], env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while session.systemctl("is-system-running") not in ("running", "degraded"):
            if time.monotonic() > deadline or manager.poll() is not None:
                raise RuntimeError("systemd --user did not start:\n" + Path(log.name).read_text())
            time.sleep(0.1)
        yield
    finally:
        session.systemctl("exit")
        with contextlib.suppress(subprocess.TimeoutExpired):
            manager.wait(20)
        _kill_all_in(groups)
        manager.kill()
        manager.wait()
        log.close()
        for group in groups:
            _remove_group(group)
            for parent in (group.parent, group.parent.parent):
                with contextlib.suppress(OSError):  # it may contain other cgroups
                    parent.rmdir()


def _kill_all_in(groups: list[Path]) -> None:
    for group in groups:
        for procs in group.rglob("cgroup.procs"):
            for pid in procs.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _remove_group(group: Path) -> None:
    for folder in sorted(group.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        if folder.is_dir():
            with contextlib.suppress(OSError):
                folder.rmdir()
    deadline = time.monotonic() + 5
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Create a folder with a short path: the path of a UNIX socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="flynn-", dir="/tmp") as folder:
        yield Path(folder)


def on_terminal(
    session: Session, arguments: list[str], answer: bytes, environ: Optional[dict[str, str]] = None
) -> tuple[int, str, str]:
    """Run the installer on a terminal and type an answer. Returns exit code, standard error and standard output."""
    master, slave = pty.openpty()
    command = [sys.executable, str(INSTALLER), *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environ or session.environ, stdin=slave, **pipes) as process:
        os.write(master, answer)
        output, errors = process.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    return process.returncode, errors, output
