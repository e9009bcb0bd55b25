"""Flynn: a client for a local llama.cpp server.

Importing this package loads next to nothing; each name below is resolved when it is first used (PEP 562).
"""

from __future__ import annotations

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .aio import AsyncLlamaCppClient as AsyncLlamaCppClient
    from .config import Config as Config
    from .config import load_config as load_config
    from .conversation import Conversation as Conversation
    from .conversation.aio import AsyncConversation as AsyncConversation
    from .conversation.cache import PromptDifference as PromptDifference
    from .conversation.cache import compare_prompts as compare_prompts
    from .errors import AuthenticationError as AuthenticationError
    from .errors import ConfigError as ConfigError
    from .errors import ConnectionLostError as ConnectionLostError
    from .errors import ContextSizeError as ContextSizeError
    from .errors import FileError as FileError
    from .errors import FlynnError as FlynnError
    from .errors import ModelLoadingError as ModelLoadingError
    from .errors import NotSupportedError as NotSupportedError
    from .errors import ProtocolError as ProtocolError
    from .errors import RequestError as RequestError
    from .errors import RequestTimeoutError as RequestTimeoutError
    from .errors import ServerError as ServerError
    from .errors import ServerNotRunningError as ServerNotRunningError
    from .errors import StreamInterruptedError as StreamInterruptedError
    from .errors import StructuredOutputError as StructuredOutputError
    from .errors import ToolRoundsError as ToolRoundsError
    from .models.local.llamacpp import LlamaCppClient as LlamaCppClient
    from .models.local.models import ModelEvent as ModelEvent
    from .models.local.models import ModelInfo as ModelInfo
    from .models.local.retrieval import Embeddings as Embeddings
    from .models.local.retrieval import RankedDocument as RankedDocument
    from .models.local.retrieval import Ranking as Ranking
    from .models.local.server import Health as Health
    from .models.local.server import LoraAdapter as LoraAdapter
    from .models.local.server import Metric as Metric
    from .models.local.server import Metrics as Metrics
    from .models.local.server import Props as Props
    from .models.local.server import Slot as Slot
    from .models.local.server import SlotFile as SlotFile
    from .models.local.text import Completion as Completion
    from .models.local.text import CompletionResponse as CompletionResponse
    from .models.local.tokens import TokenPiece as TokenPiece
    from .models.router import create_client as create_client
    from .models.types import Audio as Audio
    from .models.types import ChatRequest as ChatRequest
    from .models.types import ChatResponse as ChatResponse
    from .models.types import Image as Image
    from .models.types import Message as Message
    from .models.types import ModelClient as ModelClient
    from .models.types import ToolCall as ToolCall
    from .structured import Limits as Limits
    from .thread_iterator import ThreadIterator as ThreadIterator
    from .tools import Tool as Tool
    from .trace import TraceEvent as TraceEvent

_WHERE = {
    "aio": "AsyncLlamaCppClient",
    "config": "Config load_config",
    "conversation": "Conversation",
    "conversation.aio": "AsyncConversation",
    "conversation.cache": "PromptDifference compare_prompts",
    "errors": "AuthenticationError ConfigError ConnectionLostError ContextSizeError FileError FlynnError"
    " ModelLoadingError NotSupportedError ProtocolError RequestError RequestTimeoutError ServerError"
    " ServerNotRunningError StreamInterruptedError StructuredOutputError ToolRoundsError",
    "models.local.llamacpp": "LlamaCppClient",
    "models.local.models": "ModelEvent ModelInfo",
    "models.local.retrieval": "Embeddings RankedDocument Ranking",
    "models.local.server": "Health LoraAdapter Metric Metrics Props Slot SlotFile",
    "models.local.text": "Completion CompletionResponse",
    "models.local.tokens": "TokenPiece",
    "models.router": "create_client",
    "models.types": "Audio ChatRequest ChatResponse Image Message ModelClient ToolCall",
    "structured": "Limits",
    "thread_iterator": "ThreadIterator",
    "tools": "Tool",
    "trace": "TraceEvent",
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'flynn' has no attribute {name!r}")
    # Not by importlib: to import that takes as long as most of this package's own modules.
    value = globals()[name] = getattr(__import__(f"{__name__}.{_MODULES[name]}", fromlist=[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
