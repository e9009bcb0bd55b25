"""Run a Dask scheduler and workers as processes on loopback, for tests and benchmarks. Needs the package distributed.

with DaskCluster([endpoint, endpoint], threads=4) as cluster:
    run(["flynn", "batch", "in.jsonl", "-o", "out.jsonl", "--dask", cluster.address])
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Sequence

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0  # longest time for the start of a process


class DaskCluster:
    """A Dask cluster with one worker for each llama-server.

    Args:
        endpoints: the URLs of the servers.
        threads: the number of threads of each worker.

    Attributes:
        address: the address of the scheduler.
        workers: the processes of the workers.
    """

    def __init__(self, endpoints: Sequence[str], *, threads: int) -> None:
        self._endpoints, self._threads = endpoints, threads
        self._folder = tempfile.TemporaryDirectory()
        self._processes: List[subprocess.Popen[bytes]] = []
        self.workers: List[subprocess.Popen[bytes]] = []
        self.address = ""

    def __enter__(self) -> DaskCluster:
        try:
            self._start("dask_scheduler", "--port", "0")
            self.address = self._wait_for(r"Scheduler at: +(tcp://\S+)")
            for endpoint in self._endpoints:
                options = ("--no-nanny", "--nthreads", str(self._threads))
                self.workers.append(self._start("dask_worker", self.address, *options, FLYNN_ENDPOINT=endpoint))
                self._wait_for("(Registered to)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, command: str, *options: str, **variables: str) -> subprocess.Popen[bytes]:
        module = [sys.executable, "-m", f"distributed.cli.{command}", "--host", "127.0.0.1", "--no-dashboard"]
        variables = {"PYTHONPATH": str(ROOT), "DASK_TEMPORARY_DIRECTORY": self._folder.name, **variables}
        with self._log(len(self._processes)).open("wb") as file:
            process = subprocess.Popen([*module, *options], env={**os.environ, **variables}, stdout=file, stderr=file)
        self._processes.append(process)
        return process

    def _log(self, number: int) -> Path:
        return Path(self._folder.name, f"{number}.log")

    def _wait_for(self, pattern: str) -> str:
        """Wait until the log of the last started process matches. Returns the first group.

        Raises:
            RuntimeError: the process ended, or its log did not match within 60 s.
        """
        process, log = self._processes[-1], self._log(len(self._processes) - 1)
        deadline = time.monotonic() + _START_SECONDS
        while not (match := re.search(pattern, log.read_text(encoding="utf-8"))):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.05)
        return match[1]

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()
