"""A batch on several real servers: behind a real nginx, and as workers of a real Dask scheduler."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple
from urllib.parse import urlsplit

import pytest
from command import Home
from dask_cluster import DaskCluster
from faults import cut
from real_server import RealServer
from scripted import Proxy

from flynn import LlamaCppClient

from .server import nginx

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
without_nginx = pytest.mark.skipif(not NGINX and os.environ.get("CI") != "true", reason="no nginx here")


def port(server: RealServer) -> int:
    number = urlsplit(server.endpoint).port
    assert number
    return number


@pytest.fixture
def two_servers(start_server: Callable[..., RealServer]) -> List[RealServer]:
    return [start_server(ctx_size=2048, parallel=2, threads=1) for _ in range(2)]


@pytest.fixture
def proxy(two_servers: List[RealServer], tmp_path: Path) -> Iterator[str]:
    with nginx(tmp_path, *map(port, two_servers)) as endpoint:
        yield endpoint


def read(path: str) -> Dict[str, Any]:
    """Return the results in a file by ID; each ID must occur only once."""
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
        pieces = [moment for moment, kind in arrivals if kind == "content"]
        assert len(pieces) > 10
        assert pieces[-1] - pieces[0] > 0.05  # not all at once: nginx does not buffer them


@without_nginx
def test_a_batch_behind_nginx_completes_when_a_server_dies(
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
def test_a_resumable_stream_goes_through_nginx(proxy: str) -> None:
    with LlamaCppClient(proxy) as client:
        assert streamed(client) == (client.chat(COUNT, **OPTIONS).content, 0)


@without_nginx
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_a_cut_stream_is_resumed_through_nginx_with_ip_hash(
    two_servers: List[RealServer], tmp_path: Path, end: str
) -> None:
    """ip_hash sends all requests of a client to the same server, which alone can resume the stream."""
    with nginx(tmp_path, *map(port, two_servers), balance="ip_hash") as endpoint:
        with LlamaCppClient(endpoint) as client:
            whole = streamed(client)[0]
        with Proxy(endpoint, cut(1500, end), cut(2500, end)) as between, LlamaCppClient(between.endpoint) as client:
            assert streamed(client) == (whole, 2)
    # Both prompts, and so the resumed stream too, went to the same server.
    assert sorted(server.log.count("prompt eval time") for server in two_servers) == [0, 2]


COUNT = "Count to ten"
OPTIONS: Dict[str, Any] = {"max_tokens": 30, "temperature": 0, "cache_prompt": False}


def streamed(client: LlamaCppClient) -> Tuple[str, int]:
    """Return the text of a stream and how often it was resumed."""
    with client.chat_stream(COUNT, resume=True, **OPTIONS) as stream:
        text = "".join(event.text for event in stream if event.type == "content")
        return text, stream.resumes


def test_a_batch_on_dask_completes_when_a_worker_dies(two_servers: List[RealServer], home: Home) -> None:
    with DaskCluster([server.endpoint for server in two_servers], threads=2) as cluster:
        home.write("in.jsonl", "".join(f'{{"prompt": "Say {n}", "max_tokens": 12}}\n' for n in range(40)))
        plain = (sys.executable, "-m", "flynn")  # without -W error: distributed itself raises warnings
        batch = home.start("batch", "in.jsonl", "-o", "out.jsonl", "--dask", cluster.address, python=plain)
        output = home.path / "out.jsonl"
        while not output.exists() or output.read_bytes().count(b"\n") < 8:
            time.sleep(0.02)
            assert batch.poll() is None, batch.communicate()
        cluster.workers[0].kill()
        _, err = batch.communicate(timeout=150)
    assert batch.returncode == 0, err
    assert set(read(str(output))) == {f"request-{n}" for n in range(1, 41)}
