"""Downloads by a process of the installer: killed, interrupted, two at once, under limits of the system."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

from gguf import random_model
from installer import download
from scripted import eventually

from .downloader import NAME
from .hub import FakeHub
from .session import INSTALLER, Session


def test_with_any_umask_folders_are_private(hub: FakeHub, session: Session) -> None:
    arguments = [*_download_only(hub, session)[:-2], "--api-key"]
    code = f"import os, runpy, sys; os.umask(0); sys.argv[0] = {str(INSTALLER)!r}; "
    done = session.python(
        "-c",
        code + "runpy.run_path(sys.argv[0], run_name='__main__')",
        *arguments,
        environ={"HF_ENDPOINT": hub.endpoint},
    )
    assert done.returncode == 0, done.stderr
    paths = list(session.home.rglob("*"))
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o700"}
    assert not [path for path in paths if path.is_file() and path.stat().st_mode & 0o022]


def test_a_file_size_limit_is_reported_like_a_full_disk(hub: FakeHub, session: Session) -> None:
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
    script = limit + f"sys.argv[0] = {str(INSTALLER)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = _download_only(hub, session)
    done = session.python("-c", script, *arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert done.returncode == 75, done.stderr
    assert "the file size limit is exceeded" in done.stderr
    assert "Traceback" not in done.stderr
    again = session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert again.returncode == 0, again.stderr
    assert (session.models / NAME).read_bytes() == hub.files[NAME]


def test_two_concurrent_installers_download_the_file_once(hub: FakeHub, session: Session) -> None:
    hub.rate = 3_000_000.0
    arguments = _download_only(hub, session)
    both = [session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint}) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert (session.models / NAME).read_bytes() == hub.files[NAME]
    assert len(hub.bodies()) == 1
    assert sum("another installer is downloading" in text for text in errors) == 1


def test_the_next_run_resumes_a_download_that_ctrl_c_interrupted(hub: FakeHub, session: Session) -> None:
    hub.rate = 1_000_000.0
    arguments = _download_only(hub, session)
    process = session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    eventually(lambda: _size(session.models / f"{NAME}.part") > 200_000)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    hub.rate = None
    assert session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint}).returncode == 0
    assert "range" in hub.bodies()[-1].headers
    assert (session.models / NAME).read_bytes() == hub.files[NAME]


def test_after_sigkill_at_50_random_moments_the_file_is_complete_or_missing(hub: FakeHub, session: Session) -> None:
    random_ = random.Random()
    hub.rate = 1_500_000.0
    arguments = _download_only(hub, session)
    finished = []
    for _ in range(50):
        process = session.start(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
        moment = random_.uniform(0.05, 0.6)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        target = session.models / NAME
        if target.exists():
            assert target.read_bytes() == hub.files[NAME]
            finished.append(process.returncode)
            for path in [target, *session.models.glob(f"{NAME}.*")]:
                path.unlink()  # start from the beginning
    hub.rate = None
    last = session.run(*arguments, environ={"HF_ENDPOINT": hub.endpoint})
    assert last.returncode == 0, last.stderr
    assert (session.models / NAME).read_bytes() == hub.files[NAME]
    assert [path.name for path in session.models.glob("*.part*")] == []
    assert any("range" in request.headers for request in hub.bodies()), "no run resumed the part of an earlier run"


def test_memory_does_not_grow_with_the_file(hub: FakeHub, tmp_path: Path) -> None:
    peaks = []
    for size in (4_000_000, 64_000_000):
        hub.files["flat.gguf"] = random_model(size)
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
            "from installer import download, hub, source\n"
            "client = hub.Hub({'HF_ENDPOINT': sys.argv[2]})\n"
            "files = download.describe(source.parse(sys.argv[3], endpoint=client.endpoint).files, client, print)\n"
            "download.fetch(files, Path(sys.argv[4]), client, print)\n"
            "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
        )
        scripts = str(Path(download.__file__).parents[1])
        command = [sys.executable, "-c", code, scripts, hub.endpoint, hub.spec("flat.gguf")]
        done = subprocess.run([*command, str(tmp_path / str(size))], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 12_000, peaks  # KiB; sixteen times the bytes


def _download_only(hub: FakeHub, session: Session) -> list[str]:
    return ["--model", hub.spec(NAME), "--no-start", "--server", "/bin/true", "--models-dir", str(session.models)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
