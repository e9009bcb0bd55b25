#!/usr/bin/env python3
"""Compare the installer's download, including hashing, with curl, which does not hash, on a loopback server.

    python3 scripts/bench_download.py                      # 2 GB, 5 rounds, in a temporary folder
    python3 scripts/bench_download.py --gigabytes 0.5 --rounds 3 --folder /dev/shm

Prints each round and the ratio of the medians. Run it on an otherwise idle machine: the installer uses two cores,
one to receive and one to hash; curl uses one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
SERVER = """
import os, socket, sys, threading
path, listener = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
size, digest = os.path.getsize(path), sys.argv[3]
def answer(connection):
    with connection:
        request = b""
        while b"\\r\\n\\r\\n" not in request:
            request += connection.recv(65536)
        part = b"range: bytes=0-" in request.lower()
        end = min(16384, size) if part else size
        status = f"206 Partial Content\\r\\nContent-Range: bytes 0-{end - 1}/{size}" if part else "200 OK"
        head = f'HTTP/1.1 {status}\\r\\nX-Linked-Etag: "{digest}"\\r\\nETag: "x"\\r\\nContent-Length: {end}'
        connection.sendall(head.encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
        with open(path, "rb") as stream:
            connection.sendfile(stream, 0, end)
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""
DOWNLOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from installer import download, hub, source
client = hub.Hub({"HF_ENDPOINT": sys.argv[2]})
files = download.describe(source.parse("hf:a/b/big.gguf", endpoint=client.endpoint).files, client, print)
download.fetch(files, Path(sys.argv[3]), client, print)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the file in GB (2)")
    parser.add_argument("--rounds", type=int, default=5, help="downloads by each program, alternating (5)")
    parser.add_argument("--folder", type=Path, help="folder for the file and its copies (a temporary folder)")
    options = parser.parse_args()
    if not shutil.which("curl"):
        print("curl is not installed: install it first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder, "source.gguf")
        digest = make_file(source, int(options.gigabytes * 1e9))
        with serving(source, digest) as endpoint:
            compare(Path(folder), source.stat().st_size, endpoint, options.rounds)
    return 0


def make_file(path: Path, size: int) -> str:
    """Write a file of `size` bytes that starts with GGUF. Returns its SHA-256."""
    digest, block, remaining = hashlib.sha256(), b"GGUF" + os.urandom(1024 * 1024 - 4), size
    with path.open("wb") as stream:
        while remaining:
            part = block[:remaining]
            stream.write(part)
            digest.update(part)
            remaining -= len(part)
    return digest.hexdigest()


@contextlib.contextmanager
def serving(path: Path, digest: str) -> Iterator[str]:
    """Run a server process that sends the file with sendfile(2). Yields its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        command = [sys.executable, "-c", SERVER, str(path), str(descriptor), digest]
        server = subprocess.Popen(command, pass_fds=[descriptor])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.kill()
            server.wait()


def compare(folder: Path, size: int, endpoint: str, rounds: int) -> None:
    """Download the file with curl and with the installer in each round, and print the rates."""
    target = folder / "models"
    curl = ["curl", "-sS", "--create-dirs", "-o", str(target / "big.gguf"), f"{endpoint}/big.gguf"]
    installer = [sys.executable, "-c", DOWNLOAD, str(SCRIPTS), endpoint, str(target)]
    rates: dict[str, list[float]] = {"curl": [], "installer": []}
    for number in range(rounds):
        for name, command in (("curl", curl), ("installer", installer)):
            os.sync()
            seconds, cpu, peak = timed(command)
            assert (target / "big.gguf").stat().st_size == size
            shutil.rmtree(target)
            rate = size / seconds / 1e6
            rates[name].append(rate)
            print(
                f"round {number + 1}: {name:9} {seconds:6.2f} s  {rate:6.0f} MB/s  CPU {cpu:.2f} s  peak {peak:.0f} MiB"
            )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"medians: curl {medians['curl']:.0f} MB/s, installer {medians['installer']:.0f} MB/s")
    print(f"installer / curl: {medians['installer'] / medians['curl']:.2f}")


def timed(command: list[str]) -> tuple[float, float, float]:
    """Run a command that must succeed. Returns wall seconds, CPU seconds and peak memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {process.returncode}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
