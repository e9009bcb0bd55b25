"""A server that a test controls byte by byte, and that records the requests it receives.

    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert server.requests[0].json["messages"]

A script is a function of the `Peer` at the other end of one connection. The first connection gets the first script, the
second the second, and all after the last script get the last one.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, TypeVar
from urllib.parse import urlsplit

DATA = Path(__file__).parent / "data"


# --- what servers say -------------------------------------------------------------------------------------------------


def response(body: bytes = b"", status: str = "200 OK", *headers: str, kind: str = "application/json") -> bytes:
    """A whole response with a Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def head(*headers: str, status: str = "200 OK") -> bytes:
    """Only a status line and headers."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
LAST_CHUNK = b"0\r\n\r\n"


def event(value: Any) -> bytes:
    """A server-sent event with a JSON value as data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: Optional[str] = None, *, choice: int = 0, finish_reason: Optional[str] = None, **more: Any) -> bytes:
    """An event of a chat stream."""
    content = {} if text is None else {"content": text}
    return event({"choices": [{"index": choice, "delta": {**content, **more}, "finish_reason": finish_reason}]})


DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> bytes:
    """A whole chat stream, each event in a chunk of its own."""
    return STREAM_HEAD + b"".join(map(chunk, events)) + chunk(DONE) + LAST_CHUNK


def error(code: int, message: str, kind: str, **more: Any) -> bytes:
    """The body of llama-server's errors."""
    return json.dumps({"error": {"code": code, "message": message, "type": kind, **more}}).encode()


LOADING = response(error(503, "Loading model", "unavailable_error"), "503 Service Unavailable", "Connection: close")


def chat(text: str = "Hello!") -> bytes:
    """The body of a reply of the chat route."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "model": "small",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 3}},
            "timings": {"predicted_n": 10, "predicted_per_second": 100.5},
        }
    ).encode()


CHAT = chat()


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """A request as the server received it. Names of headers are in lower case."""

    connection: int
    method: str
    target: str
    headers: Dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gone(Exception):
    """The connection has ended: the client closed it, or a fault ended it."""


class Peer:
    """The client, as a script sees it.

    Attributes:
        server, number: the server, and the number of this connection to it, from 0 on.
        unread: bytes that were received and are not part of a request yet.
        sent: bytes that went out.
        fault: sends bytes, with a fault (see faults.py).
    """

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.unread = b""
        self.sent = 0
        self.fault: Fault = Peer.put

    def request(self) -> Request:
        """Read one request, and record it."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        size = int(headers.get("content-length", 0))
        while len(self.unread) < size:
            self._receive()
        body, self.unread = self.unread[:size], self.unread[size:]
        request = Request(self.number, method, target, headers, body)
        self.server.requests.append(request)
        return request

    def send(self, data: bytes, *, slowly: float = 0.0) -> None:
        """Send through the fault; if `slowly` is not 0, one byte every `slowly` seconds."""
        if not slowly:
            self.fault(self, data)
        for start in range(len(data) if slowly else 0):
            self.fault(self, data[start : start + 1])
            time.sleep(slowly)

    def put(self, data: bytes) -> None:
        """Send past the fault."""
        self.sock.sendall(data)
        self.sent += len(data)

    def stall(self) -> None:
        """Send nothing until the client closes the connection."""
        while True:
            self._receive()

    def has_left(self, seconds: float = 0.0) -> bool:
        """Whether the client closes the connection within so many seconds."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def pass_on(self, upstream: socket.socket) -> None:
        """Pass bytes on to another server and back, until one side closes."""
        while True:
            # select does not see data that TLS has already decrypted.
            decrypted = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
            for source in [self.sock] if decrypted else select.select([self.sock, upstream], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    raise Gone
                if source is upstream:
                    self.send(data)
                else:
                    self.server.received += data
                    upstream.sendall(data)

    def _until(self, end: bytes) -> bytes:
        while end not in self.unread:
            self._receive()
        found, _, self.unread = self.unread.partition(end)
        return found

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Gone
        self.unread += data


Script = Callable[[Peer], object]
Fault = Callable[[Peer, bytes], None]


def answering(*responses: bytes) -> Script:
    """A script that answers one request after the other, on however many connections they come.

    After the last answer it waits for the client to go; a connection that begins after that gets the first one again.
    """
    answered = 0

    def script(peer: Peer) -> None:
        nonlocal answered
        if answered == len(responses):
            answered = 0
        while answered < len(responses):
            peer.request()
            answered += 1
            peer.send(responses[answered - 1])
        peer.stall()

    return script


def closing(*responses: bytes) -> Script:
    """A script that answers one request after the other, and closes the connection right after the last answer."""

    def script(peer: Peer) -> None:
        for answer in responses:
            peer.request()
            peer.send(answer)

    return script


def stalling(start: bytes = b"") -> Script:
    """A script that reads one request, sends the start of an answer, and then nothing until the client goes."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        peer.stall()

    return script


def forwarding(endpoint: str, fault: Fault = Peer.put) -> Script:
    """A script that passes all on to another server, and back with a fault."""
    url = urlsplit(endpoint)

    def script(peer: Peer) -> None:
        peer.fault = fault
        with socket.create_connection((url.hostname, url.port)) as upstream:
            peer.pass_on(upstream)

    return script


class ScriptedServer:
    """A server on a free port of loopback, on `port`, or at the path `unix`; with a context for `tls` it speaks TLS.

    Attributes:
        endpoint: for a client; port: in it.
        requests: the requests received; received: the bytes passed on.
        connections: the number of connections so far; left: how many of them have ended.
    """

    def __init__(
        self, *scripts: Script, tls: Optional[ssl.SSLContext] = None, unix: Optional[Path] = None, port: int = 0
    ) -> None:
        self.requests: List[Request] = []
        self.received = b""
        self.connections = 0
        self.left = 0
        self._scripts = scripts
        self._tls = tls
        self._failures: List[BaseException] = []
        self._sockets: Set[socket.socket] = set()
        self._threads: Set[threading.Thread] = set()
        self._lock = threading.Lock()
        if unix:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix))
            self._listener.listen(1024)
            self.endpoint = f"unix://{unix}"
        else:
            self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
            self.port: int = self._listener.getsockname()[1]
            self.endpoint = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self._start(self._accept)

    def stop_listening(self) -> None:
        """Refuse new connections, like a server that has ended. Open connections stay."""
        self._listener.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.add(sock)
            self.connections += 1
            self._start(self._serve, sock, self.connections - 1)

    def _serve(self, sock: socket.socket, number: int) -> None:
        accepted = sock
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.add(sock)
            self._scripts[min(number, len(self._scripts) - 1)](Peer(self, sock, number))
        except (OSError, Gone):
            pass
        except BaseException as failure:
            self._failures.append(failure)
        finally:
            sock.close()
            self._sockets -= {accepted, sock}
            self._threads.discard(threading.current_thread())
            with self._lock:
                self.left += 1

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for sock in [self._listener, *self._sockets]:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        end = time.monotonic() + 10
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        if self._failures:
            raise self._failures[0]


serve = ScriptedServer
Self = TypeVar("Self", bound=ScriptedServer)


class Proxy(ScriptedServer):
    """A server before another one. Its first connection has the first fault, and so on; the rest have none.

    with Proxy(server.endpoint, cut(1000), cut(20, "rst")) as proxy:
        LlamaCppClient(proxy.endpoint)
    """

    def __init__(self, endpoint: str, *faults: Fault) -> None:
        super().__init__(*[forwarding(endpoint, fault) for fault in faults], forwarding(endpoint))
        self.endpoint = f"{urlsplit(endpoint).scheme}://127.0.0.1:{self.port}"


@contextmanager
def full_endpoint() -> Iterator[str]:
    """An endpoint whose queue of connections is full: connecting to it never ends."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> float:
    """Wait until something is true. Returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + timeout, f"not after {timeout} seconds"
        time.sleep(0.005)
    return time.monotonic() - start
