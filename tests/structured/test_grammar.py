"""Narrowing a JSON schema: what llama.cpp's grammar ignores or gets wrong is translated or refused."""

from __future__ import annotations

import json
import random
import re
from typing import Any, List

import pytest

from flynn.structured.grammar import MAX_INTEGER, narrow, translate

# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "translated"),
    [
        ("^[a-z]{2}$", "^[a-z]{2}$"),
        ("[a-z]{2}", "^[a-z]{2}$"),
        (r"^\d{5}$", "^[0-9]{5}$"),
        (r"\w", "^[0-9A-Z_a-z]$"),
        (r"[\d_-]+", r"^[\x2D0-9_]+$"),
        (r"\/", "^/$"),
        (r"^\+?(?:\d|ab)*$", r"^(\+)?([0-9]|ab)*$"),
        (r"(?P<year>\d{4})-(\d\d)?", "^([0-9]{4})-([0-9][0-9])?$"),
        ("^cat$|^dog$", "^(cat|dog)$"),
        (r"\Acat\Z", "^cat$"),
        (r"a\.*b", r"^a(\.)*b$"),  # llama.cpp would repeat "a."
        ("é{2}", "^(é){2}$"),  # llama.cpp would repeat a byte of it
        ("a{,3}b{2,}?c{4,4}", "^a{0,3}b{2,}c{4}$"),
        (r"x\$", r"^x\$$"),
        ('"', r"^\\" + '"$'),
        (r"\\", r"^\\\\$"),
        (r"\n\t", r"^\\n\\t$"),
        (r"[ \n]", r"^([ ]|\\[n])$"),
        ("[ -~]", r"^([ -\x21\x23-\x5B\x5D-\x7E]|\\[\x22\x5C])$"),
        (".", r"^([ -\x21\x23-\x5B\x5D-\U0010FFFF]|\\[tr\x22\x5C])$"),
        ("|a", "^(|a)$"),
        ("", "^$"),
    ],
)
def test_a_pattern_is_translated_for_llama_cpp(pattern: str, translated: str) -> None:
    assert translate(pattern) == translated


@pytest.mark.parametrize(
    "pattern",
    [
        "x(?=y)", "(?!x)y", "(?<=x)y", r"(a)\1", r"(a)?(?(1)b|c)", r"\bx", r"x\B", "(?i)x", "(?i:x)", "(?s).",
        "(?m)^x$", "(a$)b", "a(^b)", "a^b", "a{2001}", "a{1,1000000001}", r"[\x00\x01]",
    ],
)  # fmt: skip
def test_a_pattern_that_no_grammar_can_express_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(TypeError, match="^llama.cpp's grammar cannot express the pattern ") as raised:
        translate(pattern)
    assert repr(pattern) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "[z-a]", r"\p{L}", "*"])
def test_an_invalid_pattern_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(TypeError, match="^'.*' is not a valid pattern: [^\n]+$"):
        translate(pattern)


ATOMS = [
    "a", "b", "é", '"', r"\\", r"\.", ".", r"\d", r"\w", r"\s", r"\D", r"\S", r"\W", "[ab]", "[^a]", r"[^\d\\]",
    "[ -~]", r'["\n]', r"\n", r"\t", r"\(", "/", r"\{", "}", " ", "-", r"[\]^-]", "0",
]  # fmt: skip
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{,2}", "{1,3}", "{2,}?", "??"]


def random_pattern(rng: random.Random, depth: int = 0) -> str:
    pattern = ""
    for _ in range(rng.randrange(1, 4)):
        if depth < 3 and rng.random() < 0.25:
            pattern += f"{rng.choice(['(', '(?:'])}{random_pattern(rng, depth + 1)})"
        else:
            pattern += rng.choice(ATOMS)
        pattern += rng.choice(REPEATS)
    return f"{pattern}|{random_pattern(rng, depth + 1)}" if depth < 3 and rng.random() < 0.2 else pattern


PIECES = ["a", "b", "é", "0", ".", " ", "(", "/", "-", "]", "^", "{", "}", "\n", "\t", '"', "\\", "\x00", "n", "u0061"]


def test_a_translated_pattern_matches_no_string_that_the_pattern_does_not() -> None:
    """Python stands in for llama.cpp: both read translated patterns alike. test_real_server.py asks llama.cpp."""
    rng = random.Random("patterns")
    allowed = 0
    for _ in range(400):
        pattern = random_pattern(rng)
        translated = re.compile(translate(pattern)[1:-1], re.DOTALL)
        for _ in range(30):
            text = "".join(rng.choices(PIECES, k=rng.randrange(5)))  # the JSON text between the quotes
            if translated.fullmatch(text):
                allowed += 1
                assert re.fullmatch(pattern, json.loads(f'"{text}"'), re.ASCII), (pattern, text)
    assert allowed > 300


def test_a_translated_pattern_matches_every_string_that_the_pattern_matches() -> None:
    """Except strings with control characters that JSON can write only as a number, which it leaves out."""
    rng = random.Random("strings")
    allowed = 0
    for _ in range(400):
        pattern = random_pattern(rng)
        translated = re.compile(translate(pattern)[1:-1], re.DOTALL)
        for _ in range(30):
            string = "".join(rng.choices([piece for piece in PIECES if piece != "\x00"], k=rng.randrange(5)))
            if re.fullmatch(pattern, string, re.ASCII):
                allowed += 1
                assert translated.fullmatch(json.dumps(string, ensure_ascii=False)[1:-1]), (pattern, string)
    assert allowed > 300


# --- other keywords ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "minimum", "maximum"),
    [
        ({"minimum": 100}, 100, MAX_INTEGER),  # llama.cpp alone allows 10
        ({"maximum": -100}, -MAX_INTEGER, -100),
        ({"exclusiveMinimum": 5, "exclusiveMaximum": 9}, 6, 8),
        ({"minimum": 0, "exclusiveMinimum": 5}, 6, MAX_INTEGER),  # llama.cpp ignores the second
        ({"maximum": 3, "exclusiveMaximum": 3}, -MAX_INTEGER, 2),
        ({"minimum": 0.5, "maximum": 2.5}, 1, 2),
        ({"exclusiveMinimum": 0.5, "exclusiveMaximum": 2.5}, 1, 2),
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, -MAX_INTEGER, MAX_INTEGER),  # llama.cpp runs out of memory
        ({"minimum": 0, "maximum": 10**400}, 0, MAX_INTEGER),
    ],
)
def test_an_integer_gets_both_bounds(limits: Any, minimum: int, maximum: int) -> None:
    assert narrow({"type": "integer", **limits}) == {"type": "integer", "minimum": minimum, "maximum": maximum}


def test_integers_without_bounds_and_bounds_of_other_types_are_unchanged() -> None:
    for schema in ({"type": "integer"}, {"type": "number", "minimum": 1}, {"type": "string", "minLength": 1}):
        assert narrow(schema) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "integer", "minimum": 10**400},
        {"type": "string", "minLength": 5, "maxLength": 2},  # llama.cpp runs out of memory
        {"type": "array", "minItems": 5, "maxItems": 2},
        {"type": "string", "maxLength": -1},
        {"type": "string", "minLength": 2001},
        {"type": "array", "items": {}, "minItems": 2001},
    ],
)
def test_limits_that_no_value_can_meet_are_refused(schema: Any) -> None:
    for nested in (schema, {"properties": {"a": {"items": schema}}}, {"$defs": {"A": {"anyOf": [schema]}}}):
        with pytest.raises(TypeError, match="^(no integer of|min(Length|Items) must be between) "):
            narrow(nested)


def test_patterns_are_translated_in_every_subschema() -> None:
    plain, narrowed = {"pattern": r"\d"}, {"pattern": "^[0-9]$"}

    def with_subschemas(inner: Any) -> Any:
        return {
            "$defs": {"pattern": inner},
            "properties": {"pattern": inner, "default": inner},
            "additionalProperties": {"anyOf": [inner, {"oneOf": (inner,)}]},
            "items": {"prefixItems": [inner], "allOf": [inner]},
        }

    assert json.dumps(narrow(with_subschemas(plain))) == json.dumps(with_subschemas(narrowed))


def test_data_that_looks_like_a_schema_is_unchanged() -> None:
    data = {"pattern": "(?=x)", "minLength": -1, "items": False}
    schema = {"default": data, "examples": [data], "const": data, "enum": [data], "type": "object"}
    assert narrow(schema) == schema


def test_a_member_of_any_of_that_no_grammar_can_express_is_dropped() -> None:
    number, other = {"type": "number"}, {"type": "string", "pattern": "^(?!x)"}
    assert narrow({"anyOf": [number, other]}) == {"anyOf": [number]}
    with pytest.raises(TypeError, match="cannot express the pattern"):
        narrow({"anyOf": [other]})


def test_items_false_after_prefix_items_is_dropped() -> None:
    assert narrow({"prefixItems": [{}], "items": False}) == {"prefixItems": [{}]}


@pytest.mark.parametrize(("format", "string"), [("duration", "P1DT2H3M4S"), ("decimal", "-12.50")])
def test_a_format_unknown_to_llama_cpp_gets_a_pattern(format: str, string: str) -> None:
    assert re.fullmatch(narrow({"type": "string", "format": format})["pattern"], string)
    with_pattern = {"type": "string", "format": format, "pattern": "^x$"}
    assert narrow(with_pattern) == with_pattern


@pytest.mark.parametrize(
    "schema", [True, None, 5, "x", {"properties": 5}, {"anyOf": {}}, {"pattern": 5}, {"minItems": "x"}]
)
def test_an_invalid_schema_is_left_to_the_server(schema: Any) -> None:
    assert narrow(schema) == schema


def test_the_given_schema_is_not_modified() -> None:
    given: List[Any] = [{"type": "integer", "minimum": 1}, {"items": False}, {"anyOf": [{"pattern": "x"}]}]
    before = json.dumps(given)
    narrow({"anyOf": given})
    assert json.dumps(given) == before
