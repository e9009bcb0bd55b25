"""Download models with the installer's code, in the process of the test, from a fake hub."""

from __future__ import annotations

from pathlib import Path

from installer import catalogue, download
from installer.hub import Hub
from installer.listing import resolved
from installer.source import parse

from .hub import FakeHub

NAME = "tiny-q4_0.gguf"
SHARDS = [f"big-q4_k_m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
TOKEN = "hf_secret-token-of-this-test"


class Downloader:
    """Downloads models from the fake hub into a folder.

    Attributes:
        messages: the lines that the installer printed.
        environ: the environment variables of the hub's client.
    """

    def __init__(self, server: FakeHub, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.messages: list[str] = []
        self.environ = {"HF_ENDPOINT": server.endpoint}

    def __call__(self, name: str = NAME, spec: str = "", digests: tuple[str, ...] = ()) -> bool:
        """Download a model. Returns True if a file was downloaded."""
        client = Hub(self.environ)
        files = self.describe(name, spec, digests)
        return download.fetch(files, self.folder, client, self.messages.append)

    def describe(
        self, name: str = NAME, spec: str = "", digests: tuple[str, ...] = ()
    ) -> tuple[catalogue.RemoteFile, ...]:
        client = Hub(self.environ)
        model = resolved(parse(spec or self.server.spec(name), endpoint=client.endpoint, digests=digests), client)
        return download.describe(model.files, client, self.messages.append)

    def is_complete(self, name: str = NAME) -> bool:
        path = self.folder / name
        return path.exists() and path.read_bytes() == self.server.files[name]

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if ".part" in path.name or ".corrupt" in path.name)
