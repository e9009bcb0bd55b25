"""Where a response's body ends (RFC 9112 sections 6 and 7), and what heads are refused."""

from __future__ import annotations

import collections
import random
from typing import Any, List, Optional, Tuple

import pytest

from flynn import ProtocolError
from flynn.http.framing import MAX_CHUNK_LINE, MAX_TRAILER, ChunkedBody, OpenBody, SizedBody, body_of
from flynn.http.head import Head

CHUNKS = (
    b'5\r\nHello\r\n0000a ; name=value;x="y"\r\n0123456789\r\nA\nabcdefghij\n0;last\r\nTrailer: one\r\nX: y\r\n\r\n'
)
TEXT = b"Hello0123456789abcdefghij"


def feed(*blocks: bytes) -> Tuple[bytes, ChunkedBody]:
    body = ChunkedBody()
    return b"".join(map(body.feed, blocks)), body


def head(*headers: Tuple[str, str], status: int = 200) -> Head:
    return Head(11, status, "", headers)


def test_chunks_are_joined_wherever_they_are_split() -> None:
    for first in range(len(CHUNKS) + 1):
        for second in range(first, len(CHUNKS) + 1):
            text, body = feed(CHUNKS[:first], CHUNKS[first:second], CHUNKS[second:])
            assert (text, body.complete, body.surplus) == (TEXT, True, False)


def test_chunks_are_joined_byte_by_byte() -> None:
    text, body = feed(*(CHUNKS[i : i + 1] for i in range(len(CHUNKS))))
    assert (text, body.complete) == (TEXT, True)


def test_a_piece_of_a_chunk_is_given_as_soon_as_it_comes() -> None:
    body = ChunkedBody()
    assert [body.feed(block) for block in (b"a\r\n01", b"234", b"56789", b"\r\n0\r\n\r\n")] == [
        b"01",
        b"234",
        b"56789",
        b"",
    ]
    assert body.complete


def test_chunks_without_the_last_one_are_not_complete() -> None:
    for end in range(len(CHUNKS)):
        body = feed(CHUNKS[:end])[1]
        assert not body.complete
        assert body.missing() == "the last chunk is missing"
    assert feed(CHUNKS)[1].missing() is None


def test_bytes_after_the_last_chunk_are_noticed_and_not_taken() -> None:
    text, body = feed(CHUNKS + b"HTTP/1.1 200 OK")
    assert (text, body.complete, body.surplus) == (TEXT, True, True)


@pytest.mark.parametrize(
    "size",
    [b"-1", b"+5", b"0x5", b"1_0", b"", b" ", b" 5", b"5 5", b"g", b"5,5", b"5\r", b"\xd9\xa5", b"f" * 16, b";x"],
)
def test_what_is_no_chunk_size_is_refused_however_it_is_split(size: bytes) -> None:
    data = size + b"\r\nHello\r\n0\r\n\r\n"
    for cut in range(len(data)):
        with pytest.raises(ProtocolError, match="expected the size of a chunk"):
            feed(data[:cut], data[cut:])


@pytest.mark.parametrize("end", [b"x\r\n", b"\rx\n", b"!\n", b"0\r\n"])
def test_a_chunk_longer_than_its_size_is_refused(end: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected the end of a chunk"):
        feed(b"5\r\nHello" + end + b"0\r\n\r\n")


def test_an_endless_chunk_line_is_refused() -> None:
    body = ChunkedBody()
    with pytest.raises(ProtocolError, match="size of a chunk"):
        collections.deque(map(body.feed, [b"5;xxxxxxxxxx"] * MAX_CHUNK_LINE))
    with pytest.raises(ProtocolError, match="size of a chunk"):
        feed(b"5;" + b"x" * MAX_CHUNK_LINE + b"\r\nHello\r\n0\r\n\r\n")


def test_an_endless_trailer_is_refused() -> None:
    body = ChunkedBody()
    body.feed(b"0\r\n")
    with pytest.raises(ProtocolError, match="trailer"):
        collections.deque(map(body.feed, [b"X: yyyyyyyy\r\n"] * MAX_TRAILER))


def test_a_body_with_a_length_ends_after_that_many_bytes() -> None:
    body = SizedBody(5)
    assert (body.feed(b"He"), body.complete, body.missing()) == (b"He", False, "3 of 5 bytes are missing")
    assert (body.feed(b"llo"), body.complete, body.surplus, body.missing()) == (b"llo", True, False, None)
    assert (body.feed(b"!"), body.surplus) == (b"", True)


def test_a_body_without_length_ends_with_the_connection() -> None:
    body = body_of(head())
    assert isinstance(body, OpenBody)
    assert (body.feed(b"anything"), body.complete, body.missing()) == (b"anything", False, None)


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ([("Content-Length", "5")], 5),
        ([("content-length", " 5 ")], 5),
        ([("Content-Length", "0")], 0),
        ([("Content-Length", "5, 5")], 5),
        ([("Content-Length", "5"), ("Content-Length", "5")], 5),
        ([("Content-Length", "5"), ("Content-Length", "6")], None),
        ([("Content-Length", "5, 6")], None),
        ([("Content-Length", "5,")], None),
        ([("Content-Length", "-1")], None),
        ([("Content-Length", "+5")], None),
        ([("Content-Length", "5.0")], None),
        ([("Content-Length", "0x5")], None),
        ([("Content-Length", "1_0")], None),
        ([("Content-Length", "\u0665")], None),
        ([("Content-Length", "")], None),
        ([("Content-Length", "five")], None),
        ([("Content-Length", "9" * 19)], None),
    ],
)
def test_content_length_is_one_decimal_number(lines: List[Tuple[str, str]], size: Optional[int]) -> None:
    if size is None:
        with pytest.raises(ProtocolError, match="expected one number as Content-Length"):
            body_of(head(*lines))
    else:
        body = body_of(head(*lines))
        assert isinstance(body, SizedBody)
        assert body.size == size


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity", "", "xchunked"])
def test_the_only_transfer_coding_is_chunked(coding: str) -> None:
    with pytest.raises(ProtocolError, match="transfer coding 'chunked'"):
        body_of(head(("Transfer-Encoding", coding)))


def test_transfer_encoding_wins_over_content_length() -> None:
    body = body_of(head(("Content-Length", "5"), ("Transfer-Encoding", "Chunked")))
    assert isinstance(body, ChunkedBody)


def test_two_transfer_encodings_are_refused() -> None:
    with pytest.raises(ProtocolError, match="chunked, chunked"):
        body_of(head(("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")))


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body_has_none_whatever_the_headers_say(status: int) -> None:
    assert body_of(head(("Content-Length", "5"), status=status)).complete
    assert body_of(head(("Transfer-Encoding", "chunked"), status=status)).complete


@pytest.mark.parametrize("seed", range(30))
def test_what_random_chunks_hold_does_not_depend_on_how_they_arrive(seed: int) -> None:
    chance = random.Random(f"chunks {seed}")
    for _ in range(100):
        sizes = [chance.choice([1, 5, 5, 16, 300]) for _ in range(chance.randrange(12))]
        data = b"".join(b"%x\r\n%s\r\n" % (size, chance.randbytes(size)) for size in sizes) + b"0\r\n\r\n"
        if chance.random() < 0.5:
            place = chance.randrange(len(data))
            piece = chance.choice([b"", b"\n", b"\r", b"\r\n", b"5\r\n", b";x", b"0", b" ", b"5\r\nHello\r\n"])
            data = data[:place] + piece + data[place + chance.randrange(3) :]
        whole, bytewise = outcome([data]), outcome([data[i : i + 1] for i in range(len(data))])
        cut = chance.randrange(len(data) + 1)
        assert whole == bytewise == outcome([data[:cut], data[cut:]])


def outcome(blocks: List[bytes]) -> Tuple[bytes, Any]:
    """What a body holds, and whether it is complete or was refused. What follows its end is left out."""
    body, text = ChunkedBody(), b""
    for block in blocks:
        if body.complete:
            break
        try:
            text += body.feed(block)
        except ProtocolError:
            return b"", "refused"
    return text, body.complete
