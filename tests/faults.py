"""What goes wrong between a client and llama-server, on purpose, and on loopback only.

    cut, stall, drip, …   faults: each spoils what one connection carries to the client
    Proxy                 stands before any server; each connection through it may have a fault
    llama_server          a process that serves recorded and made-up streams as llama-server does, under faults that
                          the requests themselves ask for

tests/data/streams holds four streams as a real llama-server sent them.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import select
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from typing import Any, Callable, Dict, Iterator, List, Optional
from urllib.parse import parse_qs, urlsplit

import mutations
from scripted import DATA, DONE, LAST_CHUNK, STREAM_HEAD, Gone, Peer, Request, chunk, delta, error, response

STREAMS = {path.stem: path.read_bytes() for path in sorted((DATA / "streams").glob("*.sse"))}
HTML = b"<html><body>Please log in</body></html>"


def events_of(body: bytes) -> List[bytes]:
    """The events of a stream, each with the blank line that ends it."""
    return [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]


# --- faults -----------------------------------------------------------------------------------------------------------


class Ended(Exception):
    """A fault has ended the connection."""


class Wire:
    """The way to the client, with a fault in it."""

    def __init__(self, sock: socket.socket, fault: Fault) -> None:
        self.sock = sock
        self.sent = 0
        self._fault = fault

    def write(self, data: bytes) -> None:
        """What the server has to say; the fault decides what becomes of it."""
        self._fault(self, data)

    def put(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent += len(data)

    def end(self, how: str) -> None:
        """Close the connection with a FIN, or with a RST."""
        if how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        raise Ended

    def gone(self, seconds: Optional[float] = 0.0) -> bool:
        """Whether the client has closed the connection; None waits until it has."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def wait(self) -> None:
        """Say nothing more."""
        self.gone(None)
        self.end("fin")


Fault = Callable[[Wire, bytes], None]


def passing() -> Fault:
    return Wire.put


def _after(count: int, then: Callable[[Wire, bytes], None]) -> Fault:
    """A fault that comes when `count` bytes have gone; `then` is given the rest of what was to be sent."""

    def fault(wire: Wire, data: bytes) -> None:
        left = max(count - wire.sent, 0)
        if len(data) < left:
            wire.put(data)
        else:
            wire.put(data[:left])
            then(wire, data[left:])

    return fault


def cut(after: int, how: str = "fin") -> Fault:
    return _after(after, lambda wire, rest: wire.end(how))


def stall(after: int) -> Fault:
    return _after(after, lambda wire, rest: wire.wait())


def half_close(after: int) -> Fault:
    """A FIN in this direction only: the server does not speak any more, but would listen."""

    def then(wire: Wire, rest: bytes) -> None:
        wire.sock.shutdown(socket.SHUT_WR)
        wire.wait()

    return _after(after, then)


def garbage(after: int, seed: int = 0) -> Fault:
    """Bytes that are no part of any text in UTF-8 stand between those of the answer, once."""
    noise = bytes(random.Random(seed).randrange(0xF8, 0x100) for _ in range(8))
    spoilt = False

    def then(wire: Wire, rest: bytes) -> None:
        nonlocal spoilt
        wire.put(rest if spoilt else noise + rest)
        spoilt = True

    return _after(after, then)


def drip(pause: float = 0.0, size: int = 1) -> Fault:
    """A few bytes at a time, each in a packet of its own."""

    def fault(wire: Wire, data: bytes) -> None:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            wire.put(data[start : start + size])
            time.sleep(pause)

    return fault


def rewrite(pattern: str, replacement: str) -> Fault:
    """The first place that a regular expression finds is replaced. Looks at one packet at a time."""
    done = False

    def fault(wire: Wire, data: bytes) -> None:
        nonlocal done
        if not done:
            data, found = re.subn(pattern.encode(), replacement.encode(), data, count=1, flags=re.DOTALL)
            done = bool(found)
        wire.put(data)

    return fault


def duplicate_chunk_header() -> Fault:
    return rewrite(r"([0-9a-f]+\r\n)(data:)", r"\1\1\2")


def reorder_chunk_header() -> Fault:
    return rewrite(r"([0-9a-f]+\r\n)(data:[^\r]*\r\n)", r"\2\1")


def longer_content_length() -> Fault:
    return rewrite("Content-Length: ([0-9]+)", r"Content-Length: \g<1>0")


def shorter_content_length() -> Fault:
    return rewrite("Content-Length: ([0-9]+)[0-9]", r"Content-Length: \1")


def html() -> Fault:
    """A 200 with a page, as from the login of a hotel's network."""

    def fault(wire: Wire, data: bytes) -> None:
        if not wire.sent:
            wire.put(response(HTML, kind="text/html"))

    return fault


FAULTS: Dict[str, Callable[..., Fault]] = {
    made.__name__: made
    for made in (
        cut, stall, half_close, garbage, drip, duplicate_chunk_header, reorder_chunk_header, longer_content_length,
        shorter_content_length, html,
    )
}  # fmt: skip


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (OSError, Gone, Ended)):
            super().handle_error(request, client_address)


# --- a proxy ----------------------------------------------------------------------------------------------------------


class Proxy:
    """A TCP proxy. Its first connection has the first fault, and so on; those after the last fault have none.

    with Proxy(server.endpoint, cut(1000), cut(20, "rst")) as proxy:
        LlamaCppClient(proxy.endpoint)
    """

    def __init__(self, endpoint: str, *faults: Fault) -> None:
        url = urlsplit(endpoint)
        target = (url.hostname, url.port)
        waiting = deque(faults)
        self.connections = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy.connections += 1
                fault = waiting.popleft() if waiting else passing()
                with contextlib.closing(socket.create_connection(target)) as upstream:
                    _pass_on(Wire(self.request, fault), upstream)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.endpoint = f"{url.scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pass_on(wire: Wire, upstream: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([wire.sock, upstream], [], [])
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            if source is upstream:
                wire.write(data)
            else:
                upstream.sendall(data)


# --- a scripted llama-server ------------------------------------------------------------------------------------------


class Session:
    """The bytes of a stream that can be resumed."""

    def __init__(self, script: Dict[str, Any]) -> None:
        self.script = script
        self.body = b""
        self.done = False
        self.cancelled = False
        self.changed = threading.Condition()

    def add(self, data: bytes, *, done: bool = False) -> None:
        with self.changed:
            self.body += data
            self.done = self.done or done
            self.changed.notify_all()


class Llama(_Server):
    """Answers as llama-server does: chat in one piece and streamed, `GET` and `DELETE /v1/stream`, `/slots`.

    The member `script` of a chat request says what happens to it:
        stream: the recorded stream that is sent, or
        tokens, pace: how many made-up tokens are sent, and seconds before each
        silent: seconds before the first of them
        together: how many streams there must have been at once before this one begins
        chunks: False for a body that ends with the connection, as through a proxy that speaks HTTP/1.0
        faults: of the answers to this request: of the first one, the first replay, …; each as [name, arguments...]
        replays: statuses that replays are refused with; when they are used up, replays are given
        mutated: [seed, number] of a response as in mutations.py, in place of all this
        close: "after" or "before" an answer in one piece the connection is closed without a word; before the answer
            only if it was kept alive, that is where a client may send a request again
    An answer in one piece repeats the last message.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: deque[Request] = deque(maxlen=1000)
        self.sessions: Dict[str, Session] = {}
        self.counts = {"streams": 0, "replays": 0, "deleted": 0, "generating": 0, "most": 0, "connections": 0}
        self.lock = threading.Lock()

    def count(self, name: str, step: int = 1) -> None:
        with self.lock:
            self.counts[name] += step
            self.counts["most"] = max(self.counts["most"], self.counts["generating"])


class _Handler(socketserver.BaseRequestHandler):
    server: Llama

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = Peer(self.server, self.request, 0)  # type: ignore[arg-type]
        self.server.count("connections")
        self.answered = 0
        try:
            while True:
                request = self.peer.request()
                self.answer(request)
                self.answered += 1
        finally:
            self.server.count("connections", -1)

    def answer(self, request: Request) -> None:
        url = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/v1/chat/completions":
            body = request.json
            script = body.get("script", {})
            if "mutated" in script:
                self.mutate(*script["mutated"])
            elif body.get("stream"):
                self.stream(script, request.headers.get("x-conversation-id"))
            else:
                self.reply(script, body["messages"][-1]["content"])
        elif url.path == "/v1/stream" and request.method == "DELETE":
            session = self.server.sessions.pop(query["conv_id"], None)
            if session:
                session.cancelled = True
                session.add(b"", done=True)
                self.server.count("deleted")
            self.peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif url.path == "/v1/stream":
            self.replay(self.server.sessions.get(query["conv_id"]), int(query["from"]))
        elif url.path == "/health":
            self.peer.send(response(b'{"status": "ok"}'))
        elif url.path == "/slots":
            busy = self.server.counts["generating"]
            slots = [{"id": i, "n_ctx": 1024, "is_processing": i < busy} for i in range(max(4, busy))]
            self.peer.send(response(json.dumps(slots).encode()))
        elif url.path == "/state":
            state = {**self.server.counts, "sessions": len(self.server.sessions)}
            self.server.counts["most"] = self.server.counts["generating"]
            self.peer.send(response(json.dumps(state).encode()))
        else:
            self.refuse(404, "File Not Found")

    def refuse(self, status: int, message: str) -> None:
        if status == 502:
            self.peer.send(response(b"<html>502</html>", "502 Bad Gateway", kind="text/html"))
        else:
            self.peer.send(response(error(status, message, "not_found_error"), f"{status} Refused"))

    def wire(self, script: Dict[str, Any]) -> Wire:
        faults = script.get("faults")
        name, *arguments = faults.pop(0) if faults else ["passing"]
        return Wire(self.request, FAULTS[name](*arguments) if name != "passing" else passing())

    def reply(self, script: Dict[str, Any], text: str) -> None:
        close = script.get("close")
        if close == "before" and self.answered:
            raise Gone
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        wire = self.wire(script)
        if wire.gone(script.get("silent", 0.0)):
            raise Gone
        wire.write(response(json.dumps({"choices": [choice]}).encode()))
        if close == "after":
            raise Gone

    def mutate(self, seed: str, number: int) -> None:
        """Afterwards the connection is closed, at once or if nothing comes over it soon."""
        self.peer.send(mutations.of_response(seed, number))
        if number % 9 or not select.select([self.request], [], [], 0.01)[0]:
            raise Gone

    def stream(self, script: Dict[str, Any], name: Optional[str]) -> None:
        session = None
        if name is not None:
            session = self.server.sessions[name] = Session(script)
        self.server.count("streams")
        self.server.count("generating")
        try:
            self.generate(script, session)
        finally:
            self.server.count("generating", -1)
            if session:
                session.add(b"", done=True)

    def generate(self, script: Dict[str, Any], session: Optional[Session]) -> None:
        """Send a stream; with a session go on without the client, until somebody deletes it."""
        wire: Optional[Wire] = self.wire(script)
        while self.server.counts["most"] < script.get("together", 0):
            time.sleep(0.01)
        send = chunk if script.get("chunks", True) else bytes
        head = STREAM_HEAD if send is chunk else b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        pieces = made_up(script["tokens"]) if "tokens" in script else events_of(STREAMS[script["stream"]])
        for number, piece in enumerate([head, *pieces, LAST_CHUNK]):
            last = number > len(pieces)
            pause = script.get("silent", 0.0) if number == 0 else script.get("pace", 0.0) if not last else 0.0
            while pause > 0 and (not session.cancelled if session else wire):
                if wire is None:
                    time.sleep(min(pause, 0.01))
                elif wire.gone(min(pause, 0.01)):
                    wire = None
                pause -= 0.01
            if session:
                if session.cancelled:
                    break
                if 0 < number <= len(pieces):
                    session.add(piece)
            if wire is not None:
                try:
                    if 0 < number <= len(pieces):
                        wire.write(send(piece))
                    elif not last or send is chunk:
                        wire.write(piece)
                except (OSError, Ended):
                    wire = None
            if wire is None and session is None:
                raise Gone
        if wire is None or send is not chunk or (session and session.cancelled):
            raise Gone

    def replay(self, session: Optional[Session], start: int) -> None:
        if session is None:
            return self.refuse(404, "Stream not found or expired")
        refused = session.script.get("replays")
        if refused:
            status = refused.pop(0)
            return self.refuse(status, "Stream offset lost, please restart")
        self.server.count("replays")
        wire = self.wire(session.script)
        wire.write(STREAM_HEAD)
        while True:
            with session.changed:
                session.changed.wait_for(lambda: len(session.body) > start or session.done, 0.2)
                data = session.body[start:]
                done = session.done
            if data:
                wire.write(chunk(data))
                start += len(data)
            elif done:
                return wire.write(LAST_CHUNK)
            elif wire.gone():
                raise Gone


def made_up(tokens: int) -> List[bytes]:
    return [*(delta(f"{number} ") for number in range(tokens)), delta(finish_reason="stop"), DONE]


class LlamaServer:
    """Attributes: `endpoint`; `state` and `processing` as the server says they are now."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.endpoint + path) as answer:
            return json.load(answer)

    @property
    def state(self) -> Dict[str, int]:
        """How many streams were begun, replays given and sessions deleted so far; how many sessions there are; how many
        streams are generated now, and the most of them since the last look."""
        state: Dict[str, int] = self._get("/state")
        return state

    @property
    def processing(self) -> int:
        """How many slots are at work."""
        return sum(slot["is_processing"] for slot in self._get("/slots"))


@contextlib.contextmanager
def llama_server() -> Iterator[LlamaServer]:
    """A process of its own, so that what it needs is not counted as the client's, and both run at once."""
    process = subprocess.Popen([sys.executable, "-E", __file__], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    with process:
        assert process.stdout
        assert process.stdin
        try:
            yield LlamaServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.stdin.close()


def _serve() -> None:
    with Llama() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()  # until whoever started this ends, or closes it


if __name__ == "__main__":
    _serve()
