"""The shape of a configuration: its settings, declared once, and their checks. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Callable, Collection, Dict, Mapping, Optional, Tuple

from ..errors import ConfigError, suggestion
from ..http.checks import DEFAULT_TIMEOUT, TIMEOUTS, check_retries, check_timeout, check_token
from ..http.endpoint import DEFAULT_ENDPOINT, parse_endpoint
from .yaml import Positions

DEFAULT_MODEL = "local"  # the default key of `models`

_MAX_NESTING = 64  # of the values in `defaults`
_WORDS = {
    bool: "true or false", float: "a number", int: "a whole number", str: "a string", list: "a list", dict: "a mapping",
}  # fmt: skip


class Provider(str, Enum):
    """The kinds of servers."""

    LLAMACPP = "llamacpp"


def _timeout(value: object) -> Optional[float]:
    try:
        return check_timeout(value)
    except ConfigError:
        raise ConfigError(f"expected {TIMEOUTS.replace('None', 'null')}, not {_shown(value)}") from None


def _provider(value: object) -> Provider:
    try:
        return Provider(value)
    except ValueError:
        names = [provider.value for provider in Provider]
        near = suggestion(value, names) if isinstance(value, str) else ""
        raise ConfigError(f"unknown provider {_shown(value)}{near} (expected one of: {', '.join(names)})") from None


def check_endpoint(value: object) -> str:
    """Return the endpoint. Raises ConfigError if it is invalid."""
    return parse_endpoint(_text(value)).text


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"expected {_WORDS[str]}, not {_shown(value)}")
    return value


def _setting(default: Any, check: Callable[[Any], object], *, repr: bool = True) -> Any:
    return field(default=default, metadata={"check": check}, repr=repr)


@dataclass(frozen=True)
class ModelConfig:
    """A model and how to reach it.

    Attributes:
        provider: the kind of its server.
        endpoint: `http://`, `https://` or `unix:///path/to.sock`.
        auth_token: for a server with `--api-key`; `repr` does not show it.
        auth_token_file: the absolute path of the file that `load_config` read `auth_token` from; None without one.
        timeout, connect_timeout: seconds, None for no limit; see `LlamaCppClient`.
        retries: how often a call is sent again; see `LlamaCppClient`.
        model: the model to request, on a server with several.
        defaults: request options (fields of `ChatRequest`, `resume`, `resume_for`) for calls that do not set them.
    """

    provider: Provider = _setting(Provider.LLAMACPP, _provider)
    endpoint: str = _setting(DEFAULT_ENDPOINT, check_endpoint)
    auth_token: Optional[str] = _setting(None, check_token, repr=False)
    auth_token_file: Optional[str] = _setting(None, _text)
    timeout: Optional[float] = _setting(DEFAULT_TIMEOUT, _timeout)
    connect_timeout: Optional[float] = _setting(None, _timeout)
    retries: int = _setting(0, check_retries)
    model: Optional[str] = _setting(None, _text)
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A configuration: its models by name, of which `local` always exists."""

    models: Mapping[str, ModelConfig]


class ConfigSource:
    """The file that values come from, and their positions in it, for errors."""

    def __init__(self, file: Optional[str], positions: Positions) -> None:
        self.file = file
        self.positions = positions

    def error(self, path: Tuple[str, ...], message: str) -> ConfigError:
        line, column = self.positions.get(path, (None, None))
        names = (name if name.isprintable() and len(name) <= 60 else _shown(name) for name in path)
        return ConfigError(message, file=self.file, line=line, column=column, key=".".join(names))

    def mapping(
        self, value: object, path: Tuple[str, ...], allowed: Optional[Collection[str]] = None, known: str = ""
    ) -> Dict[str, Any]:
        """Return the mapping at a path, {} for None. Its keys must be `allowed`; `known` sums these up in errors."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, f"expected {_WORDS[dict]}, not {_kind(value)}")
        for key in value:
            if not isinstance(key, str) or not key:
                raise self.error(path, f"expected names as keys, not {_shown(key)}")
            if allowed is not None and key not in allowed:
                near = suggestion(key, allowed) or f" (expected one of: {known or ', '.join(allowed)})"
                raise self.error((*path, key), f"unknown key{near}")
        return value

    def checked(self, value: object, path: Tuple[str, ...], check: Callable[[Any], object]) -> Any:
        """Return `check(value)`. A ConfigError gets the place of the value."""
        try:
            return check(value)
        except ConfigError as error:
            raise self.error(path, str(error)) from None


def read_config(value: object, source: ConfigSource) -> Config:
    """Return the Config in the plain values of a file; None stands for an empty file.

    Example:
        >>> read_config({"models": {"local": {"timeout": 5}}}, ConfigSource(None, {})).models["local"].timeout
        5.0
    """
    root = source.mapping(value, (), ("models",))
    models = source.mapping(root.get("models"), ("models",))
    for name in models:
        if DEFAULT_MODEL not in models and (near := suggestion(name, [DEFAULT_MODEL])):
            raise source.error(("models", name), f"no model is named {DEFAULT_MODEL!r}{near}")
    return Config({name: _read_model(models.get(name), ("models", name), source) for name in [DEFAULT_MODEL, *models]})


def _read_model(value: object, path: Tuple[str, ...], source: ConfigSource) -> ModelConfig:
    settings = fields(ModelConfig)
    values = source.mapping(value, path, [setting.name for setting in settings])
    checked: Dict[str, Any] = {"defaults": _read_defaults(values.get("defaults"), (*path, "defaults"), source)}
    for setting in settings:
        name = setting.name
        # A key without a value, `auth_token:`, counts as missing if its default is None.
        if name in values and name != "defaults" and not (values[name] is None and setting.default is None):
            checked[name] = source.checked(values[name], (*path, name), setting.metadata["check"])
    if "auth_token" in checked and "auth_token_file" in checked:
        raise source.error((*path, "auth_token_file"), "give auth_token or auth_token_file, not both")
    return ModelConfig(**checked)


def _read_defaults(value: object, path: Tuple[str, ...], source: ConfigSource) -> Dict[str, Any]:
    if value is None:
        return {}
    from ..models.request import option_types

    types = {**option_types(), "resume": (bool,), "resume_for": (int, float)}
    options = source.mapping(value, path, types, "the options of ChatRequest, resume, resume_for")
    for name, option in options.items():
        # Compare the exact type: for isinstance, a bool is an int.
        if type(option) not in types[name]:
            wanted = [word for kind, word in _WORDS.items() if kind in types[name]]
            if float in types[name]:
                wanted.remove(_WORDS[int])
            raise source.error((*path, name), f"expected {' or '.join(wanted)}, not {_shown(option)}")
        source.checked(option, (*path, name), _check_plain)
    if options.get("resume_for", 0) < 0:
        raise source.error((*path, "resume_for"), f"expected seconds, 0 or more, not {_shown(options['resume_for'])}")
    return dict(options)


def _check_plain(value: object, depth: int = 0) -> None:
    """Raise ConfigError for a value that JSON cannot hold: TOML has dates, and YAML and TOML have infinity."""
    if depth > _MAX_NESTING:
        raise ConfigError(f"more than {_MAX_NESTING} levels deep")
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, depth + 1)
    elif isinstance(value, (int, float)):
        # llama-server's integers have 64 bits; JSON has no infinity and no NaN.
        if not (abs(value) < float("inf") if isinstance(value, float) else -(2**63) <= value < 2**64):
            raise ConfigError(f"{_shown(value)} is beyond the numbers of JSON")
    elif value is not None and not isinstance(value, str):
        raise ConfigError(f"JSON has no {_kind(value)}: put it in quotes")


def _kind(value: object) -> str:
    return "null" if value is None else _WORDS.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    """Return a value as an error shows it: scalars, shortened; of the rest only the kind, as it may hold a token."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**64):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return _kind(value)
