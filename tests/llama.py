"""A scripted llama-server; each request contains the script for its own answer: `with llama_server() as server`.

It runs as a separate process. It serves recorded and generated streams, which can be resumed as with llama-server
(tools/server/server-stream.cpp). tests/data/streams has four streams recorded from a real llama-server.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qs, urlsplit

import faults
import mutations
import scripted
from scripted import (
    DATA,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Disconnected,
    Peer,
    Request,
    chunk,
    delta,
    error,
    response,
    serve,
)

STREAMS = {path.stem: path.read_bytes() for path in sorted((DATA / "streams").glob("*.sse"))}


def events_of(body: bytes) -> List[bytes]:
    """Split a stream into its events, each with the blank line that ends it."""
    return [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]


class Session:
    """A stream that can be resumed: its bytes so far."""

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


class Llama:
    """A script that answers like llama-server: one-shot and streamed chats, `/v1/stream`, `/slots`.

    The field `script` of a chat request describes the answer:
        stream: the name of the recorded stream to send, or
        tokens, pace: the number of tokens to generate, and the seconds before each
        late: seconds before the server starts to handle the request
        silent: seconds before the first token
        together: wait until the server has had this many concurrent streams
        chunks: False for a body that ends with the connection, as from a proxy that speaks HTTP/1.0
        faults: a fault for the answer, one for the first replay, and so on; each is [name, arguments...]
        replays: statuses of the first replays, which are refused
        mutated: [seed, number] of a response of mutations.py, which is sent instead
        close: close the connection "after" or "before" a one-shot answer; "before" only if an earlier request was
            answered on this connection, because then a client may send the request again
    A one-shot answer repeats the last message.
    """

    def __init__(self) -> None:
        self.sessions: Dict[str, Session] = {}
        self.counts = {"streams": 0, "replays": 0, "deleted": 0, "generating": 0, "most": 0}
        self.lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        first = True
        while True:
            request = peer.request()
            peer.server.requests.clear()  # saves memory: there may be many thousands
            peer.fault, peer.sent = Peer.put, 0
            self.answer(peer, request, first)
            first = False

    def answer(self, peer: Peer, request: Request, first: bool) -> None:
        url = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/v1/chat/completions":
            body = request.json
            script = body.get("script", {})
            if "mutated" in script:
                self.mutate(peer, *script["mutated"])
            elif body.get("stream"):
                self.stream(peer, script, request.headers.get("x-conversation-id"))
            elif script.get("close") == "before" and not first:
                raise Disconnected
            else:
                self.reply(peer, script, body["messages"][-1]["content"])
        elif url.path == "/v1/stream" and request.method == "DELETE":
            self.delete(query["conv_id"])
            peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif url.path == "/all-streams" and request.method == "DELETE":
            self.delete(*self.sessions)
            peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif url.path == "/v1/stream":
            self.replay(peer, self.sessions.get(query["conv_id"]), int(query["from"]))
        elif url.path == "/health":
            peer.send(response(b'{"status": "ok"}'))
        elif url.path == "/slots":
            busy = self.counts["generating"]
            slots = [{"id": i, "n_ctx": 1024, "is_processing": i < busy} for i in range(max(4, busy))]
            peer.send(response(json.dumps(slots).encode()))
        elif url.path == "/state":
            state = {**self.counts, "sessions": len(self.sessions)}
            self.counts["most"] = self.counts["generating"]
            peer.send(response(json.dumps(state).encode()))
        else:
            refuse(peer, 404, "File Not Found")

    def delete(self, *names: str) -> None:
        for name in names:
            session = self.sessions.pop(name, None)
            if session:
                session.cancelled = True
                session.add(b"", done=True)
                self.count("deleted")

    def count(self, name: str, step: int = 1) -> None:
        with self.lock:
            self.counts[name] += step
            self.counts["most"] = max(self.counts["most"], self.counts["generating"])

    def reply(self, peer: Peer, script: Dict[str, Any], text: str) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if peer.client_closes(script.get("silent", 0.0)):
            raise Disconnected
        set_fault(peer, script)
        peer.send(response(json.dumps({"choices": [choice]}).encode()))
        if script.get("close") == "after":
            raise Disconnected

    def mutate(self, peer: Peer, seed: str, number: int) -> None:
        """Send a mutated response. Close the connection at once, or after 10 ms without another request."""
        peer.send(mutations.of_response(seed, number))
        if number % 9 or not select.select([peer.sock], [], [], 0.01)[0]:
            raise Disconnected

    def stream(self, peer: Peer, script: Dict[str, Any], name: Optional[str]) -> None:
        time.sleep(script.get("late", 0.0))
        session = None
        if name is not None:
            session = self.sessions[name] = Session(script)
        self.count("streams")
        self.count("generating")
        try:
            self.generate(peer, script, session)
        finally:
            self.count("generating", -1)
            if session:
                session.add(b"", done=True)

    def generate(self, peer: Peer, script: Dict[str, Any], session: Optional[Session]) -> None:
        """Send a stream. With a session, generate it even if the client disconnects, until the session is deleted."""
        set_fault(peer, script)
        while self.counts["most"] < script.get("together", 0):
            time.sleep(0.01)
        chunks = script.get("chunks", True)
        head = STREAM_HEAD if chunks else scripted.head("Content-Type: text/event-stream")
        events = generated_events(script["tokens"]) if "tokens" in script else events_of(STREAMS[script["stream"]])
        pieces = [(b"", head), *((event, chunk(event) if chunks else event) for event in events)]
        pieces += [(b"", LAST_CHUNK)] if chunks else []
        pauses = [script.get("silent", 0.0), *[script.get("pace", 0.0)] * len(events), 0.0]
        listening = True
        for (event, data), pause in zip(pieces, pauses):
            while pause > 0 and (not session.cancelled if session else listening):
                if not listening:
                    time.sleep(min(pause, 0.01))
                elif peer.client_closes(min(pause, 0.01)):
                    listening = False
                pause -= 0.01
            if session:
                if session.cancelled:
                    break
                session.add(event)
            if listening:
                try:
                    peer.send(data)
                except (OSError, Disconnected):
                    listening = False
            if not listening and session is None:
                raise Disconnected
        if not listening or not chunks or (session and session.cancelled):
            raise Disconnected

    def replay(self, peer: Peer, session: Optional[Session], start: int) -> None:
        if session is None:
            return refuse(peer, 404, "Stream not found or expired")
        statuses = session.script.get("replays")
        if statuses:
            return refuse(peer, statuses.pop(0), "Stream offset lost, please restart")
        self.count("replays")
        set_fault(peer, session.script)
        peer.send(STREAM_HEAD)
        while True:
            with session.changed:
                if len(session.body) == start and not session.done:
                    session.changed.wait(0.2)
                data = session.body[start:]
                done = session.done
            if data:
                peer.send(chunk(data))
                start += len(data)
            elif done:
                return peer.send(LAST_CHUNK)
            elif peer.client_closes():
                raise Disconnected


def refuse(peer: Peer, status: int, message: str) -> None:
    if status == 502:
        peer.send(response(b"<html>502</html>", "502 Bad Gateway", kind="text/html"))
    else:
        peer.send(response(error(status, message, "not_found_error"), f"{status} Refused"))


def set_fault(peer: Peer, script: Dict[str, Any]) -> None:
    """Apply the next fault of the script to the answer that is sent next."""
    if script.get("faults"):
        name, *arguments = script["faults"].pop(0)
        peer.fault = getattr(faults, name)(*arguments)


def generated_events(tokens: int) -> List[bytes]:
    return [*(delta(f"{number} ") for number in range(tokens)), delta(finish_reason="stop"), DONE]


class LlamaServer:
    """A client of the scripted server for tests: its `endpoint`, and its current `state`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.endpoint + path) as response:
            return json.load(response)

    def delete_all_streams(self) -> None:
        """Delete all sessions, like another client that knows their names."""
        request = urllib.request.Request(f"{self.endpoint}/all-streams", method="DELETE")
        urllib.request.urlopen(request).close()

    @property
    def state(self) -> Dict[str, int]:
        """The numbers of streams, replays and deleted sessions so far; of current sessions; of current streams
        ("generating"), and their maximum since the last query ("most")."""
        state: Dict[str, int] = self._get("/state")
        return state

    @property
    def processing(self) -> int:
        """The number of busy slots."""
        return sum(slot["is_processing"] for slot in self._get("/slots"))


@contextlib.contextmanager
def llama_server() -> Iterator[LlamaServer]:
    """Run the server as a process: it does not count as resources of the client, and both run in parallel."""
    process = subprocess.Popen([sys.executable, "-E", __file__], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    with process:
        assert process.stdout
        assert process.stdin
        try:
            yield LlamaServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.stdin.close()
    assert process.returncode == 0, "the scripted server failed: see its standard error"


def _serve() -> None:
    llama = Llama()
    with serve(llama) as server:
        print(server.port, flush=True)
        sys.stdin.read()  # until the parent process closes it or ends
        llama.delete(*llama.sessions)


if __name__ == "__main__":
    _serve()
