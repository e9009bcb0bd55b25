"""From a configuration to the client of the model that plays a role."""

from __future__ import annotations

from ..errors import ConfigError, suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..config import Config
    from .local.llamacpp import LlamaCppClient


def create_client(config: Config, role: str = "local") -> LlamaCppClient:
    """The client for a role, made as its provider wants it.

    Args:
        config: what `load_config` returned.
        role: the key under `models` in the configuration.

    Raises:
        ConfigError: the configuration has no such role.

    Example:
        >>> client = create_client(load_config("flynn.yaml"), "local")
    """
    if role not in config.models:
        known = ", ".join(config.models)
        raise ConfigError(f"no model plays the role {role!r}{suggestion(role, config.models)} (there is: {known})")
    model = config.models[role]
    # The schema lets no other provider through; the next one gets its branch here.
    from .local.llamacpp import LlamaCppClient

    return LlamaCppClient(
        model.endpoint,
        auth_token=model.auth_token,
        timeout=model.timeout,
        model=model.model,
        defaults=model.defaults,
    )
