"""From the text of a configuration to plain values: YAML, JSON and TOML, by the file's suffix. No I/O."""

from __future__ import annotations

import os
import sys

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, NoReturn, Tuple

    from .yaml import Positions


def parse_text(text: str, file: str) -> Tuple[object, Positions]:
    """The value that a text holds, and the line and column of each of its keys, as far as the format's reader tells.

    Args:
        text: of a YAML, JSON or TOML document.
        file: its name, whose suffix tells which.

    Raises:
        ConfigError: the text is not of that format, or no format has that suffix.
    """
    parsers = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".json": _parse_json, ".toml": _parse_toml}
    parser = parsers.get(os.path.splitext(file)[1].lower())
    if not parser:
        raise ConfigError(f"a configuration is named *{', *'.join(parsers)}", file=file)
    try:
        return parser(text, file)
    except ConfigError:
        raise
    except (RecursionError, ValueError):
        # json and tomllib leave both to Python: its recursion limit, and its limit of digits of an int.
        raise ConfigError("nested too deeply, or a number of thousands of digits", file=file) from None


def _parse_yaml(text: str, file: str) -> Tuple[object, Positions]:
    from .yaml import parse

    return parse(text, file)


def _parse_json(text: str, file: str) -> Tuple[object, Positions]:
    import json

    def mapping(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"the key {key!r} is given twice", file=file)
            found[key] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise ConfigError(f"{constant} is no JSON", file=file)

    try:
        return json.loads(text, object_pairs_hook=mapping, parse_constant=refuse), {}
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg}", file=file, line=error.lineno, column=error.colno) from None


def _parse_toml(text: str, file: str) -> Tuple[object, Positions]:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(text), {}
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not TOML: {error}", file=file) from None
    raise ConfigError("TOML is read from Python 3.11 on: write the configuration as .yaml or .json", file=file)
