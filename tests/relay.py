"""Another address for a server, with TLS where the server has none: what comes is passed on, and back."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import threading
from typing import Iterator, Optional, Tuple


@contextlib.contextmanager
def relay(target: Tuple[str, int], context: Optional[ssl.SSLContext] = None, port: int = 0) -> Iterator[int]:
    """Listen on a loopback port, by default a free one, and connect each client to `target`. Yields the port."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # either side may leave at any time, a client also in the handshake
                client = context.wrap_socket(self.request, server_side=True) if context else self.request
                with client, socket.create_connection(target) as upstream:
                    _pass_on(client, upstream)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Relay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _pass_on(client: socket.socket, upstream: socket.socket) -> None:
    """Pass bytes on in both directions until one side closes."""
    other = {client: upstream, upstream: client}
    while True:
        # What TLS has decrypted already is no longer there for select to see.
        decrypted = isinstance(client, ssl.SSLSocket) and client.pending()
        for source in [client] if decrypted else select.select(list(other), [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
