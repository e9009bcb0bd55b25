"""What the client's routes are made of. Those of chat are in llamacpp.py, the others in *_routes.py."""

from __future__ import annotations

from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional

    from .session import Session
    from .transport import Transport


class Routes:
    """Sends requests in the words of the routes.

    Attributes:
        defaults: the client's request options; the model among them goes to every route.
        transport: sends any request.
    """

    defaults: Dict[str, Any]
    transport: Transport
    _resume: bool
    _resume_for: float

    def _get(self, path: str, timeout: Optional[float]) -> Any:
        """The JSON of a route about a model, the client's."""
        return self.transport.json("GET", about(path, self.defaults.get("model")), None, timeout)

    def _post(self, path: str, timeout: Optional[float], fields: Mapping[str, Any]) -> Any:
        """The JSON that a route answers to the fields that are not None, the client's model if they name none."""
        body = {name: value for name, value in fields.items() if value is not None}
        if "model" in self.defaults:
            body.setdefault("model", self.defaults["model"])
        return self.transport.json("POST", path, body, timeout)

    def _transfer(
        self,
        path: str,
        body: Optional[bytes],
        model: Optional[str],
        timeout: Optional[float],
        resume: Optional[bool],
        resume_for: Optional[float],
    ) -> Transfer:
        """A streamed answer; None stands for the client's own settings of how it is resumed."""
        session: Optional[Session] = None
        if self._resume if resume is None else resume:
            from .session import Session

            session = Session(model)
        return Transfer(
            self.transport.send,
            self.transport.call(timeout, whole=False),
            path,
            body,
            session,
            self._resume_for if resume_for is None else resume_for,
        )


def about(path: str, model: Optional[str]) -> str:
    """The path of a route about one of the models that a server may have."""
    if model is None:
        return path
    from urllib.parse import quote

    return f"{path}?model={quote(model, safe='')}"
