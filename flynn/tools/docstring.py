"""The descriptions of a function and its parameters in a docstring, in the styles of Google, NumPy and Sphinx.

Google: https://google.github.io/styleguide/pyguide.html#383-functions-and-methods
NumPy: https://numpydoc.readthedocs.io/en/latest/format.html
Sphinx: https://www.sphinx-doc.org/en/master/usage/domains/python.html#info-field-lists
"""

from __future__ import annotations

import inspect
import re
from typing import Dict, List, Optional, Sequence, Tuple

# The headings of sections in Google's and in NumPy's style.
_PARAMETERS = re.compile(r"((other|keyword) )?(arg(ument)?|param(eter)?)s:?", re.IGNORECASE)
_OTHERS = re.compile(
    r"(attributes|examples?|hint|important|methods|notes?|raises|receives|references|returns?|see also|tip|todo"
    r"|warnings?|warns|yields?):?",
    re.IGNORECASE,
)
# The first line of a parameter: "name (type): description" and "name : type", in both cases also for several names.
_NAME = r"\*{0,2}[^\W\d]\w*"
_NAMES = rf"({_NAME}(?:, *{_NAME})*)"
_GOOGLE_ITEM = re.compile(rf"{_NAMES} *(?:\(.*?\))? *:(?![:/]) *(.*)")  # neither a URL nor "::"
_NUMPY_ITEM = re.compile(rf"{_NAMES}(?: *:.*)?()$")
# ":param type name: description" and the other fields that Sphinx knows.
_SPHINX_FIELD = re.compile(
    r":(?:(?:param|parameter|arg|argument|key|keyword) (?:[^:]* )?\*{0,2}(\w+)"
    r"|(?:type|raises?|except|exception|returns?|rtype|var|ivar|cvar|vartype|meta)\b[^:]*) *: *(.*)"
)


def parse_docstring(text: Optional[str]) -> Tuple[str, Dict[str, str]]:
    """Return the description of the function, which ends at the first section, and those of its parameters by name.

    Example:
        >>> parse_docstring('''The weather in a city.
        ...
        ...     Args:
        ...         city (str): its name,
        ...             in English
        ...     ''')
        ('The weather in a city.', {'city': 'its name, in English'})
    """
    lines = inspect.cleandoc(text or "").splitlines()
    starts = [number for number in range(len(lines)) if _begins_section(lines, number)]
    parameters: Dict[str, List[str]] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        parameters.update(_parameters(lines[start:end]))
    described = {name: " ".join(" ".join(pieces).split()) for name, pieces in parameters.items()}
    description = "\n".join(lines[: starts[0]] if starts else lines).strip()
    return description, {name: text for name, text in described.items() if text}


def _begins_section(lines: Sequence[str], number: int) -> bool:
    line = lines[number].rstrip()
    if _SPHINX_FIELD.match(line):
        return True
    underlined = number + 1 < len(lines) and lines[number + 1].startswith("---")
    headed = _PARAMETERS.fullmatch(line) or _OTHERS.fullmatch(line)
    return bool(headed) and (underlined or line.endswith(":"))


def _parameters(section: Sequence[str]) -> Dict[str, List[str]]:
    """Return the lines about each parameter in a section."""
    field = _SPHINX_FIELD.match(section[0])
    if field:
        end = section.index("") if "" in section else len(section)
        return {field[1]: [field[2], *section[1:end]]} if field[1] else {}
    if not _PARAMETERS.fullmatch(section[0].rstrip()):
        return {}
    if section[1:] and section[1].startswith("---"):
        return _items(section[2:], _NUMPY_ITEM)
    return _items(section[1:], _GOOGLE_ITEM)


def _items(lines: Sequence[str], first_line: re.Pattern[str]) -> Dict[str, List[str]]:
    """Return the lines about each parameter. A line that is indented deeper than the first one continues its item."""
    items: Dict[str, List[str]] = {}
    margin: Optional[int] = None
    pieces: List[str] = []
    for line in filter(str.strip, lines):
        indent = len(line) - len(line.lstrip())
        margin = indent if margin is None else margin
        if indent < margin:
            break
        first = first_line.match(line.strip()) if indent == margin else None
        if first:
            pieces = [first[2]]
            items.update(dict.fromkeys(re.findall(r"\w+", first[1]), pieces))
        else:
            pieces.append(line)
    return items
