"""Server-sent events, by the rules of the WHATWG (html.spec.whatwg.org, sections 9.2.5 and 9.2.6)."""

from __future__ import annotations

import io
import random
import re
from typing import Iterator, List

import pytest
from scripted import DATA

from flynn import ProtocolError
from flynn.models.local.sse import read_events

RECORDED = (DATA / "chat_stream.sse").read_bytes()


def decode(stream: bytes) -> List[bytes]:
    """Decode a stream in lines as read from the connection: each up to an LF, an unfinished one dropped."""
    ended = stream[: max(stream.rfind(b"\n"), stream.rfind(b"\r")) + 1]
    return list(read_events(io.BytesIO(ended)))


def by_the_book(stream: bytes) -> List[bytes]:
    """Decode a whole stream, in the words of the specification."""
    if stream.startswith(b"\xef\xbb\xbf"):
        stream = stream[3:]
    events = []
    buffer = b""
    # All lines but an unfinished last one; a line ends with CRLF, LF or CR.
    for line in re.split(b"\r\n|\n|\r", stream)[:-1]:
        if not line:
            if buffer:
                events.append(buffer[:-1])
            buffer = b""
            continue
        field, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            buffer += value + b"\n"
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\n", [b"one"]),
        (b"data: one\r\n\r\n", [b"one"]),
        (b"data: one\r\r", [b"one"]),
        (b"data: one\r\n\n", [b"one"]),
        (b"data: one\n\r\n", [b"one"]),
        (b"data: one\n\r", [b"one"]),
        (b"data: one\r\r\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one \n\n", [b" one "]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"data: a\ndata\n\n", [b"a\n"]),
        (b"data:\n\n", [b""]),
        (b"data\n\n", [b""]),
        (b"data: a:b: c\n\n", [b"a:b: c"]),
        (b": ping\n\n: ping\n\ndata: one\n\n", [b"one"]),
        (b":\n\n", []),
        (b"data: one\n: in the middle\ndata: two\n\n", [b"one\ntwo"]),
        (b"event: x\nid: 1\nretry: 5\nunknown: y\nunknown\ndata: one\n\n", [b"one"]),
        (b"event: x\n\n", []),
        (b"Data: one\n\n", []),
        (b" data: one\n\n", []),
        (b"data : one\n\n", []),
        (b"database: one\n\n", []),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: one\n\ndata: two\n\n", [b"two"]),
        (b"data: one\n\n\xef\xbb\xbfdata: two\n\n", [b"one"]),
        (b"\xef\xbbdata: one\n\n", []),
        (b"data: \xe2\x98\x83\n\n", [b"\xe2\x98\x83"]),
        (b"data: \xff\xfe\x00\n\n", [b"\xff\xfe\x00"]),
        ("data: a\u2028b\x0bc\x85\n\n".encode(), ["a\u2028b\x0bc\x85".encode()]),
        (b"", []),
    ],
)
def test_events_are_read_as_the_specification_says(stream: bytes, events: List[bytes]) -> None:
    assert by_the_book(stream) == events
    assert decode(stream) == events


@pytest.mark.parametrize("unfinished", [b"data: one", b"data: one\n", b"data: one\r", b"data: one\r\n"])
def test_an_event_without_its_blank_line_is_dropped(unfinished: bytes) -> None:
    assert decode(b"data: whole\n\n" + unfinished) == [b"whole"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_recorded_stream_has_the_same_events_with_any_line_ending(line_end: bytes) -> None:
    events = by_the_book(RECORDED)
    assert len(events) > 10
    assert events[-1] == b"[DONE]"
    assert decode(RECORDED.replace(b"\n", line_end)) == events


def test_random_streams_are_read_as_the_specification_says() -> None:
    chance = random.Random(20260205)
    pieces = [
        b"data",
        b"data:",
        b"data: ",
        b":",
        b"x",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"event: y",
        b"\xef\xbb\xbf",
    ]
    for _ in range(5000):
        stream = b"".join(chance.choices(pieces, k=chance.randrange(25)))
        assert decode(stream) == by_the_book(stream), stream


def test_an_event_is_yielded_as_soon_as_its_blank_line_arrives() -> None:
    taken = []

    def lines() -> Iterator[bytes]:
        for line in (b"data: one\n", b"\n", b"data: two\r\n", b"\r\n", b"data: three\n"):
            taken.append(line)
            yield line

    events = read_events(lines())
    assert (next(events), taken[-1]) == (b"one", b"\n")
    assert (next(events), taken[-1]) == (b"two", b"\r\n")


def test_an_event_of_8_mib_is_read() -> None:
    data = b"x" * (8 * 1024 * 1024)
    assert decode(b"data: " + data + b"\n\n") == [data]


@pytest.mark.parametrize(
    "line",
    [b"data: " + b"x" * 94 + b"\n", b"data: " + b"x" * 1001 + b"\n", b"data: x\n", b"data:\n", b"data\n"],
    ids=["long lines", "a long line", "many lines", "empty lines", "lines without a colon"],
)
def test_an_event_larger_than_the_limit_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="at most 1000 bytes"):
        list(read_events([line] * 1000, max_event=1000))


def test_the_size_limit_is_for_each_event() -> None:
    lines = [b"data: " + b"x" * 80 + b"\n", b"\n"] * 100
    assert len(list(read_events(lines, max_event=100))) == 100
