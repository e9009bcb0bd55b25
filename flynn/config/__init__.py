"""Finds, reads and checks the configuration. `flynn.config.schema` declares its shape."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Mapping, Optional, Tuple, Union

from ..errors import ConfigError, FileError
from ..files import parse_json, read_text
from ..http.checks import check_token
from .schema import DEFAULT_MODEL, Config, ConfigSource, ModelConfig, check_endpoint, read_config
from .yaml import Positions

FilePath = Union[str, os.PathLike[str]]

__all__ = ["Config", "ModelConfig", "load_config", "read_token_file"]

_MAX_SIZE = 1024 * 1024  # bytes of a configuration file
# The longest header line that llama-server's HTTP library takes: cpp-httplib, CPPHTTPLIB_HEADER_MAX_LENGTH.
_MAX_TOKEN = 8192


def load_config(path: Optional[FilePath] = None, *, environ: Optional[Mapping[str, str]] = None) -> Config:
    """Read the configuration.

    Args:
        path: a `.yaml`, `.yml`, `.json` or (from Python 3.11 on) `.toml` file. By default `$FLYNN_CONFIG`, otherwise
            the first existing file of `./flynn.yaml` and `$XDG_CONFIG_HOME/flynn/config.yaml` (`~/.config/...`).
            Without a file, every setting has its default.
        environ: the environment, by default that of the process. For the model `local`, its `FLYNN_ENDPOINT` and
            `FLYNN_AUTH_TOKEN` win over the file. An empty variable counts as unset.

    Raises:
        ConfigError: the file is missing or cannot be read, or a value in it or in the environment is wrong.

    Example:
        >>> load_config(environ={"FLYNN_ENDPOINT": "http://gpu:8080"}).models["local"].endpoint
        'http://gpu:8080'
    """
    environ = os.environ if environ is None else environ
    file = _find(path, environ)
    try:
        value, positions = (None, {}) if file is None else parse_text(read_text(file, _MAX_SIZE), file)
    except FileError as error:
        raise ConfigError(error.problem, file=error.file, line=error.line, column=error.column) from None
    source, variables = ConfigSource(file, positions), ConfigSource(None, {})
    models = dict(read_config(value, source).models)
    model = models[DEFAULT_MODEL]
    if endpoint := environ.get("FLYNN_ENDPOINT"):
        model = replace(model, endpoint=variables.checked(endpoint, ("FLYNN_ENDPOINT",), check_endpoint))
    if token := environ.get("FLYNN_AUTH_TOKEN"):
        token = variables.checked(token, ("FLYNN_AUTH_TOKEN",), check_token)
        model = replace(model, auth_token=token, auth_token_file=None)
    models[DEFAULT_MODEL] = model
    return Config({name: _with_token(model, name, source) for name, model in models.items()})


def _with_token(model: ModelConfig, name: str, source: ConfigSource) -> ModelConfig:
    """Return a model with the token from its `auth_token_file`, if it has one."""
    if model.auth_token_file is None:
        return model
    folder = os.path.dirname(source.file or "")
    token_file = os.path.abspath(os.path.join(folder, os.path.expanduser(model.auth_token_file)))
    token = source.checked(token_file, ("models", name, "auth_token_file"), read_token_file)
    return replace(model, auth_token=token, auth_token_file=token_file)


def _find(path: Optional[FilePath], environ: Mapping[str, str]) -> Optional[str]:
    """Return the file to read: the given one, or the first that exists, or None."""
    if path is None:
        path = environ.get("FLYNN_CONFIG") or None
    if path is not None:
        return os.path.expanduser(path)
    places = ["flynn.yaml"]
    # A relative XDG_CONFIG_HOME is ignored: XDG Base Directory Specification, "Environment variables".
    folder = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):
        folder = os.path.join(environ.get("HOME", ""), ".config")
    if os.path.isabs(folder):
        places.append(os.path.join(folder, "flynn", "config.yaml"))
    return next((file for file in places if os.path.lexists(file)), None)


def parse_text(text: str, file: str) -> Tuple[object, Positions]:
    """Return the value of a text in the format of the file's suffix, and the positions of its keys if known."""
    suffix = os.path.splitext(file)[1].lower()
    if suffix in (".yaml", ".yml"):
        from .yaml import parse

        return parse(text, file)
    if suffix == ".json":
        return parse_json(text, file), {}
    if suffix != ".toml":
        raise ConfigError("a configuration is named *.yaml, *.yml, *.json, *.toml", file=file)
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(text), {}
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not TOML: {error}", file=file) from None
        except (RecursionError, ValueError):  # Python's own limits, which tomllib leaves to it
            raise ConfigError("nested too deeply, or a number of thousands of digits", file=file) from None
    raise ConfigError("TOML is read from Python 3.11 on: write the configuration as .yaml or .json", file=file)


def read_token_file(path: str) -> str:
    """Return the token in a file, without whitespace around it. A leading `~` of the path is the home directory.

    Raises:
        ConfigError: the file cannot be read, group or others can open it, or it holds no token.
    """
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_TOKEN + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path!r}: {getattr(error, 'strerror', error)}") from None
    if os.name == "posix" and mode & 0o077:
        import shlex

        raise ConfigError(f"others may open this file (mode {mode & 0o777:03o}): run chmod 600 {shlex.quote(path)}")
    try:
        if len(content) > _MAX_TOKEN:
            raise ConfigError(f"more than {_MAX_TOKEN} bytes")
        return check_token(content.decode("ascii", "replace").strip())
    except ConfigError as error:
        raise ConfigError(f"no token in {path!r}: {error}") from None
