"""The table of llama-server's routes in flynn/README.md, compared with the routes of the installed server."""

from __future__ import annotations

import re
from http.client import HTTPConnection
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple
from urllib.parse import urlsplit

import pytest
from real_server import RealServer

from flynn import LlamaCppClient

REFERENCE = Path(__file__).parents[1] / "flynn" / "README.md"
METHODS = ("GET", "POST", "DELETE")
SEVERAL_MODELS = "(several models)"  # routes of a mode that xllamacpp does not have

Route = Tuple[str, str]


def rows() -> Iterator[Tuple[str, str]]:
    """Yield the rows of the table: one or more routes with the same meaning, and Flynn's method for them."""
    section = REFERENCE.read_text(encoding="utf-8").partition("## All of llama-server")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            routes, flynn = line.strip("| ").split(" | ", 1)
            yield routes, flynn


def table(*, several_models: bool) -> Dict[Route, str]:
    methods = {}
    for routes, flynn in rows():
        method, *paths = re.findall("`([^`]+)`", routes)
        for path in paths:
            if several_models or SEVERAL_MODELS not in routes:
                assert (method, path) not in methods, f"{method} {path} has two rows"
                methods[method, path] = flynn
    return methods


def paths_in_the_program(server: RealServer) -> Set[str]:
    """Return all strings that look like a path near a known route in the files mapped by the server's process.

    A linker stores `/health` as the end of `/v1/health`, so each end of a path counts as a path too.
    """
    paths = set()
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    for name in {line.split(None, 5)[5] for line in maps.splitlines() if " /" in line}:
        program = Path(name).read_bytes() if Path(name).is_file() else b""
        for place in re.finditer(b"/apply-template\0", program):
            near = program[max(0, place.start() - 2**20) : place.end() + 2**20]
            for path in re.findall(rb"((?:/[a-z0-9_:-]{2,30}){1,5})\0", near):
                names = path.decode().split("/")[1:]
                paths.update("/" + "/".join(names[start:]) for start in range(len(names)))
    return paths


def is_there(server: RealServer, route: Route) -> bool:
    method, path = route
    connection = HTTPConnection(urlsplit(server.endpoint).netloc, timeout=30)
    try:
        connection.request(method, path.replace(":id_slot", "0"), headers={"Content-Length": "0"})
        response = connection.getresponse()
        return response.status != 404 or b"File Not Found" not in response.read()
    finally:
        connection.close()


def test_the_table_has_exactly_the_routes_of_the_installed_server(real_server: RealServer) -> None:
    paths = paths_in_the_program(real_server)
    assert {"/completion", "/v1/chat/completions", "/slots/:id_slot"} <= paths
    served = {(method, path) for path in paths for method in METHODS if is_there(real_server, (method, path))}
    assert served == set(table(several_models=False))


@pytest.mark.parametrize("routes, flynn", list(rows()))
def test_every_method_named_in_the_table_exists(routes: str, flynn: str) -> None:
    assert re.fullmatch(r"`(GET|POST|DELETE)`( `/[^`]+`)+( \(several models\))?", routes)
    for name in re.findall(r"`(\w+)`", flynn):
        assert hasattr(LlamaCppClient, name) or name == "Audio"
