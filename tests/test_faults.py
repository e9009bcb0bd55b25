"""Every network fault has its documented exception, or success: never a hang, another exception or a wrong text.

Between Flynn and a server, real or scripted, stands a proxy with the fault. A cut call in one piece is a
ConnectionLostError; a cut stream a StreamInterruptedError, or with `resume` none at all; silence a RequestTimeoutError;
all else a ProtocolError.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Type

import faults
import pytest
from llama import LlamaServer, llama_server
from scripted import Fault, Proxy, eventually

from flynn import (
    ConnectionLostError,
    FlynnError,
    LlamaCppClient,
    ProtocolError,
    RequestTimeoutError,
    StreamInterruptedError,
)

GUARD = 60.0  # seconds that no call here may take, on however busy a machine

Cut = ConnectionLostError, StreamInterruptedError, None
Silent = RequestTimeoutError, RequestTimeoutError, RequestTimeoutError
Spoilt = ProtocolError, ProtocolError, ProtocolError
Harmless = None, None, None
# An answer in one piece has no chunks.
SpoiltStream = None, ProtocolError, ProtocolError

# A fault, what becomes of it in one piece, streamed, and streamed with `resume` (None: nothing that could be noticed).
Outcome = Optional[Type[FlynnError]]
FAULTS: Dict[str, Tuple[Callable[[], Fault], Tuple[Outcome, Outcome, Outcome]]] = {
    **{
        f"{how} after {n}": (lambda n=n, how=how: faults.cut(n, how), Cut)
        for how in ("fin", "rst")
        for n in (0, 20, 100, 190)
    },
    **{f"half closed after {n}": (lambda n=n: faults.half_close(n), Cut) for n in (0, 100, 190)},
    **{f"stalled after {n}": (lambda n=n: faults.stall(n), Silent) for n in (0, 20, 190)},
    **{f"garbage after {n}": (lambda n=n: faults.garbage(n), Spoilt) for n in (0, 3, 12, 190)},
    "one byte at a time": (faults.drip, Harmless),
    "a duplicated chunk header": (faults.duplicate_chunk_header, SpoiltStream),
    "a reordered chunk header": (faults.reorder_chunk_header, SpoiltStream),
    "a 200 with HTML": (faults.html, Spoilt),
}
CALLS = ["chat", "chat_stream", "resumed"]


@pytest.fixture(scope="module")
def server() -> Iterator[LlamaServer]:
    with llama_server() as server:
        yield server


def answer(client: LlamaCppClient, call: str, prompt: str, **options: Any) -> str:
    """Return the text of a reply, or of a stream, where the events must have the same text."""
    if call == "chat":
        return client.chat(prompt, **options).content
    stream = client.chat_stream(prompt, resume=call == "resumed", **options)
    text = "".join(event.text for event in stream if event.type == "content")
    assert text == stream.response.content
    return text


def meet(endpoint: str, name: str, call: str, expected: str, prompt: str, **options: Any) -> None:
    """Make one call under a fault; the client must work afterwards."""
    make, outcomes = FAULTS[name]
    outcome = outcomes[CALLS.index(call)]
    silence = 1.0 if outcome is RequestTimeoutError else GUARD
    start = time.monotonic()
    with Proxy(endpoint, make()) as proxy, LlamaCppClient(proxy.endpoint, timeout=silence) as client:
        if outcome is None:
            assert answer(client, call, prompt, **options) == expected
        else:
            with pytest.raises(outcome) as caught:
                answer(client, call, prompt, **options)
            assert caught.type is outcome
            if isinstance(caught.value, StreamInterruptedError):
                assert caught.value.partial
                assert expected.startswith(caught.value.partial.content)
        assert client.health(timeout=GUARD)
    assert time.monotonic() < start + 2 * GUARD


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_before_a_scripted_server_has_its_outcome(server: LlamaServer, name: str, call: str) -> None:
    tokens = {"script": {"tokens": 5}}
    expected = "a text that is longer than all of the head" if call == "chat" else "0 1 2 3 4 "
    meet(server.endpoint, name, call, expected, "a text that is longer than all of the head", extra=tokens)
    eventually(lambda: server.processing == 0)
    eventually(lambda: server.state["sessions"] == 0)


@pytest.fixture(scope="module")
def real_text(real_server: Any) -> str:
    return LlamaCppClient(real_server.endpoint).chat("Say hi.", **REAL).content


# A grammar leaves the model one answer only, in however many pieces.
REAL: Dict[str, Any] = {"max_tokens": 4, "grammar": 'root ::= "Hi"'}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", [name for name in FAULTS if name.endswith("after 190") or " after " not in name])
def test_every_fault_before_a_real_server_has_its_outcome(
    real_server: Any, real_text: str, name: str, call: str
) -> None:
    assert real_text == "Hi"
    meet(real_server.endpoint, name, call, real_text, "Say hi.", **REAL)


@pytest.mark.parametrize("call", CALLS)
def test_a_content_length_that_is_too_large_is_a_timeout_or_a_lost_connection(server: LlamaServer, call: str) -> None:
    """Whichever comes first: the limit, or the server's end of the connection. A stream has no Content-Length."""
    for close, expected in (None, RequestTimeoutError), ("after", ConnectionLostError):
        with Proxy(server.endpoint, faults.longer_content_length()) as proxy:
            client = LlamaCppClient(proxy.endpoint, timeout=1.0)
            script = {"script": {"tokens": 5, "close": close}}
            if call == "chat":
                with pytest.raises(expected):
                    client.chat("Hi", extra=script)
            else:
                assert answer(client, call, "Hi", extra=script) == "0 1 2 3 4 "


def test_a_content_length_that_is_too_small_is_a_protocol_error(server: LlamaServer, real_server: Any) -> None:
    for endpoint in server.endpoint, real_server.endpoint:
        with Proxy(endpoint, faults.shorter_content_length()) as proxy, LlamaCppClient(proxy.endpoint) as client:
            with pytest.raises(ProtocolError, match="expected JSON"):
                client.chat("Say hi.", **REAL)
            assert client.health()


@pytest.mark.parametrize("call", CALLS)
def test_a_tls_handshake_may_be_slow_but_counts_towards_the_limit(
    tls_server: Tuple[str, ssl.SSLContext], call: str
) -> None:
    endpoint, context = tls_server
    slow = faults.drip(pause=0.01, size=100)
    with (
        Proxy(endpoint, slow, slow) as proxy,
        LlamaCppClient(proxy.endpoint, ssl_context=context, timeout=GUARD) as client,
    ):
        assert answer(client, call, "Say hi.", **REAL) == "Hi"
    too_slow = [faults.drip(pause=0.2, size=10) for _ in range(2)]
    with Proxy(endpoint, *too_slow) as proxy:
        client = LlamaCppClient(proxy.endpoint, ssl_context=context, timeout=1.0)
        start = time.monotonic()
        with client, pytest.raises(RequestTimeoutError):
            answer(client, call, "Say hi.")
        assert time.monotonic() < start + GUARD


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [0, 500])
def test_a_tls_handshake_that_is_cut_is_a_lost_connection(
    tls_server: Tuple[str, ssl.SSLContext], after: int, call: str
) -> None:
    """No stream has begun that could be resumed."""
    endpoint, context = tls_server
    with Proxy(endpoint, faults.cut(after)) as proxy:
        client = LlamaCppClient(proxy.endpoint, ssl_context=context, timeout=GUARD)
        with client, pytest.raises(ConnectionLostError if call == "chat" else StreamInterruptedError):
            answer(client, call, "Say hi.", **REAL)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_tls_stream_is_resumed(tls_server: Tuple[str, ssl.SSLContext], how: str) -> None:
    endpoint, context = tls_server
    with Proxy(endpoint, faults.cut(3500, how), faults.cut(1, how), faults.cut(500, how)) as proxy:
        with LlamaCppClient(proxy.endpoint, ssl_context=context, timeout=GUARD) as client:
            stream = client.chat_stream("Say hi.", resume=True, max_tokens=20, grammar='root ::= "A few more words."')
            assert "".join(event.text for event in stream if event.type == "content") == "A few more words."
        assert stream.resumes == 1
        assert proxy.connections > 3


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN])
def test_a_network_failure_ends_the_connection_and_is_not_a_timeout(
    server: LlamaServer, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """It is not the limit of the call that has passed, though Python has one class for both. No loopback does this by
    itself, so the socket of this process says it, once: when 50 bytes of an answer have come.
    """
    original = socket.socket.recv_into
    came = 0

    def recv_into(self: socket.socket, buffer: Any) -> int:
        nonlocal came
        if came >= 50:
            came = -1_000_000
            raise OSError(number, os.strerror(number))
        size = original(self, memoryview(buffer)[:50])
        came += size
        return size

    monkeypatch.setattr(socket.socket, "recv_into", recv_into)
    client = LlamaCppClient(server.endpoint, timeout=None)
    script = {"script": {"tokens": 5, "pace": 0.05}}
    if call == "resumed":
        assert answer(client, call, "Hi", extra=script) == "0 1 2 3 4 "
    else:
        with pytest.raises(ConnectionLostError if call == "chat" else StreamInterruptedError):
            answer(client, call, "Hi", extra=script)
