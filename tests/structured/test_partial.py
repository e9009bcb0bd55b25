"""Reading JSON while it arrives."""

from __future__ import annotations

import json
import random
from typing import Any, List, Optional, Tuple

import pytest

from flynn.structured.partial import MAX_DEPTH, PartialJSON


def snapshots(text: str) -> List[Any]:
    """Return the value after each character that changed it, as JSON because the value itself keeps changing."""
    partial = PartialJSON()
    return [json.dumps(partial.value, ensure_ascii=False) for character in text if partial.feed(character)]


def read(text: str, piece: int) -> Any:
    partial = PartialJSON()
    for start in range(0, len(text), piece):
        partial.feed(text[start : start + piece])
    partial.end()
    return partial.value


# --- the value so far -------------------------------------------------------------------------------------------------


def test_strings_grow_and_other_values_appear_once_complete() -> None:
    assert snapshots('{"ab": "xy", "n": 12, "t": [true, null]}') == [
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
def test_an_escape_appears_once_complete(text: str, values: List[str]) -> None:
    assert snapshots(text) == values


def test_a_number_on_its_own_appears_at_the_end_of_the_text() -> None:
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
def test_keys_are_the_path_of_the_value_being_read(text: str, keys: List[Any]) -> None:
    partial = PartialJSON()
    partial.feed(text)
    assert partial.keys == keys


# --- as json.loads reads it -------------------------------------------------------------------------------------------

STRINGS = ["a", '"', "\\", "\n", "é", "😀", "\ud83d", "\ude00", "\x00", "/", "u", "}", "]", " "]


def random_value(rng: random.Random, depth: int = 0) -> Any:
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
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {"".join(rng.choices(STRINGS, k=2)): random_value(rng, depth + 1) for _ in range(rng.randrange(5))}


def random_json(rng: random.Random) -> str:
    return json.dumps(random_value(rng), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))


def with_mistake(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text))
    return (
        text[:place]
        + rng.choice(list('"\\{}[]x1,:e-.\nt') + ["", "\\u", "NaN", "\\ud83d"])
        + text[place + rng.randrange(3) :]
    )


def extends(value: Any, before: Any) -> bool:
    """True if `before` can grow into `value`."""
    if isinstance(before, str):
        return isinstance(value, str) and value.startswith(before)
    if isinstance(before, list):
        return isinstance(value, list) and all(map(extends, value, before)) and len(value) >= len(before)
    if isinstance(before, dict):
        return isinstance(value, dict) and all(key in value and extends(value[key], before[key]) for key in before)
    return type(value) is type(before) and value == before


def test_every_partial_value_can_grow_into_the_whole_value() -> None:
    rng = random.Random("prefixes")
    for _ in range(300):
        text = random_json(rng)
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
def test_pieces_of_any_size_are_read_and_refused_as_by_json_loads(piece: int) -> None:
    rng = random.Random(f"pieces of {piece}")
    for _ in range(1000):
        text = random_json(rng)
        if rng.random() < 0.5:
            text = with_mistake(rng, text)
        try:
            result: Optional[Tuple[Any]] = (read(text, piece),)
        except ValueError:
            result = None
        assert json.dumps(result) == json.dumps(as_json_loads(text)), text


# --- invalid JSON -----------------------------------------------------------------------------------------------------


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
def test_invalid_json_is_an_error_that_says_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        read(text, 10**6)
    assert str(raised.value) == message


def test_the_last_of_two_equal_keys_wins() -> None:
    assert read('{"a": {"b": 1}, "c": 2, "a": "x"}', 1) == {"a": "x", "c": 2}


def test_each_character_is_read_once() -> None:
    """The cost of a piece does not depend on how much text came before it."""

    class Counting(PartialJSON):
        characters_read = 0

        def _characters(self, text: str, position: int) -> Tuple[str, int]:
            Counting.characters_read += len(text) - position
            return super()._characters(text, position)

    text = json.dumps({"a": "x" * 10_000, "b": ["\n" * 5000]})
    partial = Counting()
    for start in range(0, len(text), 4):
        partial.feed(text[start : start + 4])
    partial.end()
    assert 0.9 * len(text) < Counting.characters_read < 1.5 * len(text)
