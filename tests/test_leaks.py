"""Nothing is left behind: no thread, no descriptor, no connection, no memory, no generation on the server.

The long forms are `make stress`. Memory is compared with what was used after a fifth of the streams, when all that is
allocated once is there.
"""

from __future__ import annotations

from typing import Iterator

import pytest
from llama import LlamaServer, llama_server
from trials.cancels import cancel_streams, cancel_streams_async
from trials.crowds import share_a_client

GROWTH = 8 * 1024 * 1024  # bytes; of the order of what the allocator takes at once


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


def test_streams_cancelled_at_random_moments_leave_nothing(server: LlamaServer) -> None:
    counts = cancel_streams(server, 150)
    assert counts["cancelled"] > 75
    assert counts["memory"] < GROWTH


def test_asynchronous_streams_cancelled_at_random_moments_leave_nothing(server: LlamaServer) -> None:
    counts = cancel_streams_async(server, 150)
    assert counts["cancelled"] > 75
    assert counts["memory"] < GROWTH


def test_every_reply_belongs_to_its_request_while_the_server_closes_connections_at_random(server: LlamaServer) -> None:
    counts = share_a_client(server, 600)
    assert counts["replies"] > 500
    assert counts["lost"] > 0  # the connection was cut in the middle of the answer
