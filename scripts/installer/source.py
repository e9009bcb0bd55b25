"""From what the user wrote after `--model` to files: names, addresses, and what is known of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Optional
from urllib.parse import quote, unquote, urlunsplit

from .address import is_private_channel, split
from .catalogue import CATALOGUE, Catalogue, CatalogueModel, RemoteFile, by_name
from .errors import EXIT_USAGE, InstallError
from .gguf import MAGIC
from .shape import Shape

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)  # gguf-split's own naming
_REPOSITORY = r"(?P<repository>\w[\w.-]*/\w[\w.-]*)"
_HUB_FILE = re.compile(rf"^hf:{_REPOSITORY}/(?P<file>[^@]+)(?:@(?P<revision>.+))?$")
# As llama-server's own -hf takes it.
_HUB_NAME = re.compile(rf"^(?:hf:)?{_REPOSITORY}(?::(?P<quant>[\w.-]+))?(?:@(?P<revision>.+))?$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_MOST_SHARDS = 999
_FORMS = "a path, OWNER/REPO:QUANT or hf:OWNER/REPO/FILE on the hub, an https address, auto, or one of:"


@dataclass(frozen=True)
class Query:
    """A model of the hub by its repository: which files that is, the hub has to be asked.

    `quant` is a quantization as in the names of files, e.g. `Q4_K_M`; empty for llama.cpp's own choice.
    """

    repository: str
    quant: str
    revision: str


@dataclass(frozen=True)
class Model:
    """A model to serve: `files` to download, or a `query` for them, or, for one that is here already, its `path`.

    `repository` tells files of the same name apart; empty for an address or a path.
    """

    label: str
    files: tuple[RemoteFile, ...] = ()
    path: Optional[Path] = None
    shape: Optional[Shape] = None
    query: Optional[Query] = None
    repository: str = ""

    @property
    def name(self) -> str:
        """What it is called where a server has several."""
        if self.query is not None:
            return self.query.repository.rpartition("/")[2]
        first = self.path.name if self.path is not None else self.files[0].name
        match = _SHARD.match(first)
        return match["stem"] if match else first[: -len(".gguf")] if first.endswith(".gguf") else first


def shard_names(name: str) -> list[str]:
    """All file names of the split model that `name` belongs to; only `name` if it is not split.

    >>> shard_names("a-00002-of-00002.gguf")
    ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']
    """
    match = _SHARD.match(name)
    if not match:
        return [name]
    count = int(match["count"])
    if not 1 <= int(match["index"]) <= count <= _MOST_SHARDS:
        raise InstallError(f"{name}: this is not a shard's name: shard {match['index']} of {match['count']}")
    return [f"{match['stem']}-{index:05}-of-{count:05}.gguf" for index in range(1, count + 1)]


def parse(spec: str, *, endpoint: str, digests: tuple[str, ...] = (), catalogue: Catalogue = CATALOGUE) -> Model:
    """The model that `spec` means: a name of the catalogue, one of the hub's, an address, or a path.

    Args:
        endpoint: the hub's address, for names of the catalogue and of the hub.
        digests: the SHA-256 of each file in order, from `--sha256`.

    Raises:
        InstallError: the spec or a digest is wrong, or the file is not there.
    """
    known = by_name(catalogue, spec)
    if known:
        return from_catalogue(known, endpoint)
    if re.match(r"^https?://", spec, re.IGNORECASE):
        if not digests:
            raise InstallError(f"{spec}: an address needs the file's digest: --sha256 HEX", status=EXIT_USAGE)
        return _with_digests(_from_url(spec), digests)
    name = _HUB_NAME.match(spec)
    if name and (spec.startswith("hf:") or not (spec.endswith(".gguf") or os.path.lexists(spec))):
        if digests:
            raise InstallError(f"--sha256: the hub tells the digests of {spec}", status=EXIT_USAGE)
        query = Query(name["repository"], name["quant"] or "", name["revision"] or "main")
        return Model(spec, query=query, repository=query.repository)
    if spec.startswith("hf:"):
        return _with_digests(_from_hub(spec, endpoint), digests)
    return local(spec, catalogue)


def from_catalogue(model: CatalogueModel, endpoint: str) -> Model:
    files = tuple(
        RemoteFile(name, hub_url(endpoint, model.repository, model.revision, name), size, sha256)
        for name, size, sha256 in model.files
    )
    return Model(model.name, files, shape=model.shape, repository=model.repository)


def local(spec: str, catalogue: Catalogue = CATALOGUE) -> Model:
    """The model at a path, with all its shards.

    Raises:
        InstallError: a file is missing, cannot be read, or is not GGUF.
    """
    path = Path(os.path.abspath(os.path.expanduser(spec)))
    if path.is_dir():
        raise InstallError(f"{path}: a folder; name the file in it")
    for name in shard_names(path.name):
        file = path.with_name(name)
        try:
            with file.open("rb") as stream:
                magic = stream.read(len(MAGIC))
        except OSError as error:
            names = ", ".join(model.name for model in catalogue)
            reason = (error.strerror or str(error)).lower()
            raise InstallError(f"{file}: {reason}", hint=f"--model takes {_FORMS} {names}") from error
        if magic != MAGIC:
            raise InstallError(f"{file}: this is not a GGUF file (it does not begin with GGUF)")
    return Model(path.name, path=path.with_name(shard_names(path.name)[0]))


def _from_hub(spec: str, endpoint: str) -> Model:
    match = _HUB_FILE.match(spec)
    if not match:
        forms = "hf:OWNER/REPO:QUANT, hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION"
        raise InstallError(f"{spec}: write {forms}", status=EXIT_USAGE)
    path = PurePosixPath(match["file"])
    if ".." in path.parts:
        raise InstallError(f"{spec}: '..' has no place in a file's name", status=EXIT_USAGE)
    revision, repository = match["revision"] or "main", match["repository"]
    names = shard_names(checked_name(path.name, spec))
    files = (RemoteFile(n, hub_url(endpoint, repository, revision, str(path.with_name(n)))) for n in names)
    return Model(spec, tuple(files), repository=repository)


def _from_url(spec: str) -> Model:
    parts = split(spec)
    if not is_private_channel(spec):
        raise InstallError(f"{spec}: use https (http is taken for this machine only)", status=EXIT_USAGE)
    folder, _, last = parts.path.rpartition("/")
    names = shard_names(checked_name(unquote(last), spec))
    urls = (urlunsplit(parts._replace(path=f"{folder}/{quote(name)}", fragment="")) for name in names)
    return Model(spec, tuple(RemoteFile(name, url) for name, url in zip(names, urls)))


def checked_name(name: str, spec: str) -> str:
    """`name`, if it can be a file's name in the models' folder and nothing else."""
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InstallError(f"{spec!r}: {name!r} cannot be used as a file's name", status=EXIT_USAGE)
    return name


def hub_url(endpoint: str, repository: str, revision: str, file: str) -> str:
    return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"


def _with_digests(model: Model, digests: tuple[str, ...]) -> Model:
    if not digests:
        return model
    lowered = [digest.strip().lower() for digest in digests]
    wrong = next((digest for digest in lowered if not _SHA256.match(digest)), None)
    if wrong is not None:
        raise InstallError(f"--sha256 {wrong}: a SHA-256 digest has 64 hexadecimal digits", status=EXIT_USAGE)
    if len(lowered) != len(model.files):
        asked = f"--sha256: {len(lowered)} given, {model.label} has {len(model.files)} files"
        raise InstallError(f"{asked}: give one for each, separated by commas, in order", status=EXIT_USAGE)
    return replace(model, files=tuple(replace(f, sha256=d) for f, d in zip(model.files, lowered)))
