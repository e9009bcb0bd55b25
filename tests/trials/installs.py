"""An installer that is killed before any of its calls that change a file: run again, it ends as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

from service import hub as fake
from service.gguf_file import model
from service.stand_in import write_server

INSTALLER = Path(__file__).resolve().parents[2] / "scripts" / "install_service.py"
MODEL = "tiny.gguf"
FOREIGN = "[Service]\nExecStart=/opt/mine\n"

# Runs the installer, and kills it before the N-th call that may change a file. Prints how many there were.
KILLER = """
import atexit, os, runpy, signal, sys, threading
limit, calls = int(sys.argv[1]), [0]
watched = {"open", "FileIO", "write", "flush", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "utime"}
def watch(frame, event, function):
    if event == "c_call" and getattr(function, "__name__", "") in watched:
        calls[0] += 1
        if calls[0] == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[2:]
atexit.register(lambda: print("calls", calls[0], file=sys.__stdout__))
threading.setprofile(watch)
sys.setprofile(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Home:
    """A user's home with a unit that another program wrote, and a configuration of systemd's beside it."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.units = folder / ".config" / "systemd" / "user"
        self.environ = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "HF_ENDPOINT": endpoint}
        self.units.mkdir(parents=True)
        (self.units / "llama-server.service").write_text(FOREIGN)
        (self.units / "other.service").write_text("[Service]\n")

    def run(self, *arguments: str, limit: int = 0) -> Tuple[int, int]:
        """The installer's exit code, and how many calls it made; killed before the call `limit`."""
        command = [sys.executable, "-c", KILLER, str(limit), str(INSTALLER), *arguments]
        done = subprocess.run(command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        counted = done.stdout.rpartition("calls ")[2]
        return done.returncode, int(counted) if done.returncode == 0 else limit

    def files(self) -> Dict[str, bytes]:
        """All files by their paths, but for what differs from run to run: keys, times, and the dates of backups."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not name.endswith("api-key"):
                name = name.partition(".backup-")[0] + (".backup" if ".backup-" in name else "")
                found[name] = _what_is_ours(path) if name.endswith("service.json") else path.read_bytes()
        return found


def kill_everywhere(seed: str, *, most: int) -> Dict[str, int]:
    """Kill installing and uninstalling before so many of their calls each, or all; what was counted."""
    choose, counts = random.Random(seed), {"installations": 0, "removals": 0}
    with tempfile.TemporaryDirectory(prefix="flynn-kill-") as folder, fake.running() as hub:
        root = Path(folder)
        hub.files[MODEL] = model(300_000)
        server = write_server(root / "llama-server")
        install = ["--model", hub.spec(MODEL), "--server", server, "--no-start", "--yes", "--api-key", "--ignore-fit"]
        whole = Home(root / "home", hub.endpoint)
        calls = whole.run(*install)[1]
        installed = whole.files()
        assert FOREIGN.encode() in installed.values()
        for limit in _some(choose, calls, most):
            home = _fresh(root, hub.endpoint)
            home.run(*install, limit=limit)
            assert home.run(*install)[0] == 0
            assert home.files() == installed, f"killed before call {limit} of {calls}"
            counts["installations"] += 1
        whole.run(*install)
        remove = ["uninstall", "--delete-model"]
        calls = whole.run(*remove)[1]
        removed = whole.files()
        assert FOREIGN.encode() in removed.values()
        for limit in _some(choose, calls, most):
            home = _fresh(root, hub.endpoint)
            home.run(*install)
            home.run(*remove, limit=limit)
            home.run(*remove)
            assert home.files() == removed, f"removal killed before call {limit} of {calls}"
            counts["removals"] += 1
    return counts


def _what_is_ours(record: Path) -> bytes:
    """The record less what is about keys; a key whose maker was killed at once is taken for one of the user's."""
    content = json.loads(record.read_text())
    return json.dumps([content["model_files"], content["config_text"]]).encode()


def _fresh(root: Path, endpoint: str) -> Home:
    """The home anew, at the same place: its path is in what is written."""
    shutil.rmtree(root / "home")
    return Home(root / "home", endpoint)


def _some(choose: random.Random, calls: int, most: int) -> List[int]:
    every = range(1, calls + 1)
    return list(every) if most >= calls else sorted(choose.sample(every, most))
