"""Let a machine pass for one that systemd booted, for all tests that run at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PLACES = [Path("/lib/systemd/systemd"), Path("/usr/lib/systemd/systemd")]
SYSTEMD = next((path for path in PLACES if path.exists()), None)
STDOUT = Path("/run/systemd/journal/stdout")
FOLDERS = [Path("/run/systemd/system"), STDOUT.parent, Path("/run/log/journal")]  # sd_booted(3) looks for the first
STARTING, USERS = Path("/run/flynn-tests-starting.lock"), Path("/run/flynn-tests-users.lock")

# Stops the journal when the last process that holds a lock on USERS has released it, however that process ended.
# Arguments: the lock, the program, the folders to remove.
KEEPER = """
lock=$1 program=$2; shift 2
"$program" & journal=$!
flock "$lock" /bin/sh -c 'journal=$1; shift; kill $journal; rm -rf "$@"' sh $journal "$@"
"""


@contextlib.contextmanager
def booted() -> Iterator[None]:
    """Run systemd's journal in memory, and let sd_booted(3) say yes, until no test of any process needs it any more."""
    with STARTING.open("w") as starting, USERS.open("w") as users:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # waits while a journal is being stopped
        if not _journal_accepts():
            _start_journal()
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield


def _start_journal() -> None:
    assert SYSTEMD
    created = [str(folder) for folder in FOLDERS if not folder.exists()]
    for folder in FOLDERS[:2]:
        folder.mkdir(parents=True, exist_ok=True)
    keeper = ["/bin/sh", "-c", KEEPER, "sh", str(USERS), str(SYSTEMD.with_name("systemd-journald")), *created]
    null = subprocess.DEVNULL
    subprocess.run(["setsid", "--fork", *keeper], stdin=null, stdout=null, stderr=null, check=True)
    deadline = time.monotonic() + 20
    while not _journal_accepts():
        if time.monotonic() > deadline:
            raise RuntimeError("systemd-journald did not start within 20 seconds")
        time.sleep(0.05)


def _journal_accepts() -> bool:
    """Return whether a journal takes lines: one that was killed leaves its socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(STDOUT)) == 0
