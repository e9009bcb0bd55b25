"""A scripted llama-server that follows the script in each request: `with llama_server() as server`.

It is a process of its own, serves recorded and made-up streams, and lets them be resumed as llama-server does
(tools/server/server-stream.cpp). tests/data/streams holds four streams as a real llama-server sent them.
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
from scripted import DATA, DONE, LAST_CHUNK, STREAM_HEAD, Gone, Peer, Request, chunk, delta, error, response, serve

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


class Llama:
    """A script that answers as llama-server does: chat in one piece and streamed, `/v1/stream`, `/slots`.

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
        self.sessions: Dict[str, Session] = {}
        self.counts = {"streams": 0, "replays": 0, "deleted": 0, "generating": 0, "most": 0}
        self.lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        first = True
        while True:
            request = peer.request()
            peer.server.requests.clear()  # there may be very many
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
                raise Gone
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
        if peer.has_left(script.get("silent", 0.0)):
            raise Gone
        spoil(peer, script)
        peer.send(response(json.dumps({"choices": [choice]}).encode()))
        if script.get("close") == "after":
            raise Gone

    def mutate(self, peer: Peer, seed: str, number: int) -> None:
        """Close the connection afterwards: at once, or if no request arrives soon."""
        peer.send(mutations.of_response(seed, number))
        if number % 9 or not select.select([peer.sock], [], [], 0.01)[0]:
            raise Gone

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
        """Send a stream. With a session, go on without the client until it is deleted."""
        spoil(peer, script)
        while self.counts["most"] < script.get("together", 0):
            time.sleep(0.01)
        chunks = script.get("chunks", True)
        head = STREAM_HEAD if chunks else scripted.head("Content-Type: text/event-stream")
        events = made_up(script["tokens"]) if "tokens" in script else events_of(STREAMS[script["stream"]])
        pieces = [(b"", head), *((event, chunk(event) if chunks else event) for event in events)]
        pieces += [(b"", LAST_CHUNK)] if chunks else []
        pauses = [script.get("silent", 0.0), *[script.get("pace", 0.0)] * len(events), 0.0]
        listening = True
        for (event, data), pause in zip(pieces, pauses):
            while pause > 0 and (not session.cancelled if session else listening):
                if not listening:
                    time.sleep(min(pause, 0.01))
                elif peer.has_left(min(pause, 0.01)):
                    listening = False
                pause -= 0.01
            if session:
                if session.cancelled:
                    break
                session.add(event)
            if listening:
                try:
                    peer.send(data)
                except (OSError, Gone):
                    listening = False
            if not listening and session is None:
                raise Gone
        if not listening or not chunks or (session and session.cancelled):
            raise Gone

    def replay(self, peer: Peer, session: Optional[Session], start: int) -> None:
        if session is None:
            return refuse(peer, 404, "Stream not found or expired")
        refused = session.script.get("replays")
        if refused:
            return refuse(peer, refused.pop(0), "Stream offset lost, please restart")
        self.count("replays")
        spoil(peer, session.script)
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
            elif peer.has_left():
                raise Gone


def refuse(peer: Peer, status: int, message: str) -> None:
    if status == 502:
        peer.send(response(b"<html>502</html>", "502 Bad Gateway", kind="text/html"))
    else:
        peer.send(response(error(status, message, "not_found_error"), f"{status} Refused"))


def spoil(peer: Peer, script: Dict[str, Any]) -> None:
    """Apply the next of a script's faults to the answer that is about to be sent."""
    if script.get("faults"):
        name, *arguments = script["faults"].pop(0)
        peer.fault = getattr(faults, name)(*arguments)


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
        """Delete all streams, as another client could that knows their names."""
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
        """The number of busy slots."""
        return sum(slot["is_processing"] for slot in self._get("/slots"))


@contextlib.contextmanager
def llama_server() -> Iterator[LlamaServer]:
    """Run the server in its own process: its CPU and memory are not the client's, and both run at once."""
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
        sys.stdin.read()  # until whoever started this ends, or closes it
        llama.delete(*llama.sessions)


if __name__ == "__main__":
    _serve()
