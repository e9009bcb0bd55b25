"""A real llama.cpp server as a child process, for the demo, the tests and the benchmarks.

    with RealServer(parallel=1) as server:
        client = LlamaCppClient(server.endpoint)

It listens on loopback. On Linux the kernel kills it when the thread that started it ends, for whatever reason.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Optional, Sequence, Union

import environment

Option = Union[str, int, bool, Path, None]


class ServerFailed(Exception):
    """The server ended, or was not ready in time. The message ends with the last lines of its log."""


class RealServer:
    """A server with llama-server's options, written with underscores: `ctx_size=8192`, `metrics=True`.

    `with` starts it and waits until the model is loaded; `start` only starts it.

    Args:
        command: the command that starts the server; by default environment.server_command().
        model: the path of a GGUF file; by default that of environment.model().
        port: the TCP port; by default a free one.
        host: `127.0.0.1`, or the path of a UNIX socket, which must end in `.sock`.
        api_key: passed in the server's environment: other users can read a command line.
        ctx_size: tokens of context, shared by all slots (4096).
        parallel: the number of slots (4).
        threads: the number of threads (1). More threads would be slower while other programs use the cores: ggml's
            threads wait for each other in a busy loop.
        options: any other option that scripts/xllamacpp_server.py lists. True makes a flag; None and False omit it.

    Attributes:
        endpoint: the URL for a client. The port is reserved for this server until `close`.

    Raises:
        ServerFailed: the server ended, or was not ready in time.
        environment.Unavailable: this machine cannot run a server.

    Example: `RealServer(chat_template_file="tests/data/tools.jinja", api_key="secret")`
    """

    def __init__(
        self, *, command: Optional[Sequence[str]] = None, api_key: Optional[str] = None, **options: Option
    ) -> None:
        command = command or environment.server_command()
        if "model" not in options:
            options = {"model": environment.model(), "alias": "SmolLM2-135M-Instruct", **options}
        options = {"host": "127.0.0.1", "ctx_size": 4096, "parallel": 4, "threads": 1, **options}
        # This socket is bound but does not listen: it keeps other programs off the port. SO_REUSEADDR lets the server
        # bind the same port, because the server sets the option, too (socket(7)).
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", int(str(options.get("port") or 0))))
        self._port: int = self._reservation.getsockname()[1]
        self._path = str(options["host"]) if str(options["host"]).endswith(".sock") else None
        self._prefix = str(options.get("api_prefix") or "")
        self.endpoint = f"unix://{self._path}" if self._path else f"http://127.0.0.1:{self._port}{self._prefix}"
        self._command = [*command, *_arguments({**options, "port": self._port})]
        self._environment = {**os.environ, "LLAMA_API_KEY": api_key} if api_key else None
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        self._process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        """Start the process. After a moment it answers with 503, and once the model is loaded with 200."""
        if self._path:
            Path(self._path).unlink(missing_ok=True)  # a killed server leaves its socket behind
        self._process = subprocess.Popen(
            [sys.executable, "-ES", __file__, str(os.getpid()), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,  # so that Ctrl-C on the terminal does not reach the server
        )

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Wait until the model is loaded. Raises ServerFailed if the process ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.health() in (None, 503):
            if self._process is None or self._process.poll() is not None:
                code = self._process and self._process.returncode
                raise ServerFailed(f"the server ended with code {code}:{self._end_of_log()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server was not ready after {timeout:g} seconds:{self._end_of_log()}")
            time.sleep(0.02)

    def health(self) -> Optional[int]:
        """Return the status of `/health`: 503 while the model loads, then 200; None if no server answers.

        With an `api_prefix` and a key the status is 401 instead of 200: llama.cpp (b11549) then requires the key here.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            if self._path:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(self._path)
            connection.request("GET", f"{self._prefix}/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    @property
    def pid(self) -> Optional[int]:
        """The process ID of the server; None if it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log(self) -> str:
        """The output of the server, since its first start."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self) -> None:
        """End the process with SIGTERM, and after 10 seconds with SIGKILL. Does nothing if there is no process."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start the server again at the same endpoint and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_until_ready()

    def close(self) -> None:
        """Stop the server and release its port."""
        self.stop()
        self._reservation.close()
        self._log.close()

    def __enter__(self) -> RealServer:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_of_log(self) -> str:
        return "\n".join(["", *self.log.rstrip().splitlines()[-5:]])


def _arguments(options: dict[str, Option]) -> List[str]:
    """Return the options as a command line.

    Example: `{"ctx_size": 4096, "metrics": True}` becomes `--ctx-size 4096 --metrics`
    """
    arguments = []
    for name, value in options.items():
        if value is not None and value is not False:
            arguments.append("--" + name.replace("_", "-"))
            if value is not True:
                arguments.append(str(value))
    return arguments


def _become(parent: int, command: List[str]) -> None:
    """Replace this process, a child of `parent`, by `command`. On Linux the kernel kills it when the parent ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before prctl
            return
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
