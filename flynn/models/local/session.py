"""A stream as llama-server keeps it: under a name, to be replayed from any byte, until somebody deletes it.

A request with the header `X-Conversation-Id` makes the server keep the bytes of its answer, and no longer stop when its
client goes away, only when the stream is deleted by name (`tools/server/server-stream.cpp` in ggml-org/llama.cpp). A
server that is too old for it ignores the header.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Optional
from urllib.parse import quote

from ...errors import FlynnError, ServerError
from ...http.limits import Call
from ...http.response import Response
from .transport import MAX_ERROR, Routes, Transport

EVENT_STREAM = "text/event-stream"
# Seconds for which the server may take to begin with a request, and to be told that its answer is not wanted any more.
_END_TIMEOUT = 3.0
_UNKNOWN_PAUSE = 0.05  # seconds between two looks whether the server has begun to handle the request


class Session:
    """The name of one stream on the server, and what can be done with it.

    Args:
        transport: sends requests.
        model: of the request; a server with several models asks the one that the name ends with.
        resume_for: seconds for which reaching the server again is tried after a cut.

    Attributes:
        kept: whether the server may keep the stream: it was asked to, and nobody has deleted it.
    """

    def __init__(self, transport: Transport, model: Optional[str], resume_for: float) -> None:
        self.resume_for = resume_for
        self.kept = False
        self._transport = transport
        # Unguessable: the name is all that protects a stream from the server's other clients.
        self._name = os.urandom(18).hex()
        if model and model.isascii() and model.isprintable():
            self._name += f"::{model}"
        self._path = f"/v1/stream?conv_id={quote(self._name, safe='')}"

    @property
    def headers(self) -> Dict[str, str]:
        """Headers of the request that the stream answers."""
        return {"X-Conversation-Id": self._name}

    def replay(self, call: Call, position: int) -> Response:
        """Return the stream from a byte of its body on. Raises what `Transport.send` raises."""
        path = f"{self._path}&from={position}"
        return self._transport.send(call, "GET", path, kind=EVENT_STREAM, wait_for_model=False, streamed=True)

    def end(self, *, began: bool) -> None:
        """Make the server stop generating and forget the stream. Nothing else does.

        Failing to is not an error: the server is gone, or too old to know the name.

        Args:
            began: whether any of the answer came. A request that the server has not begun to handle cannot be deleted
                yet, and would be handled afterwards; so it is waited for.
        """
        if not self.kept:
            return
        self.kept = False
        if not began:
            self._wait_until_known()
        try:
            call = Call(_END_TIMEOUT, whole=True, scoped=False)
            self._transport.send(call, "DELETE", self._path, wait_for_model=False).read_all(MAX_ERROR)
        except FlynnError:
            pass

    def _wait_until_known(self) -> None:
        call = Call(_END_TIMEOUT, whole=True, scoped=False)
        while True:
            try:
                return self.replay(call, 0).close()
            except ServerError as error:
                if error.status != 404 or str(error) == "File Not Found":  # so says a server that has no such route
                    return None
            except FlynnError:
                return None
            time.sleep(_UNKNOWN_PAUSE)


class StreamRoutes(Routes):
    """Routes whose answers are streamed: how these are resumed, as the client's defaults have it."""

    _resume: bool
    _resume_for: float

    def _session(
        self, model: Optional[str], resume: Optional[bool], resume_for: Optional[float]
    ) -> Optional[Session]:
        """Return a name for a stream, None if a cut is final; None as an argument is the client's own setting."""
        if not (self._resume if resume is None else resume):
            return None
        return Session(self.transport, model, self._resume_for if resume_for is None else resume_for)
