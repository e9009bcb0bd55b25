"""Creates the client of a model in the configuration."""

from __future__ import annotations

from typing import Callable, Mapping

from ..config import Config
from ..config.schema import DEFAULT_MODEL, ModelConfig, Provider
from ..errors import ConfigError, suggestion
from .local.llamacpp import LlamaCppClient
from .types import ModelClient


def _llamacpp(model: ModelConfig) -> LlamaCppClient:
    return LlamaCppClient(
        model.endpoint,
        auth_token=model.auth_token,
        timeout=model.timeout,
        connect_timeout=model.connect_timeout,
        retries=model.retries,
        model=model.model,
        defaults=model.defaults,
    )


ClientFactory = Callable[[ModelConfig], ModelClient]
# By provider.
PROVIDERS: Mapping[str, ClientFactory] = {Provider.LLAMACPP: _llamacpp}


def create_client(
    config: Config, role: str = DEFAULT_MODEL, *, providers: Mapping[str, ClientFactory] = PROVIDERS
) -> ModelClient:
    """Create the client of a model in the configuration.

    Args:
        config: from `load_config`.
        role: the model's key under `models`; `"local"` by default.
        providers: the function that creates a client, by provider; a program may add its own.

    Raises:
        ConfigError: the configuration has no such model, or its provider is unknown.

    Example:
        >>> create_client(load_config(environ={}), "local")
        LlamaCppClient('http://localhost:8080')
    """
    if role not in config.models:
        known = ", ".join(config.models)
        raise ConfigError(f"no model {role!r}{suggestion(role, config.models)} (expected one of: {known})")
    model = config.models[role]
    if model.provider not in providers:
        raise ConfigError(f"unknown provider {model.provider!r} (expected one of: {', '.join(providers)})")
    return providers[model.provider](model)


def create_llamacpp_client(config: Config, role: str = DEFAULT_MODEL) -> LlamaCppClient:
    """Create a client for features that only llama-server has. Raises ConfigError also for another provider."""
    client = create_client(config, role)
    if not isinstance(client, LlamaCppClient):
        raise ConfigError(f"models.{role} needs the provider {Provider.LLAMACPP.value!r} for this")
    return client
