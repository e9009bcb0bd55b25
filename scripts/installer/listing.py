"""List the files of a repository on the hub, and choose those that a name such as `OWNER/REPO:Q4_K_M` means."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from .catalogue import RemoteFile
from .errors import InstallError
from .hub import Hub
from .source import Model, Query, checked_name, hub_url, shard_names

_DEFAULT_QUANT = "Q4_K_M"  # llama.cpp's default, too
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolved(model: Model, hub: Hub) -> Model:
    """Return the model with the files that its query means, pinned to a commit, each with its size and digest.

    A model without a query is returned unchanged.

    Raises:
        TemporaryError, InstallError: as `Hub.open`; also if no file matches, or the hub's response is invalid.
    """
    query = model.query
    if query is None:
        return model
    path = f"/api/models/{query.repository}/revision/{quote(query.revision, safe='')}?blobs=true"
    commit, sizes = _read(hub.json(path), hub.endpoint + path)
    first = choose(list(sizes), query)
    folder = PurePosixPath(first).parent
    files = []
    for name in shard_names(checked_name(PurePosixPath(first).name, model.label)):
        path_in_repository = str(folder / name)
        if path_in_repository not in sizes:
            raise InstallError(f"{query.repository}: {path_in_repository} is missing; {first} needs it")
        size, sha256 = sizes[path_in_repository]
        url = hub_url(hub.endpoint, query.repository, commit, path_in_repository)
        files.append(RemoteFile(name, url, size, sha256))
    return replace(model, files=tuple(files), query=None)


def choose(names: list[str], query: Query) -> str:
    """Return the path of the first file of the model that the query means.

    >>> choose(["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-Q8_0.gguf"], Query("o/r", "q8_0", "main"))
    'a-Q8_0.gguf'
    """
    models = sorted(name for name in names if name.endswith(".gguf") and "mmproj" not in name.lower())
    models = [name for name in models if shard_names(PurePosixPath(name).name)[0] == PurePosixPath(name).name]
    if not models:
        raise InstallError(
            f"{query.repository}: the repository has no GGUF files", hint="Look for a repository named …-GGUF."
        )
    quant = query.quant or _DEFAULT_QUANT
    # The name of a quantization contains underscores. It ends at a dash, a dot, or (for a folder) a slash.
    pattern = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?=[-./])", re.IGNORECASE)
    matching = [name for name in models if pattern.search(name)]
    if not matching and query.quant:
        raise InstallError(f"{query.repository}: no file for {query.quant} (expected one of: {', '.join(models)})")
    return min(matching, key=len) if matching else models[0]


def _read(body: bytes, url: str) -> tuple[str, dict[str, tuple[int, str]]]:
    """Return the commit, and by name the size and digest of each file in large file storage."""
    try:
        listing: Any = json.loads(body)
        commit = listing["sha"]
        large = {file["rfilename"]: file["lfs"] for file in listing["siblings"] if file.get("lfs")}
        files = {str(name): (lfs["size"], lfs["sha256"]) for name, lfs in large.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InstallError(f"{url}: not a response of a model hub ({type(error).__name__})") from error
    valid = isinstance(commit, str) and _COMMIT.fullmatch(commit) is not None
    for size, sha256 in files.values():
        valid = valid and type(size) is int and 0 < size < 2**63
        valid = valid and isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
    if not valid:
        raise InstallError(f"{url}: not a response of a model hub (invalid commit, size or digest)")
    return commit, files
