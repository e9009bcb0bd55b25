"""The configuration: found, read and checked. `flynn.config.schema` holds its shape."""

from __future__ import annotations

import os

from ..dataclass import replace
from ..errors import ConfigError
from ..http.token import check_token
from .schema import Config, ModelConfig, Source, check_endpoint, read_config
from .token import read_token_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Mapping, Optional, Union

    from .yaml import Positions

__all__ = ["Config", "ModelConfig", "load_config", "read_token_file"]

MAX_SIZE = 1024 * 1024  # bytes of a configuration file


def load_config(
    path: Optional[Union[str, os.PathLike[str]]] = None, *, environ: Optional[Mapping[str, str]] = None
) -> Config:
    """Read the configuration.

    Args:
        path: a `.yaml`, `.yml`, `.json` or (from Python 3.11 on) `.toml` file. By default `$FLYNN_CONFIG`, or else the
            first that there is of `./flynn.yaml` and `$XDG_CONFIG_HOME/flynn/config.yaml` (`~/.config/...`). Without
            any of them everything has its default.
        environ: the environment, by default the process's own. `FLYNN_ENDPOINT` and `FLYNN_AUTH_TOKEN` in it win over
            the file. An empty variable counts as unset.

    Raises:
        ConfigError: the file is missing, cannot be read, or something in it or in the environment is wrong.

    Example:
        >>> load_config(environ={"FLYNN_ENDPOINT": "http://gpu:8080"}).models["local"].endpoint
        'http://gpu:8080'
    """
    environ = os.environ if environ is None else environ
    file = _find(path, environ)
    value: object = None
    positions: Positions = {}
    if file is not None:
        from .formats import parse_text

        value, positions = parse_text(_read(file), file)
    source = Source(file, positions)
    config = read_config(value, source)
    return Config({**config.models, "local": _complete(config.models["local"], source, environ)})


def _find(path: Optional[Union[str, os.PathLike[str]]], environ: Mapping[str, str]) -> Optional[str]:
    """The file to read: the one that was named, or else the first that exists, or None."""
    if path is not None:
        return os.fspath(path)
    if environ.get("FLYNN_CONFIG"):
        return environ["FLYNN_CONFIG"]
    places = ["flynn.yaml"]
    # A relative XDG_CONFIG_HOME is to be ignored: XDG Base Directory Specification, "Environment variables".
    folder = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(folder):
        places.append(os.path.join(folder, "flynn", "config.yaml"))
    elif environ.get("HOME"):
        places.append(os.path.join(environ["HOME"], ".config", "flynn", "config.yaml"))
    return next((file for file in places if os.path.lexists(file)), None)


def _read(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration: {getattr(error, 'strerror', error)}", file=file) from None
    if len(content) > MAX_SIZE:
        raise ConfigError(f"a configuration of more than {MAX_SIZE} bytes", file=file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8: save the file in that encoding", file=file, line=line) from None


def _complete(model: ModelConfig, source: Source, environ: Mapping[str, str]) -> ModelConfig:
    """The local model with the token from its file, and with what the environment says."""
    changes: Dict[str, Any] = {}
    variables = Source(None, {})
    if environ.get("FLYNN_ENDPOINT"):
        changes["endpoint"] = variables.checked(environ["FLYNN_ENDPOINT"], ("FLYNN_ENDPOINT",), check_endpoint)
    if environ.get("FLYNN_AUTH_TOKEN"):
        changes["auth_token"] = variables.checked(environ["FLYNN_AUTH_TOKEN"], ("FLYNN_AUTH_TOKEN",), check_token)
        changes["auth_token_file"] = None
    elif model.auth_token_file is not None:
        folder = os.path.dirname(source.file or "")
        token_file = os.path.abspath(os.path.join(folder, os.path.expanduser(model.auth_token_file)))
        changes["auth_token_file"] = token_file
        changes["auth_token"] = source.checked(token_file, ("models", "local", "auth_token_file"), read_token_file)
    return replace(model, **changes) if changes else model
