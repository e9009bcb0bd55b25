"""The benchmark's server: answers from responses prepared in memory.

    python -m bench.server        # prints its two ports; ends when its standard input is closed

On the first port it sends a response at once. On the second port it sends at the pace of a model: one HTTP chunk at a
time, 50 per second.

It is a separate process, so that no client is charged its CPU time, with a thread for each connection. A stream has
`max_tokens` tokens (Ollama: `num_predict`). Two model names choose other streams: `tiny` has `max_tokens` tiny events,
`line` has one event of `max_tokens` bytes.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any, Dict, Optional

from . import recording

PACE = 1 / 50  # seconds between two tokens


def answer(path: str, request: Dict[str, Any]) -> bytes:
    """Return the whole response, including the head."""
    if path.endswith("/api/chat"):
        tokens = request["options"]["num_predict"]
        return recording.ollama_stream(tokens) if request.get("stream") else recording.ollama_reply()
    if not path.endswith("/chat/completions"):
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    if not request.get("stream"):
        return recording.reply()
    length = request.get("max_tokens") or request["max_completion_tokens"]
    if request.get("model") == "tiny":
        return recording.tiny_events(length)
    if request.get("model") == "line":
        return recording.long_line(length)
    return recording.stream(length, bool(request.get("return_progress")))


def serve(connection: socket.socket, pace: float) -> None:
    # Nagle's algorithm would delay the end of a response until the start is acknowledged.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as requests:
        try:
            while request := next_request(requests):
                send(connection, answer(*request), pace)
        except OSError:
            pass  # the client closed the connection


def send(connection: socket.socket, response: bytes, pace: float) -> None:
    head, separator, body = response.partition(b"\r\n\r\n")
    if not pace or b"chunked" not in head:
        connection.sendall(response)
        return
    connection.sendall(head + separator)
    for chunk in recording.unframed(body):
        time.sleep(pace)
        connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    connection.sendall(recording.framed([]))


def accept(listener: socket.socket, pace: float) -> None:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], pace), daemon=True).start()


def next_request(requests: Any) -> Optional[tuple[str, Dict[str, Any]]]:
    """Read a request. Returns its path and JSON body; None at the end of the connection."""
    line = requests.readline()
    if not line:
        return None
    length = 0
    while (header := requests.readline()) not in (b"\r\n", b""):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = requests.read(length)
    return line.split()[1].decode(), json.loads(body) if body else {}


def main() -> None:
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
    for listener, pace in zip(listeners, (0, PACE)):
        threading.Thread(target=accept, args=(listener, pace), daemon=True).start()
    print(*[listener.getsockname()[1] for listener in listeners], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
