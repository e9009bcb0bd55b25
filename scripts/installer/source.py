"""From what the user wrote after `--model` to files: names, addresses, and what is known of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Optional
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from . import catalogue
from .catalogue import RemoteFile, Shape
from .errors import EXIT_USAGE, InstallError
from .gguf import MAGIC

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)  # gguf-split's own naming
_HF = re.compile(r"^hf:(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@]+)(?:@(?P<revision>.+))?$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_MOST_SHARDS = 999


@dataclass(frozen=True)
class Model:
    """A model to serve: `files` to download, or, for one that is here already, none and its `path`."""

    label: str
    files: tuple[RemoteFile, ...] = ()
    path: Optional[Path] = None
    shape: Optional[Shape] = None

    def first(self, models_dir: Path) -> Path:
        """The file that llama-server is given; it finds further shards beside it."""
        return self.path if self.path is not None else models_dir / self.files[0].name


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


def parse(spec: str, *, endpoint: str, digests: tuple[str, ...] = ()) -> Model:
    """The model that `spec` means: a name of the catalogue, `hf:OWNER/REPO/FILE[@REVISION]`, an address, or a path.

    Args:
        endpoint: the hub's address, for names of the catalogue and `hf:`.
        digests: the SHA-256 of each file in order, from `--sha256`.

    Raises:
        InstallError: the spec or a digest is wrong, or the file is not there.
    """
    known = catalogue.by_name(spec)
    if known:
        return from_catalogue(known, endpoint)
    if spec.startswith("hf:"):
        return _with_digests(_from_hub(spec, endpoint), digests)
    if re.match(r"^https?://", spec, re.IGNORECASE):
        if not digests:
            raise InstallError(f"{spec}: an address needs the file's digest: --sha256 HEX", status=EXIT_USAGE)
        return _with_digests(_from_url(spec), digests)
    return local(spec)


def from_catalogue(model: catalogue.CatalogueModel, endpoint: str) -> Model:
    files = tuple(
        RemoteFile(name, _hub_url(endpoint, model.repository, model.revision, name), size, sha256)
        for name, size, sha256 in model.files
    )
    return Model(model.name, files, shape=model.shape)


def local(spec: str) -> Model:
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
            names = ", ".join(model.name for model in catalogue.CATALOGUE)
            raise InstallError(
                f"{file}: {(error.strerror or str(error)).lower()}",
                hint=f"--model takes a path, hf:OWNER/REPO/FILE, an https address, auto, or one of: {names}",
            ) from error
        if magic != MAGIC:
            raise InstallError(f"{file}: this is not a GGUF file (it does not begin with GGUF)")
    return Model(path.name, path=path.with_name(shard_names(path.name)[0]))


def _from_hub(spec: str, endpoint: str) -> Model:
    match = _HF.match(spec)
    if not match:
        raise InstallError(f"{spec}: write hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION", status=EXIT_USAGE)
    path = PurePosixPath(match["file"])
    if ".." in path.parts:
        raise InstallError(f"{spec}: '..' has no place in a file's name", status=EXIT_USAGE)
    revision = match["revision"] or "main"
    names = shard_names(checked_name(path.name, spec))
    files = (RemoteFile(n, _hub_url(endpoint, match["repo"], revision, str(path.with_name(n)))) for n in names)
    return Model(spec, tuple(files))


def _from_url(spec: str) -> Model:
    parts = urlsplit(spec)
    if not is_private_channel(spec):
        raise InstallError(f"{spec}: use https (http is taken for this machine only)", status=EXIT_USAGE)
    folder, _, last = parts.path.rpartition("/")
    names = shard_names(checked_name(unquote(last), spec))
    urls = (urlunsplit(parts._replace(path=f"{folder}/{quote(name)}", fragment="")) for name in names)
    return Model(spec, tuple(RemoteFile(name, url) for name, url in zip(names, urls)))


def is_private_channel(url: str) -> bool:
    """Whether nobody between can read along: https, or a server on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" or host in ("localhost", "::1") or bool(re.match(r"^127(\.\d{1,3}){3}$", host))


def checked_name(name: str, spec: str) -> str:
    """`name`, if it can be a file's name in the models' folder and nothing else."""
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InstallError(f"{spec!r}: {name!r} cannot be used as a file's name", status=EXIT_USAGE)
    return name


def _hub_url(endpoint: str, repository: str, revision: str, file: str) -> str:
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
