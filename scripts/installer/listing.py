"""What a repository of the hub holds, and which of it a name such as `OWNER/REPO:Q4_K_M` means."""

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

_USUAL_QUANT = "Q4_K_M"  # llama.cpp's own choice where none is named
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolved(model: Model, query: Query, hub: Hub) -> Model:
    """The model with its files, pinned: at a commit, each with its size and digest.

    Raises:
        Temporary, InstallError: as `Hub.open`; also if there is no such file, or the hub's answer cannot be used.
    """
    path = f"/api/models/{query.repository}/revision/{quote(query.revision, safe='')}?blobs=true"
    commit, sizes = _read(hub.json(path), hub.endpoint + path)
    first = choose(list(sizes), query)
    folder = PurePosixPath(first).parent
    files = []
    for name in shard_names(checked_name(PurePosixPath(first).name, model.label)):
        place = str(folder / name)
        if place not in sizes:
            raise InstallError(f"{query.repository}: {place} is missing, which {first} needs")
        size, sha256 = sizes[place]
        files.append(RemoteFile(name, hub_url(hub.endpoint, query.repository, commit, place), size, sha256))
    return replace(model, files=tuple(files), query=None)


def choose(names: list[str], query: Query) -> str:
    """The first file of the model that is meant.

    >>> choose(["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-Q8_0.gguf"], Query("o/r", "q8_0", "main"))
    'a-Q8_0.gguf'
    """
    models = sorted(name for name in names if name.endswith(".gguf") and "mmproj" not in name.lower())
    models = [name for name in models if shard_names(PurePosixPath(name).name)[0] == PurePosixPath(name).name]
    if not models:
        raise InstallError(f"{query.repository}: it has no GGUF files", hint="Look for a repository named …-GGUF.")
    quant = query.quant or _USUAL_QUANT
    # A quantization's name has underscores, and ends at a dash, a dot or, for a folder's name, a slash.
    pattern = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?=[-./])", re.IGNORECASE)
    matching = [name for name in models if pattern.search(name)]
    if not matching and query.quant:
        raise InstallError(f"{query.repository}: it has no {query.quant}; it has: {', '.join(models)}")
    return min(matching, key=len) if matching else models[0]


def _read(body: bytes, url: str) -> tuple[str, dict[str, tuple[int, str]]]:
    """The commit and, by name, size and digest of each file that is stored as a large one."""
    try:
        answer: Any = json.loads(body)
        commit = answer["sha"]
        large = {each["rfilename"]: each["lfs"] for each in answer["siblings"] if each.get("lfs")}
        files = {str(name): (lfs["size"], lfs["sha256"]) for name, lfs in large.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InstallError(f"{url}: this is not what a hub answers ({type(error).__name__})") from error
    good = isinstance(commit, str) and _COMMIT.fullmatch(commit)
    for size, sha256 in files.values():
        good = good and type(size) is int and 0 < size < 2**63 and isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    if not good:
        raise InstallError(f"{url}: this is not what a hub answers (no commit, sizes or digests)")
    return commit, files
