"""Decide whether a model fits in memory, and which option would make it fit.

`estimate` computes the memory from the model's shape, for builds without `llama-fit-params`. It was calibrated on one
H100 (Qwen2.5-14B Q4_K_M, `-ngl 99 -c 8192`): 10,413 MiB of GPU memory. The parts are the weights without the token
embeddings, which stay in host memory; the KV cache; llama.cpp's compute buffer; and the CUDA context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional

from .catalogue import Catalogue
from .hardware import MIB
from .llama_server import Device
from .shape import Shape

CUDA_CONTEXT = 416 * MIB  # the measurement above minus the other parts
MICRO_BATCH = 512  # llama.cpp's default --ubatch-size: tokens computed at a time
CTX_STEP = 256  # tokens; llama.cpp pads the context of a sequence to a multiple of this
ALL_LAYERS = 99
SLOTS = 4  # llama-server's default; these slots share the context
MIN_SPEED = 5.0  # tokens/s, about reading speed; `--model auto` chooses no slower model


@dataclass(frozen=True)
class Memory:
    """Free bytes of main memory, and the GPUs with their free bytes."""

    host: int
    gpus: tuple[Device, ...] = ()

    @property
    def gpu(self) -> int:
        return sum(device.free for device in self.gpus)


@dataclass(frozen=True)
class Load:
    """A model and the options that decide how much memory it needs.

    Attributes:
        weights: bytes of the model's files.
        ctx_size: context size in tokens.
        gpu_layers: layers offloaded to the GPU.
        slots: None for llama-server's default number of slots, which share the context.
        micro_batch: tokens computed at a time.
    """

    weights: int
    shape: Shape
    ctx_size: int
    gpu_layers: int = ALL_LAYERS
    slots: Optional[int] = None
    micro_batch: int = MICRO_BATCH


@dataclass(frozen=True)
class Need:
    """Bytes that a load needs in main memory and on each GPU by name; the name "" means all GPUs together."""

    host: int
    gpus: tuple[tuple[str, int], ...] = ()

    def shortage(self, memory: Memory) -> Optional[tuple[str, int, int]]:
        """Return the kind of memory that is too small, with the bytes needed and free; None if the load fits."""
        free = {"": memory.gpu, **{device.name: device.free for device in memory.gpus}}
        names = {device.name: device.description for device in memory.gpus}
        for name, needed in self.gpus:
            if needed > free.get(name, 0):
                card = names.get(name) or " + ".join(names.values()) or name
                return f"GPU memory ({card})", needed, free.get(name, 0)
        return ("main memory", self.host, memory.host) if self.host > memory.host else None

    def fits(self, memory: Memory) -> bool:
        return self.shortage(memory) is None


def estimate(load: Load, *, with_gpu: bool) -> Need:
    """Estimate the memory of a load from its shape. Without a GPU everything is in main memory."""
    shape, layers = load.shape, load.gpu_layers if with_gpu else 0
    cache = cache_bytes(load)
    compute = load.micro_batch * 4 * (shape.vocabulary + shape.embedding)  # logits and hidden state as float32
    if not layers:
        return Need(load.weights + cache + compute)
    offloaded = load.weights - shape.host_embedding_bytes
    gpu_weights = offloaded * min(layers, shape.layers + 1) // (shape.layers + 1)
    gpu_cache = cache * min(layers, shape.layers) // shape.layers
    return Need(
        load.weights - gpu_weights + cache - gpu_cache, (("", gpu_weights + gpu_cache + compute + CUDA_CONTEXT),)
    )


def cache_bytes(load: Load) -> int:
    """Return the bytes of the KV cache and of the recurrent layers' state; see llama_kv_cache_iswa in llama.cpp."""
    shape, slots = load.shape, load.slots or SLOTS
    if load.slots is None:
        windows = min(load.ctx_size, _padded(shape.window * slots + load.micro_batch))
    else:
        windows = slots * min(_padded(load.ctx_size // slots), _padded(shape.window + load.micro_batch))
    cache = shape.kv_bytes_per_token * load.ctx_size + shape.window_bytes_per_token * windows
    return cache + shape.state_bytes * slots


def _padded(tokens: int) -> int:
    return -(-tokens // CTX_STEP) * CTX_STEP


def complaint(
    load: Load, memory: Memory, needed: Callable[[int, int], Need], suggestions: Callable[[], Iterable[str]]
) -> Optional[str]:
    """Return why the load does not fit and which options would fit: a context size, layers, a model. None if it fits.

    Args:
        needed: returns the memory for a context size and a number of layers on the GPU.
        suggestions: returns further options that would fit; called only if the load does not fit.
    """
    shortage = needed(load.ctx_size, load.gpu_layers).shortage(memory)
    if shortage is None:
        return None
    kind, required, free = shortage
    lines = [f"it needs {_mib(required)} of {kind}, {_mib(free)} are free: {_mib(required - free)} too much"]
    options = [*_fitting_options(load, memory, needed), *suggestions()]
    lines += [f"would fit: {option}" for option in options] or ["no model in the catalogue would fit"]
    return "\n".join(lines)


def _fitting_options(load: Load, memory: Memory, needed: Callable[[int, int], Need]) -> list[str]:
    steps = (load.ctx_size - 1) // CTX_STEP
    ctx_size = CTX_STEP * _largest(lambda n: needed(n * CTX_STEP, load.gpu_layers).fits(memory), steps)
    options = [f"--ctx-size {ctx_size}"] if ctx_size else []
    if memory.gpus and load.gpu_layers:
        limit = min(load.gpu_layers, load.shape.layers + 1) - 1
        layers = _largest(lambda n: needed(load.ctx_size, n).fits(memory), limit)
        options += [f"--gpu-layers {layers}"] if layers or needed(load.ctx_size, 0).fits(memory) else []
    return options


def largest_model(
    catalogue: Catalogue, memory: Memory, ctx_size: int, bytes_per_second: float
) -> Optional[tuple[str, int]]:
    """Return the largest model that fits and the number of layers to offload; None if no model fits.

    All layers are offloaded if a model fits on the GPU, else none. On the CPU, models below MIN_SPEED are skipped.

    Args:
        ctx_size: context size in tokens.
        bytes_per_second: rate at which the CPU reads main memory.
    """
    loads = [(model.name, Load(model.size, model.shape, ctx_size)) for model in catalogue if model.shape]
    for name, load in loads:
        if memory.gpus and estimate(load, with_gpu=True).fits(memory):
            return name, ALL_LAYERS
    for name, load in loads:
        if speed(load, bytes_per_second) >= MIN_SPEED and estimate(load, with_gpu=False).fits(memory):
            return name, 0 if memory.gpus else ALL_LAYERS
    return None


def speed(load: Load, bytes_per_second: float) -> float:
    """Estimate the tokens/s on the CPU, which reads all active weights for each token."""
    return bytes_per_second / (load.weights * load.shape.active)


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number from 1 to `limit` that fits, 0 if none does. `fits` must be monotonic."""
    largest = 0
    while largest < limit:
        middle = (largest + limit + 1) // 2
        largest, limit = (middle, limit) if fits(middle) else (largest, middle - 1)
    return largest


def _mib(count: int) -> str:
    return f"{-(-count // MIB):,} MiB"
