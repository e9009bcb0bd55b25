"""Check that a model fits in memory, with llama-fit-params if the build has it, else with the estimate in `fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

from . import fit, fit_params, hardware
from .catalogue import Catalogue
from .errors import InstallError
from .gguf import MAGIC, NotGGUF, header_length, read_metadata
from .hub import HEAD_BYTES, Hub, TemporaryError
from .llama_server import Build
from .shape import Shape, read_shape
from .source import Model, shard_names
from .unit import Choices

_HEADER_SIZES = (2**20, 2**24, 2**26)  # bytes; a vocabulary has a few MB


def check(
    model: Model,
    choices: Choices,
    build: Build,
    memory: fit.Memory,
    catalogue: Catalogue,
    hub: Hub,
    say: Callable[[str], None],
) -> None:
    """Check that a model fits in memory.

    Raises:
        InstallError: it does not; the hint lists options that would fit.
    """
    layers = _layers(choices.gpu_layers, memory)
    if layers is None:
        return  # llama.cpp itself chooses the layers to offload
    with _header(model, build, hub) as (program, header):
        shape = shape_of(model, hub)
        if shape is None:
            say(f"{model.label}: the header does not describe the architecture: cannot check whether the model fits")
            return
        batch = choices.ctx_size if choices.pooling is not None else fit.MICRO_BATCH
        load = fit.Load(size(model), shape, choices.ctx_size, layers, choices.parallel, batch)
        estimated: list[bool] = []

        def needed(ctx_size: int, gpu_layers: int) -> fit.Need:
            exact = program and header and fit_params.need(program, header, choices, ctx_size, gpu_layers)
            if exact:
                return exact
            estimated.append(True)
            changed = replace(load, ctx_size=ctx_size, gpu_layers=gpu_layers)
            return fit.estimate(changed, with_gpu=bool(memory.gpus))

        complaint = fit.complaint(load, memory, needed, lambda: _smaller(load, memory, catalogue))
    if complaint:
        first, _, rest = complaint.partition("\n")
        source = " (estimated)" if estimated else f" (by {program[-1] if program else ''})"
        raise InstallError(
            f"{model.label} does not fit: {first}{source}", hint=f"{rest}\nTo install it anyway, add --ignore-fit."
        )


def size(model: Model) -> int:
    """Return the bytes of all files of a model."""
    if model.path is not None:
        return sum(model.path.with_name(name).stat().st_size for name in shard_names(model.path.name))
    return sum(file.size or 0 for file in model.files)


def shape_of(model: Model, hub: Hub) -> Optional[Shape]:
    """Return the shape of a model, from the catalogue or the header of its first file; None if neither has it.

    Raises:
        InstallError: the file is not GGUF.
    """
    if model.shape is not None:
        return model.shape
    try:
        if model.path is None:
            return read_shape(read_metadata(hub.peek(model.files[0]).head))
        with model.path.open("rb") as stream:
            return read_shape(read_metadata(stream.read(HEAD_BYTES)))
    except TemporaryError:
        return None
    except NotGGUF as error:
        raise InstallError(f"{model.label}: {error}") from error


def _layers(gpu_layers: str, memory: fit.Memory) -> Optional[int]:
    """Return the number of layers to offload; None if llama.cpp chooses it."""
    if gpu_layers == "auto":
        return None if memory.gpus else 0
    return int(gpu_layers)


def _smaller(load: fit.Load, memory: fit.Memory, catalogue: Catalogue) -> Iterator[str]:
    largest = fit.largest_model(catalogue, memory, load.ctx_size, hardware.read_rate())
    if largest is not None:
        name, layers = largest
        yield f"--model {name} --gpu-layers 0" if layers == 0 else f"--model {name}"


@contextmanager
def _header(model: Model, build: Build, hub: Hub) -> Iterator[tuple[Optional[list[str]], Optional[Path]]]:
    """Yield the command line of llama-fit-params and a file with the model's header; None for each that is missing."""
    program = fit_params.find(build.command)
    if program is None or model.path is not None:
        yield program, model.path
        return
    heads = [_head(model, number, hub) for number in range(len(model.files))]
    if any(not head.startswith(MAGIC) for head in heads):
        yield program, None
        return
    names, sizes = [file.name for file in model.files], [file.size or 0 for file in model.files]
    with fit_params.sparse_files(names, sizes, heads) as path:
        yield program, path


def _head(model: Model, number: int, hub: Hub) -> bytes:
    """Download the whole header of one of the model's files; returns b"" if that fails."""
    try:
        for limit in _HEADER_SIZES:
            head = hub.peek(model.files[number], limit).head
            if header_length(head) is not None:
                return head
    except (TemporaryError, InstallError, NotGGUF):
        pass
    return b""
