"""A stand-in for a llama-server that has several models (router mode), which xllamacpp does not.

It answers as `tools/server/server-models.cpp` of llama.cpp does, with the events that a llama-server (b11434) was seen
to send. `broken` cannot be loaded, and `slow` takes for ever.
"""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any, Dict, Iterator, List
from urllib.parse import parse_qs, urlsplit

from faults import LoopbackServer
from scripted import LAST_CHUNK, chunk, error, event

INVALID = "invalid_request_error"
NOT_FOUND = error(404, "File Not Found", "not_found_error")  # the server's words for every 404


def _progress(value: float) -> Dict[str, Any]:
    return {"status": "loading", "progress": {"stages": ["text_model"], "current": "text_model", "value": value}}


class ModelRouter(LoopbackServer):
    """Attributes: `endpoint`; `listeners`, a queue of events for each client of `/models/sse`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.models: Dict[str, Dict[str, Any]] = {
            name: {"value": "unloaded", "args": []} for name in ("a", "b", "broken", "slow")
        }
        self.listeners: List[queue.Queue[Any]] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def load(self, name: str) -> None:
        self.models[name] = {"value": "loading", "args": ["llama-server"]}
        self._tell(name, "model_status", {"status": "loading"})
        if name != "slow":
            threading.Timer(0.1, self._end_loading, [name]).start()

    def _end_loading(self, name: str) -> None:
        for value in (0.0, 0.0, 1.0):
            self._tell(name, "status_change", _progress(value))
        if name == "broken":
            self.models[name].update(value="unloaded", failed=True, exit_code=1)
            self._tell(name, "status_change", {"status": "unloaded", "exit_code": 1})
        else:
            self.models[name]["value"] = "loaded"
            self._tell(name, "status_change", {"status": "loaded", "info": {"id": name}})

    def unload(self, name: str) -> None:
        def end() -> None:
            self.models[name]["value"] = "unloaded"
            self._tell(name, "status_change", {"status": "unloaded", "exit_code": 0})

        threading.Timer(0.1, end).start()

    def download(self, name: str) -> None:
        """As a llama-server (b11669) does: a download that failed is "finished" too, but there is no model then."""
        self.models[name] = {"value": "downloading", "args": []}
        self._tell(name, "model_status", {"status": "downloading"})

        def end() -> None:
            if name.startswith("nobody/"):
                del self.models[name]
            else:
                self.models[name]["value"] = "unloaded"
            for listener in self.listeners:
                listener.put({"model": name, "event": "download_finished"})

        threading.Timer(0.1, end).start()

    def _tell(self, model: str, name: str, data: Dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.put({"model": model, "event": name, "data": data})

    def __enter__(self) -> ModelRouter:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        for listener in self.listeners:
            listener.put(None)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelRouter

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path in ("/models", "/v1/models"):
            models = [{"id": name, "aliases": [f"{name}-alias"], "status": s} for name, s in self.server.models.items()]
            self._answer(200, {"data": models, "object": "list"})
        elif url.path == "/models/sse":
            self._stream()
        elif url.path == "/slots":
            self._about(parse_qs(url.query).get("model", [""])[0], [{"id": 0}])
        else:
            self._answer(404, NOT_FOUND)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body.get("model", "").replace("-alias", "")
        status = self.server.models.get(name, {}).get("value")
        if self.path == "/models":
            self.server.download(name)
            self._answer(200, {"success": True})
        elif self.path == "/tokenize":
            self._about(name, {"tokens": [1]})
        elif self.path == "/models/load":
            if status is None:
                self._answer(404, NOT_FOUND)
            elif status != "unloaded":
                self._answer(400, error(400, "model is already running", INVALID))
            else:
                self.server.load(name)
                self._answer(200, {"success": True})
        elif self.path == "/models/unload":
            if status in (None, "unloaded"):
                reason = "model is not found" if status is None else "model is not running"
                self._answer(400, error(400, reason, INVALID))
            else:
                self.server.unload(name)
                self._answer(200, {"success": True})
        else:
            self._answer(404, NOT_FOUND)

    def do_DELETE(self) -> None:
        name = parse_qs(urlsplit(self.path).query).get("model", [""])[0]
        if "/" not in name or name not in self.server.models:
            reason = "is not removable (not from cache)" if name in self.server.models else "is not found"
            self._answer(500, error(500, f"model name={name} {reason}", "server_error"))
        else:
            del self.server.models[name]
            self._answer(200, {"success": True})

    def _about(self, name: str, answer: Any) -> None:
        if not name:
            self._answer(400, error(400, "model name is missing from the request", INVALID))
        elif self.server.models[name]["value"] != "loaded":
            self._answer(400, error(400, "model is not loaded", INVALID))
        else:
            self._answer(200, answer)

    def _answer(self, status: int, answer: Any) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        events: queue.Queue[Any] = queue.Queue()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.listeners.append(events)
        for data in _until_none(events):
            self.wfile.write(chunk(event(data)))
        self.wfile.write(LAST_CHUNK)


def _until_none(events: queue.Queue[Any]) -> Iterator[Any]:
    while (data := events.get()) is not None:
        yield data
