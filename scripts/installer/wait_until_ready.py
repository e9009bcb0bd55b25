"""Waits until llama-server answers 200 on /health at a UNIX socket: for systemd to run before it lets clients in.

    python3 wait_until_ready.py /run/user/1000/llama-server/backend.sock 900

The installer copies this file to where the units find it. Exit codes: 0 ready, 1 not ready after so many seconds.
"""

import socket
import sys
import time

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def is_ready(path: str) -> bool:
    """Whether a server listens there and has loaded its model."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        try:
            connection.connect(path)
            connection.sendall(REQUEST)
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def main(path: str, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while not is_ready(path):
        if time.monotonic() > deadline:
            print(f"llama-server was not ready after {seconds:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
