"""A fake model hub, which redirects to a CDN on another host. Tests can add faults to both."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Optional
from urllib.parse import unquote

HUB_HOST, CDN_HOST = "127.0.0.1", "127.0.0.2"
REPOSITORY = "acme/tiny-GGUF"
COMMIT = "c0ffee" + "0" * 34


@dataclass
class HubRequest:
    """A received request."""

    host: str
    path: str
    headers: dict[str, str]

    @property
    def is_peek(self) -> bool:
        return self.headers.get("range", "").startswith("bytes=0-")


Fault = Callable[["_Handler", bytes], None]


def status(code: int, **headers: str) -> Fault:
    """Return a fault: a response with this status instead of the file."""

    def answer(handler: _Handler, _: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def replace_body(body: bytes, **headers: str) -> Fault:
    """Return a fault: a 200 with this body instead of the file."""

    def answer(handler: _Handler, _: bytes) -> None:
        handler.send_response(200)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def cut(after: int, *, reset: bool = False) -> Fault:
    """Return a fault: the headers of the whole response, but only `after` bytes of the body."""

    def answer(handler: _Handler, body: bytes) -> None:
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True

    answer.partial = True  # type: ignore[attr-defined]
    return answer


@dataclass
class FakeHub:
    """The hub and its CDN.

    Attributes:
        files: the content by file name.
        digests: the SHA-256 that the hub reports, by file name; by default that of the content. None: it reports none.
        etags: the CDN's ETag by file name; by default from the digest.
        faults: each is used once, by the next request to the CDN for a file's body.
        head_faults: the same for requests for the first bytes of a file.
        api_faults: the same for requests to the hub's API.
        requests: the received requests.
        ranges: True if the CDN supports Range.
        rate: bytes/s of each connection; None for no limit.
        redirects: True if the hub redirects to the CDN; otherwise it sends the file itself.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, Optional[str]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    head_faults: list[Fault] = field(default_factory=list)
    api_faults: list[Fault] = field(default_factory=list)
    requests: list[HubRequest] = field(default_factory=list)
    ranges: bool = True
    rate: Optional[float] = None
    redirects: bool = True
    cdn_port: int = 0
    hub_port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return f"http://{HUB_HOST}:{self.hub_port}"

    def spec(self, name: str) -> str:
        return f"hf:{REPOSITORY}/{name}"

    def digest(self, name: str) -> Optional[str]:
        return self.digests.get(name, hashlib.sha256(self.files[name]).hexdigest())

    def bodies(self) -> list[HubRequest]:
        """Return the requests to the CDN for a file's body."""
        return [request for request in self.requests if request.host == CDN_HOST and not request.is_peek]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.wfile = io.BytesIO()
        self.do_GET()
        self.connection.sendall(self.wfile.getvalue().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    def do_GET(self) -> None:
        host = self.server.server_address[0]
        request = HubRequest(str(host), self.path, {name.lower(): value for name, value in self.headers.items()})
        with self.hub.lock:
            self.hub.requests.append(request)
        name = unquote(self.path).rsplit("/", 1)[-1]
        if self.path.endswith("/refs"):
            self._answer({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}]})
        elif self.path.startswith("/api/") and "/tree/" in self.path:
            files = [(name, len(body), self.hub.digest(name)) for name, body in self.hub.files.items()]
            self._answer([{"type": "file", "path": n, "size": s, "lfs": {"oid": d, "size": s}} for n, s, d in files])
        elif self.path.startswith("/api/"):
            self._list()
        elif name not in self.hub.files:
            status(404)(self, b"")
        elif host == HUB_HOST and self.hub.redirects:
            self._redirect(name)
        else:
            self._serve(name, request)

    def _list(self) -> None:
        """List the repository: every file of the hub, with size and digest."""
        with self.hub.lock:
            fault = self.hub.api_faults.pop(0) if self.hub.api_faults else None
        if fault is not None:
            fault(self, b"")
            return
        files = [
            {"rfilename": name, "size": len(body), "lfs": {"size": len(body), "sha256": self.hub.digest(name)}}
            for name, body in self.hub.files.items()
        ]
        self._answer({"sha": COMMIT, "siblings": [{"rfilename": "README.md"}, *files]})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://{CDN_HOST}:{self.hub.cdn_port}/blobs/{name}")
        self._send_linked_headers(name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_linked_headers(self, name: str) -> None:
        digest = self.hub.digest(name)
        if digest is not None:
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(self.hub.files[name])))

    def _serve(self, name: str, request: HubRequest) -> None:
        content = self.hub.files[name]
        faults = self.hub.head_faults if request.is_peek else self.hub.faults
        with self.hub.lock:
            fault = faults.pop(0) if faults else None
        if fault is not None and not hasattr(fault, "partial"):
            fault(self, b"")
            return
        etag = self.hub.etags.get(name) or f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        body = self._headers(name, content, etag, request)
        if fault is not None:
            fault(self, body)
        else:
            self._send(body)

    def _headers(self, name: str, content: bytes, etag: str, request: HubRequest) -> bytes:
        wanted = request.headers.get("range", "")
        fresh = request.headers.get("if-range", etag) == etag
        first, _, last = wanted.replace("bytes=", "").partition("-")
        if self.hub.ranges and wanted and fresh and int(first) < len(content):
            end = min(int(last) + 1 if last else len(content), len(content))
            body = content[int(first) : end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(content)}")
        else:
            body = content
            self.send_response(200)
        if self.hub.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if not self.hub.redirects:
            self._send_linked_headers(name)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def _send(self, body: bytes) -> None:
        if self.hub.rate is None:
            self.wfile.write(body)
            return
        step = 16 * 1024
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(step / self.hub.rate)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: in these tests clients disconnect on purpose."""


@contextlib.contextmanager
def running() -> Iterator[FakeHub]:
    """Run a hub and its CDN until the block ends."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [_Server((host, 0), handler) for host in (HUB_HOST, CDN_HOST)]
    hub.hub_port, hub.cdn_port = (server.server_address[1] for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
