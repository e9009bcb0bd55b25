"""Convert the value of `--model` into files: names, URLs, and what is known about them."""

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

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)  # as gguf-split names them
_REPOSITORY = r"(?P<repository>\w[\w.-]*/\w[\w.-]*)"
_HUB_FILE = re.compile(rf"^hf:{_REPOSITORY}/(?P<file>[^@]+)(?:@(?P<revision>.+))?$")
# The same form as llama-server's -hf.
_HUB_NAME = re.compile(rf"^(?:hf:)?{_REPOSITORY}(?::(?P<quant>[\w.-]+))?(?:@(?P<revision>.+))?$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_MAX_SHARDS = 999
_FORMS = "a path, OWNER/REPO:QUANT or hf:OWNER/REPO/FILE on the hub, an https URL, auto, or one of:"


@dataclass(frozen=True)
class Query:
    """A model given by its repository on the hub, which lists the files.

    `quant` is a quantization as in file names, e.g. `Q4_K_M`; empty for llama.cpp's default.
    """

    repository: str
    quant: str
    revision: str


@dataclass(frozen=True)
class Model:
    """A model to serve: `files` to download, a `query` that the hub resolves to files, or the `path` of a local file.

    `repository` distinguishes files of the same name; empty for a URL or a path.
    """

    label: str
    files: tuple[RemoteFile, ...] = ()
    path: Optional[Path] = None
    shape: Optional[Shape] = None
    query: Optional[Query] = None
    repository: str = ""

    @property
    def name(self) -> str:
        """The model's name on a server with several models."""
        if self.query is not None:
            return self.query.repository.rpartition("/")[2]
        first = self.path.name if self.path is not None else self.files[0].name
        match = _SHARD.match(first)
        return match["stem"] if match else first[: -len(".gguf")] if first.endswith(".gguf") else first


def shard_names(name: str) -> list[str]:
    """Return all file names of the split model that `name` belongs to; only `name` if it is not a shard.

    Raises:
        InstallError: the shard numbers are invalid.

    >>> shard_names("a-00002-of-00002.gguf")
    ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']
    """
    match = _SHARD.match(name)
    if not match:
        return [name]
    count = int(match["count"])
    if not 1 <= int(match["index"]) <= count <= _MAX_SHARDS:
        raise InstallError(f"{name}: invalid shard name: shard {match['index']} of {match['count']}")
    return [f"{match['stem']}-{index:05}-of-{count:05}.gguf" for index in range(1, count + 1)]


def parse(spec: str, *, endpoint: str, digests: tuple[str, ...] = (), catalogue: Catalogue = CATALOGUE) -> Model:
    """Parse the value of `--model`: a name in the catalogue, a name on the hub, a URL, or a path.

    Args:
        endpoint: the hub's URL, for names in the catalogue and on the hub.
        digests: the SHA-256 of each file in order, from `--sha256`.

    Raises:
        InstallError: the value or a digest is invalid, or the local file does not exist.
    """
    known = by_name(catalogue, spec)
    if known:
        return from_catalogue(known, endpoint)
    if re.match(r"^https?://", spec, re.IGNORECASE):
        if not digests:
            raise InstallError(f"{spec}: a URL needs the digest of the file: --sha256 HEX", status=EXIT_USAGE)
        return _with_digests(_from_url(spec), digests)
    name = _HUB_NAME.match(spec)
    if name and (spec.startswith("hf:") or not (spec.endswith(".gguf") or os.path.lexists(spec))):
        if digests:
            raise InstallError(f"--sha256: not allowed for {spec}: the hub supplies its digests", status=EXIT_USAGE)
        query = Query(name["repository"], name["quant"] or "", name["revision"] or "main")
        return Model(spec, query=query, repository=query.repository)
    if spec.startswith("hf:"):
        return _with_digests(_from_hub(spec, endpoint), digests)
    return local(spec, catalogue)


def from_catalogue(model: CatalogueModel, endpoint: str) -> Model:
    """Return a model of the catalogue with the URLs of its files on the hub at `endpoint`."""
    files = tuple(
        RemoteFile(name, hub_url(endpoint, model.repository, model.revision, name), size, sha256)
        for name, size, sha256 in model.files
    )
    return Model(model.name, files, shape=model.shape, repository=model.repository)


def local(spec: str, catalogue: Catalogue = CATALOGUE) -> Model:
    """Return the model at a local path; check all its shards.

    Raises:
        InstallError: a file is missing, cannot be read, or is not GGUF.
    """
    path = Path(os.path.abspath(os.path.expanduser(spec)))
    if path.is_dir():
        raise InstallError(f"{path}: this is a folder: give the path of a file in it")
    for name in shard_names(path.name):
        file = path.with_name(name)
        try:
            with file.open("rb") as stream:
                magic = stream.read(len(MAGIC))
        except OSError as error:
            names = ", ".join(model.name for model in catalogue)
            reason = (error.strerror or str(error)).lower()
            raise InstallError(f"{file}: {reason}", hint=f"--model accepts {_FORMS} {names}") from error
        if magic != MAGIC:
            raise InstallError(f"{file}: not a GGUF file (does not start with GGUF)")
    return Model(path.name, path=path.with_name(shard_names(path.name)[0]))


def _from_hub(spec: str, endpoint: str) -> Model:
    match = _HUB_FILE.match(spec)
    if not match:
        forms = "hf:OWNER/REPO:QUANT, hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION"
        raise InstallError(f"{spec}: must be {forms}", status=EXIT_USAGE)
    path = PurePosixPath(match["file"])
    if ".." in path.parts:
        raise InstallError(f"{spec}: '..' is not allowed in a file name", status=EXIT_USAGE)
    revision, repository = match["revision"] or "main", match["repository"]
    names = shard_names(checked_name(path.name, spec))
    files = (RemoteFile(n, hub_url(endpoint, repository, revision, str(path.with_name(n)))) for n in names)
    return Model(spec, tuple(files), repository=repository)


def _from_url(spec: str) -> Model:
    parts = split(spec)
    if not is_private_channel(spec):
        raise InstallError(f"{spec}: use https (http is accepted only for this machine)", status=EXIT_USAGE)
    folder, _, last = parts.path.rpartition("/")
    names = shard_names(checked_name(unquote(last), spec))
    urls = (urlunsplit(parts._replace(path=f"{folder}/{quote(name)}", fragment="")) for name in names)
    return Model(spec, tuple(RemoteFile(name, url) for name, url in zip(names, urls)))


def checked_name(name: str, spec: str) -> str:
    """Return `name` if it is a plain file name: not hidden, without slashes and control characters.

    Raises:
        InstallError: it is not.
    """
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InstallError(f"{spec!r}: {name!r} cannot be used as a file name", status=EXIT_USAGE)
    return name


def hub_url(endpoint: str, repository: str, revision: str, file: str) -> str:
    """Return the download URL of a file in a repository of the hub."""
    return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"


def _with_digests(model: Model, digests: tuple[str, ...]) -> Model:
    if not digests:
        return model
    lowered = [digest.strip().lower() for digest in digests]
    invalid = next((digest for digest in lowered if not _SHA256.match(digest)), None)
    if invalid is not None:
        raise InstallError(f"--sha256 {invalid}: must be 64 hexadecimal digits", status=EXIT_USAGE)
    if len(lowered) != len(model.files):
        mismatch = f"--sha256: got {len(lowered)} digests, {model.label} has {len(model.files)} files"
        raise InstallError(
            f"{mismatch}: give one digest for each file in order, separated by commas", status=EXIT_USAGE
        )
    return replace(model, files=tuple(replace(f, sha256=d) for f, d in zip(model.files, lowered)))
