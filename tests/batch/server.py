"""Servers for batches: a llama-server whose answers the test chooses, and a real nginx."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

from answers import reply
from environment import ROOT
from pytest_httpserver import HTTPServer
from scripted import chat, error, eventually
from werkzeug import Request, Response

Answer = Callable[[str], Response]
README = ROOT / "flynn" / "batch" / "README.md"


def echo(prompt: str) -> Response:
    """Return an answer that repeats the prompt."""
    return answer(chat(f"re: {prompt}"))


def answer(body: Any = b"", status: int = 200, kind: str = "application/json") -> Response:
    """Return an answer; a body that is not bytes is sent as JSON."""
    return reply(body, status, kind)(Request({}))


def refusal(prompt: str = "") -> Response:
    """Return llama-server's answer to an invalid request."""
    return answer(error(400, "not that", "invalid_request_error"), 400)


def broken(prompt: str = "") -> Response:
    return answer(error(500, "oops", "server_error"), 500)


def unavailable(prompt: str = "") -> Response:
    """Return a proxy's answer when its server is down."""
    return answer(b"<html>502</html>", 502, "text/html")


class Llama:
    """A llama-server with slots, on pytest-httpserver.

    Args:
        answer: returns the response to a prompt.
        slots: number of slots.
        busy: returns the number of slots that are busy.

    Attributes:
        endpoint: URL of the server.
        bodies: JSON of the chat requests, in order of arrival.
    """

    def __init__(
        self, server: HTTPServer, answer: Answer = echo, *, slots: int = 4, busy: Callable[[], int] = lambda: 0
    ) -> None:
        self.endpoint = f"http://127.0.0.1:{server.port}"
        self.answer, self.slots, self.busy = answer, slots, busy
        self.bodies: List[Any] = []
        server.expect_request("/slots").respond_with_handler(self._answer_slots)
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._answer_chat)

    def _answer_slots(self, request: Request) -> Response:
        return answer([{"id": n, "is_processing": n < self.busy(), "n_ctx": 512} for n in range(self.slots)])

    def _answer_chat(self, request: Request) -> Response:
        body = json.loads(request.data)
        self.bodies.append(body)
        return self.answer(body["messages"][-1]["content"])

    @property
    def prompts(self) -> List[str]:
        """Prompts of the chat requests, in order of arrival."""
        return [body["messages"][-1]["content"] for body in self.bodies]


class Gate:
    """An answer that waits until the test sets `opened`.

    Attributes:
        opened: the event that releases all requests.
        waiting, most: number of requests that wait now, and its highest value so far.
    """

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, prompt: str) -> Response:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        self.opened.wait(30)
        with self._lock:
            self.waiting -= 1
        return echo(prompt)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def nginx(folder: Path, *ports: int, balance: str = "least_conn") -> Iterator[str]:
    """Run a real nginx in front of servers, configured as in the documentation. Yields its endpoint."""
    command = shutil.which("nginx") or "/usr/sbin/nginx"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
    site = README.read_text(encoding="utf-8").partition("```nginx\n")[2].partition("```")[0]
    for documented, here in (
        ("least_conn; server 10.0.0.1:8080; server 10.0.0.2:8080;", f"{balance}; {servers}"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
    ):
        assert documented in site
        site = site.replace(documented, here)
    (folder / "nginx.conf").write_text(
        f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    {site}
}}
""",
        encoding="utf-8",
    )
    process = subprocess.Popen([command, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    try:
        eventually(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
