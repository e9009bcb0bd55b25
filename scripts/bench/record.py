"""Record two responses of a real llama-server for the benchmark's server. Run it to renew them.

    python3 scripts/bench/record.py

The files hold whole HTTP responses of a persistent connection, byte for byte: `stream.http`, with the progress events
and the usage that Flynn requests, and `reply.http`.
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
    """Send a chat request with these fields. Returns the bytes received until the server sends none for 3 s."""
    body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0, **fields}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    response = b""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.sendall(head.encode() + data)
        try:
            while block := connection.recv(65536):
                response += block
        except socket.timeout:
            pass
    return response


def main() -> None:
    with RealServer(parallel=1) as server:
        port = urlsplit(server.endpoint).port or 0
        usage = {"stream_options": {"include_usage": True}, "return_progress": True}
        (RECORDED / "stream.http").write_bytes(answer(port, max_tokens=64, stream=True, **usage))
        (RECORDED / "reply.http").write_bytes(answer(port, max_tokens=64))


if __name__ == "__main__":
    main()
