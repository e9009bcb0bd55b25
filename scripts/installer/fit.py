"""Does a model fit? An estimate from its weights and shape, before anything is downloaded.

Measured on one H100 (Qwen2.5-14B Q4_K_M, `-ngl 99 -c 8192`): 10,413 MiB of GPU memory. The parts: the weights less
the token embeddings, which stay in host memory; the KV cache; llama.cpp's compute buffer; the CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Optional

from .catalogue import CATALOGUE, Shape
from .memory import Memory

MIB = 1024 * 1024
CUDA_CONTEXT = 416 * MIB  # what the measurement above leaves when the other parts are taken away
MICRO_BATCH = 512  # llama.cpp's default --ubatch-size: tokens that are computed at a time
CTX_STEP = 256  # llama.cpp pads the context of a sequence to a multiple of this


@dataclass(frozen=True)
class Load:
    """A model as the service would run it: bytes of its files, shape, context in tokens, layers given to the GPU."""

    weights: int
    shape: Shape
    ctx_size: int
    gpu_layers: int


@dataclass(frozen=True)
class Need:
    """Bytes that a load takes on the GPU and in main memory."""

    gpu: int
    host: int

    def fits(self, memory: Memory) -> bool:
        return self.gpu <= memory.gpu and self.host <= memory.host


def need(load: Load, *, with_gpu: bool) -> Need:
    """What a load takes. Without a GPU everything is in main memory.

    >>> shape = CATALOGUE[0].shape
    >>> need(Load(CATALOGUE[0].size, shape, 8192, 99), with_gpu=True).gpu // MIB
    10413
    """
    shape = load.shape
    layers = load.gpu_layers if with_gpu else 0
    kv_cache = shape.kv_bytes_per_token * load.ctx_size
    compute = MICRO_BATCH * 4 * (shape.vocabulary + shape.embedding)  # logits and hidden state as float32
    if not layers:
        return Need(0, load.weights + kv_cache + compute)
    offloaded = load.weights - shape.host_embedding_bytes
    gpu_weights = offloaded * min(layers, shape.layers + 1) // (shape.layers + 1)
    gpu_cache = kv_cache * min(layers, shape.layers) // shape.layers
    return Need(
        gpu_weights + gpu_cache + compute + CUDA_CONTEXT,
        load.weights - gpu_weights + kv_cache - gpu_cache,
    )


def complaint(load: Load, memory: Memory) -> Optional[str]:
    """None if the load fits, else by how much it does not, and what would: a context, layers, or a model."""
    wanted = need(load, with_gpu=memory.gpu > 0)
    if wanted.fits(memory):
        return None
    if wanted.gpu > memory.gpu:
        short, has, what = wanted.gpu, memory.gpu, f"GPU memory ({memory.gpu_name})"
    else:
        short, has, what = wanted.host, memory.host, "main memory"
    lines = [f"it needs {_mib(short)} of {what}, there are {_mib(has)}: {_mib(short - has)} too much"]
    lines += [f"would fit: {option}" for option in _what_fits(load, memory)] or ["nothing in the catalogue would fit"]
    return "\n".join(lines)


def largest_model(memory: Memory, *, ctx_size: int, gpu_layers: int) -> Optional[str]:
    """The name of the catalogue's largest model that fits, None if none does."""
    for model in CATALOGUE:
        if need(Load(model.size, model.shape, ctx_size, gpu_layers), with_gpu=memory.gpu > 0).fits(memory):
            return model.name
    return None


def _what_fits(load: Load, memory: Memory) -> list[str]:
    with_gpu = memory.gpu > 0

    def fits(changed: Load) -> bool:
        return need(changed, with_gpu=with_gpu).fits(memory)

    steps = _most(lambda n: fits(replace(load, ctx_size=n * CTX_STEP)), (load.ctx_size - 1) // CTX_STEP)
    ctx_size = steps * CTX_STEP if steps else None
    layers = range(min(load.gpu_layers, load.shape.layers + 1) - 1, 0, -1) if with_gpu else range(0)
    gpu_layers = next((n for n in layers if fits(replace(load, gpu_layers=n))), None)
    model = largest_model(memory, ctx_size=load.ctx_size, gpu_layers=load.gpu_layers)
    options = (("--ctx-size", ctx_size), ("--gpu-layers", gpu_layers), ("--model", model))
    return [f"{name} {value}" for name, value in options if value is not None]


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, 0 if none does; what fits does so with less, too."""
    least = 0
    while least < limit:
        middle = (least + limit + 1) // 2
        least, limit = (middle, limit) if fits(middle) else (least, middle - 1)
    return least


def _mib(count: int) -> str:
    return f"{-(-count // MIB):,} MiB"
