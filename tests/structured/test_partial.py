"""JSON that is still growing."""

from __future__ import annotations

import json
import random
from typing import Any, List, Optional, Tuple

import pytest

from flynn.structured.partial import MAX_DEPTH, PartialJSON


def grown(text: str) -> List[Any]:
    """What there is after each character, if that changed anything, as JSON (the values themselves go on growing)."""
    partial = PartialJSON()
    return [json.dumps(partial.value, ensure_ascii=False) for character in text if partial.feed(character)]


def read(text: str, piece: int) -> Any:
    partial = PartialJSON()
    for start in range(0, len(text), piece):
        partial.feed(text[start : start + piece])
    partial.end()
    return partial.value


# --- what is there of a value -----------------------------------------------------------------------------------------


def test_strings_grow_and_all_else_is_there_when_it_is_complete() -> None:
    assert grown('{"ab": "xy", "n": 12, "t": [true, null]}') == [
        "{}",
        '{"ab": ""}',
        '{"ab": "x"}',
        '{"ab": "xy"}',
        '{"ab": "xy", "n": 12}',
        '{"ab": "xy", "n": 12, "t": []}',
        '{"ab": "xy", "n": 12, "t": [true]}',
        '{"ab": "xy", "n": 12, "t": [true, null]}',
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (r'"a\nb"', ['""', '"a"', r'"a\n"', r'"a\nb"']),
        (r'"\u00e9"', ['""', '"é"']),
        (r'"\ud83d\ude00!"', ['""', '"😀"', '"😀!"']),
    ],
)
def test_an_escape_is_there_when_it_is_complete(text: str, values: List[str]) -> None:
    assert grown(text) == values


def test_a_number_that_is_all_of_the_text_is_there_at_its_end() -> None:
    partial = PartialJSON()
    assert not partial.feed("12")
    assert partial.value is None
    partial.end()
    assert partial.value == 12


def test_containers_stay_the_same_objects() -> None:
    partial = PartialJSON()
    partial.feed('{"a": [')
    value, inner = partial.value, partial.value["a"]
    partial.feed('1, {"b": ""}]}')
    assert partial.value is value
    assert value["a"] is inner
    assert inner == [1, {"b": ""}]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("{", []),
        ('{"a', []),
        ('{"a": ', ["a"]),
        ('{"": 1', [""]),
        ('{"a": [1, {"b": "x', ["a", 1, "b"]),
        ('{"a": [1, 2], "c', ["a"]),
        ("[[], [[", [1, 0, 0]),
        ('{"a": 1}', []),
    ],
)
def test_it_says_where_the_text_has_come(text: str, keys: List[Any]) -> None:
    partial = PartialJSON()
    partial.feed(text)
    assert partial.keys == keys


# --- as json.loads reads it -------------------------------------------------------------------------------------------

STRINGS = ["a", '"', "\\", "\n", "é", "😀", "\ud83d", "\ude00", "\x00", "/", "u", "}", "]", " "]


def some_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([True, False, None])
    if kind == 1:
        return rng.randrange(-(10 ** rng.randrange(1, 20)), 10**18)
    if kind == 2:
        return rng.choice([0.0, -0.0, 1.5e300, rng.random() * 10.0 ** rng.randrange(-20, 20)])
    if kind < 6:
        return "".join(rng.choices(STRINGS, k=rng.randrange(8)))
    if kind == 6:
        return [some_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {"".join(rng.choices(STRINGS, k=2)): some_value(rng, depth + 1) for _ in range(rng.randrange(5))}


def some_text(rng: random.Random) -> str:
    return json.dumps(some_value(rng), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))


def some_mistake(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text))
    return (
        text[:place]
        + rng.choice(list('"\\{}[]x1,:e-.\nt') + ["", "\\u", "NaN", "\\ud83d"])
        + text[place + rng.randrange(3) :]
    )


def extends(value: Any, before: Any) -> bool:
    """Whether a value is what an earlier one has grown to."""
    if isinstance(before, str):
        return isinstance(value, str) and value.startswith(before)
    if isinstance(before, list):
        return isinstance(value, list) and all(map(extends, value, before)) and len(value) >= len(before)
    if isinstance(before, dict):
        return isinstance(value, dict) and all(key in value and extends(value[key], before[key]) for key in before)
    return type(value) is type(before) and value == before


def test_every_prefix_of_a_text_is_the_beginning_of_its_value() -> None:
    rng = random.Random("prefixes")
    for _ in range(300):
        text = some_text(rng)
        value = json.loads(text)
        partial = PartialJSON()
        for character in text:
            if partial.feed(character):
                assert extends(value, partial.value), text
        partial.end()
        assert json.dumps(partial.value) == json.dumps(value)


def as_json_loads(text: str) -> Optional[Tuple[Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return (json.loads(text, parse_constant=refuse),)
    except ValueError:
        return None


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 10**6])
def test_in_pieces_of_any_size_it_reads_and_refuses_what_json_loads_does(piece: int) -> None:
    rng = random.Random(f"pieces of {piece}")
    for _ in range(1000):
        text = some_text(rng)
        if rng.random() < 0.5:
            text = some_mistake(rng, text)
        try:
            found: Optional[Tuple[Any]] = (read(text, piece),)
        except ValueError:
            found = None
        assert json.dumps(found) == json.dumps(as_json_loads(text)), text


# --- what is no JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", 'expected a value, got "x"'),
        ("[1 2]", 'expected a comma or ], got "2]"'),
        ('{"a" 1}', 'expected a colon, got "1}"'),
        ("{1: 2}", 'expected a key, got "1: 2}"'),
        ('{"a": 1]', 'expected a comma or }, got "]"'),
        ("[1,]", 'expected a value, got "]"'),
        ("{} {}", 'expected nothing more, got "{}"'),
        ("[01]", "expected a number, got 01"),
        ("[tru]", "expected a value, got tru"),
        ("NaN", 'expected a value, got "NaN"'),
        ("[-Infinity]", "expected a number, got -Infinity"),
        ('"\n"', 'expected a character of a string, got "\\n\\""'),
        (r'"\x"', r'expected a character of a string, got "\\x\""'),
        ("[" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH}"),
        ('{"a": ', "it ends too early"),
        ("", "it ends too early"),
        ("[1", "it ends too early"),
        ("tr", "it ends too early"),
        ("-", "expected a number, got -"),
    ],
)
def test_what_cannot_be_json_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        read(text, 10**6)
    assert str(raised.value) == message


def test_the_last_of_two_equal_keys_counts() -> None:
    assert read('{"a": {"b": 1}, "c": 2, "a": "x"}', 1) == {"a": "x", "c": 2}


def test_each_character_is_looked_at_once() -> None:
    """A long text in small pieces takes as many steps as there are pieces, however much there is already."""

    class Counting(PartialJSON):
        looked_at = 0

        def _characters(self, text: str, position: int) -> Tuple[str, int]:
            Counting.looked_at += len(text) - position
            return super()._characters(text, position)

    text = json.dumps({"a": "x" * 10_000, "b": ["\n" * 5000]})
    partial = Counting()
    for start in range(0, len(text), 4):
        partial.feed(text[start : start + 4])
    partial.end()
    assert Counting.looked_at < 1.5 * len(text)
