"""Long tests and benchmarks of flynn batch. Each prints lines of JSON, and fails if a promise is broken.

    python scripts/bench_batch.py speed [--prompts 2000] [--rounds 3]     against a bare http.client thread loop
    python scripts/bench_batch.py speed --canned                          the same against canned_server.py
    python scripts/bench_batch.py dask [--workers 2] [--delay 0.02]       responses/s through a Dask scheduler
    python scripts/bench_batch.py prefix                                  prompt tokens that the server processed
    python scripts/bench_batch.py kill [--times 100]                      SIGKILL at random moments
    python scripts/bench_batch.py restarts                                a systemd user service killed 10 times
    python scripts/bench_batch.py million [--lines 1000000]               peak memory, and the start of a second run

Name one or more. `speed` and `prefix` start a real server, or take one at `--endpoint` (`prefix`: with `--metrics`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
TOPICS = ["tides", "volcanoes", "bread", "glass", "bees", "rust", "sleep", "rainbows", "magnets", "yeast", "ice", "tea"]


def prompts(count: int, start: int = 0) -> Iterator[str]:
    """Yield different prompts of about the same length, numbered from `start`."""
    for number in range(start, start + count):
        yield f"In a few words, question {number}: what is special about {TOPICS[number % len(TOPICS)]}?"


def write_lines(path: Path, texts: Iterator[str], **fields: Any) -> None:
    """Write a batch file with one request for each prompt."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"custom_id": f"q-{number}", "prompt": text, **fields}) + "\n")


def flynn(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start `flynn batch` with these arguments."""
    command = [sys.executable, "-m", "flynn", "batch", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **options)


def finished(process: subprocess.Popen[bytes]) -> Tuple[int, resource.struct_rusage]:
    """Wait for a process. Returns its exit code and resource usage."""
    assert process.stderr
    process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


@contextlib.contextmanager
def canned(*arguments: object) -> Iterator[str]:
    """Run a server with canned responses. Yields its endpoint."""
    command = [sys.executable, str(ROOT / "scripts" / "canned_server.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def real(endpoint: Optional[str]) -> Iterator[str]:
    """Yield the endpoint; start a real server if it is None."""
    if endpoint:
        yield endpoint
        return
    from real_server import RealServer

    with RealServer(metrics=True, ctx_size=8192) as server:
        yield server.endpoint


# --- speed ------------------------------------------------------------------------------------------------------------


def bare(endpoint: str, path: Path, output: Path, jobs: int) -> None:
    """Run a loop in several threads of this process: read a line, send the request, write the response."""
    host = urlsplit(endpoint).netloc
    lock = threading.Lock()
    with path.open(encoding="utf-8") as lines, output.open("w", encoding="utf-8") as results:

        def work() -> None:
            connection = http.client.HTTPConnection(host)
            while True:
                with lock:
                    line = lines.readline()
                if not line:
                    return
                fields = json.loads(line)
                del fields["custom_id"]
                body = {"messages": [{"role": "user", "content": fields.pop("prompt")}], **fields}
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                reply = connection.getresponse().read()
                json.loads(reply)
                with lock:
                    results.write(reply.decode() + "\n")

        threads = [threading.Thread(target=work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_timed(command: List[str]) -> Tuple[float, float]:
    """Run a command. Returns its wall seconds and CPU seconds."""
    start = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    code, usage = finished(process)
    assert code == 0, f"{command} ended with {code}"
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime


def speed(options: argparse.Namespace, folder: Path) -> None:
    """Measure tokens/s of whole processes, one after the other, in random order.

    Each process has its own prompts of the same length: the server would have the prompts of the last one in its cache.
    """
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(canned() if options.canned else real(options.endpoint))
        for round_number in range(options.rounds):
            rates, cpu = {}, {}
            for name in random.sample(["bare", "flynn"], 2):
                path, output = folder / f"{round_number}.{name}", folder / f"{round_number}.{name}.out"
                texts = prompts(options.prompts, start=100_000 + options.prompts * next(numbers))
                write_lines(path, texts, max_tokens=options.max_tokens, temperature=0, ignore_eos=True)
                command = [sys.executable, __file__, "bare", endpoint, str(path), str(output), str(options.jobs)]
                if name == "flynn":
                    command = [sys.executable, "-m", "flynn", "batch", str(path), "-o", str(output)]
                    command += ["--endpoint", endpoint]
                seconds, cpu[name] = run_timed(command)
                tokens = [completion_tokens(line) for line in output.open(encoding="utf-8")]
                assert len(tokens) == options.prompts
                rates[name] = sum(tokens) / seconds
            report = {
                "round": round_number,
                "prompts": options.prompts,
                **{f"{name}_tokens_per_second": round(rates[name], 2) for name in rates},
                "speed_ratio": round(rates["flynn"] / rates["bare"], 4),
                **{f"{name}_cpu_us_per_request": round(cpu[name] / options.prompts * 1e6) for name in cpu},
                "cpu_ratio": round(cpu["flynn"] / cpu["bare"], 3),
            }
            print(json.dumps(report), flush=True)


def completion_tokens(line: str) -> int:
    """Return the completion tokens of an output line of flynn batch or of the bare loop."""
    answer = json.loads(line)
    return int(answer.get("response", {}).get("body", answer)["usage"]["completion_tokens"])


# --- a Dask scheduler -------------------------------------------------------------------------------------------------


def dask(options: argparse.Namespace, folder: Path) -> None:
    """Measure responses/s through a Dask scheduler, with workers that use a server with canned responses."""
    from dask_cluster import DaskCluster

    path, output = folder / "in.jsonl", folder / "out.jsonl"
    write_lines(path, prompts(options.prompts), max_tokens=options.max_tokens)
    for count in range(1, options.workers + 1):
        with canned("--delay", options.delay) as endpoint, DaskCluster([endpoint] * count, threads=4) as cluster:
            start = time.monotonic()
            code, usage = finished(flynn(path, "-o", output, "--dask", cluster.address))
            seconds = time.monotonic() - start
        assert code == 0
        assert len(output.read_bytes().splitlines()) == options.prompts
        output.unlink()
        report = {
            "workers": count,
            "seconds": round(seconds, 2),
            "responses_per_second": round(options.prompts / seconds, 1),
            "flynn_cpu_us_per_request": round((usage.ru_utime + usage.ru_stime) / options.prompts * 1e6),
        }
        print(json.dumps(report), flush=True)


# --- prompts with a common prefix -------------------------------------------------------------------------------------


def processed(endpoint: str) -> int:
    """Return the number of prompt tokens that the server has processed, without cached tokens."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    name = "llamacpp:prompt_tokens_total "
    return next(int(float(line[len(name) :])) for line in text.splitlines() if line.startswith(name))


def prefix(options: argparse.Namespace, folder: Path) -> None:
    """Send several questions about each of many texts: by flynn batch shuffled, by the bare loop in both orders."""
    random.seed(1)
    texts = [" ".join(random.choice(TOPICS) for _ in range(options.words)) for _ in range(options.texts)]
    questions = range(1, options.questions + 1)
    in_order = [f"{text}\nQuestion {number}: which word comes {number}th?" for text in texts for number in questions]
    shuffled = random.sample(in_order, len(in_order))
    path, output = folder / "in.jsonl", folder / "out.jsonl"
    for name, order in {"flynn, shuffled": shuffled, "bare, shuffled": shuffled, "bare, file order": in_order}.items():
        write_lines(path, iter(order), max_tokens=1, temperature=0)
        with real(options.endpoint) as endpoint:
            before = processed(endpoint)
            command = [sys.executable, __file__, "bare", endpoint, str(path), str(output), str(options.jobs)]
            if name.startswith("flynn"):
                command = [sys.executable, "-m", "flynn", "batch", str(path), "-o", str(output)]
                command += ["--endpoint", endpoint]
            seconds, _ = run_timed(command)
            tokens = processed(endpoint) - before
        report = {"loop": name, "prompts": len(order), "processed_tokens": tokens, "seconds": round(seconds, 1)}
        print(json.dumps(report), flush=True)


# --- crashes ----------------------------------------------------------------------------------------------------------


def kill(options: argparse.Namespace, folder: Path) -> None:
    """Kill a batch at random moments until enough kills hit, then let it finish. Check the promises after each kill."""
    path, output, log = folder / "in.jsonl", folder / "out.jsonl", folder / "log"
    write_lines(path, prompts(options.lines))
    recorded: Dict[str, str] = {}
    repeated: Counter[str] = Counter()
    killed = 0
    texts = {f"q-{number}": text for number, text in enumerate(prompts(options.lines))}
    with canned("--delay", options.delay, "--log", log) as endpoint:
        while True:
            start = log.stat().st_size if log.exists() else 0
            process = flynn(path, "-o", output, "--endpoint", endpoint)
            if killed < options.times:
                time.sleep(random.uniform(0.05, options.longest))
                os.kill(process.pid, signal.SIGKILL)  # send_signal would reap a process that has ended
            code, _ = finished(process)
            time.sleep(2 * options.delay)
            with log.open(encoding="utf-8") as file:
                file.seek(start)
                repeated.update(text for text in map(json.loads, file) if text in recorded.values())
            content = output.read_bytes() if output.exists() else b""
            lines = content[: content.rfind(b"\n") + 1].splitlines()
            ids = {json.loads(line)["custom_id"] for line in lines}
            assert len(ids) == len(lines), "an ID has two results"
            assert recorded.keys() <= ids, "a result was lost"
            recorded = {name: texts[name] for name in ids}
            if code != -signal.SIGKILL:
                break
            killed += 1
    assert code == 0, f"the last run ended with {code}"
    assert recorded.keys() == texts.keys()
    assert not repeated, f"requests sent again although their results were recorded: {repeated}"
    print(json.dumps({"killed": killed, "lines": len(recorded), "repeated": sum(repeated.values())}))


# --- restarts ---------------------------------------------------------------------------------------------------------

UNIT = """[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart={command}
Restart=on-failure
RestartSec=0.1
"""


def restarts(options: argparse.Namespace, folder: Path) -> None:
    """Kill a real server, a systemd user service, ten times while a batch runs."""
    sys.path.insert(0, str(ROOT / "tests"))
    import environment
    from service.running import free_port  # type: ignore[import-not-found]
    from service.session import Session, private_manager  # type: ignore[import-not-found]

    path, output, port = folder / "in.jsonl", folder / "out.jsonl", free_port()
    write_lines(path, prompts(options.lines), max_tokens=options.max_tokens)
    command = [*environment.server_command(), "-m", environment.model(), "--port", port, "-np", 4, "-c", 4096, "-t", 1]
    session = Session(folder)
    session.unit_dir.mkdir(parents=True)
    (session.unit_dir / "llama-server.service").write_text(UNIT.format(command=" ".join(map(str, command))))
    with private_manager(session):
        session.systemctl("start", "llama-server")
        start, killed = time.monotonic(), 0
        process = flynn(path, "-o", output, "--endpoint", f"http://127.0.0.1:{port}")
        while process.poll() is None and killed < 10:
            target = (killed + 1) * options.lines // 12
            if output.exists() and output.read_bytes().count(b"\n") >= target:
                session.systemctl("kill", "--signal=KILL", "llama-server")
                killed += 1
            time.sleep(0.05)
        code, _ = finished(process)
        seconds = time.monotonic() - start
        restarted = int(session.show("llama-server", "NRestarts"))
        session.systemctl("stop", "llama-server")
    ids = [json.loads(line)["custom_id"] for line in output.read_bytes().splitlines()]
    print(json.dumps({"code": code, "killed": killed, "restarts": restarted, "results": len(ids), "seconds": seconds}))
    assert code == 0
    assert sorted(ids) == sorted(f"q-{number}" for number in range(options.lines))


# --- a million lines --------------------------------------------------------------------------------------------------


def million(options: argparse.Namespace, folder: Path) -> None:
    """Run a large batch, then run it again. Report peak memory and time of both runs."""
    path, output = folder / "in.jsonl", folder / "out.jsonl"
    write_lines(path, prompts(options.lines), max_tokens=16)
    with canned() as endpoint:
        for name in ("first", "again"):
            start = time.monotonic()
            code, usage = finished(flynn(path, "-o", output, "--endpoint", endpoint))
            report = {
                "run": name,
                "code": code,
                "seconds": round(time.monotonic() - start, 2),
                "peak_mib": round(usage.ru_maxrss / 1024, 1),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            }
            print(json.dumps(report), flush=True)
    with output.open("rb") as file:
        ids = [json.loads(line[: line.index(b',"response"')] + b"}")["custom_id"] for line in file]
    assert len(ids) == len(set(ids)) == options.lines


# Each test, and its default for --lines.
TESTS = {
    "speed": (speed, 0),
    "dask": (dask, 0),
    "prefix": (prefix, 0),
    "kill": (kill, 14_000),
    "restarts": (restarts, 240),
    "million": (million, 10**6),
}


def main() -> None:
    if sys.argv[1:2] == ["bare"]:
        bare(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description="Long tests and benchmarks of flynn batch.")
    parser.add_argument("test", choices=sorted(TESTS), nargs="+")
    parser.add_argument("--endpoint", help="the URL of a running server (starts one)")
    parser.add_argument("--canned", action="store_true", help="speed: use a server with canned responses")
    parser.add_argument("--prompts", type=int, default=2000, help="speed, dask: number of prompts (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16, help="tokens of each completion (%(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=4, help="threads of the bare loop: the number of slots (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="speed: number of rounds (%(default)s)")
    parser.add_argument("--texts", type=int, default=20, help="prefix: number of texts (%(default)s)")
    parser.add_argument("--questions", type=int, default=20, help="prefix: questions about each text (%(default)s)")
    parser.add_argument("--words", type=int, default=200, help="prefix: words in each text (%(default)s)")
    parser.add_argument("--times", type=int, default=100, help="kill: number of kills (%(default)s)")
    parser.add_argument("--delay", type=float, default=0.02, help="kill, dask: seconds for each response (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="dask: largest number of workers, with 4 threads each (%(default)s)"
    )
    parser.add_argument(
        "--longest", type=float, default=1.5, help="kill: longest time in seconds before a kill (%(default)s)"
    )
    parser.add_argument(
        "--lines", type=int, help="kill, restarts, million: number of requests (14,000, 240, a million)"
    )
    options = parser.parse_args()
    lines = options.lines
    for name in options.test:
        test, default_lines = TESTS[name]
        options.lines = lines or default_lines
        with tempfile.TemporaryDirectory() as folder:
            test(options, Path(folder))


if __name__ == "__main__":
    main()
