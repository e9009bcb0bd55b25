"""Kill the installer before a call that changes a file: a second run must give the result of an undisturbed one."""

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

from gguf import random_model
from service import hub as fake
from service.stand_in import write_server

INSTALLER = Path(__file__).resolve().parents[2] / "scripts" / "install_service.py"
MODEL = "tiny.gguf"
FOREIGN = "[Service]\nExecStart=/opt/mine\n"

# Runs the installer and kills it before the N-th call that may change a file. Prints the number of calls.
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
    """A home directory with a llama-server.service of another program, and another unit."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.units = folder / ".config" / "systemd" / "user"
        self.environ = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "HF_ENDPOINT": endpoint}
        self.units.mkdir(parents=True)
        (self.units / "llama-server.service").write_text(FOREIGN)
        (self.units / "other.service").write_text("[Service]\n")

    def run(self, *arguments: str, limit: int = 0) -> Tuple[int, int]:
        """Run the installer; kill it before the call `limit` (0: never). Returns its exit code and number of calls."""
        command = [sys.executable, "-c", KILLER, str(limit), str(INSTALLER), *arguments]
        done = subprocess.run(command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        calls = done.stdout.rpartition("calls ")[2]
        return done.returncode, int(calls) if done.returncode == 0 else limit

    def files(self) -> Dict[str, bytes]:
        """Return all files by path, without what differs from run to run: keys, times, and the dates of backups."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not name.endswith("api-key"):
                name = name.partition(".backup-")[0] + (".backup" if ".backup-" in name else "")
                files[name] = _stable_fields(path) if name.endswith("service.json") else path.read_bytes()
        return files


def kill_everywhere(seed: str, *, limit: int) -> Dict[str, int]:
    """Kill the installation and the removal before each call, or before `limit` random calls. Returns the counts."""
    random_, counts = random.Random(seed), {"installations": 0, "removals": 0}
    with tempfile.TemporaryDirectory(prefix="flynn-kill-") as folder, fake.running() as hub:
        root = Path(folder)
        hub.files[MODEL] = random_model(300_000)
        server = write_server(root / "llama-server")
        install = ["--model", hub.spec(MODEL), "--server", server, "--no-start", "--yes", "--api-key", "--ignore-fit"]
        whole = Home(root / "home", hub.endpoint)
        calls = whole.run(*install)[1]
        installed = whole.files()
        assert FOREIGN.encode() in installed.values()
        for number in _sample(random_, calls, limit):
            home = _new_home(root, hub.endpoint)
            home.run(*install, limit=number)
            assert home.run(*install)[0] == 0
            assert home.files() == installed, f"killed before call {number} of {calls}"
            counts["installations"] += 1
        whole.run(*install)
        remove = ["uninstall", "--delete-model"]
        calls = whole.run(*remove)[1]
        removed = whole.files()
        assert FOREIGN.encode() in removed.values()
        for number in _sample(random_, calls, limit):
            home = _new_home(root, hub.endpoint)
            home.run(*install)
            home.run(*remove, limit=number)
            home.run(*remove)
            assert home.files() == removed, f"removal killed before call {number} of {calls}"
            counts["removals"] += 1
    return counts


def _stable_fields(record: Path) -> bytes:
    """Return the record without its fields about keys: after a kill, a generated key may count as the user's own."""
    content = json.loads(record.read_text())
    return json.dumps([content["model_files"], content["config_text"]]).encode()


def _new_home(root: Path, endpoint: str) -> Home:
    """Create the home again at the same path, because the installed files contain the path."""
    shutil.rmtree(root / "home")
    return Home(root / "home", endpoint)


def _sample(random_: random.Random, calls: int, limit: int) -> List[int]:
    return sorted(random_.sample(range(1, calls + 1), min(limit, calls)))
