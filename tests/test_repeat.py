"""Events that differ by one string alone: what is read of them is what reading all of their JSON gives."""

from __future__ import annotations

import json
import random
from typing import Any, List, Optional

import pytest

from flynn.models.local.decode_stream import ChatStreamDecoder, Repeat


def event(text: Any, index: int = 0, key: str = "content", *, escaped: bool = False, **more: Any) -> bytes:
    value = {"choices": [{"finish_reason": None, "index": index, "delta": {key: text}}], "created": 1, **more}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=escaped).encode()


def learned(data: bytes, key: str = "content") -> Repeat:
    repeat = Repeat()
    assert repeat.learn(data, key)
    return repeat


@pytest.mark.parametrize("text", ["", "a", " the", "\n", '"', "\\", "\\n", "é", "😀", "\x7f", "a" * 100_000, "}]"])
def test_another_text_in_the_same_place_is_read(text: str) -> None:
    assert learned(event("first")).read(event(text)) == text
    assert learned(event("first")).read(event(text, escaped=True)) == text


def test_half_of_a_surrogate_pair_is_read_as_the_reader_of_json_does() -> None:
    assert learned(event("first")).read(event("\ud83d", escaped=True)) == "\ud83d"


@pytest.mark.parametrize(
    "data",
    [
        event("x", index=1),
        event("x", created=2),
        event("x", key="reasoning_content"),
        event(None),
        event(5),
        event("x") + b" ",
        event("x")[:-1],
        event("x").replace(b'"x"', b'"x'),
        event("x").replace(b'"x"', b'"x","content":"y"'),
        event("x").replace(b'"x"', b'"x\\"'),
        event("x").replace(b'"x"', b'"x\ty"'),  # control characters are to be escaped
        event("x").replace(b'"x"', b'"\\x"'),
        event("x").replace(b'"x"', b'"\xff"'),
        b"",
        b"[DONE]",
    ],
)
def test_anything_else_is_left_to_the_reader_of_json(data: bytes) -> None:
    assert learned(event("first")).read(data) is None


def test_bytes_before_and_after_that_overlap_are_no_event() -> None:
    data = b'{"choices":[{"delta":{"content":"","content":""}}]}'
    repeat = Repeat()
    assert not repeat.learn(data, "content")
    repeat = learned(event("x"))
    short = event("")
    assert repeat.read(short[:40] + short[41:]) is None


@pytest.mark.parametrize(
    "data",
    [
        event("x", content="elsewhere").replace(b'"choices"', b'"content":"first","choices"'),
        event("x").replace(b'"content":"x"', b'"content":"x","content":"y"'),
        b'{"content":"x","choices":[{"delta":{"content":"x"}}]}',
        b'{"choices":[{"delta":{"content": "x"}}]}',  # with a blank: from something that rewrote it
        b'{"content":"x","choices":[{"delta":{"content": "\\u0000"}}]}',  # what it is looked for with
    ],
)
def test_an_event_that_holds_the_string_elsewhere_is_no_pattern(data: bytes) -> None:
    assert not Repeat().learn(data, "content")


def test_a_pattern_in_use_gives_way_when_events_change() -> None:
    repeat = learned(event("a"))
    assert repeat.read(event("b")) == "b"
    later = event("c", created=2)
    assert repeat.read(later) is None
    assert repeat.learn(later, "content")
    assert repeat.read(event("d", created=2)) == "d"


def test_a_pattern_of_no_use_is_replaced_after_a_while_and_not_each_time() -> None:
    repeat = learned(event("0", created=0))
    taken: List[bool] = []
    for number in range(1, 20):
        data = event("x", created=number)
        assert repeat.read(data) is None
        taken.append(repeat.learn(data, "content"))
    assert 2 <= sum(taken) <= 5


def slowly(stream: List[bytes]) -> List[Any]:
    """The events as a decoder gives them that never knows what the last event was."""
    return [event for data in stream for event in ChatStreamDecoder().feed(data)]


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_means_the_same_with_and_without_it(seed: int) -> None:
    chance = random.Random(f"repeat {seed}")
    texts: List[Optional[str]] = ["a", "\n", '"q"', "é", "", None, "\\", "😀", "}", '"}', "x" * 5000]
    stream = []
    created = 0
    for _ in range(300):
        created += chance.random() < 0.05
        key = "reasoning_content" if chance.random() < 0.1 else "content"
        index = int(chance.random() < 0.1)
        stream.append(event(chance.choice(texts), index, key, created=created))
    decoder = ChatStreamDecoder()
    assert [event for data in stream for event in decoder.feed(data)] == slowly(stream)
    for choice in decoder.response().choices:
        index = decoder.response().choices.index(choice)
        whole = [e for e in slowly(stream) if e.choice == index]
        assert choice.message.content == "".join(e.text for e in whole if e.type == "content")
        assert (choice.message.reasoning or "") == "".join(e.text for e in whole if e.type == "reasoning")
    assert decoder.response().raw == json.loads(stream[-1])
