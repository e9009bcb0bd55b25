"""A scripted llama-server that does what each request tells it to: `with llama_server() as server`.

It is a process of its own, serves recorded and made-up streams, and lets them be resumed as llama-server does
(tools/server/server-stream.cpp). tests/data/streams holds four streams as a real llama-server sent them.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qs, urlsplit

import mutations
from faults import FAULTS, Ended, LoopbackServer, Wire, passing
from scripted import DATA, DONE, LAST_CHUNK, STREAM_HEAD, Gone, Peer, Request, chunk, delta, error, response

STREAMS = {path.stem: path.read_bytes() for path in sorted((DATA / "streams").glob("*.sse"))}


def events_of(body: bytes) -> List[bytes]:
    """The events of a stream, each with the blank line that ends it."""
    return [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]


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


class Llama(LoopbackServer):
    """Answers as llama-server does: chat in one piece and streamed, `GET` and `DELETE /v1/stream`, `/slots`.

    The member `script` of a chat request says what happens to it:
        stream: the recorded stream that is sent, or
        tokens, pace: how many made-up tokens are sent, and seconds before each
        late: seconds after which the request is noticed at all
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

    def delete(self, name: str) -> None:
        session = self.sessions.pop(name, None)
        if session:
            session.cancelled = True
            session.add(b"", done=True)
            self.count("deleted")

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
            self.server.delete(query["conv_id"])
            self.peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif url.path == "/all-streams" and request.method == "DELETE":
            for name in list(self.server.sessions):
                self.server.delete(name)
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
        time.sleep(script.get("late", 0.0))
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
                if len(session.body) == start and not session.done:
                    session.changed.wait(0.2)
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

    def delete_all_streams(self) -> None:
        """As somebody would who knows their names."""
        request = urllib.request.Request(f"{self.endpoint}/all-streams", method="DELETE")
        urllib.request.urlopen(request).close()

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
