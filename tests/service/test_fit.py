"""Whether a model fits: compared with a measurement and with llama-fit-params; the largest model; GGUF headers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Optional

import pytest
from gguf import header
from installer import catalogue, fit, fit_params, gguf, hardware
from installer.fit import MIB, Load, Memory, Need, estimate
from installer.hub import HEAD_BYTES
from installer.llama_server import Device
from installer.shape import Shape, read_shape
from installer.unit import Choices

from . import header_only
from .stand_in import write_nvidia_smi

MEASURED_MIB = 10_413  # one H100, Qwen2.5-14B Q4_K_M, -ngl 99 -c 8192
GIB = 1024 * MIB
QWEN = catalogue.DEFAULT
assert QWEN.shape is not None
DEFAULT = Load(QWEN.size, QWEN.shape, 8192)
FAST = 1e15  # bytes/s; with this rate no model is too slow
QWEN_METADATA = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 48,
    "qwen2.context_length": 32768,
    "qwen2.embedding_length": 5120,
    "qwen2.attention.head_count": 40,
    "qwen2.attention.head_count_kv": 8,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{n}" for n in range(152_064)],
}
FIGURES = [
    (name, *map(int, key.split()), *figures)
    for name, architecture in header_only.ARCHITECTURES.items()
    for key, figures in architecture["figures"].items()
]


def memory_of(host: int, gpu: Optional[int] = None) -> Memory:
    return Memory(host, (Device("CUDA0", "a card", gpu, gpu),) if gpu is not None else ())


def complaint(load: Load, memory: Memory) -> Optional[str]:
    def needed(ctx_size: int, layers: int) -> Need:
        changed = dataclasses.replace(load, ctx_size=ctx_size, gpu_layers=layers)
        return estimate(changed, with_gpu=bool(memory.gpus))

    return fit.complaint(load, memory, needed, list)


def gpu_mib(load: Load) -> float:
    return sum(size for _, size in estimate(load, with_gpu=True).gpus) / MIB


def test_the_estimate_for_the_default_model_is_within_5_percent_of_the_measurement() -> None:
    assert gpu_mib(DEFAULT) == pytest.approx(MEASURED_MIB, rel=0.05)


def test_the_first_kilobytes_of_the_file_give_the_same_estimate() -> None:
    shape = read_shape(gguf.read_metadata(header(QWEN_METADATA)[:HEAD_BYTES]))
    assert shape is not None
    assert QWEN.shape is not None
    assert dataclasses.replace(shape, host_embedding_bytes=QWEN.shape.host_embedding_bytes) == QWEN.shape
    assert gpu_mib(Load(QWEN.size, shape, 8192)) == pytest.approx(MEASURED_MIB, rel=0.05)


@pytest.mark.parametrize(("name", "ctx_size", "slots", "weights", "context", "compute"), FIGURES)
def test_the_estimated_cache_equals_that_of_llama_fit_params(
    name: str, ctx_size: int, slots: int, weights: int, context: int, compute: int
) -> None:
    metadata = gguf.read_metadata(header(header_only.ARCHITECTURES[name]["metadata"]))
    shape = read_shape(metadata)
    assert shape is not None
    load = Load(weights * MIB, shape, ctx_size, slots=slots)
    assert fit.cache_bytes(load) / MIB == pytest.approx(context, abs=1.0)
    assert fit.estimate(load, with_gpu=False).host / MIB == pytest.approx(weights + context + compute, rel=0.1)


@pytest.mark.parametrize("name", header_only.ARCHITECTURES)
def test_llama_fit_params_needs_only_the_header(name: str, native: Path, tmp_path: Path) -> None:
    file = header_only.write(tmp_path / "m.gguf", name)
    with file.open("rb") as stream:
        head = stream.read(2**20)
    length = gguf.header_length(head)
    assert length is not None
    program = fit_params.find([str(native / "llama-server")])
    assert program is not None
    choices = Choices(("/bin/true",), "m.gguf", parallel=4)
    with fit_params.sparse_files(["m.gguf"], [file.stat().st_size], [head[:length]]) as stand_in:
        need = fit_params.need(program, stand_in, choices, 32768, 99)
    assert need == Need(sum(header_only.ARCHITECTURES[name]["figures"]["32768 4"]) * MIB)


def test_the_single_program_llama_has_fit_params(native: Path, tmp_path: Path) -> None:
    assert fit_params.find([str(native / "llama"), "serve"]) == [str(native / "llama"), "fit-params"]
    assert fit_params.find(["/bin/true"]) is None
    assert fit_params.need([str(native / "llama-fit-params")], tmp_path / "m", Choices(("/a",), "m"), 512, 0) is None


def test_options_that_change_the_memory_are_passed_to_llama_fit_params(native: Path, tmp_path: Path) -> None:
    file, program = header_only.write(tmp_path / "m.gguf", "gpt-oss"), [str(native / "llama-fit-params")]
    choices = Choices(("/bin/true",), "m.gguf", parallel=4)
    smaller = dataclasses.replace(choices, extra=("--temp", "0", "-ctk", "q8_0", "-ctv", "q8_0"))
    larger = dataclasses.replace(choices, pooling="mean")
    sizes = [fit_params.need(program, file, variant, 8192, 99) for variant in (smaller, choices, larger)]
    assert sizes == sorted(sizes, key=lambda need: need.host if need else 0)
    assert len(set(sizes)) == 3


def test_each_gpu_must_have_enough_free_memory() -> None:
    two = Memory(16 * GIB, (Device("CUDA0", "A", 8 * GIB, 8 * GIB), Device("CUDA1", "B", 8 * GIB, 2 * GIB)))
    assert Need(GIB, (("CUDA0", 4 * GIB), ("CUDA1", GIB))).fits(two)
    assert Need(GIB, (("CUDA0", 4 * GIB), ("CUDA1", 3 * GIB))).shortage(two) == ("GPU memory (B)", 3 * GIB, 2 * GIB)


def test_the_default_model_fits_a_card_of_12_gb_but_not_one_of_8() -> None:
    assert complaint(DEFAULT, memory_of(16 * GIB, 12_288 * MIB)) is None
    assert complaint(DEFAULT, memory_of(16 * GIB, 8_192 * MIB)) is not None


def test_the_suggested_options_fit_and_the_next_larger_ones_do_not() -> None:
    memory = memory_of(16 * GIB, 10_000 * MIB)
    text = complaint(DEFAULT, memory)
    assert text is not None
    assert "a card" in text
    options = dict(line.removeprefix("would fit: ").split() for line in text.splitlines()[1:])
    ctx_size, layers = int(options["--ctx-size"]), int(options["--gpu-layers"])
    assert estimate(dataclasses.replace(DEFAULT, ctx_size=ctx_size), with_gpu=True).fits(memory)
    assert not estimate(dataclasses.replace(DEFAULT, ctx_size=ctx_size + fit.CTX_STEP), with_gpu=True).fits(memory)
    assert estimate(dataclasses.replace(DEFAULT, gpu_layers=layers), with_gpu=True).fits(memory)
    assert not estimate(dataclasses.replace(DEFAULT, gpu_layers=layers + 1), with_gpu=True).fits(memory)


def test_without_a_gpu_the_model_must_fit_in_main_memory() -> None:
    assert complaint(DEFAULT, memory_of(16 * GIB)) is None
    text = complaint(DEFAULT, memory_of(8 * GIB))
    assert text is not None
    assert "main memory" in text
    assert "--gpu-layers" not in text


def test_layers_that_are_not_offloaded_must_fit_in_main_memory() -> None:
    half = dataclasses.replace(DEFAULT, gpu_layers=24)
    assert complaint(half, memory_of(16 * GIB, 8_192 * MIB)) is None
    assert "main memory" in str(complaint(half, memory_of(2 * GIB, 8_192 * MIB)))


@pytest.mark.parametrize(
    ("gpu_mib", "name"),
    [
        (16_384, "gpt-oss-20b"),
        (12_288, "qwen3-14b"),
        (8192, "qwen3-8b"),
        (4096, "qwen2.5-3b"),
        (2560, "qwen2.5-1.5b"),
        (1536, "qwen2.5-0.5b"),
    ],
)
def test_auto_chooses_the_largest_model_that_fits_the_gpu(gpu_mib: int, name: str) -> None:
    largest = fit.largest_model(catalogue.CATALOGUE, memory_of(64 * GIB, gpu_mib * MIB), 8192, FAST)
    assert largest == (name, fit.ALL_LAYERS)


@pytest.mark.parametrize(
    ("rate", "name"), [(24e9, "gpt-oss-20b"), (12e9, "qwen2.5-3b"), (6e9, "qwen2.5-1.5b"), (3e9, "qwen2.5-0.5b")]
)
def test_on_the_cpu_auto_chooses_no_model_below_reading_speed(rate: float, name: str) -> None:
    largest = fit.largest_model(catalogue.CATALOGUE, memory_of(32 * GIB), 8192, rate)
    assert largest == (name, fit.ALL_LAYERS)


def test_auto_uses_the_cpu_if_the_gpu_is_too_small_and_fails_if_no_model_fits() -> None:
    assert fit.largest_model(catalogue.CATALOGUE, memory_of(64 * GIB, GIB // 2), 8192, FAST) == ("gpt-oss-20b", 0)
    assert fit.largest_model(catalogue.CATALOGUE, memory_of(GIB // 4), 8192, FAST) is None


def test_the_header_of_a_real_model_is_parsed(real_model: Path) -> None:
    with real_model.open("rb") as stream:
        head = stream.read(2**22)
    # SmolLM2-135M (config.json): 30 layers, hidden size 576, 9 heads, 3 of them for keys and values, 49152 tokens
    assert read_shape(gguf.read_metadata(head[:HEAD_BYTES])) == Shape(30, 30 * 2 * 3 * 64 * 2, 576, 49_152)
    assert gguf.header_length(head) is not None
    assert gguf.header_length(head[: 2**16]) is None


def test_the_header_of_a_real_file_gives_the_same_need_as_the_whole_file(real_model: Path, native: Path) -> None:
    with real_model.open("rb") as stream:
        head = stream.read(2**22)
    program, choices = [str(native / "llama-fit-params")], Choices(("/bin/true",), "m")
    with fit_params.sparse_files([real_model.name], [real_model.stat().st_size], [head]) as stand_in:
        needs = [fit_params.need(program, path, choices, 8192, 99) for path in (stand_in, real_model)]
    assert needs[0] == needs[1]
    assert needs[0] is not None


def test_layers_may_have_different_numbers_of_heads() -> None:
    metadata = {**QWEN_METADATA, "qwen2.block_count": 3, "qwen2.attention.head_count_kv": [8, 0, 2]}
    shape = read_shape(gguf.read_metadata(header(metadata)))
    assert shape is not None
    assert shape.kv_bytes_per_token == (8 + 0 + 2) * 2 * 128 * 2


@pytest.mark.parametrize("head", [b"", b"GGU", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_gguf_is_refused(head: bytes) -> None:
    with pytest.raises(gguf.NotGGUF):
        gguf.read_metadata(head)


def test_a_truncated_or_damaged_header_raises_only_not_gguf() -> None:
    whole = header({**QWEN_METADATA, "tokenizer.ggml.tokens": ["a", "b"]})
    for end in range(4, len(whole)):
        read_shape(gguf.read_metadata(whole[:end]))
        assert gguf.header_length(whole[:end]) is None
    assert gguf.header_length(whole) == len(whole)
    for position in range(4, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        for read in (lambda head: read_shape(gguf.read_metadata(head)), gguf.header_length):
            try:
                read(bytes(damaged))
            except gguf.NotGGUF:
                continue


def test_nvidia_smi_names_every_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, "NVIDIA A, B", "NVIDIA C")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert hardware.cards()[:2] == ["NVIDIA A, B", "NVIDIA C"]
    assert hardware.free_memory() > GIB // 2
    assert hardware.read_rate() > 1e8


def test_a_failing_nvidia_smi_counts_as_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nvidia_smi(tmp_path, "NVIDIA-SMI has failed because it could not communicate")
    with (tmp_path / "nvidia-smi").open("a") as script:
        script.write("exit 9\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert not any("NVIDIA" in card for card in hardware.cards())
