"""A systemd user manager of its own for a test: private folders, a private cgroup, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

INSTALLER = Path(__file__).resolve().parents[2] / "scripts" / "install_service.py"
SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), None)
CGROUPS = Path("/sys/fs/cgroup")


class Session:
    """A user's home and environment; `run` runs the installer in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.runtime = root / "run"
        self.home.mkdir()
        self.runtime.mkdir(mode=0o700)
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
    def installer(self) -> Path:
        return INSTALLER

    @property
    def models(self) -> Path:
        return self.root / "models"

    def run(
        self, *arguments: str, environ: Optional[dict[str, str]] = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs the installer to its end."""
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

    def start(self, *arguments: str, environ: Optional[dict[str, str]] = None) -> subprocess.Popen[str]:
        """Starts the installer and returns at once."""
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
    """None if a private user manager can be started here, else what is missing."""
    if SYSTEMD is None or not shutil.which("systemctl"):
        return "systemd is not installed (apt-get install systemd)"
    if os.getuid() != 0:
        return "a user manager beside the login's own needs root"
    return None


@contextlib.contextmanager
def private_manager(session: Session) -> Iterator[None]:
    """Runs `systemd --user` for the session, in a cgroup of its own, until the block ends."""
    with booted():
        yield from _manager(session)


@contextlib.contextmanager
def booted() -> Iterator[None]:
    """Makes this machine look as if systemd were its init, until the block ends: see sd_booted(3)."""
    sign = Path("/run/systemd/system")
    made = [folder for folder in (sign, sign.parent) if not folder.exists()]
    sign.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _manager(session: Session) -> Iterator[None]:
    name = f"flynn-test-{os.getpid()}-{session.root.name}"
    roots = [CGROUPS / "systemd", CGROUPS / "unified", CGROUPS]
    groups = [root / name for root in roots if (root / "cgroup.procs").exists()]
    for group in groups:
        group.mkdir()
    log = (session.root / "systemd.log").open("w")
    enter = " && ".join([f"echo $$ > {group}/cgroup.procs" for group in groups] + [f"exec {SYSTEMD} --user"])
    environ = {**session.environ, "SYSTEMD_LOG_TARGET": "console"}
    manager = subprocess.Popen(["/bin/sh", "-c", enter], env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while session.systemctl("is-system-running") not in ("running", "degraded"):
            if time.monotonic() > deadline or manager.poll() is not None:
                raise RuntimeError("systemd --user did not come up:\n" + Path(log.name).read_text())
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
    """A folder with a short name: the path of a UNIX socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="flynn-", dir="/tmp") as folder:
        yield Path(folder)
