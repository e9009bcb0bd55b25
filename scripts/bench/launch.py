"""Measure whole processes from outside: wall time and peak memory.

On Linux, ru_maxrss of a process includes its memory before execve(2), which after vfork(2) is the memory of its parent.
So the parent has to be smaller than every measured process: it is a bare Python without the site module, which starts
one process after the other and waits for each with wait4(2).
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Dict, List

# Reads one command per line, the repr of a list of arguments. Writes nanoseconds, KiB and status. Imports only built-in
# modules, to stay small.
LAUNCHER = """
import posix, sys, time
devices = [(posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0)]
devices += [(posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0)]
for line in sys.stdin:
    command = eval(line)
    start = time.perf_counter_ns()
    pid = posix.posix_spawn(command[0], command, posix.environ, file_actions=devices)
    _, status, usage = posix.wait4(pid, 0)
    wall = time.perf_counter_ns() - start
    print(wall, usage.ru_maxrss, status, flush=True)
"""


@dataclass(frozen=True)
class Process:
    """The wall seconds and the peak memory in bytes of a process."""

    wall: float
    memory: int


class Launcher:
    """Start processes with these environment variables, and /dev/null as standard input and output.

    Example: `with Launcher(python, {}) as launcher: launcher.run([python, "-c", "pass"]).wall`
    """

    def __init__(self, python: str, variables: Dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [python, "-I", "-S", "-c", LAUNCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            text=True,
            bufsize=1,
            start_new_session=True,  # keeps Ctrl-C from the measured processes
        )

    def run(self, command: List[str]) -> Process:
        """Run a command until it ends. Raises ChildFailed if its status is not 0."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{command!r}\n")
        wall, kibibytes, status = self._process.stdout.readline().split()
        if status != "0":
            raise ChildFailed(f"command ended with status {status}: {' '.join(command)}")
        return Process(int(wall) / 1e9, int(kibibytes) * 1024)

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()  # the launcher ends after its current process
        self._process.wait()
        self._process.stdout.close()


class ChildFailed(Exception):
    """A measured process failed. Its error message is on standard error."""
