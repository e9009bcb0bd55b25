"""A TLS endpoint in front of a server that has none: what a client sends is decrypted and passed on, and back."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import threading
from typing import Iterator, Tuple


@contextlib.contextmanager
def tls_relay(target: Tuple[str, int], context: ssl.SSLContext) -> Iterator[int]:
    """Listen with `context` on a free loopback port, and connect each client to `target`. Yields the port."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # either side may leave at any time, a client also in the handshake
                client = context.wrap_socket(self.request, server_side=True)
                with client, socket.create_connection(target) as upstream:
                    _pass_on(client, upstream)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _pass_on(client: ssl.SSLSocket, upstream: socket.socket) -> None:
    """Pass bytes on in both directions until one side closes."""
    other = {client: upstream, upstream: client}
    while True:
        # What TLS has decrypted already is no longer there for select to see.
        for source in [client] if client.pending() else select.select(list(other), [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
