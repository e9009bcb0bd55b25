"""The models that the installer knows by name: where they are, what they weigh, and what they need to run.

Qwen 2.5 Instruct, Q4_K_M, from Qwen's own repositories. Every file is pinned by its size and SHA-256, so it is the
same file wherever it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

Q4_K_BYTES_PER_WEIGHT = 144 / 256  # ggml-common.h, block_q4_K: 144 bytes hold 256 weights
HALF_PRECISION_BYTES = 2  # the KV cache's default type, f16


@dataclass(frozen=True)
class Shape:
    """What of a model's architecture decides how much memory it takes.

    Attributes:
        layers: transformer blocks; `--gpu-layers` counts these, and one more for the output.
        kv_bytes_per_token: the KV cache of one token in all layers, in bytes, as f16.
        embedding: the width of the hidden state.
        vocabulary: tokens in the vocabulary.
        host_embedding_bytes: the token embeddings where they stay in host memory; 0 where the output uses the same
            weights (the GPU then gets them too), or where that is not known.
    """

    layers: int
    kv_bytes_per_token: int
    embedding: int
    vocabulary: int
    host_embedding_bytes: int = 0


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: its name here, its address, and, as far as known, its size in bytes and SHA-256."""

    name: str
    url: str
    size: Optional[int] = None
    sha256: Optional[str] = None


@dataclass(frozen=True)
class CatalogueModel:
    """A model of the catalogue. `files` holds (name, bytes, SHA-256); the first is the one given to llama-server."""

    name: str
    repository: str
    revision: str
    files: tuple[tuple[str, int, str], ...]
    shape: Shape

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self.files)


def _qwen(layers: int, kv_heads: int, head_width: int, embedding: int, vocabulary: int, *, tied: bool) -> Shape:
    """The shape from the fields of the model's config.json; the small ones tie output and token embeddings."""
    host = 0 if tied else int(vocabulary * embedding * Q4_K_BYTES_PER_WEIGHT)
    return Shape(layers, layers * 2 * kv_heads * head_width * HALF_PRECISION_BYTES, embedding, vocabulary, host)


CATALOGUE = (
    CatalogueModel(
        "qwen2.5-14b",
        "Qwen/Qwen2.5-14B-Instruct-GGUF",
        "2b6a96d780143b4e8e3b970394e39e3774551f29",
        (
            (
                "qwen2.5-14b-instruct-q4_k_m-00001-of-00003.gguf",
                3_991_999_872,
                "a09ea5e7b1eafb1b30b241726c3cc3c905c96f14ad41e246ffa5f44e53904f68",
            ),
            (
                "qwen2.5-14b-instruct-q4_k_m-00002-of-00003.gguf",
                3_989_373_504,
                "21b9457d079680d284e90ef69607c4b2d8ef64a09d4729cb7b5e1357bdba41ae",
            ),
            (
                "qwen2.5-14b-instruct-q4_k_m-00003-of-00003.gguf",
                1_006_737_120,
                "c8d37006760a387a35216e070e6664d7da927f10be8eb870fef2e3d4833d9976",
            ),
        ),
        _qwen(48, 8, 128, 5120, 152_064, tied=False),
    ),
    CatalogueModel(
        "qwen2.5-7b",
        "Qwen/Qwen2.5-7B-Instruct-GGUF",
        "main",
        (
            (
                "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf",
                3_993_201_344,
                "dfce12e3862a5283ccfb88221b48480e58745165de856439950d0f22590580db",
            ),
            (
                "qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf",
                689_872_288,
                "539cf93f78e887edea1c04e2d7d8cdaca9d01dae9c9025bcb8accbe29df3d72a",
            ),
        ),
        _qwen(28, 4, 128, 3584, 152_064, tied=False),
    ),
    CatalogueModel(
        "qwen2.5-3b",
        "Qwen/Qwen2.5-3B-Instruct-GGUF",
        "main",
        (
            (
                "qwen2.5-3b-instruct-q4_k_m.gguf",
                2_104_932_768,
                "626b4a6678b86442240e33df819e00132d3ba7dddfe1cdc4fbb18e0a9615c62d",
            ),
        ),
        _qwen(36, 2, 128, 2048, 151_936, tied=True),
    ),
    CatalogueModel(
        "qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
        "main",
        (
            (
                "qwen2.5-1.5b-instruct-q4_k_m.gguf",
                1_117_320_736,
                "6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
            ),
        ),
        _qwen(28, 2, 128, 1536, 151_936, tied=True),
    ),
    CatalogueModel(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        "main",
        (
            (
                "qwen2.5-0.5b-instruct-q4_k_m.gguf",
                491_400_032,
                "74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
            ),
        ),
        _qwen(24, 2, 64, 896, 151_936, tied=True),
    ),
)  # the largest first: `--model auto` takes the first that fits
DEFAULT = CATALOGUE[0]


def by_name(name: str) -> Optional[CatalogueModel]:
    """The model of that name, None if there is none."""
    return next((model for model in CATALOGUE if model.name == name.lower()), None)
