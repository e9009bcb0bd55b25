"""The properties of a model that decide how much memory it needs, read from a GGUF header as llama.cpp does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from .gguf import VOCABULARY, Value

HALF_PRECISION_BYTES = 2  # the KV cache's default type, f16
SINGLE_PRECISION_BYTES = 4  # the state of recurrent layers
_MAX_LAYERS = 4096  # no model has more; a larger number means a damaged header

# The period of the pattern in which all layers but the last have a sliding window, for headers without that key; from
# set_swa_pattern in llama.cpp's src/models/. In other architectures every layer counts as seeing the whole context.
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gpt-oss": 2, "cohere2": 4}
# The period of the pattern in which all layers but the last are recurrent.
_RECURRENT_PATTERNS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}


@dataclass(frozen=True)
class Shape:
    """The properties of a model that decide how much memory it needs.

    Attributes:
        layers: transformer blocks; `--gpu-layers` counts these, and one more for the output.
        kv_bytes_per_token: the KV cache of one token, as f16, in all layers that see the whole context.
        embedding: the width of the hidden state.
        vocabulary: tokens in the vocabulary.
        host_embedding_bytes: bytes of the token embeddings that stay in host memory; 0 if the output shares these
            weights (they are then on the GPU, too), or if that is unknown.
        window: tokens in the window of layers with a sliding window.
        window_bytes_per_token: the KV cache of one token in those layers, as f16.
        state_bytes: the state of all recurrent layers, for one slot.
        active: the share of the weights that is read for one token; below 1 for a mixture of experts.
    """

    layers: int
    kv_bytes_per_token: int
    embedding: int
    vocabulary: int
    host_embedding_bytes: int = 0
    window: int = 0
    window_bytes_per_token: int = 0
    state_bytes: int = 0
    active: float = 1.0


class _Header:
    """The metadata of a model. Keys are given without the prefix of the architecture."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self.metadata = metadata
        self.architecture = str(metadata.get("general.architecture"))

    def number(self, key: str, default: int = 0) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return value if isinstance(value, int) else default

    def per_layer(self, key: str, layers: int, default: int) -> list[int]:
        """Return one number for each layer; the header has a list, or one number for all layers."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        each = value if isinstance(value, list) else [value] * layers
        return [number if isinstance(number, int) else 0 for number in each[:layers]]


def read_shape(metadata: Mapping[str, Value]) -> Optional[Shape]:
    """Return the model's shape; None if the metadata lacks a key (some files have the vocabulary before it)."""
    header = _Header(metadata)
    layers, embedding = header.number("block_count"), header.number("embedding_length")
    vocabulary = metadata.get(VOCABULARY, header.number("vocab_size"))
    if not isinstance(vocabulary, int) or min(layers, embedding, vocabulary) <= 0 or layers > _MAX_LAYERS:
        return None
    caches = _caches(header, layers, embedding)
    recurrent = _recurrent(header, layers)
    if caches is None and not any(recurrent):
        return None
    attention = [0 if is_recurrent else cache for cache, is_recurrent in zip(caches or [0] * layers, recurrent)]
    windowed = _windowed(header, layers)
    return Shape(
        layers,
        sum(cache for cache, has_window in zip(attention, windowed) if not has_window),
        embedding,
        vocabulary,
        window=header.number("attention.sliding_window"),
        window_bytes_per_token=sum(cache for cache, has_window in zip(attention, windowed) if has_window),
        state_bytes=sum(recurrent) * _state_bytes(header, embedding),
        active=_active(header),
    )


def _caches(header: _Header, layers: int, embedding: int) -> Optional[list[int]]:
    """Return the bytes of one token's KV cache in each layer; None if the header has no attention heads."""
    heads = max(header.per_layer("attention.head_count", layers, 0), default=0)
    if heads <= 0:
        return None
    if header.number("attention.key_length_mla"):  # latent attention stores one vector for both keys and values
        width = header.number("attention.kv_lora_rank") + header.number("rope.dimension_count")
        return [width * HALF_PRECISION_BYTES] * layers
    width = sum(header.number(f"attention.{name}_length", embedding // heads) for name in ("key", "value"))
    kv_heads = header.per_layer("attention.head_count_kv", layers, heads)
    return [count * width * HALF_PRECISION_BYTES for count in kv_heads]


def _windowed(header: _Header, layers: int) -> list[bool]:
    """Return for each layer whether it has a sliding window."""
    if not header.number("attention.sliding_window"):
        return [False] * layers
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return [bool(each) for each in pattern[:layers]] + [False] * (layers - len(pattern))
    period = pattern if isinstance(pattern, int) else _WINDOW_PATTERNS.get(header.architecture, 1)
    return [period > 0 and layer % period < period - 1 for layer in range(layers)]


def _recurrent(header: _Header, layers: int) -> list[bool]:
    """Return for each layer whether it is recurrent: it then has a state of a fixed size instead of a cache."""
    if not header.number("ssm.state_size"):
        return [False] * layers
    period = header.number("full_attention_interval", _RECURRENT_PATTERNS.get(header.architecture, 0))
    if period:
        return [(layer + 1) % period != 0 for layer in range(layers)]
    return [count == 0 for count in header.per_layer("attention.head_count_kv", layers, 0)]


def _state_bytes(header: _Header, embedding: int) -> int:
    """Return the state of one recurrent layer for one slot; see n_embd_r and n_embd_s in src/llama-hparams.cpp."""
    inner, state = header.number("ssm.inner_size", 2 * embedding), header.number("ssm.state_size")
    groups, kernel = header.number("ssm.group_count"), header.number("ssm.conv_kernel")
    return (max(kernel - 1, 0) * (inner + 2 * groups * state) + inner * state) * SINGLE_PRECISION_BYTES


def _active(header: _Header) -> float:
    """Return the share of active weights. In a mixture of experts, the experts are about 90 % of the weights."""
    experts, used = header.number("expert_count"), header.number("expert_used_count")
    return 1.0 if not 0 < used < experts else 0.1 + 0.9 * used / experts
