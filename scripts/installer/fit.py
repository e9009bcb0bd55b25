"""Does a model fit? By llama.cpp's own figures where it has a program for them, else by an estimate of ours.

`llama-fit-params` needs only the header of a GGUF file, so it is asked before the download. The estimate was held
against one H100 (Qwen2.5-14B Q4_K_M, `-ngl 99 -c 8192`): 10,413 MiB of GPU memory. Its parts: the weights less the
token embeddings, which stay in host memory; the KV cache; llama.cpp's compute buffer; the CUDA context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional

from .catalogue import Catalogue
from .llama_server import Device
from .shape import Shape

MIB = 1024 * 1024
CUDA_CONTEXT = 416 * MIB  # what the measurement above leaves when the other parts are taken away
MICRO_BATCH = 512  # llama.cpp's default --ubatch-size: tokens that are computed at a time
CTX_STEP = 256  # llama.cpp pads the context of a sequence to a multiple of this
ALL_LAYERS = 99
SLOTS = 4  # llama-server's own number; they share the context
LEAST_SPEED = 5.0  # tokens/s: about as fast as one reads; `--model auto` takes nothing slower


@dataclass(frozen=True)
class Memory:
    """Bytes that are free in main memory and on each GPU."""

    host: int
    gpus: tuple[Device, ...] = ()

    @property
    def gpu(self) -> int:
        return sum(device.free for device in self.gpus)


@dataclass(frozen=True)
class Load:
    """A model as the service would run it.

    Attributes:
        weights: bytes of its files. ctx_size: tokens. micro_batch: tokens computed at a time.
        gpu_layers: layers given to the GPU. slots: None for llama-server's own number, which share the context.
    """

    weights: int
    shape: Shape
    ctx_size: int
    gpu_layers: int = ALL_LAYERS
    slots: Optional[int] = None
    micro_batch: int = MICRO_BATCH


@dataclass(frozen=True)
class Need:
    """Bytes that a load takes in main memory and on the GPUs, by their names; "" stands for all of them together."""

    host: int
    gpus: tuple[tuple[str, int], ...] = ()

    def shortage(self, memory: Memory) -> Optional[tuple[str, int, int]]:
        """What there is too little of, and bytes needed and free; None if it fits."""
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
    """What a load takes, by its shape. Without a GPU everything is in main memory."""
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
    """The KV cache of a load and the state of its recurrent layers; see llama_kv_cache_iswa in llama.cpp."""
    shape, slots = load.shape, load.slots or SLOTS
    if load.slots is None:
        windows = min(load.ctx_size, _padded(shape.window * slots + load.micro_batch))
    else:
        windows = slots * min(_padded(load.ctx_size // slots), _padded(shape.window + load.micro_batch))
    kept = shape.kv_bytes_per_token * load.ctx_size + shape.window_bytes_per_token * windows
    return kept + shape.state_bytes * slots


def _padded(tokens: int) -> int:
    return -(-tokens // CTX_STEP) * CTX_STEP


def complaint(
    load: Load, memory: Memory, needed: Callable[[int, int], Need], suggestions: Callable[[], Iterable[str]]
) -> Optional[str]:
    """None if the load fits, else by how much it does not, and what would: a context, layers, the CPU, or a model.

    Args:
        needed: what the model takes with a context and so many layers on the GPU.
        suggestions: further options that would fit, asked for only if it does not.
    """
    shortage = needed(load.ctx_size, load.gpu_layers).shortage(memory)
    if shortage is None:
        return None
    what, short, has = shortage
    lines = [f"it needs {_mib(short)} of {what}, {_mib(has)} are free: {_mib(short - has)} too much"]
    options = [*_what_fits(load, memory, needed), *suggestions()]
    lines += [f"would fit: {option}" for option in options] or ["nothing in the catalogue would fit"]
    return "\n".join(lines)


def _what_fits(load: Load, memory: Memory, needed: Callable[[int, int], Need]) -> list[str]:
    steps = (load.ctx_size - 1) // CTX_STEP
    ctx_size = CTX_STEP * _most(lambda n: needed(n * CTX_STEP, load.gpu_layers).fits(memory), steps)
    options = [f"--ctx-size {ctx_size}"] if ctx_size else []
    if memory.gpus and load.gpu_layers:
        limit = min(load.gpu_layers, load.shape.layers + 1) - 1
        layers = _most(lambda n: needed(load.ctx_size, n).fits(memory), limit)
        options += [f"--gpu-layers {layers}"] if layers or needed(load.ctx_size, 0).fits(memory) else []
    return options


def largest_model(
    catalogue: Catalogue, memory: Memory, ctx_size: int, bytes_per_second: float
) -> Optional[tuple[str, int]]:
    """The largest model that fits, and the layers to give to the GPU: all, or none where no model fits there.

    A model on the CPU is slow in proportion to its weights; one below LEAST_SPEED is not taken. None if none is left.
    """
    loads = [(model.name, Load(model.size, model.shape, ctx_size)) for model in catalogue if model.shape]
    for name, load in loads:
        if memory.gpus and estimate(load, with_gpu=True).fits(memory):
            return name, ALL_LAYERS
    for name, load in loads:
        if speed(load, bytes_per_second) >= LEAST_SPEED and estimate(load, with_gpu=False).fits(memory):
            return name, 0 if memory.gpus else ALL_LAYERS
    return None


def speed(load: Load, bytes_per_second: float) -> float:
    """About how many tokens a second the CPU writes: for each it reads all weights that take part."""
    return bytes_per_second / (load.weights * load.shape.active)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, 0 if none does; what fits does so with less, too."""
    least = 0
    while least < limit:
        middle = (least + limit + 1) // 2
        least, limit = (middle, limit) if fits(middle) else (least, middle - 1)
    return least


def _mib(count: int) -> str:
    return f"{-(-count // MIB):,} MiB"
