"""`NAME.part`: the bytes of a download so far, hashed as they come, and renamed to `NAME` only when they are right.

Beside it lies `NAME.part.json` with what the bytes are part of (digest, size, the server's ETag), written before the
first of them. A kill at any moment leaves both files such that the next run goes on or starts anew, never wrongly.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Callable, Optional

from .catalogue import RemoteFile
from .errors import EXIT_TEMPORARY, InstallError
from .files import set_aside, sweep, write_atomically

BLOCK_BYTES = 1024 * 1024
LEAST_BYTES = 64 * 1024
BLOCKS = 4  # in turn: one is received while others are hashed
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the limit for files is reached",
}


class WrongDigest(Exception):
    """All bytes are there and they are not the right ones."""


class Part:
    """A download in progress of a file whose size and SHA-256 are known. A context manager; one thread at a time."""

    def __init__(self, file: RemoteFile, target: Path) -> None:
        assert file.size is not None
        assert file.sha256 is not None
        self.size, self.sha256, self.target = file.size, file.sha256, target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.position = 0
        self.etag: Optional[str] = None
        self.resumed = False  # whether some bytes are of an earlier run
        self._stream: Optional[FileIO] = None
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._stream:
            self._stream.close()

    def resume(self, stopped: Callable[[], bool] = bool) -> None:
        """Takes up what an earlier run left, if it is part of the same file; its bytes are hashed once, here."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            same = (note["sha256"], note["size"]) == (self.sha256, self.size)
            if not same or self.path.stat().st_size > self.size:
                return
            self._stream = FileIO(self.path, "r+")
        except (OSError, ValueError, KeyError, TypeError):
            return
        block = bytearray(BLOCK_BYTES)
        while not stopped():
            count = self._stream.readinto(block)
            if not count:
                break
            self._hash.update(memoryview(block)[:count])
            self.position += count
        self.etag = note.get("etag") if isinstance(note.get("etag"), str) else None
        self.resumed = self.position > 0

    def restart(self, etag: Optional[str]) -> None:
        """Begins at byte 0 of what the server calls `etag`."""
        if self._stream:
            self._stream.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        note = {"sha256": self.sha256, "size": self.size, "etag": etag}
        write_atomically(self.note, json.dumps(note) + "\n")
        with _disk_errors(self.path):
            self._stream = FileIO(self.path, "w", opener=lambda path, flags: os.open(path, flags, 0o644))
        self.position, self.etag, self.resumed, self._hash = 0, etag, False, hashlib.sha256()

    def receive(self, read_into: Callable[[memoryview], int], progress: Callable[[int], None]) -> None:
        """Takes bytes until the file is whole or `read_into` has no more; they are hashed beside being received.

        Raises:
            InstallError: the disk is full, or cannot be written. What was written stays for the next run.
        """
        blocks = deque(memoryview(bytearray(BLOCK_BYTES)) for _ in range(BLOCKS))
        hashing: deque[Future[None]] = deque()
        wanted = LEAST_BYTES
        try:
            while self.position < self.size:
                if len(hashing) == BLOCKS:
                    hashing.popleft().result()  # the block that is next in turn is free again
                started = time.monotonic()
                count = read_into(blocks[0][: min(wanted, self.size - self.position)])
                if not count:
                    break
                wanted = _next_wanted(wanted, time.monotonic() - started)
                self._write(blocks[0][:count])
                hashing.append(self._pool.submit(self._hash.update, blocks[0][:count]))
                blocks.rotate(-1)
                progress(self.position)
        finally:
            for update in hashing:
                update.result()

    def _write(self, block: memoryview) -> None:
        assert self._stream
        with _disk_errors(self.path):
            rest = block
            while rest:
                rest = rest[self._stream.write(rest) :]
        self.position += len(block)

    def finish(self) -> None:
        """Gives the whole and right file its name.

        Raises:
            WrongDigest: the digest is not the expected one.
        """
        assert self._stream
        assert self.position == self.size
        if self._hash.hexdigest() != self.sha256:
            raise WrongDigest(self._hash.hexdigest())
        with _disk_errors(self.path):
            os.fsync(self._stream.fileno())
            os.replace(self.path, self.target)
            self.note.unlink(missing_ok=True)
            sweep(self.note)
            _sync_folder(self.target.parent)
        remember_verified(self.target, self.sha256)

    def set_aside(self) -> Path:
        """Moves the wrong bytes out of the way, named and kept, and returns where they are."""
        with contextlib.suppress(FileNotFoundError):
            self.note.unlink()
        return set_aside(self.path, ".corrupt")


def tidy(target: Path) -> None:
    """Removes the note of a download that was killed between giving the file its name and removing the note."""
    part, note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
    with contextlib.suppress(OSError):
        if note.exists() and not part.exists():
            note.unlink()


def is_good(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` has the size and digest of `file`.

    The digest is computed once: `NAME.sha256`, in the format of sha256sum(1) and with the modification time of the file
    that it vouches for, is believed as long as both times agree.
    """
    if path.stat().st_size != file.size:
        return False
    record = _record_of(path)
    try:
        if record.stat().st_mtime_ns == path.stat().st_mtime_ns and record.read_text().split()[0] == file.sha256:
            return True
    except (OSError, ValueError, IndexError):
        pass
    if digest_of(path) != file.sha256:
        return False
    remember_verified(path, file.sha256)
    return True


def is_another(path: Path, file: RemoteFile) -> bool:
    """Whether a file is at `path` that is not, and never was, `file`."""
    if not path.is_file() or is_good(path, file):
        return False
    try:
        return _record_of(path).read_text(encoding="utf-8").split()[0] != file.sha256
    except (OSError, ValueError, IndexError):
        return True


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest, block = hashlib.sha256(), bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()


def remember_verified(path: Path, sha256: str) -> None:
    """Writes `NAME.sha256`. Where that cannot be written, the file is hashed again at the next run."""
    record = _record_of(path)
    with contextlib.suppress(InstallError, OSError):
        write_atomically(record, f"{sha256}  {path.name}\n")
        times = path.stat()
        os.utime(record, ns=(times.st_atime_ns, times.st_mtime_ns))


def companions(path: Path) -> list[Path]:
    """The files that the download keeps beside a model's file."""
    return [_record_of(path), path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")]


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _next_wanted(wanted: int, seconds: float) -> int:
    """Bytes to ask for next: large reads are fast, but a slow connection shall show progress, and stop when told."""
    if seconds < 0.1:
        return min(wanted * 2, BLOCK_BYTES)
    return max(wanted // 2, LEAST_BYTES) if seconds > 0.5 else wanted


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason is None:
            raise InstallError(f"{path}: cannot be written: {error.strerror or error}") from error
        hint = "Make room and run it again: it goes on where it stopped."
        raise InstallError(f"{path}: {reason}", hint=hint, status=EXIT_TEMPORARY) from error
