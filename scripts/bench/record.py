"""Records the two answers of a real llama-server that the benchmark's server repeats; run it to renew them.

    python3 scripts/bench/record.py

They are whole HTTP responses, byte for byte, of a connection that is kept alive: `stream.http` with the reports of
progress and the usage that Flynn asks for, and `reply.http`.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from real_server import RealServer

RECORDED = Path(__file__).parent / "recorded"


def answer(port: int, **fields: object) -> bytes:
    """All that comes until the server has been silent for three seconds."""
    body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0, **fields}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.sendall(head.encode() + data)
        try:
            while block := connection.recv(65536):
                came += block
        except socket.timeout:
            pass
    return came


def main() -> None:
    with RealServer(parallel=1) as server:
        port = urlsplit(server.endpoint).port or 0
        usage = {"stream_options": {"include_usage": True}, "return_progress": True}
        (RECORDED / "stream.http").write_bytes(answer(port, max_tokens=64, stream=True, **usage))
        (RECORDED / "reply.http").write_bytes(answer(port, max_tokens=64))


if __name__ == "__main__":
    main()
