"""Does it fit: against what was measured, from the catalogue and from a file's own header."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from installer import catalogue, fit, gguf, memory
from installer.fit import MIB, Load, need
from installer.memory import Memory

from .gguf_file import gguf as gguf_bytes

MEASURED_MIB = 10_413  # one H100, Qwen2.5-14B Q4_K_M, -ngl 99 -c 8192
GIB = 1024 * MIB
QWEN = catalogue.DEFAULT
DEFAULT = Load(QWEN.size, QWEN.shape, 8192, 99)
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


def test_the_default_is_within_5_percent_of_what_was_measured() -> None:
    assert need(DEFAULT, with_gpu=True).gpu / MIB == pytest.approx(MEASURED_MIB, rel=0.05)


def test_so_it_is_from_the_first_kilobytes_of_the_file() -> None:
    head = gguf_bytes(QWEN_METADATA)[: gguf.HEAD_BYTES]
    shape = gguf.shape_of(gguf.read_metadata(head))
    assert shape is not None
    assert dataclasses.replace(shape, host_embedding_bytes=QWEN.shape.host_embedding_bytes) == QWEN.shape
    estimate = need(Load(QWEN.size, shape, 8192, 99), with_gpu=True).gpu / MIB
    assert estimate == pytest.approx(MEASURED_MIB, rel=0.05)


def test_the_default_fits_a_card_of_12_gb_and_not_one_of_8() -> None:
    assert fit.complaint(DEFAULT, Memory(16 * GIB, 12_288 * MIB, "RTX 3060")) is None
    assert fit.complaint(DEFAULT, Memory(16 * GIB, 8_192 * MIB, "RTX 3070")) is not None


def test_what_is_said_to_fit_does_fit_and_a_little_more_does_not() -> None:
    here = Memory(16 * GIB, 10_000 * MIB, "a card")
    text = fit.complaint(DEFAULT, here)
    assert text is not None
    assert "a card" in text
    options = dict(line.removeprefix("would fit: ").split() for line in text.splitlines()[1:])
    ctx_size, layers = int(options["--ctx-size"]), int(options["--gpu-layers"])
    assert need(dataclasses.replace(DEFAULT, ctx_size=ctx_size), with_gpu=True).fits(here)
    assert not need(dataclasses.replace(DEFAULT, ctx_size=ctx_size + fit.CTX_STEP), with_gpu=True).fits(here)
    assert need(dataclasses.replace(DEFAULT, gpu_layers=layers), with_gpu=True).fits(here)
    assert not need(dataclasses.replace(DEFAULT, gpu_layers=layers + 1), with_gpu=True).fits(here)
    assert options["--model"] == "qwen2.5-7b"


def test_it_says_by_how_much_it_is_too_big() -> None:
    text = fit.complaint(DEFAULT, Memory(16 * GIB, 8_192 * MIB, "a card"))
    assert text is not None
    assert text.startswith("it needs 10,414 MiB of GPU memory (a card), there are 8,192 MiB: 2,222 MiB too much")


def test_without_a_gpu_main_memory_counts() -> None:
    assert fit.complaint(DEFAULT, Memory(16 * GIB)) is None
    text = fit.complaint(DEFAULT, Memory(8 * GIB))
    assert text is not None
    assert "main memory" in text
    assert "--gpu-layers" not in text


def test_layers_left_out_of_the_gpu_have_to_fit_in_main_memory() -> None:
    half = dataclasses.replace(DEFAULT, gpu_layers=24)
    assert fit.complaint(half, Memory(16 * GIB, 8_192 * MIB)) is None
    assert "main memory" in str(fit.complaint(half, Memory(2 * GIB, 8_192 * MIB)))


@pytest.mark.parametrize(
    ("gpu_mib", "size"), [(12_288, "14b"), (8192, "7b"), (4096, "3b"), (2560, "1.5b"), (1536, "0.5b")]
)
def test_auto_takes_the_largest_that_fits(gpu_mib: int, size: str) -> None:
    assert fit.largest_model(Memory(64 * GIB, gpu_mib * MIB), ctx_size=8192, gpu_layers=99) == f"qwen2.5-{size}"


def test_auto_takes_none_where_none_fits() -> None:
    assert fit.largest_model(Memory(64 * GIB, GIB // 4), ctx_size=8192, gpu_layers=99) is None


def test_the_catalogue_has_the_largest_first() -> None:
    sizes = [model.size for model in catalogue.CATALOGUE]
    assert sizes == sorted(sizes, reverse=True)


def test_a_real_header_is_understood(real_model: Path) -> None:
    with real_model.open("rb") as stream:
        shape = gguf.shape_of(gguf.read_metadata(stream.read(gguf.HEAD_BYTES)))
    assert shape is not None
    # config.json of SmolLM2-135M: 30 layers, hidden size 576, 9 heads, 3 of them for keys and values, 49152 tokens
    assert shape == catalogue.Shape(30, 30 * 2 * 3 * 64 * 2, 576, 49_152)


def test_heads_may_differ_from_layer_to_layer() -> None:
    metadata = {**QWEN_METADATA, "qwen2.block_count": 3, "qwen2.attention.head_count_kv": [8, 0, 2]}
    shape = gguf.shape_of(gguf.read_metadata(gguf_bytes(metadata)))
    assert shape is not None
    assert shape.kv_bytes_per_token == (8 + 0 + 2) * 2 * 128 * 2


@pytest.mark.parametrize("head", [b"", b"GGU", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_what_is_not_gguf_is_refused(head: bytes) -> None:
    with pytest.raises(gguf.NotGGUF):
        gguf.read_metadata(head)


def test_a_header_cut_anywhere_or_damaged_never_fails_otherwise() -> None:
    whole = gguf_bytes({**QWEN_METADATA, "tokenizer.ggml.tokens": ["a", "b"]})
    for end in range(4, len(whole)):
        gguf.shape_of(gguf.read_metadata(whole[:end]))
    for at in range(4, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            gguf.shape_of(gguf.read_metadata(bytes(damaged)))
        except gguf.NotGGUF:
            continue


def test_nvidia_smi_is_asked_for_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A, B, 12288'\necho 'NVIDIA C, 8192'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    here = memory.of_this_machine()
    assert (here.gpu, here.gpu_name) == (20_480 * MIB, "NVIDIA A, B + NVIDIA C")
    assert here.host > GIB // 2


def test_a_broken_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert memory.of_this_machine().gpu == 0
