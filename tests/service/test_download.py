"""Downloads against a hub-like server: whatever happens, the right file ends up in place, or none."""

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
from installer import download
from installer.errors import InstallError
from installer.hub import Hub
from installer.part import is_intact

from .downloader import NAME, SHARDS, Downloader
from .gguf_file import model
from .hub import CDN_HOST, HUB_HOST, REPOSITORY, cut, status


def test_a_file_comes_through_a_redirect_to_another_host(get: Downloader) -> None:
    assert get()
    assert get.is_right()
    assert get.leftovers() == []
    assert {request.host for request in get.server.seen} == {HUB_HOST, CDN_HOST}


def test_a_file_that_is_there_is_not_asked_for_again_and_not_touched(get: Downloader) -> None:
    get()
    before, requests = (get.folder / NAME).stat(), len(get.server.bodies())
    assert not get()
    after = (get.folder / NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(get.server.bodies()) == requests


def test_the_record_of_the_digest_is_one_that_sha256sum_understands(get: Downloader) -> None:
    get()
    check = subprocess.run(["sha256sum", "-c", f"{NAME}.sha256"], cwd=get.folder, capture_output=True, text=True)
    assert check.stdout == f"{NAME}: OK\n"


def test_all_shards_of_a_split_file_are_found_from_any_of_them(get: Downloader) -> None:
    assert get(SHARDS[1])
    assert all(get.is_right(name) for name in SHARDS)


def test_shards_come_at_the_same_time(get: Downloader) -> None:
    get.server.rate = 1_500_000.0
    started = time.monotonic()
    get(SHARDS[0])
    spans = len(SHARDS) * len(get.server.files[SHARDS[0]]) / get.server.rate
    assert time.monotonic() - started < spans  # one after the other could not be faster than this


def test_cuts_at_random_bytes_are_gone_over(get: Downloader) -> None:
    choose = random.Random(4)
    get.server.faults = [cut(choose.randrange(600_000), reset=choose.random() < 0.5) for _ in range(8)]
    assert get()
    assert get.is_right()
    starts = [request.headers.get("range") for request in get.server.bodies()]
    assert starts[0] is None
    assert any(starts), "nothing was resumed"
    assert all(request.headers.get("if-range") for request in get.server.bodies() if "range" in request.headers)


def test_without_range_support_a_cut_starts_anew(get: Downloader) -> None:
    get.server.ranges = False
    get.server.faults = [cut(1_000_000), cut(2_000_000)]
    assert get()
    assert get.is_right()


def test_a_hub_that_sends_the_file_itself_will_do(get: Downloader) -> None:
    get.server.redirects = False
    assert get()
    assert get.is_right()


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_in_seconds_is_kept_to(get: Downloader, code: int) -> None:
    get.server.faults = [status(code, Retry_After="2")]
    started = time.monotonic()
    assert get()
    assert time.monotonic() - started >= 2
    assert get.is_right()
    assert any(f"{code}" in line for line in get.said)


def test_retry_after_as_a_date_is_kept_to(get: Downloader) -> None:
    come_back = int(time.time()) + 3
    get.server.faults = [status(503, Retry_After=email.utils.formatdate(come_back, usegmt=True))]
    assert get()
    assert time.time() >= come_back - 0.01


def test_a_retry_after_of_hours_ends_with_the_reason(get: Downloader) -> None:
    get.server.faults = [status(429, Retry_After="86400")]
    with pytest.raises(InstallError, match="429.*24:00:00"):
        get()


def test_a_server_that_gives_nothing_is_given_up(get: Downloader) -> None:
    get.server.faults = [status(503, Retry_After="0") for _ in range(download.MAX_FAILURES)]
    with pytest.raises(InstallError, match="tried") as error:
        get()
    assert error.value.status == 75
    assert not (get.folder / NAME).exists()


def test_a_wrong_digest_is_named_and_what_came_is_set_aside(get: Downloader) -> None:
    get.server.digests[NAME] = "0" * 64
    with pytest.raises(InstallError, match="the SHA-256 is .*, expected 0000"):
        get()
    assert not (get.folder / NAME).exists()
    assert get.leftovers() == [f"{NAME}.part.corrupt"]


def test_a_corrupt_file_in_place_is_set_aside_and_replaced(get: Downloader) -> None:
    get()
    path = get.folder / NAME
    damaged = bytearray(path.read_bytes())
    damaged[1_000_000] ^= 1
    path.write_bytes(damaged)
    assert get()
    assert get.is_right()
    assert (get.folder / f"{NAME}.corrupt").read_bytes() == damaged
    assert any(f"{NAME}.corrupt" in line for line in get.said)


def test_a_damaged_part_of_an_earlier_run_is_started_anew(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    part = get.folder / f"{NAME}.part"
    damaged = bytearray(part.read_bytes())
    damaged[5000] ^= 1
    part.write_bytes(damaged)
    assert get()
    assert get.is_right()
    assert get.leftovers() == []


def test_an_earlier_run_is_gone_on_with(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    have = (get.folder / f"{NAME}.part").stat().st_size
    get.server.seen.clear()
    assert get()
    assert [request.headers["range"] for request in get.server.bodies()] == [f"bytes={have}-"]
    assert get.is_right()


def test_a_file_that_changed_between_two_runs_starts_anew(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    get.server.files[NAME] = model(2_500_000, seed=9)
    assert get()
    assert get.is_right()


def test_a_file_that_changes_while_it_comes_is_never_mixed(get: Downloader) -> None:
    old, new = get.server.files[NAME], model(3_000_000, seed=9)

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
    assert get.is_right()


def test_a_changed_file_of_the_same_size_is_noticed_by_its_etag(get: Downloader) -> None:
    _leave_part(get, 1_000_000)
    get.server.etags[NAME] = '"another"'
    get.server.seen.clear()
    assert get()
    answered = [request for request in get.server.bodies() if "if-range" in request.headers]
    assert len(answered) == 1
    assert answered[0].headers["if-range"] != '"another"'
    assert get.is_right()


def test_a_truncated_last_shard_is_refused(get: Downloader) -> None:
    whole = get.server.digest(SHARDS[2])
    get.server.digests[SHARDS[2]] = whole
    get.server.files[SHARDS[2]] = get.server.files[SHARDS[2]][:-1000]
    with pytest.raises(InstallError, match=SHARDS[2]):
        get(SHARDS[0])
    assert not (get.folder / SHARDS[2]).exists()


def test_what_does_not_begin_like_gguf_is_refused_before_it_is_stored(get: Downloader) -> None:
    get.server.files[NAME] = b"<!DOCTYPE html><html>" + bytes(100_000)
    with pytest.raises(InstallError, match="not a GGUF file"):
        get()
    assert not get.folder.exists()


def test_what_a_killed_writer_left_is_swept_up_and_a_living_one_is_not_disturbed(get: Downloader) -> None:
    get.folder.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [get.folder / f".{NAME}.part.json.{pid}.new" for pid in (dead.pid, os.getppid())]
    for path in left:
        path.touch()
    assert get()
    assert [path.exists() for path in left] == [False, True]


def test_a_file_of_the_same_name_from_elsewhere_is_left_alone(get: Downloader) -> None:
    assert get()
    first = (get.folder / NAME).read_bytes()
    get.server.files[NAME] = model(2_000_000, seed=5)
    files = get.describe()
    place = download.folder_for(files, get.folder, REPOSITORY)
    assert place == get.folder / "acme--tiny-GGUF"
    assert download.fetch(files, place, Hub(get.environ), print)
    assert (get.folder / NAME).read_bytes() == first
    assert (place / NAME).read_bytes() == get.server.files[NAME]
    assert get.leftovers() == []
    assert download.folder_for(files, get.folder, REPOSITORY) == place, "where it is, the next time"


def test_a_damaged_file_is_replaced_in_its_place(get: Downloader) -> None:
    assert get()
    (get.folder / NAME).write_bytes(b"GGUF damaged")
    assert download.folder_for(get.describe(), get.folder, REPOSITORY) == get.folder


def test_too_little_space_is_noticed_before_the_download(get: Downloader) -> None:
    files = [replace(file, size=10**18) for file in get.describe()]
    with pytest.raises(InstallError, match="short"):
        download.fetch(files, get.folder, Hub(get.environ), print)
    assert get.server.bodies() == []


def test_a_good_file_in_a_read_only_folder_is_used_as_it_is(get: Downloader, read_only: Path) -> None:
    get.folder = read_only / "models"
    assert not get()


def test_a_read_only_folder_is_named(get: Downloader, read_only: Path) -> None:
    get.folder = read_only
    with pytest.raises(InstallError, match=f"{read_only}.*cannot be written"):
        get()


@pytest.fixture
def read_only(get: Downloader, tmp_path: Path) -> Iterator[Path]:
    """A file system that is mounted read-only and has the right file in its folder `models`."""
    place = tmp_path / "mounted"
    place.mkdir()
    with mounted(place, "size=16m"):
        (place / "models").mkdir()
        (place / "models" / NAME).write_bytes(get.server.files[NAME])
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place


def test_a_full_disk_is_named_and_later_gone_on_with(get: Downloader, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    with mounted(place, "size=2m"):
        get.folder = place
        with pytest.MonkeyPatch.context() as patch:
            usage = shutil.disk_usage(tmp_path)
            patch.setattr(download.shutil, "disk_usage", lambda _: usage)  # it fills up only after the check
            with pytest.raises(InstallError, match="the disk is full") as error:
                get()
        assert error.value.status == 75
        assert not (place / NAME).exists()
        have = (place / f"{NAME}.part").stat().st_size
        assert have > 1_000_000
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        get.server.seen.clear()
        assert get()
        assert get.is_right()
        assert int(get.server.bodies()[0].headers["range"][6:-1]) > 1_000_000


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A tmpfs of its own; a test that cannot have one is skipped, and fails in CI."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


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
    assert is_intact(path, files[0]), "the record vouches for the time of modification"


def _leave_part(get: Downloader, size: int) -> None:
    """What a run leaves that is killed when it has come so far."""
    stop = threading.Event()
    client, files = Hub(get.environ), get.describe()
    get.folder.mkdir(parents=True, exist_ok=True)
    get.server.faults = [cut(size)]
    with download.Part(files[0], get.folder / NAME) as part, pytest.raises(download.TemporaryError):
        download.receive(files[0], part, client, download.Progress(1), stop)
    assert (get.folder / f"{NAME}.part").stat().st_size == size
