"""Downloads against a hub-like server: whatever happens, the right file ends up in place, or none."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from installer import download
from installer.errors import InstallError
from installer.hub import Hub
from installer.part import is_good
from installer.source import parse

from . import hub as fake
from .gguf_file import model
from .hub import CDN_HOST, HUB_HOST, FakeHub, cut, status
from .session import Session

NAME = "tiny-q4_0.gguf"
SHARDS = [f"big-q4_k_m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
TOKEN = "hf_secret-token-of-this-test"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake.running() as server:
        server.files[NAME] = model(3_000_000)
        server.files.update({name: model(1_500_000, seed=n) for n, name in enumerate(SHARDS)})
        yield server


class Downloader:
    """What the installer does for a model, in this process."""

    def __init__(self, server: FakeHub, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.said: list[str] = []
        self.environ = {"HF_ENDPOINT": server.endpoint}

    def __call__(self, name: str = NAME, spec: str = "", digests: tuple[str, ...] = ()) -> bool:
        client = Hub(self.environ)
        wanted = parse(spec or self.server.spec(name), endpoint=client.endpoint, digests=digests)
        files, _ = download.describe(wanted.files, client, self.said.append)
        return download.fetch(files, self.folder, client, self.said.append)

    def is_right(self, name: str = NAME) -> bool:
        path = self.folder / name
        return path.exists() and path.read_bytes() == self.server.files[name]

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if ".part" in path.name or ".corrupt" in path.name)


@pytest.fixture
def get(hub: FakeHub, tmp_path: Path) -> Downloader:
    return Downloader(hub, tmp_path / "models")


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


def test_a_server_that_gives_nothing_is_given_up(get: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_BACKOFF_SECONDS", 0.001)
    get.server.faults = [cut(0) for _ in range(download.FRUITLESS_TRIES)]
    with pytest.raises(InstallError, match="tried") as error:
        get()
    assert error.value.status == 75
    assert not (get.folder / NAME).exists()


def test_a_wrong_digest_is_named_and_what_came_is_set_aside(get: Downloader) -> None:
    get.server.digests[NAME] = "0" * 64
    with pytest.raises(InstallError, match="the SHA-256 is .*, it should be 0000"):
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


def test_the_token_goes_to_the_hub_and_never_to_the_cdn(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = TOKEN
    get()
    for request in get.server.seen:
        sent = request.headers.get("authorization")
        assert sent == (f"Bearer {TOKEN}" if request.host == HUB_HOST else None)
        assert request.host == HUB_HOST or TOKEN not in str(request)


def test_the_token_is_not_sent_to_an_address_of_another_host(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = TOKEN
    address = f"http://{CDN_HOST}:{get.server.cdn_port}/blobs/{NAME}"
    get(spec=address, digests=(str(get.server.digest(NAME)),))
    assert get.is_right()
    assert all("authorization" not in request.headers for request in get.server.seen)


def test_a_token_with_a_line_break_is_refused_and_not_shown(get: Downloader) -> None:
    get.environ["HF_TOKEN"] = "abc\r\nX-Evil: 1"
    with pytest.raises(InstallError, match="HF_TOKEN") as error:
        get()
    assert "abc" not in str(error.value)


def test_a_token_is_not_sent_in_clear_over_the_network() -> None:
    with pytest.raises(InstallError, match="use https"):
        Hub({"HF_ENDPOINT": "http://mirror.example", "HF_TOKEN": TOKEN})


def test_proxies_of_the_environment_are_used(get: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{CDN_HOST}:{get.server.cdn_port}")
    get.environ["HF_ENDPOINT"] = "http://hub.example"
    name_of_hub = get.server.spec(NAME)
    wanted = parse(name_of_hub, endpoint="http://hub.example", digests=(str(get.server.digest(NAME)),))
    files, _ = download.describe(wanted.files, Hub(get.environ), get.said.append)
    assert files[0].size == len(get.server.files[NAME])
    assert get.server.seen[-1].path.startswith("http://hub.example/")


def test_what_a_killed_writer_left_is_swept_up_and_a_living_one_is_not_disturbed(get: Downloader) -> None:
    get.folder.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [get.folder / f".{NAME}.part.json.{pid}.new" for pid in (dead.pid, os.getppid())]
    for path in left:
        path.touch()
    assert get()
    assert [path.exists() for path in left] == [False, True]


def test_a_missing_file_is_said_to_be_missing(get: Downloader) -> None:
    with pytest.raises(InstallError, match="there is no such file"):
        get("absent.gguf")


def test_a_gated_file_asks_for_a_token(get: Downloader) -> None:
    get.server.faults = [status(401)]
    with pytest.raises(InstallError, match="401") as error:
        get()
    assert "HF_TOKEN" in error.value.hint


def test_a_hub_that_tells_no_digest_asks_for_one(get: Downloader) -> None:
    get.server.digests[NAME] = None
    with pytest.raises(InstallError, match="digest") as error:
        get()
    assert "--sha256" in error.value.hint


def test_too_little_space_is_noticed_before_the_download(get: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(get.folder.parent)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(InstallError, match="short"):
        get()
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


def test_a_limit_on_file_sizes_is_like_a_full_disk(hub: FakeHub, session: Session) -> None:
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
    script = limit + f"sys.argv[0] = {str(session.installer)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = _download_only(hub, session)
    done = session.python("-c", script, *arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert done.returncode == 75, done.stderr
    assert "the limit for files is reached" in done.stderr
    assert "Traceback" not in done.stderr
    again = session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert again.returncode == 0, again.stderr
    assert (session.models / NAME).read_bytes() == hub.files[NAME]


def test_two_installers_at_once_download_once(hub: FakeHub, session: Session) -> None:
    hub.rate = 3_000_000.0
    arguments = _download_only(hub, session)
    both = [session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint}) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (session.models / NAME).read_bytes() == hub.files[NAME]
    assert len(hub.bodies()) == 1
    assert sum("another installer is downloading" in text for text in said) == 1


def test_ctrl_c_stops_it_in_order_and_the_next_run_goes_on(hub: FakeHub, session: Session) -> None:
    hub.rate = 1_000_000.0
    arguments = _download_only(hub, session)
    process = session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    _wait_for(lambda: _size(session.models / f"{NAME}.part") > 200_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    hub.rate = None
    assert session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint}).returncode == 0
    assert "range" in hub.bodies()[-1].headers
    assert (session.models / NAME).read_bytes() == hub.files[NAME]


def test_after_sigkill_at_50_random_moments_the_file_is_right_or_not_there(hub: FakeHub, session: Session) -> None:
    choose = random.Random()
    hub.rate = 1_500_000.0
    arguments = _download_only(hub, session)
    finished = []
    for _ in range(50):
        process = session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
        moment = choose.uniform(0.05, 0.6)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        target = session.models / NAME
        if target.exists():
            assert target.read_bytes() == hub.files[NAME]
            finished.append(process.returncode)
            for path in [target, *session.models.glob(f"{NAME}.*")]:
                path.unlink()  # from the beginning again
    hub.rate = None
    last = session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert last.returncode == 0, last.stderr
    assert (session.models / NAME).read_bytes() == hub.files[NAME]
    assert [path.name for path in session.models.glob("*.part*")] == []
    assert any("range" in request.headers for request in hub.bodies()), "no run ever went on with another's part"


def test_memory_stays_flat(hub: FakeHub, tmp_path: Path) -> None:
    peaks = []
    for size in (4_000_000, 64_000_000):
        hub.files["flat.gguf"] = model(size)
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
            "from installer import download, hub, source\n"
            "client = hub.Hub({'HF_ENDPOINT': sys.argv[2]})\n"
            "files, _ = download.describe(source.parse(sys.argv[3], endpoint=client.endpoint).files, client, print)\n"
            "download.fetch(files, Path(sys.argv[4]), client, print)\n"
            "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
        )
        scripts = str(Path(download.__file__).parents[1])
        command = [sys.executable, "-c", code, scripts, hub.endpoint, hub.spec("flat.gguf")]
        done = subprocess.run([*command, str(tmp_path / str(size))], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 12_000, peaks  # KiB; sixteen times the bytes


def test_a_verified_file_is_not_hashed_again_until_it_changes(get: Downloader) -> None:
    get()
    client = Hub(get.environ)
    files, _ = download.describe(parse(get.server.spec(NAME), endpoint=client.endpoint).files, client, print)
    path = get.folder / NAME
    assert is_good(path, files[0])
    times = path.stat()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert not is_good(path, files[0])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert is_good(path, files[0]), "the record vouches for the time of modification"


def _download_only(hub: FakeHub, session: Session) -> list[str]:
    return ["--model", hub.spec(NAME), "--no-start", "--server", "/bin/true", "--models-dir", str(session.models)]


def _leave_part(get: Downloader, size: int) -> None:
    """What a run leaves that is killed when it has come so far."""
    stop = threading.Event()
    client = Hub(get.environ)
    files, _ = download.describe(parse(get.server.spec(NAME), endpoint=client.endpoint).files, client, print)
    get.folder.mkdir(parents=True, exist_ok=True)
    get.server.faults = [cut(size)]
    with download.Part(files[0], get.folder / NAME) as part, pytest.raises(download.Temporary):
        download._receive(files[0], part, client, download.Meter(1), stop)
    assert (get.folder / f"{NAME}.part").stat().st_size == size


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
