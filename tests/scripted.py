"""A server on raw sockets that sends exactly the bytes that a test scripts, and records the requests it receives.

    with serve(answering(response(CHAT))) as server:
        LlamaCppClient(server.endpoint).chat("Hi")
    assert server.requests[0].json["messages"]

A script is a function that is called with the `Peer` of one connection. The first connection is served by the first
script, the second by the second, and so on; connections after that are served by the last script.
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
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, TypeVar
from urllib.parse import urlsplit

DATA = Path(__file__).parent / "data"


# --- bytes of responses -----------------------------------------------------------------------------------------------


def response(body: bytes = b"", status: str = "200 OK", *headers: str, kind: str = "application/json") -> bytes:
    """Return a whole response with a Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def head(*headers: str, status: str = "200 OK") -> bytes:
    """Return only the status line and headers of a response."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
LAST_CHUNK = b"0\r\n\r\n"


def event(value: Any) -> bytes:
    """Return a server-sent event with a JSON value as data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: Optional[str] = None, *, choice: int = 0, finish_reason: Optional[str] = None, **more: Any) -> bytes:
    """Return an event of a chat stream."""
    content = {} if text is None else {"content": text}
    return event({"choices": [{"index": choice, "delta": {**content, **more}, "finish_reason": finish_reason}]})


DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> bytes:
    """Return a whole chat stream with each event in its own chunk."""
    return STREAM_HEAD + b"".join(map(chunk, events)) + chunk(DONE) + LAST_CHUNK


def error(code: int, message: str, kind: str, **more: Any) -> bytes:
    """Return the body of an error response of llama-server."""
    return json.dumps({"error": {"code": code, "message": message, "type": kind, **more}}).encode()


LOADING = response(error(503, "Loading model", "unavailable_error"), "503 Service Unavailable", "Connection: close")


def chat(text: str = "Hello!") -> bytes:
    """Return the body of a one-shot reply of the chat route."""
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
HELLO = stream(delta("Hel"), delta("lo!"), delta(finish_reason="stop"))
TOKENS = response(b'{"tokens": [1]}')  # of a call that nothing follows: of a chat that fails the server is told


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """A request as the server received it. The names of headers are in lower case."""

    connection: int
    method: str
    target: str
    headers: Dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Disconnected(Exception):
    """The client closed the connection, or a fault ended it."""


class Peer:
    """One connection, seen from the server: reads requests from the client and sends bytes to it.

    Attributes:
        server: the server.
        number: the number of this connection to the server, from 0.
        unread: received bytes that are not part of a request yet.
        sent: the number of bytes sent.
        fault: sends the bytes, damaged as it likes (see faults.py).
    """

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.unread = b""
        self.sent = 0
        self.fault: Fault = Peer.put

    def request(self) -> Request:
        """Read one request and record it."""
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

    def send(self, data: bytes, *, pause: float = 0.0) -> None:
        """Send through the fault; with a pause one byte at a time, with `pause` seconds after each."""
        size = 1 if pause else max(len(data), 1)
        for start in range(0, len(data), size):
            self.fault(self, data[start : start + size])
            time.sleep(pause)

    def put(self, data: bytes) -> None:
        """Send without the fault."""
        self.sock.sendall(data)
        self.sent += len(data)

    def stall(self) -> None:
        """Send nothing until the client closes the connection."""
        while True:
            self._receive()

    def client_closes(self, seconds: float = 0.0) -> bool:
        """Return True as soon as the client closes the connection, False if it does not within `seconds`."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def relay(self, upstream: socket.socket) -> None:
        """Relay bytes to another server and back until one side closes."""
        while True:
            # select does not see bytes that TLS has already decrypted.
            decrypted = isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()
            for source in [self.sock] if decrypted else select.select([self.sock, upstream], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    raise Disconnected
                if source is upstream:
                    self.send(data)
                else:
                    self.server.received += data
                    upstream.sendall(data)

    def _until(self, end: bytes) -> bytes:
        while end not in self.unread:
            self._receive()
        data, _, self.unread = self.unread.partition(end)
        return data

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Disconnected
        self.unread += data


Script = Callable[[Peer], object]
Fault = Callable[[Peer, bytes], None]


def answering(*responses: bytes) -> Script:
    """Return a script that answers requests with these responses, in this order, on any number of connections.

    After the last response it waits until the client closes. The next connection starts again at the first response.
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
    """Return a script that answers requests with these responses and closes the connection after the last one."""

    def script(peer: Peer) -> None:
        for answer in responses:
            peer.request()
            peer.send(answer)

    return script


def stalling(start: bytes = b"") -> Script:
    """Return a script that reads one request, sends `start`, and then nothing until the client closes."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        peer.stall()

    return script


def forwarding(endpoint: str, fault: Fault = Peer.put) -> Script:
    """Return a script that relays all bytes to another server, and its answers back through a fault."""
    url = urlsplit(endpoint)

    def script(peer: Peer) -> None:
        peer.fault = fault
        with socket.create_connection((url.hostname, url.port)) as upstream:
            peer.relay(upstream)

    return script


class ScriptedServer:
    """A server on loopback that serves each connection with a script, in its own thread.

    Args:
        scripts: the script of the first connection, of the second, and so on.
        tls: the context of a TLS server; None for plain TCP.
        unix: the path of a UNIX socket to listen on; None for TCP.
        port: the TCP port; 0 for any free one.

    Attributes:
        endpoint: the URL for a client.
        port: the TCP port in it.
        requests: all received requests.
        received: the bytes that `forwarding` relayed to the other server.
        connections: the number of accepted connections.
        closed: the number of connections that have ended.
    """

    def __init__(
        self, *scripts: Script, tls: Optional[ssl.SSLContext] = None, unix: Optional[Path] = None, port: int = 0
    ) -> None:
        self.requests: List[Request] = []
        self.received = b""
        self.connections = 0
        self.closed = 0
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
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def stop_listening(self) -> None:
        """Refuse new connections, like a server that has ended; open connections stay open."""
        self._listener.shutdown(socket.SHUT_RDWR)

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
            thread = threading.Thread(target=self._serve, args=(sock, self.connections - 1), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        accepted = sock
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.add(sock)
            self._scripts[min(number, len(self._scripts) - 1)](Peer(self, sock, number))
        except (OSError, Disconnected):
            pass
        except BaseException as failure:
            self._failures.append(failure)
        finally:
            sock.close()
            self._sockets -= {accepted, sock}
            self._threads.discard(threading.current_thread())
            with self._lock:
                self.closed += 1

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        end = time.monotonic() + 10
        _shut_down([self._listener])
        self._accepting.join(10)  # no thread is started after it
        _shut_down(self._sockets)
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        if self._failures:
            raise self._failures[0]


def _shut_down(sockets: Iterable[socket.socket]) -> None:
    for sock in list(sockets):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


serve = ScriptedServer
Self = TypeVar("Self", bound=ScriptedServer)


class Proxy(ScriptedServer):
    """A proxy in front of another server. The first connection has the first fault, and so on; later ones have none.

    with Proxy(server.endpoint, cut(1000), cut(20, "rst")) as proxy:
        LlamaCppClient(proxy.endpoint)
    """

    def __init__(self, endpoint: str, *faults: Fault) -> None:
        super().__init__(*[forwarding(endpoint, fault) for fault in faults], forwarding(endpoint))
        self.endpoint = f"{urlsplit(endpoint).scheme}://127.0.0.1:{self.port}"


@contextmanager
def full_endpoint() -> Iterator[str]:
    """Yield an endpoint whose queue of connections is full: connecting to it never ends."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until the condition is true. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {timeout} seconds"
        time.sleep(0.005)
