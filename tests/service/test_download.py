"""Downloads from a fake hub: whatever happens, the result is the right file or none."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import random_model
from installer import download
from installer.errors import InstallError
from installer.hub import Hub
from installer.part import is_intact

from .downloader import NAME, SHARDS, Downloader
from .hub import CDN_HOST, HUB_HOST, REPOSITORY, cut, status
from .skipping import skip_or_fail


def test_a_file_is_downloaded_through_a_redirect_to_another_host(get: Downloader) -> None:
    assert get()
    assert get.is_complete()
    assert get.leftovers() == []
    assert {request.host for request in get.server.requests} == {HUB_HOST, CDN_HOST}


def test_an_existing_file_is_neither_requested_again_nor_changed(get: Downloader) -> None:
    get()
    before, requests = (get.folder / NAME).stat(), len(get.server.bodies())
    assert not get()
    after = (get.folder / NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(get.server.bodies()) == requests


def test_sha256sum_can_read_the_stored_digest(get: Downloader) -> None:
    get()
    check = subprocess.run(["sha256sum", "-c", f"{NAME}.sha256"], cwd=get.folder, capture_output=True, text=True)
    assert check.stdout == f"{NAME}: OK\n"


def test_the_name_of_any_shard_downloads_all_shards(get: Downloader) -> None:
    assert get(SHARDS[1])
    assert all(get.is_complete(name) for name in SHARDS)


def test_shards_are_downloaded_in_parallel(get: Downloader) -> None:
    get.server.rate = 1_500_000.0
    started = time.monotonic()
    get(SHARDS[0])
    sequential = len(SHARDS) * len(get.server.files[SHARDS[0]]) / get.server.rate
    assert time.monotonic() - started < sequential


def test_a_download_is_resumed_after_cuts_at_random_bytes(get: Downloader) -> None:
    random_ = random.Random(4)
    get.server.faults = [cut(random_.randrange(600_000), reset=random_.random() < 0.5) for _ in range(8)]
    assert get()
    assert get.is_complete()
    starts = [request.headers.get("range") for request in get.server.bodies()]
    assert starts[0] is None
    assert any(starts), "nothing was resumed"
    assert all(request.headers.get("if-range") for request in get.server.bodies() if "range" in request.headers)


def test_without_range_support_a_cut_restarts_the_download(get: Downloader) -> None:
    get.server.ranges = False
    get.server.faults = [cut(1_000_000), cut(2_000_000)]
    assert get()
    assert get.is_complete()


def test_a_hub_may_send_the_file_without_a_redirect(get: Downloader) -> None:
    get.server.redirects = False
    assert get()
    assert get.is_complete()


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_in_seconds_is_obeyed(get: Downloader, code: int) -> None:
    get.server.faults = [status(code, Retry_After="2")]
    started = time.monotonic()
    assert get()
    assert time.monotonic() - started >= 2
    assert get.is_complete()
    assert any(f"{code}" in line for line in get.messages)


def test_retry_after_as_a_date_is_obeyed(get: Downloader) -> None:
    retry_at = int(time.time()) + 3
    get.server.faults = [status(503, Retry_After=email.utils.formatdate(retry_at, usegmt=True))]
    assert get()
    assert time.time() >= retry_at - 0.01


def test_a_retry_after_of_hours_fails_with_the_reason(get: Downloader) -> None:
    get.server.faults = [status(429, Retry_After="86400")]
    with pytest.raises(InstallError, match="429.*24:00:00"):
        get()


def test_the_download_fails_after_too_many_attempts_without_a_byte(get: Downloader) -> None:
    get.server.faults = [status(503, Retry_After="0") for _ in range(download.MAX_FAILURES)]
    with pytest.raises(InstallError, match="tried") as error:
        get()
    assert error.value.status == 75
    assert not (get.folder / NAME).exists()


def test_a_wrong_digest_is_reported_and_the_download_is_set_aside(get: Downloader) -> None:
    get.server.digests[NAME] = "0" * 64
    with pytest.raises(InstallError, match="the SHA-256 is .*, expected 0000"):
        get()
    assert not (get.folder / NAME).exists()
    assert get.leftovers() == [f"{NAME}.part.corrupt"]


def test_a_corrupt_file_is_set_aside_and_downloaded_again(get: Downloader) -> None:
    get()
    path = get.folder / NAME
    damaged = bytearray(path.read_bytes())
    damaged[1_000_000] ^= 1
    path.write_bytes(damaged)
    assert get()
    assert get.is_complete()
    assert (get.folder / f"{NAME}.corrupt").read_bytes() == damaged
    assert any(f"{NAME}.corrupt" in line for line in get.messages)


def test_a_damaged_part_of_an_earlier_run_is_downloaded_again(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    part = get.folder / f"{NAME}.part"
    damaged = bytearray(part.read_bytes())
    damaged[5000] ^= 1
    part.write_bytes(damaged)
    assert get()
    assert get.is_complete()
    assert get.leftovers() == []


def test_the_part_of_an_earlier_run_is_resumed(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    size = (get.folder / f"{NAME}.part").stat().st_size
    get.server.requests.clear()
    assert get()
    assert [request.headers["range"] for request in get.server.bodies()] == [f"bytes={size}-"]
    assert get.is_complete()


def test_a_file_that_changed_between_two_runs_is_downloaded_again(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    get.server.files[NAME] = random_model(2_500_000, seed=9)
    assert get()
    assert get.is_complete()


def test_a_file_that_changes_during_the_download_is_never_mixed(get: Downloader) -> None:
    old, new = get.server.files[NAME], random_model(3_000_000, seed=9)

    def change(handler: object, body: bytes) -> None:
        cut(1_000_000)(handler, body)  # type: ignore[arg-type]
        get.server.files[NAME] = new

    change.partial = True  # type: ignore[attr-defined]
    get.server.faults = [change]
    with pytest.raises(InstallError, match="SHA-256"):
        get()
    assert not (get.folder / NAME).exists()
    assert hashlib.sha256(old).hexdigest() != hashlib.sha256(new).hexdigest()
    assert get()
    assert get.is_complete()


def test_a_changed_file_of_the_same_size_is_detected_by_its_etag(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    get.server.etags[NAME] = '"another"'
    get.server.requests.clear()
    assert get()
    conditional = [request for request in get.server.bodies() if "if-range" in request.headers]
    assert len(conditional) == 1
    assert conditional[0].headers["if-range"] != '"another"'
    assert get.is_complete()


def test_a_truncated_last_shard_is_refused(get: Downloader) -> None:
    whole = get.server.digest(SHARDS[2])
    get.server.digests[SHARDS[2]] = whole
    get.server.files[SHARDS[2]] = get.server.files[SHARDS[2]][:-1000]
    with pytest.raises(InstallError, match=SHARDS[2]):
        get(SHARDS[0])
    assert not (get.folder / SHARDS[2]).exists()


def test_a_file_that_is_not_gguf_is_refused_before_it_is_stored(get: Downloader) -> None:
    get.server.files[NAME] = b"<!DOCTYPE html><html>" + bytes(100_000)
    with pytest.raises(InstallError, match="not a GGUF file"):
        get()
    assert not get.folder.exists()


def test_temporary_files_of_dead_processes_are_deleted_and_those_of_running_ones_kept(get: Downloader) -> None:
    get.folder.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    temporary = [get.folder / f".{NAME}.part.json.{pid}.new" for pid in (dead.pid, os.getppid())]
    for path in temporary:
        path.touch()
    assert get()
    assert [path.exists() for path in temporary] == [False, True]


def test_a_file_of_the_same_name_from_another_repository_is_kept(get: Downloader) -> None:
    assert get()
    first = (get.folder / NAME).read_bytes()
    get.server.files[NAME] = random_model(2_000_000, seed=5)
    files = get.describe()
    folder = download.folder_for(files, get.folder, REPOSITORY)
    assert folder == get.folder / "acme--tiny-GGUF"
    assert download.fetch(files, folder, Hub(get.environ), print)
    assert (get.folder / NAME).read_bytes() == first
    assert (folder / NAME).read_bytes() == get.server.files[NAME]
    assert get.leftovers() == []
    assert download.folder_for(files, get.folder, REPOSITORY) == folder, "the next run must use the same folder"


def test_a_damaged_file_is_replaced_in_the_same_folder(get: Downloader) -> None:
    assert get()
    (get.folder / NAME).write_bytes(b"GGUF damaged")
    assert download.folder_for(get.describe(), get.folder, REPOSITORY) == get.folder


def test_too_little_disk_space_is_reported_before_the_download(get: Downloader) -> None:
    files = [replace(file, size=10**18) for file in get.describe()]
    with pytest.raises(InstallError, match="short"):
        download.fetch(files, get.folder, Hub(get.environ), print)
    assert get.server.bodies() == []


def test_an_intact_file_in_a_read_only_folder_is_used(get: Downloader, read_only: Path) -> None:
    get.folder = read_only / "models"
    assert not get()


def test_a_read_only_folder_is_named(get: Downloader, read_only: Path) -> None:
    get.folder = read_only
    with pytest.raises(InstallError, match=f"{read_only}.*cannot be written"):
        get()


@pytest.fixture
def read_only(get: Downloader, tmp_path: Path) -> Iterator[Path]:
    """A file system that is mounted read-only, with the right file in its folder `models`."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    with mounted(folder, "size=16m"):
        (folder / "models").mkdir()
        (folder / "models" / NAME).write_bytes(get.server.files[NAME])
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder


def test_a_full_disk_is_reported_and_the_download_can_be_resumed(get: Downloader, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, "size=2m"):
        get.folder = folder
        with pytest.MonkeyPatch.context() as patch:
            usage = shutil.disk_usage(tmp_path)
            patch.setattr(download.shutil, "disk_usage", lambda _: usage)  # the disk becomes full only after the check
            with pytest.raises(InstallError, match="the disk is full") as error:
                get()
        assert error.value.status == 75
        assert not (folder / NAME).exists()
        size = (folder / f"{NAME}.part").stat().st_size
        assert size > 1_000_000
        subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)
        get.server.requests.clear()
        assert get()
        assert get.is_complete()
        assert int(get.server.bodies()[0].headers["range"][6:-1]) > 1_000_000


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs until the block ends. Skips the test if that is not possible."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        skip_or_fail(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_verified_file_is_not_hashed_again_until_it_changes(get: Downloader) -> None:
    get()
    files = get.describe()
    path = get.folder / NAME
    assert is_intact(path, files[0])
    times = path.stat()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert not is_intact(path, files[0])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert is_intact(path, files[0]), "an unchanged modification time means an unchanged file"


def _leave_part(get: Downloader, size: int) -> None:
    """Leave a part of `size` bytes, like a run that was killed."""
    stop = threading.Event()
    client, files = Hub(get.environ), get.describe()
    get.folder.mkdir(parents=True, exist_ok=True)
    get.server.faults = [cut(size)]
    with download.Part(files[0], get.folder / NAME) as part, pytest.raises(download.TemporaryError):
        download.receive(files[0], part, client, download.Progress(1), stop)
    assert (get.folder / f"{NAME}.part").stat().st_size == size
