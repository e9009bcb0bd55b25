"""Downloading the files of a model: several at a time, each resumed after a cut, checked, and never done twice."""

from __future__ import annotations

import concurrent.futures
import contextlib
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
from .hub import Hub, Temporary, length_of, sorted_failure
from .part import Part, WrongDigest, is_another, is_good, tidy
from .progress import Meter, duration

AT_A_TIME = 4
SPARE_BYTES = 64 * 1024 * 1024  # left free on the disk
FRUITLESS_TRIES = 10  # in a row, each without a single new byte; about two minutes
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0

Result = TypeVar("Result")


class Interrupted(Exception):
    """Told to stop: by Ctrl-C, or because another file failed."""


class Patience:
    """Tries again what failed for now: after the server's Retry-After, else after ever longer pauses with some jitter.

    Args:
        say: where a wait is announced.
        stop: set from another thread, it ends a wait.
    """

    def __init__(self, say: Callable[[str], None], stop: threading.Event) -> None:
        self._say, self._stop = say, stop
        self._fruitless, self._furthest = 0, -1

    def wait(self, failure: Temporary, position: int) -> None:
        """Waits before the next try.

        Raises:
            InstallError: it failed too often without coming further than `position`.
            Interrupted: told to stop.
        """
        self._fruitless = self._fruitless + 1 if position <= self._furthest else 1
        self._furthest = max(position, self._furthest)
        if self._fruitless >= FRUITLESS_TRIES:
            hint = "Run it again later: it goes on where it stopped."
            raise InstallError(f"{failure} (tried {FRUITLESS_TRIES} times)", hint=hint, status=EXIT_TEMPORARY)
        seconds = failure.wait
        if seconds is None:
            doubled = FIRST_BACKOFF_SECONDS * 2 ** (self._fruitless - 1)
            seconds = min(doubled, LONGEST_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
        if seconds > LONGEST_RETRY_AFTER_SECONDS:
            raise InstallError(f"{failure}: asks to come back in {duration(seconds)}", status=EXIT_TEMPORARY)
        self._say(f"{failure}: again in {seconds:.0f} s")
        if self._stop.wait(seconds):
            raise Interrupted

    def persist(self, attempt: Callable[[], Result]) -> Result:
        """The result of `attempt`, tried until it is not Temporary."""
        while True:
            try:
                return attempt()
            except Temporary as failure:
                self._furthest = 0
                self.wait(failure, 0)


def describe(files: Sequence[RemoteFile], hub: Hub, say: Callable[[str], None]) -> tuple[RemoteFile, ...]:
    """The files with size and digest; those that lack them are asked of the server."""
    patience = Patience(say, threading.Event())
    return tuple(patience.persist(lambda file=file: hub.describe(file)) for file in files)  # type: ignore[misc]


def folder_for(files: Sequence[RemoteFile], models_dir: Path, repository: str) -> Path:
    """Where the files go: the models' folder, or one in it if that has other files of these names.

    A file that is not the wanted one is another model's, unless its own record says that it was the wanted one once.
    """
    digest = (files[0].sha256 or "")[:12] if files else ""
    folders = [models_dir, models_dir / (repository.replace("/", "--") or digest)]
    free = (folder for folder in folders if not any(is_another(folder / file.name, file) for file in files))
    return next(free, models_dir / digest)


def fetch(files: Sequence[RemoteFile], folder: Path, hub: Hub, say: Callable[[str], None]) -> bool:
    """Makes sure that every file is in the folder, whole and right.

    Returns:
        Whether anything had to be downloaded.

    Raises:
        InstallError: no space, no permission, a wrong digest, or the server would not give it.
    """
    if not _missing(files, folder):
        for file in files:
            tidy(folder / file.name)
        return False
    with locked(folder, say):
        missing = _missing(files, folder)
        for file in missing:
            target = folder / file.name
            if target.exists():
                aside = set_aside(target, ".corrupt")
                say(f"{target} is not the file that it should be: set aside as {aside.name}")
        if missing:
            _check_space(missing, folder)
            _download_all(missing, folder, hub, say)
    return bool(missing)


def _missing(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    return [file for file in files if not ((folder / file.name).is_file() and is_good(folder / file.name, file))]


def _check_space(files: Sequence[RemoteFile], folder: Path) -> None:
    needed = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            needed -= (folder / f"{file.name}.part").stat().st_blocks * 512
        needed += file.size or 0
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        lacking = (needed + SPARE_BYTES - free) / 1e9
        raise InstallError(
            f"{folder}: {needed / 1e9:.2f} GB are still to come, {free / 1e9:.2f} GB are free: {lacking:.2f} GB short",
            hint="Make room, or choose another folder with --models-dir DIR.",
        )


def _download_all(files: Sequence[RemoteFile], folder: Path, hub: Hub, say: Callable[[str], None]) -> None:
    stop = threading.Event()
    meter = Meter(sum(file.size or 0 for file in files))
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="download") as pool:
        running = {pool.submit(_download, file, folder, hub, meter, say, stop) for file in files}
        try:
            failed = None
            while running:
                first = concurrent.futures.FIRST_COMPLETED
                done, running = concurrent.futures.wait(running, meter.interval, first)
                errors = [error for error in (future.exception() for future in done) if error]
                failed = next((error for error in errors if not isinstance(error, Interrupted)), failed)
                if failed:
                    stop.set()
                elif not done:
                    meter.draw()
        finally:
            stop.set()
            meter.finish()
    if failed:
        raise failed


def _download(
    file: RemoteFile, folder: Path, hub: Hub, meter: Meter, say: Callable[[str], None], stop: threading.Event
) -> None:
    patience = Patience(say, stop)
    with Part(file, folder / file.name) as part:
        part.resume(stop.is_set)
        while True:
            meter.at(file.name, part.position)
            try:
                if part.position < part.size:
                    _receive(file, part, hub, meter, stop)
                part.finish()
                return
            except Temporary as failure:
                patience.wait(failure, part.position)
            except WrongDigest as wrong:
                if part.resumed:  # the bytes of an earlier run may be what is wrong: a crash can leave such
                    say(f"{part.path.name} was damaged: starting it anew")
                    part.restart(None)
                    continue
                aside = part.set_aside()
                raise InstallError(
                    f"{file.url}: the SHA-256 is {wrong}, it should be {file.sha256}",
                    hint=f"What came is set aside as {aside}. Run it again, or use another mirror with HF_ENDPOINT.",
                ) from wrong


def _receive(file: RemoteFile, part: Part, hub: Hub, meter: Meter, stop: threading.Event) -> None:
    headers = {}
    if part.position:
        headers["Range"] = f"bytes={part.position}-"
        if part.etag:
            headers["If-Range"] = part.etag
    response, _ = hub.open(file.url, headers)
    with response:
        _begin(file, part, response)

        def read_into(block: memoryview) -> int:
            if stop.is_set():
                raise Interrupted
            return response.readinto(block)

        try:
            part.receive(read_into, lambda position: meter.at(file.name, position))
        except (OSError, http.client.HTTPException) as error:
            raise sorted_failure(error, file.url) from error
    if part.position < part.size:
        raise Temporary(f"{file.name}: cut after {part.position:,} of {part.size:,} bytes")


def _begin(file: RemoteFile, part: Part, response: http.client.HTTPResponse) -> None:
    """Holds the answer against the part: does it go on where the part ends, and is it the same file?"""
    size = length_of(response)
    if size not in (None, part.size):
        raise InstallError(
            f"{file.url}: the file has {size:,} bytes, {part.size:,} were expected: it has changed, or is cut off",
            hint="Run it again; for a file of the catalogue, use another mirror with HF_ENDPOINT.",
        )
    if response.status == 206 and part.position:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {part.position}-"):
            raise InstallError(f"{file.url}: asked for bytes from {part.position}, got another range")
        return
    part.restart(_strong_etag(response.headers.get("ETag")))


def _strong_etag(etag: Optional[str]) -> Optional[str]:
    """An ETag that If-Range may carry (RFC 9110, 13.1.5: a weak one may not)."""
    return etag if etag and etag.startswith('"') and etag.isprintable() else None
