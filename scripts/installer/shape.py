"""What of a model's architecture decides how much memory it takes: read from a GGUF header, as llama.cpp reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from .gguf import VOCABULARY, Value

HALF_PRECISION_BYTES = 2  # the KV cache's default type, f16
SINGLE_PRECISION_BYTES = 4  # the state of recurrent layers
_MOST_LAYERS = 4096  # more than any model has: a damaged header is not believed

# Of how many layers in turn all but the last have a sliding window, where the header does not say: set_swa_pattern in
# llama.cpp's src/models/. Other architectures are counted as if every layer saw the whole context.
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gpt-oss": 2, "cohere2": 4}
# Of how many layers in turn all but the last are recurrent.
_RECURRENT_PATTERNS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}


@dataclass(frozen=True)
class Shape:
    """What of a model's architecture decides how much memory it takes.

    Attributes:
        layers: transformer blocks; `--gpu-layers` counts these, and one more for the output.
        kv_bytes_per_token: the KV cache of one token, as f16, in all layers that see the whole context.
        embedding: the width of the hidden state.
        vocabulary: tokens in the vocabulary.
        host_embedding_bytes: the token embeddings where they stay in host memory; 0 where the output uses the same
            weights (the GPU then gets them too), or where that is not known.
        window: tokens that layers with a sliding window see; window_bytes_per_token: as `kv_bytes_per_token`, of those.
        state_bytes: the state of recurrent layers, for each slot.
        active: the share of the weights that is read for a token; below 1 for a mixture of experts.
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
    """The metadata of an architecture, by the ends of their keys."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self.metadata = metadata
        self.architecture = str(metadata.get("general.architecture"))

    def number(self, key: str, default: int = 0) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return value if isinstance(value, int) else default

    def per_layer(self, key: str, layers: int, default: int) -> list[int]:
        """A value that is the same for all layers, or a list."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        each = value if isinstance(value, list) else [value] * layers
        return [number if isinstance(number, int) else 0 for number in each[:layers]]


def read_shape(metadata: Mapping[str, Value]) -> Optional[Shape]:
    """The model's shape, None if the metadata do not tell (the vocabulary comes first, or the architecture is odd)."""
    header = _Header(metadata)
    layers, embedding = header.number("block_count"), header.number("embedding_length")
    vocabulary = metadata.get(VOCABULARY, header.number("vocab_size"))
    if not isinstance(vocabulary, int) or min(layers, embedding, vocabulary) <= 0 or layers > _MOST_LAYERS:
        return None
    caches = _caches(header, layers, embedding)
    recurrent = _recurrent(header, layers)
    if caches is None and not any(recurrent):
        return None
    kept = [0 if is_recurrent else cache for cache, is_recurrent in zip(caches or [0] * layers, recurrent)]
    windowed = _windowed(header, layers)
    return Shape(
        layers,
        sum(cache for cache, has_window in zip(kept, windowed) if not has_window),
        embedding,
        vocabulary,
        window=header.number("attention.sliding_window"),
        window_bytes_per_token=sum(cache for cache, has_window in zip(kept, windowed) if has_window),
        state_bytes=sum(recurrent) * _state_bytes(header, embedding),
        active=_active(header),
    )


def _caches(header: _Header, layers: int, embedding: int) -> Optional[list[int]]:
    """Bytes of the KV cache of one token in each layer; None if the header does not tell."""
    heads = max(header.per_layer("attention.head_count", layers, 0), default=0)
    if heads <= 0:
        return None
    if header.number("attention.key_length_mla"):  # latent attention keeps one vector for keys and values alike
        width = header.number("attention.kv_lora_rank") + header.number("rope.dimension_count")
        return [width * HALF_PRECISION_BYTES] * layers
    width = sum(header.number(f"attention.{name}_length", embedding // heads) for name in ("key", "value"))
    kv_heads = header.per_layer("attention.head_count_kv", layers, heads)
    return [count * width * HALF_PRECISION_BYTES for count in kv_heads]


def _windowed(header: _Header, layers: int) -> list[bool]:
    """Whether each layer sees only a sliding window."""
    if not header.number("attention.sliding_window"):
        return [False] * layers
    given = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(given, list):
        return [bool(each) for each in given[:layers]] + [False] * (layers - len(given))
    pattern = given if isinstance(given, int) else _WINDOW_PATTERNS.get(header.architecture, 1)
    return [pattern > 0 and layer % pattern < pattern - 1 for layer in range(layers)]


def _recurrent(header: _Header, layers: int) -> list[bool]:
    """Whether each layer has a state of a fixed size in place of a cache."""
    if not header.number("ssm.state_size"):
        return [False] * layers
    pattern = header.number("full_attention_interval", _RECURRENT_PATTERNS.get(header.architecture, 0))
    if pattern:
        return [(layer + 1) % pattern != 0 for layer in range(layers)]
    return [count == 0 for count in header.per_layer("attention.head_count_kv", layers, 0)]


def _state_bytes(header: _Header, embedding: int) -> int:
    """Of one recurrent layer and one slot: n_embd_r and n_embd_s in llama.cpp's src/llama-hparams.cpp."""
    inner, state = header.number("ssm.inner_size", 2 * embedding), header.number("ssm.state_size")
    groups, kernel = header.number("ssm.group_count"), header.number("ssm.conv_kernel")
    return (max(kernel - 1, 0) * (inner + 2 * groups * state) + inner * state) * SINGLE_PRECISION_BYTES


def _active(header: _Header) -> float:
    """The experts of a mixture are nine tenths of its weights, more or less."""
    experts, used = header.number("expert_count"), header.number("expert_used_count")
    return 1.0 if not 0 < used < experts else 0.1 + 0.9 * used / experts
