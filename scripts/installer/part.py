"""`NAME.part`: a partial download, hashed while it is received, and renamed to `NAME` once its SHA-256 matches.

`NAME.part.json` beside it identifies the file (digest, size, the server's ETag). It is written before the first byte of
the part. So the next run can always tell whether to resume or to restart, also after a kill at any moment.
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
MIN_READ_BYTES = 64 * 1024
BLOCKS = 4  # used in turn: one is received while others are hashed
_EXHAUSTED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is exceeded",
    errno.EFBIG: "the file size limit is exceeded",
}


class WrongDigest(Exception):
    """The download is complete and its SHA-256 is not the expected one."""


class Part:
    """A partial download of a file whose size and SHA-256 are known. A context manager; not thread-safe."""

    def __init__(self, file: RemoteFile, target: Path) -> None:
        assert file.size is not None
        assert file.sha256 is not None
        self.size, self.sha256, self.target = file.size, file.sha256, target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.position = 0
        self.etag: Optional[str] = None
        self.resumed = False  # True if some bytes are from an earlier run
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
        """Continue the part of an earlier run if it belongs to the same file; hash its bytes.

        Args:
            stopped: returns True when hashing has to end early.
        """
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
        """Start again at byte 0, and note the ETag of the file on the server."""
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
        """Write and hash bytes until the file is complete or `read_into` returns 0.

        Args:
            read_into: reads into the buffer and returns the number of bytes read.
            progress: called with the new position after each read.

        Raises:
            InstallError: the disk is full or cannot be written. The bytes written so far stay for the next run.
        """
        blocks = deque(memoryview(bytearray(BLOCK_BYTES)) for _ in range(BLOCKS))
        hashing: deque[Future[None]] = deque()
        read_size = MIN_READ_BYTES
        try:
            while self.position < self.size:
                if len(hashing) == BLOCKS:
                    hashing.popleft().result()  # blocks[0] may be overwritten now
                started = time.monotonic()
                count = read_into(blocks[0][: min(read_size, self.size - self.position)])
                if not count:
                    break
                read_size = _next_read_size(read_size, time.monotonic() - started)
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
        """Verify the digest and rename the part to `target`.

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
        """Rename the part to `NAME.part.corrupt`, so that it can be examined. Returns the new path."""
        with contextlib.suppress(FileNotFoundError):
            self.note.unlink()
        return set_aside(self.path, ".corrupt")


def delete_leftover_note(target: Path) -> None:
    """Delete a leftover `NAME.part.json`, from a process killed between renaming the part and deleting the note."""
    part, note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
    with contextlib.suppress(OSError):
        if note.exists() and not part.exists():
            note.unlink()


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Return True if the file at `path` has the size and digest of `file`.

    The digest is computed once and stored in `NAME.sha256`, in the format of sha256sum(1). That file gets the
    modification time of the model file, and is trusted as long as both times are equal.
    """
    if path.stat().st_size != file.size:
        return False
    verified = _digest_file(path)
    try:
        if verified.stat().st_mtime_ns == path.stat().st_mtime_ns and verified.read_text().split()[0] == file.sha256:
            return True
    except (OSError, ValueError, IndexError):
        pass
    if digest_of(path) != file.sha256:
        return False
    remember_verified(path, file.sha256)
    return True


def is_different(path: Path, file: RemoteFile) -> bool:
    """Return True if the file at `path` exists, is not `file`, and was never verified as `file`."""
    if not path.is_file() or is_intact(path, file):
        return False
    try:
        return _digest_file(path).read_text(encoding="utf-8").split()[0] != file.sha256
    except (OSError, ValueError, IndexError):
        return True


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest, block = hashlib.sha256(), bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()


def remember_verified(path: Path, sha256: str) -> None:
    """Write `NAME.sha256`. If that fails, the next run hashes the file again."""
    verified = _digest_file(path)
    with contextlib.suppress(InstallError, OSError):
        write_atomically(verified, f"{sha256}  {path.name}\n")
        times = path.stat()
        os.utime(verified, ns=(times.st_atime_ns, times.st_mtime_ns))


def companions(path: Path) -> list[Path]:
    """Return the paths of the files that the download creates beside a model file."""
    return [_digest_file(path), path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")]


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _next_read_size(read_size: int, seconds: float) -> int:
    """Return the bytes of the next read, from the size and duration of the last.

    Large reads are fast. Small ones on a slow connection keep the progress current and an interruption prompt.
    """
    if seconds < 0.1:
        return min(read_size * 2, BLOCK_BYTES)
    return max(read_size // 2, MIN_READ_BYTES) if seconds > 0.5 else read_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Convert an OSError into an InstallError that names the file."""
    try:
        yield
    except OSError as error:
        reason = _EXHAUSTED.get(error.errno or 0)
        if reason is None:
            raise InstallError(f"{path}: cannot be written: {error.strerror or error}") from error
        hint = "Free disk space and run the same command again: it resumes the download."
        raise InstallError(f"{path}: {reason}", hint=hint, status=EXIT_TEMPORARY) from error
