"""What several commands share: options for the server and for a chat request, and the text that a command gets."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import fields, replace
from typing import Any, Callable, Dict, Optional, Sequence

from ..config import Config, load_config, read_token_file
from ..config.schema import DEFAULT_MODEL
from ..errors import ConfigError, FileError, suggestion
from ..files import named
from ..http.checks import MAX_TIMEOUT
from ..http.endpoint import DEFAULT_ENDPOINT, parse_endpoint
from ..models.local.llamacpp import LlamaCppClient
from ..models.request import ChatRequest, option_types
from ..models.router import create_llamacpp_client
from .exits import UsageError

Given = argparse.Namespace
_REQUEST_OPTIONS = [option for option in fields(ChatRequest) if option.metadata.get("command")]
_METAVARS = {int: "N", str: "TEXT"}  # a bool has no place here yet: no such field is an option


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UsageError, in one line, with the nearest option where there is one."""

    timeout_help = "longest silence, or none (default: 60)"

    def __init__(self, prog: str, purpose: str, epilog: str, *, usage: Optional[str] = None) -> None:
        super().__init__(
            prog,
            description=purpose,
            epilog=epilog,
            usage=usage or f"{prog} [options]",
            # A fixed width: asking the terminal would cost the import of shutil.
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=80),
            allow_abbrev=False,
        )

    def parse(self, argv: Sequence[str]) -> Given:
        """Return the options of a command and, if it takes them, its `words`, in any order."""
        # argparse's intermixed parsing forgets where the -- was.
        end = argv.index("--") if "--" in argv else len(argv)
        given, unknown = self.parse_known_intermixed_args(argv[:end])
        (given.words if "words" in given else unknown).extend(argv[end + 1 :])
        if unknown:
            name = unknown[0].partition("=")[0]
            if name.startswith("-"):
                self.error(f"unknown option {name!r}{self._nearest(name)}")
            self.error(f"unexpected argument {unknown[0]!r}")
        return given

    def _nearest(self, name: str) -> str:
        """Return the end of a message about an unknown option: the one that was probably meant, if one is near."""
        # Compared without the dashes, which would make any two options alike.
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        word = name.lstrip("-")
        longer = [option for option in known if len(word) > 1 and option.startswith(word)]
        return suggestion(longer[0] if longer else word, known).replace("'", "'--", 1)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def add_connection_options(self) -> None:
        group = self.add_argument_group("server")
        text = (
            "http://HOST:PORT, https://HOST:PORT or unix:///PATH "
            f"(default: $FLYNN_ENDPOINT, the configuration's, or {DEFAULT_ENDPOINT})"
        )
        group.add_argument("--endpoint", metavar="URL", type=_endpoint, help=text)
        text = f"model of the configuration (default: {DEFAULT_MODEL})"
        group.add_argument("--use", metavar="NAME", default=DEFAULT_MODEL, help=text)
        text = "configuration (default: $FLYNN_CONFIG, ./flynn.yaml, or config.yaml in ~/.config/flynn)"
        group.add_argument("--config", metavar="FILE", help=text)
        group.add_argument("--timeout", metavar="SECONDS", type=time_limit, default=..., help=self.timeout_help)
        text = "file (mode 600) that holds the server's token"
        group.add_argument("--auth-token-file", metavar="FILE", help=text)

    def add_request_options(self) -> None:
        """Add an option for each field of a chat request that is marked as one."""
        group = self.add_argument_group("generation")
        types = option_types()
        for option in _REQUEST_OPTIONS:
            kinds = types[option.name]
            group.add_argument(
                "--" + option.name.replace("_", "-"),
                metavar=_METAVARS[kinds[0]],
                type=_number if float in kinds else kinds[0],
                action="append" if list in kinds else "store",
                help=option.metadata["help"].replace("%", "%%") + (" (repeatable)" if list in kinds else ""),
            )


def number(expected: str, least: float, most: float) -> Callable[[str], float]:
    """Return the type of an option that is a number; `expected` describes it in the message about any other value."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")
        return value

    return parse


_number = number("a number", -sys.float_info.max, sys.float_info.max)
_seconds = number("seconds above 0, or none for no limit", sys.float_info.min, MAX_TIMEOUT)


def time_limit(text: str) -> Optional[float]:
    return None if text == "none" else _seconds(text)


def _endpoint(text: str) -> str:
    try:
        return parse_endpoint(text).text
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def request_options(given: Given) -> Dict[str, Any]:
    """Return the fields of a chat request that were given as options."""
    options = {option.name: value for option in _REQUEST_OPTIONS if (value := getattr(given, option.name)) is not None}
    if getattr(given, "json_schema", None) is not None:
        from ..files import read_json

        options["json_schema"] = schema = read_json(given.json_schema)
        if not isinstance(schema, dict):
            raise FileError('a JSON schema is an object, such as {"type": "object"}', given.json_schema)
    return options


def connect(given: Given) -> LlamaCppClient:
    """Return the client that options, environment and configuration describe, in this order of precedence.

    Its streams are resumed after a cut, unless the configuration says otherwise.
    """
    environ = dict(os.environ)
    chosen: Dict[str, Any] = {}
    if given.endpoint is not None:
        environ["FLYNN_ENDPOINT"] = chosen["endpoint"] = given.endpoint
    if given.auth_token_file is not None:
        environ["FLYNN_AUTH_TOKEN"] = chosen["auth_token"] = read_token_file(given.auth_token_file)
    if given.timeout is not ...:
        chosen["timeout"] = given.timeout
    models = load_config(given.config, environ=environ).models
    if given.use not in models:
        near = suggestion(given.use, models)
        raise UsageError(f"--use: no model {given.use!r}{near} (expected one of: {', '.join(models)})")
    model = models[given.use]
    model = replace(model, defaults={"resume": True, **model.defaults}, **chosen)
    return create_llamacpp_client(Config({given.use: model}), given.use)


def read_text(words: Sequence[str]) -> str:
    """Return the text that a command is given: its arguments, then, after an empty line, standard input if it is piped.

    A lone `-` stands for standard input, also where that is a terminal.
    """
    piped = ""
    if sys.stdin is not None and (not sys.stdin.isatty() or "-" in words):
        with named("standard input"):
            piped = sys.stdin.read()
    elif not words:
        raise UsageError("no text: give it as arguments or on standard input")
    argued = " ".join(word for word in words if word != "-")
    # Python decodes arguments in the locale's encoding and turns invalid bytes into surrogates (PEP 383).
    argued = argued.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "\n\n".join(part for part in (argued, piped) if part)
