"""The YAML reader: it reads what it accepts as PyYAML does, and refuses the rest with the place and advice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flynn.config.yaml import MAX_DEPTH, parse
from flynn.errors import ConfigError

# Maps each document to the repr of what PyYAML reads, or None if Flynn refuses it: see scripts/compare_yaml.py.
RECORDED = json.loads((Path(__file__).parent / "data" / "yaml.json").read_text(encoding="ascii"))


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return caught.value


def test_accepted_documents_are_read_as_by_pyyaml() -> None:
    expected = {text: value for text, value in RECORDED.items() if value is not None}
    assert len(expected) > 400
    assert {text: repr(parse(text)[0]) for text in expected} == expected


def test_other_documents_are_refused_with_line_and_column() -> None:
    refused = [text for text, value in RECORDED.items() if value is None]
    assert len(refused) > 200
    for text in refused:
        error = refusal(text)
        assert str(error).startswith(f"f.yaml:{error.line}:{error.column}: "), text
        assert 1 <= error.line <= len(text.splitlines()), text
        assert "\n" not in str(error), text


def test_every_key_has_its_line_and_column() -> None:
    _, positions = parse("a:\n  b: 1\n  'c' : [1, 2]\n\n# x\nd:\n- x\n-   y\n")
    assert positions == {
        ("a",): (1, 1),
        ("a", "b"): (2, 3),
        ("a", "c"): (3, 3),
        ("d",): (6, 1),
    }


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ("a:b", (1, 1), "a space after the colon"),
        ("a: 1\nendpoint = http://x", (2, 1), "expected 'key: value'"),
        ("a:\n  some text", (2, 3), "expected 'key: value' on one line"),
        ('"a":1', (1, 1), "a space after the colon"),
        ("a:\xa01", (1, 3), "a no-break space: use plain spaces"),
        ("a:\t1", (1, 3), "a tab"),
        ("a:\n\tb: 1", (2, 1), "a tab"),
        ("a:\n- \tb", (2, 3), "a tab"),
        ("a: 1\t", (1, 5), "a tab"),
        ("a: [1,\t2]", (1, 7), "a tab"),
        ("a: b: c", (1, 5), "put the whole value in quotes"),
        ("a: 'b': c", (1, 7), "put the whole value in quotes"),
        ("a: b:", (1, 5), "put the whole value in quotes"),
        ('a: "b', (1, 4), "the quote is not closed on this line"),
        ("a: 'b\n  c'", (1, 4), "the quote is not closed on this line"),
        ("a: 'it's'", (1, 8), "nothing but a comment"),
        ('a: "b" c', (1, 8), "nothing but a comment"),
        ('a: "C:\\Users"', (1, 7), "\\U names no character; a backslash itself is written \\\\"),
        ('a: "x\\ud83d"', (1, 6), "names no character"),
        ('a: "\\U00110000"', (1, 5), "names no character"),
        ("a: b\n  c", (2, 3), "a value stays on the line of its key"),
        ("a: 1\n  b: 2", (2, 3), "begin in the same column"),
        ("a:\n    b: 1\n  c: 2", (3, 3), "begin in the same column"),
        ("a:\n - b\n   - c", (3, 4), "unexpected indentation"),
        ("  a: 1\nb: 2", (2, 1), "unexpected indentation"),
        ("a: 1\nb: 2\n'a': 3", (3, 1), "the key 'a' is given twice"),
        ("a:\n  yes: 1", (2, 3), "the key yes is read as True: put it in quotes"),
        ("8080: 1", (1, 1), "the key 8080 is read as 8080: put it in quotes"),
        ("a: 2024-05-17", (1, 4), "2024-05-17 is not plain text in YAML: put it in quotes"),
        ("a: 2024-5-7 10:00:00", (1, 4), "put it in quotes"),
        ("a: 0x_", (1, 4), "0x_ is a number without digits: put it in quotes"),
        ("a: =", (1, 4), "put it in quotes"),
        ("<<: 1", (1, 1), "put it in quotes"),
        ("a: &b 1", (1, 4), "an anchor"),
        ("a: *b", (1, 4), "an alias"),
        ("a: !!str 1", (1, 4), "a tag: leave it out"),
        ("a: |\n  b", (1, 4), "on one line in double quotes"),
        ("a: >\n  b", (1, 4), "on one line in double quotes"),
        ("a: {b: 1}", (1, 4), "on a line of its own"),
        ('{"a": 1}', (1, 1), "on a line of its own"),
        ("? a\n: b", (1, 1), "write 'key: value'"),
        (": b", (1, 1), "no key before the ':'"),
        ("a: @b", (1, 4), "neither a key nor a value begins with @: if that is text, put it in quotes"),
        ("- a", (1, 1), "a list item is not allowed here"),
        ("a: - b", (1, 4), "each '- value' on a line of its own"),
        ("a:\n- b: c", (2, 4), "a list holds single values"),
        ("a:\n- [b]", (2, 3), "holds single values"),
        ("a: [[b]]", (1, 5), "holds single values"),
        ("a: [b: c]", (1, 6), "expected ',' or ']', not ':'"),
        ("a: [b?]", (1, 6), "expected ',' or ']', not '?'"),
        ("a: [,]", (1, 5), "no value before the ','"),
        ("a: [b,\n  c]", (1, 4), "the '[' is not closed on this line: write '- value' lines"),
        ("a: [b", (1, 4), "the '[' is not closed on this line"),
        ("--- a: 1", (1, 5), "nothing but a comment"),
        ("a: 1\n---\nb: 2", (2, 1), "one document only"),
        ("a: 1\n...", (2, 1), "one document only"),
        ("%YAML 1.1\n---\na: 1", (1, 1), "neither a key nor a value begins with %"),
        ("a: 1\n# \u2028", (2, 3), 'the character U+2028: write it as "\\u2028" in double quotes'),
        ("a: 1\r\nb: \x07", (2, 4), "U+0007"),
        ("\ufeffa: 1", (1, 1), "U+FEFF"),
    ],
)
def test_an_error_has_line_column_and_advice(text: str, place: tuple[int, int], advice: str) -> None:
    error = refusal(text)
    assert (error.line, error.column) == place
    assert advice in str(error)


@pytest.mark.parametrize(
    "text",
    ["s3cret", "x: s3cret: y", "x:s3cret", "x: 's3cret", 'x: "s3cret', "x: &s3cret", "x: [s3cret", "x: 1\n s3cret"],
)
def test_errors_do_not_show_values(text: str) -> None:
    assert "s3cret" not in str(refusal(text))


def test_the_depth_of_mappings_is_limited() -> None:
    def nested(depth: int) -> str:
        return "".join(f"{' ' * level}a:\n" for level in range(depth))

    assert str(parse(nested(MAX_DEPTH))[0]).count("'a'") == MAX_DEPTH
    error = refusal(nested(MAX_DEPTH + 1))
    assert (error.line, error.column) == (MAX_DEPTH + 1, MAX_DEPTH + 1)
    assert refusal(nested(2000)).line == MAX_DEPTH + 1


def test_the_length_of_keys_and_numbers_is_limited() -> None:
    assert parse("k" * 1024 + ": 1")[0] == {"k" * 1024: 1}
    assert "1024 characters" in str(refusal("k" * 1025 + ": 1"))
    assert parse("a: " + "9" * 100)[0] == {"a": int("9" * 100)}
    assert "a number of more than 100 characters" in str(refusal("a: " + "9" * 101))
    assert parse("a: x" + "9" * 101)[0] == {"a": "x" + "9" * 101}
