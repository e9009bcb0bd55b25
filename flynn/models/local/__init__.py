"""Models on the user's own machine."""

from .llamacpp import LlamaCppClient

__all__ = ["LlamaCppClient"]
