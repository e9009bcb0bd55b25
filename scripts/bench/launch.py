"""Whole processes, measured from outside: wall time and peak memory.

Linux counts in a process's ru_maxrss also what it was before it became another program, and a process that was just
started (vfork) is still its parent. So the parent has to be smaller than all that it measures: a bare Python, without
even its site module, which starts one process after the other and waits for each by wait4(2).
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Dict, List, Optional, Type

# Reads lines, each a list of arguments as Python writes it. Writes nanoseconds, KiB, status.
# It imports what is built in, no more.
LAUNCHER = """
import posix, sys, time
devices = [(posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0)]
devices += [(posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0)]
for line in sys.stdin:
    command = eval(line)
    began = time.perf_counter_ns()
    pid = posix.posix_spawn(command[0], command, posix.environ, file_actions=devices)
    _, status, usage = posix.wait4(pid, 0)
    wall = time.perf_counter_ns() - began
    print(wall, usage.ru_maxrss, status, flush=True)
"""


@dataclass(frozen=True)
class Process:
    """What a process took: seconds, and bytes at its largest."""

    wall: float
    memory: int


class Launcher:
    """Starts processes with this environment and nothing on their standard input and output.

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
            start_new_session=True,  # Ctrl-C is not for what is measured
        )

    def run(self, command: List[str]) -> Process:
        """Run to the end. Raises ChildFailed if the exit code is not 0."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{command!r}\n")
        wall, kibibytes, status = self._process.stdout.readline().split()
        if status != "0":
            raise ChildFailed(f"this ended with status {status}: {' '.join(command)}")
        return Process(int(wall) / 1e9, int(kibibytes) * 1024)

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()  # which ends it, after the process that it still waits for
        self._process.wait()
        self._process.stdout.close()


class ChildFailed(Exception):
    """A measured process failed, so there is nothing to compare. It has said why on standard error."""
