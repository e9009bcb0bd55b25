"""The head of a response: that what is taken apart without `http.client` means what `http.client` says it means."""

from __future__ import annotations

import io
import random
from http.client import HTTPException, HTTPResponse, LineTooLong
from typing import Any, Iterable, List, Tuple

import mutations
import pytest
from scripted import head

from flynn import ConnectionLostError, ProtocolError
from flynn.http.head import plain_head, read_head

SERVERS = {
    "llama-server": head(
        "Server: llama.cpp", "Access-Control-Allow-Origin: ", "Keep-Alive: timeout=5, max=100",
        "Content-Type: text/event-stream", "Transfer-Encoding: chunked",
    ),
    "nginx": head(
        "Server: nginx/1.22.1", "Date: Sun, 22 Nov 2026 17:00:00 GMT", "Content-Type: application/json; charset=utf-8",
        "Content-Length: 5", "Connection: keep-alive", "Set-Cookie: a=b; Path=/", "Set-Cookie: c=d",
    ),
    "an error": head("Content-Type: text/html", "Connection: Close", status="502 Bad Gateway"),
    "no reason": head("Content-Length: 0", status="200 "),
    "nor a blank": head("Content-Length: 0", status="200"),
    "an old one": b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.9\r\nconnection: Keep-Alive\r\n\r\n",
    "no headers": b"HTTP/1.0 200 OK\r\n\r\n",
}  # fmt: skip
OTHERS = {
    "early": head(status="100 Continue") + head("Content-Length: 1"),
    "folded": head("X: a", " b", "Content-Length: 1"),
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 1\n\n",
    "a mix": b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
    "not ASCII": head("X: \u00e9", "Content-Length: 1"),
    "a tab": head("Content-Length:\t1"),
    "a name with more in it": head("X!y: z", "Content-Length: 1"),
    "many": head(*(f"X-{number}: y" for number in range(99))),
    "long": head("X: " + "y" * 65_530, "Content-Length: 1"),
    "two blanks": head("Content-Length: 1", status=" 200 OK"),
}

Meaning = Tuple[int, str, bool, List[Tuple[str, str]], bytes]


class Blocks:
    """A connection from which these blocks come, and then its end."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = iter(blocks)
        self.received = 0
        self.ended = False

    def receive(self) -> bytes:
        data = next(self.blocks, b"")
        self.received += len(data)
        self.ended = not data
        return data


class Source(io.BytesIO):
    def makefile(self, mode: str) -> Source:
        return self


def read(*blocks: bytes) -> Meaning:
    wire: Any = Blocks(blocks)
    found, rest = read_head(wire, "POST")
    return found.status, found.reason, found.will_close, found._headers, rest + b"".join(wire.blocks)


def by_http_client(data: bytes) -> Meaning:
    source: Any = Source(data)
    response = HTTPResponse(source, method="POST")
    response.begin()
    assert not response.headers.get_payload()
    headers = [(name.lower(), value.lstrip(" ")) for name, value in response.headers.items()]
    will_close = response._check_close()  # type: ignore[attr-defined]
    return response.status, response.reason, will_close, headers, source.read()


@pytest.mark.parametrize("data", SERVERS.values(), ids=SERVERS)
def test_what_servers_send_is_taken_apart_as_http_client_does_it(data: bytes) -> None:
    assert plain_head(data[:-2]) is not None
    assert read(data + b"the body") == by_http_client(data + b"the body")


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_http_client(data: bytes) -> None:
    assert plain_head(data[:-2]) is None
    assert read(data + b"the body") == by_http_client(data + b"the body")


@pytest.mark.parametrize("data", [*SERVERS.values(), *OTHERS.values()], ids=[*SERVERS, *OTHERS])
def test_a_head_may_come_in_any_pieces(data: bytes) -> None:
    data += b"the\n\r\n\r\nbody"
    whole = read(data)
    assert whole[-1] == b"the\n\r\n\r\nbody"
    step = len(data) // 500 + 1
    assert all(read(data[:at], data[at:]) == whole for at in range(1, len(data), step))
    assert read(*(data[at : at + step] for at in range(0, len(data), step))) == whole


@pytest.mark.parametrize("data", [*SERVERS.values(), *OTHERS.values()], ids=[*SERVERS, *OTHERS])
def test_a_head_that_is_cut_is_none(data: bytes) -> None:
    for at in range(1, len(data) - 1, len(data) // 500 + 1):
        with pytest.raises((ConnectionLostError, HTTPException)):
            read(data[:at])


def test_no_mutated_head_means_something_else() -> None:
    """What is refused as no plain head goes to http.client anyway. Of what is taken, most must be changed ones."""
    random_ = random.Random("heads")
    taken = set()
    for _ in range(20_000):
        data = mutations.of_bytes(random_, random_.choice(list(SERVERS.values())))
        end = data.find(b"\n\r\n") + 1
        if end and plain_head(data[:end]):
            mine, its = read(data), by_http_client(data)
            assert (mine[:2], mine[3:]) == (its[:2], its[3:]), data
            # http.client looks at the first header Connection only
            assert mine[2] == its[2] or data.lower().count(b"\nconnection:") > 1, data
            taken.add(data)
    assert len(taken - set(SERVERS.values())) > 2000


@pytest.mark.parametrize("name", ["", " ", "X ", " X", "X Y", "X\u00e9"])
def test_a_name_is_letters_digits_and_hyphens(name: str) -> None:
    assert plain_head(f"HTTP/1.1 200 OK\r\n{name}: y\r\n".encode("latin-1")) is None


@pytest.mark.parametrize(
    "line", ["HTTP/1.1 199 x", "HTTP/1.1 0200 x", "HTTP/1.1 2 x", "HTTP/1.2 200 x", "HTTP/1.1 20\u00b2 x"]
)
def test_a_status_is_final_and_has_three_digits(line: str) -> None:
    assert plain_head(f"{line}\r\n".encode("latin-1")) is None


def test_what_begins_as_no_http_is_not_waited_for() -> None:
    def blocks() -> Iterable[bytes]:
        yield b"\r\n"
        raise AssertionError("more was awaited")

    with pytest.raises(HTTPException):
        read_head(Blocks(blocks()), "POST")  # type: ignore[arg-type]


def test_a_line_that_is_no_header_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a line that is none"):
        read(head("Content-Length: 1", "no colon", "X: y"))


@pytest.mark.parametrize("status", ["101 Switching Protocols", "103 Early Hints"])
def test_an_interim_response_other_than_continue_is_refused(status: str) -> None:
    with pytest.raises(ProtocolError, match=f"expected a final response, got HTTP {status[:3]}"):
        read(head(status=status) + head("Content-Length: 1"))


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200 " + b"x" * 70_000, b"x" * 70_000, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000]
)
def test_a_line_that_is_too_long_is_refused(line: bytes) -> None:
    with pytest.raises(LineTooLong):
        read(line, b"\r\n\r\n")
