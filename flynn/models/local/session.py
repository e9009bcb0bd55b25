"""The name under which llama-server keeps a stream, so that it can be resumed.

A stream whose request has the header `X-Conversation-Id` is replayed from any byte of its body, and no longer stops
when its client goes away, only when it is deleted by name (`tools/server/server-stream.cpp` in ggml-org/llama.cpp). A
server that is too old for all this ignores the header.
"""

from __future__ import annotations

import os
from urllib.parse import quote

from ...errors import FlynnError, ServerError
from ...http.call import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Optional, Protocol

    from ...http.connection import Response

    class Send(Protocol):
        """Sends a request with the client's headers; raises what an answer other than 2xx means."""

        def __call__(
            self,
            call: Call,
            method: str,
            path: str,
            body: Optional[bytes] = None,
            headers: Optional[Mapping[str, str]] = None,
            *,
            wait_for_model: bool = True,
        ) -> Response: ...


class Session:
    """A stream's name, fresh and unguessable: it is all that protects a stream from the server's other clients.

    Args:
        model: the request's; where one server has several models it is part of the name.
    """

    def __init__(self, model: Optional[str] = None) -> None:
        self._id = os.urandom(18).hex()
        if model and model.isascii() and model.isprintable():
            self._id += f"::{model}"

    @property
    def headers(self) -> Dict[str, str]:
        """What a request under this name carries."""
        return {"X-Conversation-Id": self._id}

    @property
    def path(self) -> str:
        """Where the stream is replayed and deleted."""
        return f"/v1/stream?conv_id={quote(self._id, safe='')}"

    def is_unknown(self, send: Send, timeout: float) -> bool:
        """Whether the server says that it has no such stream, as long as it has not begun."""
        try:
            send(Call(timeout, whole=True, scoped=False), "GET", f"{self.path}&from=0", wait_for_model=False).close()
        except ServerError as error:
            return error.status == 404 and str(error) != "File Not Found"  # so says one that is too old to have any
        except FlynnError:
            pass
        return False

    def delete(self, send: Send, timeout: float) -> None:
        """Stop the generation and free what the server keeps of it; nothing else does.

        Failing to is no error of the generation's: the server is gone, or too old to know its name.

        Args:
            send: sends a request.
            timeout: seconds.
        """
        try:
            send(Call(timeout, whole=True, scoped=False), "DELETE", self.path, wait_for_model=False).close()
        except FlynnError:
            pass
