"""A batch on several real servers: behind a real nginx, and as workers of a real Dask scheduler."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List
from urllib.parse import urlsplit

import pytest
from command import Home
from dask_cluster import DaskCluster
from real_server import RealServer

from flynn import LlamaCppClient

from .server import nginx

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
without_nginx = pytest.mark.skipif(not NGINX and os.environ.get("CI") != "true", reason="no nginx here")


def port(server: RealServer) -> int:
    found = urlsplit(server.endpoint).port
    assert found
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def two_servers(start_server: Callable[..., RealServer]) -> List[RealServer]:
    return [start_server(ctx_size=2048, parallel=2, threads=1) for _ in range(2)]


@pytest.fixture
def proxy(two_servers: List[RealServer], tmp_path: Path) -> Iterator[str]:
    with nginx(tmp_path, *map(port, two_servers)) as endpoint:
        yield endpoint


def read(path: str) -> Dict[str, Any]:
    """The lines of a file of results by ID, each of which is there once."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


@without_nginx
def test_chats_and_streams_go_through_nginx(proxy: str) -> None:
    with LlamaCppClient(proxy) as client:
        assert client.chat("Hi", max_tokens=4).usage.completion_tokens == 4  # type: ignore[union-attr]
        arrivals = []
        for event in client.chat_stream("Tell me a story", max_tokens=40, ignore_eos=True):
            arrivals.append((time.monotonic(), event.type))
        pieces = [when for when, kind in arrivals if kind == "content"]
        assert len(pieces) > 10
        assert pieces[-1] - pieces[0] > 0.05  # not all at once: nginx does not buffer them


@without_nginx
def test_a_batch_behind_nginx_outlives_one_of_the_servers(
    proxy: str, two_servers: List[RealServer], home: Home
) -> None:
    home.write("in.jsonl", "".join(f'{{"prompt": "Say {n}", "max_tokens": 12}}\n' for n in range(40)))
    process = home.start("batch", "in.jsonl", "-o", "out.jsonl", "--jobs", "4", "--endpoint", proxy)
    output = home.path / "out.jsonl"
    while not output.exists() or output.read_bytes().count(b"\n") < 8:
        time.sleep(0.02)
        assert process.poll() is None
    two_servers[0].kill()
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert set(read(str(output))) == {f"request-{n}" for n in range(1, 41)}


@without_nginx
def test_a_stream_that_could_be_resumed_goes_through_nginx(proxy: str) -> None:
    with LlamaCppClient(proxy) as client:
        options = {"max_tokens": 30, "temperature": 0, "cache_prompt": False}
        whole = client.chat("Count to ten", **options).content
        with client.chat_stream("Count to ten", resume=True, **options) as stream:
            assert "".join(event.text for event in stream if event.type == "content") == whole


def test_dask_workers_use_their_own_servers_and_one_may_die(two_servers: List[RealServer], home: Home) -> None:
    with DaskCluster([server.endpoint for server in two_servers], threads=2) as cluster:
        home.write("in.jsonl", "".join(f'{{"prompt": "Say {n}", "max_tokens": 12}}\n' for n in range(40)))
        plain = (sys.executable, "-m", "flynn")  # distributed has warnings of its own
        batch = home.start("batch", "in.jsonl", "-o", "out.jsonl", "--dask", cluster.address, python=plain)
        output = home.path / "out.jsonl"
        while not output.exists() or output.read_bytes().count(b"\n") < 8:
            time.sleep(0.02)
            assert batch.poll() is None, batch.communicate()
        cluster.workers[0].kill()
        _, err = batch.communicate(timeout=150)
    assert batch.returncode == 0, err
    assert set(read(str(output))) == {f"request-{n}" for n in range(1, 41)}
