"""The copy of a streamed answer that the server keeps, for a client that may lose its connection.

The header `X-Conversation-Id` makes llama-server keep the bytes of its answer under that name. It then replays them
from any byte on. It no longer stops generating when its client disconnects, only when the answer is deleted by name
(`tools/server/server-stream.cpp` in ggml-org/llama.cpp). A server that is too old for this ignores the header.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Mapping, Optional
from urllib.parse import quote

from ...errors import FlynnError, ServerError
from ...http.limits import Call
from ...http.response import Response
from .transport import EVENT_STREAM, MAX_ERROR, Transport

# Seconds for deleting an answer, including the time until the server begins with its request: a program that is
# interrupted while the server hangs waits for this.
_TIMEOUT = 3.0
_PAUSE = 0.05  # seconds between two looks whether it has begun


class KeptAnswer:
    """An answer by its name.

    Args:
        transport: sends requests.
        model: the model that was asked: a server with several models takes it from the name.
        headers: sent with each request, besides the client's.
    """

    def __init__(self, transport: Transport, model: Optional[str], headers: Optional[Mapping[str, str]]) -> None:
        name = os.urandom(18).hex()  # unguessable: nothing else protects the answer from other clients
        if model and model.isascii() and model.isprintable():
            name += f"::{model}"
        self._transport = transport
        self._headers = headers
        self._path = f"/v1/stream?conv_id={quote(name, safe='')}"
        self.header: Dict[str, str] = {"X-Conversation-Id": name}

    def replay(self, call: Call, position: int) -> Response:
        """Request the answer from a byte on."""
        path = f"{self._path}&from={position}"
        return self._transport.send(
            call, "GET", path, kind=EVENT_STREAM, headers=self._headers, patient=False, streamed=True
        )

    def delete(self, *, begun: bool) -> None:
        """Make the server stop generating and forget the answer.

        Args:
            begun: whether the server is known to handle the request. If the answer was deleted before, it would begin
                afterwards.
        """
        call = Call(_TIMEOUT, whole=True, scoped=False)
        if not begun:
            self._wait_until_begun(call)
        self._ask_to_delete(call)

    def _ask_to_delete(self, call: Call) -> None:
        """Send the request to delete the answer. A failure is not an error: the server is gone, or too old.

        llama-server answers 204 whether it has the answer or not, so 404 means that the route is missing, as behind a
        proxy that does not pass it on. From then on no stream of this client gets a name, and closing its connection
        stops it.
        """
        if self._transport.resumable:
            try:
                response = self._transport.send(call, "DELETE", self._path, headers=self._headers, patient=False)
                response.read_all(MAX_ERROR)
            except ServerError as error:
                self._transport.resumable = error.status != 404
            except FlynnError:
                pass

    def _wait_until_begun(self, call: Call) -> None:
        deleted = False
        while self._transport.resumable:
            try:
                return self.replay(call, 0).close()
            except ServerError as error:
                if error.status != 404:
                    return None
                if not deleted:
                    deleted = True
                    self._ask_to_delete(call)  # shows whether the server has the route at all
            except FlynnError:
                return None
            time.sleep(_PAUSE)
