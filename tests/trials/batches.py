"""Kill batches at random moments and before each write: no request has two results, and no file is lost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Set

from command import Ended, Home
from scripted import Peer, chat, error, response, serve

OUTPUT, ERRORS, REPORT = "out.jsonl", "out.jsonl.errors.jsonl", "report.json"
_REFUSED = response(error(400, "not that", "invalid_request_error"), "400 Bad Request")
_NO_SLOTS = response(error(501, "no slots", "not_supported_error"), "501 Not Implemented")
_TOTAL_SLOTS = response(b'{"total_slots": 4}')

# Runs the command and kills it before the N-th call in the main thread that may change a file.
KILLER = """
import os, signal, sys
import flynn.cli.batch
limit, calls = int(sys.argv.pop(1)), [0]
watched = {"open", "write", "writelines", "ftruncate", "fsync", "replace", "unlink"}
def watch(frame, event, function):
    if event == "c_call" and function.__name__ in watched and not isinstance(function.__self__, (str, bytes)):
        calls[0] += 1
        if calls[0] == limit:
            os.kill(os.getpid(), signal.SIGKILL)
from flynn.cli import main
sys.setprofile(watch)
sys.exit(main())
"""


class Server:
    """A llama-server whose answers repeat the prompts.

    Attributes:
        refused: the prompts that it refuses.
        delay: seconds before each answer.
        prompts: the prompts it received.
    """

    def __init__(self) -> None:
        self.refused: Set[str] = set()
        self.delay = 0.0
        self.prompts: List[str] = []

    def script(self, peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.method == "GET":
                peer.send(_TOTAL_SLOTS if request.target == "/props" else _NO_SLOTS)
                continue
            prompt = request.json["messages"][-1]["content"]
            self.prompts.append(prompt)
            time.sleep(self.delay)
            peer.send(_REFUSED if prompt in self.refused else response(chat(f"re: {prompt}")))


def kill_at_random(seed: str, kills: int, prompts: int = 400) -> Dict[str, int]:
    """Kill batches at random moments, and misuse files between the runs.

    Returns:
        The numbers of killed runs, refused misuses, and completed batches.
    """
    random_ = random.Random(seed)
    counts = {"killed": 0, "refused": 0, "batches": 0}
    server = Server()
    server.delay = 0.004
    with serve(server.script) as listening, tempfile.TemporaryDirectory(prefix="flynn-batch-") as folder:
        while counts["killed"] < kills:
            home = Home(Path(folder) / str(counts["batches"]))
            home.path.mkdir()
            _write_input(home, prompts)
            server.refused = {f"p{n}" for n in random_.sample(range(1, prompts + 1), 20)}
            is_done = False
            while not is_done and counts["killed"] < kills:
                is_done = _kill_once(home, server, listening.endpoint, random_)
                counts["killed"] += not is_done
                _misuse(home, listening.endpoint, random_)
                counts["refused"] += 1
                if random_.random() < 0.3:
                    _tear(home.path / random_.choice((OUTPUT, ERRORS)), random_)
            server.refused = set()
            ended = _batch(home, listening.endpoint, "in.jsonl", "--ordered")
            assert ended.code == 0, ended.err
            _check(home, prompts)
            counts["batches"] += 1
    return counts


def _kill_once(home: Home, server: Server, endpoint: str, random_: random.Random) -> bool:
    """Start a run and kill it at a random moment. Returns True if it was complete before that."""
    retries = (home.path / ERRORS).exists() and random_.random() < 0.3
    before = _recorded(home)
    server.prompts.clear()
    options = ["--ordered"] if random_.random() < 0.5 and not retries else []
    source = ERRORS if retries else "in.jsonl"
    process = home.start("batch", source, "-o", OUTPUT, "--endpoint", endpoint, "--jobs", "4", *options)
    try:
        process.communicate(timeout=random_.uniform(0.1, 0.8))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    repeated = {f"p{name.rpartition('-')[2]}" for name in before} & set(server.prompts)
    assert not repeated, f"requested again although they have results: {sorted(repeated)}"
    assert before <= _recorded(home), "a result was lost"
    return bool(process.returncode == 0)


def _misuse(home: Home, endpoint: str, random_: random.Random) -> None:
    """Run a batch that uses one file for two purposes: it must be refused and change no file."""
    link = home.path / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(random_.choice(("in.jsonl", OUTPUT, ERRORS)))
    foreign = home.path / "foreign.jsonl"
    foreign.write_text("Dear diary\n")
    misuses = [
        ("in.jsonl", "-o", "in.jsonl"),
        ("in.jsonl", "-o", "foreign.jsonl"),
        ("in.jsonl", "-o", OUTPUT, "--report", OUTPUT),
        ("in.jsonl", "-o", OUTPUT, "--report", "in.jsonl"),
        ("in.jsonl", "-o", OUTPUT, "--report", ERRORS),
        ("in.jsonl", "-o", OUTPUT, "--report", "foreign.jsonl"),
        ("in.jsonl", "-o", OUTPUT, "--template", OUTPUT),
        (OUTPUT, "-o", "./" + OUTPUT),
    ]
    if link.exists():
        misuses.append((str(link.readlink()), "-o", "link"))
    before = _files(home)
    arguments = random_.choice(misuses)
    ended = home.run("batch", *arguments, "--endpoint", endpoint)
    assert ended.code == 2, f"{arguments}: {ended.err}"
    assert ended.err.count("\n") == 1, f"{arguments}: {ended.err}"
    assert _files(home) == before, f"{arguments} changed a file"
    link.unlink()


def _tear(path: Path, random_: random.Random) -> None:
    """Damage the last line as a power failure may do."""
    data = path.read_bytes() if path.exists() else b""
    start = data.rfind(b"\n", 0, -1) + 1
    if data:
        data = data[: random_.randint(start, len(data) - 1)]
        path.write_bytes(data + b"\0" * random_.choice((0, 1, 5000)))


def kill_everywhere() -> int:
    """Kill a run before each write: while it repairs, appends, sorts and reports. Returns the number of kills."""
    killed = 0
    server = Server()
    with serve(server.script) as listening, tempfile.TemporaryDirectory(prefix="flynn-batch-") as folder:
        damaged = Path(folder) / "damaged"
        damaged.mkdir()
        _damage(Home(damaged), server, listening.endpoint)
        recorded = _recorded(Home(damaged))
        for source in ("in.jsonl", ERRORS):
            limit, ended_at = 0, 0
            while not ended_at:
                limit += 1
                home = Home(Path(folder) / "home")
                shutil.copytree(damaged, home.path)
                server.refused = {"p6"}
                options = ("--ordered",) if source == "in.jsonl" else ()
                ended = _batch(home, listening.endpoint, source, "--report", REPORT, *options, limit=limit)
                assert ended.code in (1, -signal.SIGKILL), ended.err
                assert recorded <= _recorded(home), f"killed before call {limit}: a result was lost"
                if ended.code == 1:
                    ended_at = limit
                if (home.path / REPORT).exists():
                    json.loads((home.path / REPORT).read_text())
                server.refused = set()
                again = _batch(home, listening.endpoint, "in.jsonl", "--ordered")
                assert again.code == 0, f"killed before call {limit}: {again.err}"
                _check(home, 12)
                shutil.rmtree(home.path)
            killed += ended_at - 1
    return killed


def _damage(home: Home, server: Server, endpoint: str) -> None:
    """Run a batch with failures and damage its files as a power failure may do."""
    _write_input(home, 12)
    server.refused = {"p3", "p6"}
    assert _batch(home, endpoint, "in.jsonl").code == 1
    lines = (home.path / OUTPUT).read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:40] + b"\0" * (len(lines[3]) - 40)
    (home.path / OUTPUT).write_bytes(b"".join(lines)[:-20])
    (home.path / f"{OUTPUT}.draft").write_bytes(lines[0])
    with (home.path / ERRORS).open("ab") as errors:
        errors.write(b'{"id":"batch_req_')


def _check(home: Home, prompts: int) -> None:
    """Check that each request has one result, in order, and that no other file is left."""
    texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in _lines(home.path / OUTPUT)]
    assert texts == [f"re: p{n}" for n in range(1, prompts + 1)]
    others = {path.name for path in home.path.iterdir()} - {"in.jsonl", OUTPUT, "foreign.jsonl"}
    # A kill may leave the temporary file of the report.
    assert not {name for name in others if not name.startswith(REPORT)}, others


def _batch(home: Home, endpoint: str, source: str, *options: str, limit: int = 0) -> Ended:
    python = (sys.executable, "-c", KILLER, str(limit)) if limit else (sys.executable, "-m", "flynn")
    return home.run("batch", source, "-o", OUTPUT, "--endpoint", endpoint, *options, python=python)


def _write_input(home: Home, prompts: int) -> None:
    home.write("in.jsonl", "".join(f'{{"prompt": "p{n}"}}\n' for n in range(1, prompts + 1)))


def _recorded(home: Home) -> Set[str]:
    """Return the IDs of the complete lines of the output. Check that no ID occurs twice."""
    path = home.path / OUTPUT
    data = path.read_bytes() if path.exists() else b""
    complete = [line for line in data[: data.rfind(b"\n") + 1].splitlines() if b"\0" not in line]
    names = [json.loads(line)["custom_id"] for line in complete]
    assert len(set(names)) == len(names), "a second result of a request"
    return set(names)


def _lines(path: Path) -> List[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _files(home: Home) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.path.iterdir() if path.is_file()}
