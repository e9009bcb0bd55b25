"""Download the files of a model: in parallel, resumable, verified, and never twice."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import http.client
import random
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional, TypeVar

from .catalogue import RemoteFile
from .errors import EXIT_TEMPORARY, InstallError
from .files import locked, set_aside
from .hub import Hub, TemporaryError, connection_failure, length_of
from .part import Part, WrongDigest, delete_leftover_note, is_different, is_intact
from .progress import Progress, duration

PARALLEL_DOWNLOADS = 4
SPARE_BYTES = 64 * 1024 * 1024  # to leave free on the disk
MAX_FAILURES = 10  # in a row, without a new byte in between; takes about two minutes
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 3600.0

Result = TypeVar("Result")


class Interrupted(Exception):
    """The download was stopped, by Ctrl-C or because another file failed."""


class Retry:
    """Repeat an attempt after temporary failures: after Retry-After, or with exponential backoff and jitter.

    Args:
        say: prints a message before each wait.
        stop: an event that another thread sets to end a wait; None if no other thread does.
    """

    def __init__(self, say: Callable[[str], None], stop: Optional[threading.Event] = None) -> None:
        self._say, self._stop = say, stop or threading.Event()
        self._failures, self._furthest = 0, -1

    def wait(self, failure: TemporaryError, position: int) -> None:
        """Wait before the next attempt.

        Args:
            failure: why the last attempt failed.
            position: bytes downloaded so far; progress resets the count of failures.

        Raises:
            InstallError: too many failures in a row without progress, or the server asks for too long a wait.
            Interrupted: `stop` was set.
        """
        self._failures = self._failures + 1 if position <= self._furthest else 1
        self._furthest = max(position, self._furthest)
        if self._failures >= MAX_FAILURES:
            hint = "Run the same command again later: it resumes the download."
            raise InstallError(f"{failure} (tried {MAX_FAILURES} times)", hint=hint, status=EXIT_TEMPORARY)
        seconds = failure.wait
        if seconds is None:
            doubled = FIRST_BACKOFF_SECONDS * 2 ** (self._failures - 1)
            seconds = min(doubled, MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
        if seconds > MAX_RETRY_AFTER_SECONDS:
            raise InstallError(f"{failure}: the server asks to retry after {duration(seconds)}", status=EXIT_TEMPORARY)
        self._say(f"{failure}: retrying in {seconds:.0f} s")
        if self._stop.wait(seconds):
            raise Interrupted

    def run(self, attempt: Callable[[], Result]) -> Result:
        """Return the result of `attempt`, repeated as long as it raises TemporaryError."""
        while True:
            try:
                return attempt()
            except TemporaryError as failure:
                self.wait(failure, position=0)


def describe(files: Sequence[RemoteFile], hub: Hub, say: Callable[[str], None]) -> tuple[RemoteFile, ...]:
    """Return the files with size and digest; ask the server for missing ones."""
    retry = Retry(say)
    return tuple(retry.run(functools.partial(hub.describe, file)) for file in files)


def folder_for(files: Sequence[RemoteFile], models_dir: Path, repository: str) -> Path:
    """Return the folder for the files: `models_dir`, or a subfolder if `models_dir` has different files of these names.

    A different file belongs to another model, unless `NAME.sha256` says that it once was the expected file.
    """
    digest = (files[0].sha256 or "")[:12] if files else ""
    folders = [models_dir, models_dir / (repository.replace("/", "--") or digest)]
    available = (folder for folder in folders if not any(is_different(folder / file.name, file) for file in files))
    return next(available, models_dir / digest)


def fetch(files: Sequence[RemoteFile], folder: Path, hub: Hub, say: Callable[[str], None]) -> bool:
    """Download the files that are missing from the folder, and verify all of them.

    Returns:
        True if a file was downloaded.

    Raises:
        InstallError: no space, no permission, a wrong digest, or the server refused.
    """
    if not _missing(files, folder):
        for file in files:
            delete_leftover_note(folder / file.name)
        return False
    with locked(folder, say):
        missing = _missing(files, folder)
        for file in missing:
            target = folder / file.name
            if target.exists():
                aside = set_aside(target, ".corrupt")
                say(f"{target} does not match its size and SHA-256: renamed to {aside.name}")
        if missing:
            _check_space(missing, folder)
            _download_all(missing, folder, hub, say)
    return bool(missing)


def _missing(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    return [file for file in files if not ((folder / file.name).is_file() and is_intact(folder / file.name, file))]


def _check_space(files: Sequence[RemoteFile], folder: Path) -> None:
    needed = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            needed -= (folder / f"{file.name}.part").stat().st_blocks * 512
        needed += file.size or 0
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        shortage = (needed + SPARE_BYTES - free) / 1e9
        raise InstallError(
            f"{folder}: {needed / 1e9:.2f} GB to download, {free / 1e9:.2f} GB free: {shortage:.2f} GB short",
            hint="Free disk space, or choose another folder with --models-dir DIR.",
        )


def _download_all(files: Sequence[RemoteFile], folder: Path, hub: Hub, say: Callable[[str], None]) -> None:
    stop = threading.Event()
    progress = Progress(sum(file.size or 0 for file in files))
    with concurrent.futures.ThreadPoolExecutor(PARALLEL_DOWNLOADS, thread_name_prefix="download") as pool:
        running = {pool.submit(_download, file, folder, hub, progress, say, stop) for file in files}
        try:
            failed = None
            while running:
                first = concurrent.futures.FIRST_COMPLETED
                done, running = concurrent.futures.wait(running, progress.interval, first)
                errors = [error for error in (future.exception() for future in done) if error]
                failed = next((error for error in errors if not isinstance(error, Interrupted)), failed)
                if failed:
                    stop.set()
                elif not done:
                    progress.draw()
        finally:
            stop.set()
            progress.finish()
    if failed:
        raise failed


def _download(
    file: RemoteFile, folder: Path, hub: Hub, progress: Progress, say: Callable[[str], None], stop: threading.Event
) -> None:
    retry = Retry(say, stop)
    with Part(file, folder / file.name) as part:
        part.resume(stop.is_set)
        while True:
            progress.update(file.name, part.position)
            try:
                if part.position < part.size:
                    receive(file, part, hub, progress, stop)
                part.finish()
                return
            except TemporaryError as failure:
                retry.wait(failure, part.position)
            except WrongDigest as error:
                if part.resumed:  # a crash may have left damaged bytes in the part
                    say(f"{part.path.name} is damaged: downloading it again")
                    part.restart(None)
                    continue
                aside = part.set_aside()
                raise InstallError(
                    f"{file.url}: the SHA-256 is {error}, expected {file.sha256}",
                    hint=f"The download was renamed to {aside}. Try again, or choose another mirror with HF_ENDPOINT.",
                ) from error


def receive(file: RemoteFile, part: Part, hub: Hub, progress: Progress, stop: threading.Event) -> None:
    """Download the rest of a part; what arrives stays in it. Raises TemporaryError, Interrupted or InstallError."""
    headers = {}
    if part.position:
        headers["Range"] = f"bytes={part.position}-"
        if part.etag:
            headers["If-Range"] = part.etag
    response, _ = hub.open(file.url, headers)
    with response:
        _check_response(file, part, response)

        def read_into(block: memoryview) -> int:
            if stop.is_set():
                raise Interrupted
            return response.readinto(block)

        try:
            part.receive(read_into, lambda position: progress.update(file.name, position))
        except (OSError, http.client.HTTPException) as error:
            raise connection_failure(error, file.url) from error
    if part.position < part.size:
        raise TemporaryError(f"{file.name}: the connection closed after {part.position:,} of {part.size:,} bytes")


def _check_response(file: RemoteFile, part: Part, response: http.client.HTTPResponse) -> None:
    """Check that the response is the expected file and starts where the part ends; else restart the part.

    Raises:
        InstallError: the file has another size, or the server sent another range.
    """
    size = length_of(response)
    if size not in (None, part.size):
        raise InstallError(
            f"{file.url}: the file has {size:,} bytes, expected {part.size:,}: it was changed or truncated",
            hint="Try again. For a model of the catalogue, choose another mirror with HF_ENDPOINT.",
        )
    if response.status == 206 and part.position:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {part.position}-"):
            raise InstallError(f"{file.url}: requested bytes from {part.position}, received another range")
        return
    part.restart(_strong_etag(response.headers.get("ETag")))


def _strong_etag(etag: Optional[str]) -> Optional[str]:
    """Return the ETag if If-Range may contain it: it must be strong (RFC 9110, section 13.1.5)."""
    return etag if etag and etag.startswith('"') and etag.isprintable() else None
