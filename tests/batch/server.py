"""Servers for batches: what the scripted server and nginx do here."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

from scripted import Peer, Script, ScriptedServer, chat, error, eventually, response, serve

from flynn import LlamaCppClient

Answer = Callable[[str], Optional[bytes]]


def echo(prompt: str) -> bytes:
    """An answer that says what was asked."""
    return response(chat(f"re: {prompt}"))


REFUSAL = response(error(400, "not that", "invalid_request_error"), "400 Bad Request")
BROKEN = response(error(500, "oops", "server_error"), "500 Internal Server Error")
UNAVAILABLE = response(b"<html>502</html>", "502 Bad Gateway", kind="text/html")


def answers(answer: Answer = echo, slots: int = 4, busy: Callable[[], int] = lambda: 0) -> Script:
    """A script for a server with slots. `answer` makes a response of a prompt; None closes the connection.

    Args:
        busy: how many slots are.
    """

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.method == "GET":
                states = [{"id": i, "is_processing": i < busy(), "n_ctx": 512} for i in range(slots)]
                peer.send(response(json.dumps(states).encode()))
                continue
            reply = answer(prompt_of(request.json))
            if reply is None:
                return
            peer.send(reply)

    return script


@contextlib.contextmanager
def serving(script: Script) -> Iterator[Tuple[ScriptedServer, LlamaCppClient]]:
    """A server, and a client of it."""
    with serve(script) as server, LlamaCppClient(server.endpoint) as client:
        yield server, client


def prompt_of(body: Any) -> str:
    return str(body["messages"][-1]["content"])


def prompts(server: ScriptedServer) -> List[str]:
    """What a server was asked, in the order in which it was."""
    return [prompt_of(request.json) for request in server.requests if request.method == "POST"]


class Gate:
    """An answer that waits until it is opened, and counts who waits.

    Attributes:
        waiting, most: how many wait, and the most that ever did.
    """

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.waiting = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, prompt: str) -> bytes:
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
    """The endpoint of a real nginx in front of servers, as the documentation has it."""
    command = shutil.which("nginx") or "/usr/sbin/nginx"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers = "\n".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
    (folder / "nginx.conf").write_text(
        f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream llama {{ {balance}; {servers} }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://llama;
            proxy_http_version 1.1;
            proxy_set_header Connection close;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
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

