"""Docstrings in three styles: the descriptions of a function and of its parameters."""

from __future__ import annotations

import random
import textwrap
from typing import Dict, Optional

import pytest

from flynn.tools.docstring import parse_docstring

GOOGLE = """Tell the weather in a city.

    Uses several services:
    some of them may be slow.

    Args:
        city: The city: its name
            in English.
        days (int, optional): How many days,
            at most 7.

            Counted from today.
        unit (Literal["°C", "°F"]): Of the temperature
        *places (str): More cities.
        low, high: Limits.

    Returns:
        city: not a parameter's description.

    Raises:
        ValueError: there is no such city.
    """

NUMPY = """
    Tell the weather in a city.

    Uses several services:
    some of them may be slow.

    Parameters
    ----------
    city : str
        The city: its name
        in English.
    days : int, optional
        How many days, at most 7.

        Counted from today.
    unit : {"°C", "°F"}
        Of the temperature
    low, high : float
        Limits.

    Other Parameters
    ----------------
    *places
        More cities.

    Returns
    -------
    city : str
        Not a parameter's description.
    """

SPHINX = """Tell the weather in a city.

    Uses several services:
    some of them may be slow.

    :param city: The city: its name
        in English.
    :type city: str
    :param int days: How many days, at most 7.
                     Counted from today.
    :param Dict[str, int] unit: Of the temperature
    :keyword str places: More cities.
    :param low: Limits.
    :param high: Limits.
    :returns: city
    :rtype: str
    :raises ValueError: there is no such city.

    Nobody reads this.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["Google", "NumPy", "Sphinx"])
def test_the_three_styles_are_read_alike(text: str) -> None:
    assert parse_docstring(text) == (
        "Tell the weather in a city.\n\nUses several services:\nsome of them may be slow.",
        {
            "city": "The city: its name in English.",
            "days": "How many days, at most 7. Counted from today.",
            "unit": "Of the temperature",
            "places": "More cities.",
            "low": "Limits.",
            "high": "Limits.",
        },
    )


@pytest.mark.parametrize("text", [None, "", "   \n \t\n"])
def test_an_empty_docstring_has_no_descriptions(text: Optional[str]) -> None:
    assert parse_docstring(text) == ("", {})


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("Args:\n  x: one\n  y: two", {"x": "one", "y": "two"}),
        ("Args:\n    x: one\n    days:how many\n    y:two", {"x": "one", "days": "how many", "y": "two"}),
        ("Args:\n    x: one, at\n    http://example.org", {"x": "one, at http://example.org"}),
        ("Arguments:\n    x: one", {"x": "one"}),
        ("Parameters:\n\tx: one\n\t\tand more", {"x": "one and more"}),
        ("Args:\n    x (Callable[[int], Tuple[()]]): a (b): c", {"x": "a (b): c"}),
        ("Args:\n    x: see https://example.org/a:b", {"x": "see https://example.org/a:b"}),
        ("Args:\n    x:\n        one", {"x": "one"}),
        ("Args:\n    x: one\n    which goes on", {"x": "one which goes on"}),
        ("Args:\n    x: one\n\nThe end: of it.", {"x": "one"}),
        ("Args:\n    x: one\nKeyword Args:\n    y: two", {"x": "one", "y": "two"}),
        ("Args:\nx: one\ny: two\nReturns:\nz: three", {"x": "one", "y": "two"}),
        ("Args:\n    größe: ähm", {"größe": "ähm"}),
        ("Args:\n    x:\n    y: two", {"y": "two"}),
        ("Args:", {}),
        ("Args:\n    nothing like a parameter", {}),
        ("Parameters\n----------\nx\n    one\ny: int\n    two", {"x": "one", "y": "two"}),
        ("Parameters\n----------\n", {}),
        (":param x:\n    one\n:param y:", {"x": "one"}),
        (":param x: one\n\n    Not about x.", {"x": "one"}),
        (":param dict x: one\n:arg y: two\n:raises: z", {"x": "one", "y": "two"}),
    ],
)
def test_descriptions_of_parameters_are_read(text: str, parameters: Dict[str, str]) -> None:
    assert parse_docstring(f"What it does.\n\n{text}") == ("What it does.", parameters)


@pytest.mark.parametrize(
    "text",
    [
        "Ratio of a:b.",
        "Colours:\n    red: warm",
        "The args:\n    x: one",
        "Title\n-----\ntext",
        ":class:`Thing` is returned.\n:note: well",
        "See\n    Args:\n        x: one",
        "Parameters are important",
    ],
)
def test_text_that_only_looks_like_a_section_is_part_of_the_description(text: str) -> None:
    assert parse_docstring(f"What it does.\n\n{text}") == (f"What it does.\n\n{text}", {})


def test_the_indentation_of_the_source_does_not_matter() -> None:
    summary, rest = GOOGLE.split("\n", 1)
    expected = parse_docstring(GOOGLE)
    for indent in ("", "  ", "\t\t"):
        assert parse_docstring(summary + "\n" + textwrap.indent(textwrap.dedent(rest), indent)) == expected


def test_any_text_is_read_without_an_error_in_linear_time() -> None:
    """No text raises or makes a regular expression slow."""
    pieces = ["Args:", ":param", "x", " ", "\n", "    ", ":", "(", ")", "---", "*", ",", "Returns", "a, " * 50, "é"]
    rng = random.Random(1)
    for _ in range(2000):
        parse_docstring("".join(rng.choice(pieces) for _ in range(60)))
    for text in ("x, " * 9_000, "x" + "(" * 9_000, " " * 9_000 + "x", "x :" + " " * 9_000, ":param " + "a " * 9_000):
        parse_docstring(f"Args:\n    {text}\n\nParameters\n---\n{text}\n{text}")
