"""Checks of llama-server and the GPU, before anything is downloaded or replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from .session import Session, on_terminal
from .stand_in import write_nvidia_smi, write_server

NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


def test_throughput_is_used_if_llama_server_supports_it(session: Session, gguf: str, llama: str) -> None:
    arguments = ("--model", gguf, "--server", llama, "--print-unit", "--throughput")
    assert " --backend-sampling\n" in session.run(*arguments).stdout
    arguments = ("--model", gguf, "--server", write_server(session.root / "old", options=[]), *arguments[4:])
    done = session.run(*arguments)
    assert "--backend-sampling" not in done.stdout
    assert "does not support --backend-sampling" in done.stderr


def test_without_llama_server_it_shows_how_to_install_it(session: Session, gguf: str) -> None:
    done = session.run("--model", gguf, "--no-start")
    assert done.returncode == 69
    assert "llama-server is not on PATH" in done.stderr
    lines = done.stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if "llama.app/install.sh" in line)
    assert [word for line in lines[first : first + 4] for word in ("conda-forge", "releases", "podman") if word in line]
    assert next(line for line in lines if "brew install" in line).endswith("# CPU only on Linux")


def test_on_a_terminal_it_asks_for_the_path_of_llama_server(session: Session, gguf: str, llama: str) -> None:
    code, errors, _ = on_terminal(session, ["--model", gguf, "--no-start"], f"{llama}\n".encode())
    assert code == 0, errors
    assert f"ExecStart={llama} " in (session.unit_dir / "llama-server.service").read_text()


def test_a_model_that_does_not_fit_is_refused_before_it_is_downloaded(session: Session) -> None:
    card = "CUDA0: NVIDIA GeForce RTX 3070 (8192 MiB, 7900 MiB free)"
    llama = write_server(session.root / "llama-server", [card])
    done = session.run("--server", llama, "--no-start")
    assert done.returncode == 1
    need = "it needs 10,414 MiB of GPU memory (NVIDIA GeForce RTX 3070), 7,900 MiB are free: 2,514 MiB too much"
    assert f"qwen2.5-14b does not fit: {need} (estimated)\n" in done.stderr
    assert "would fit: --model qwen3-8b\n" in done.stderr
    assert list(session.home.iterdir()) == []
    auto = session.run("--server", llama, "--print-unit", "--model", "auto")
    assert "/Qwen3-8B-Q4_K_M.gguf -ngl 99 " in auto.stdout


def test_with_a_small_integrated_gpu_the_cpu_is_suggested(session: Session) -> None:
    llama = write_server(session.root / "llama-server", ["Vulkan0: AMD Radeon Graphics (512 MiB, 500 MiB free)"])
    done = session.run("--server", llama, "--no-start", "--model", "qwen2.5-0.5b")
    assert "no model in the catalogue would fit" not in done.stderr
    assert "would fit: --gpu-layers 0\n" in done.stderr
    auto = session.run("--server", llama, "--print-unit", "--model", "auto")
    assert " -ngl 0 " in auto.stdout


def test_llama_cpp_may_choose_the_gpu_layers(session: Session) -> None:
    llama = write_server(session.root / "llama-server", ["CUDA0: NVIDIA A (2048 MiB, 2000 MiB free)"])
    done = session.run("--server", llama, "--dry-run", "--no-start", "--gpu-layers", "auto")
    assert done.returncode == 0, done.stderr
    assert " -ngl auto -c 8192\n" in done.stdout


def test_a_cpu_build_on_a_machine_with_a_card_is_refused(session: Session, gguf: str) -> None:
    tools, llama = session.root / "tools", write_server(session.root / "llama-server")
    write_nvidia_smi(tools, "NVIDIA GeForce RTX 4090")
    environ = {"PATH": f"{tools}:{session.environ['PATH']}"}
    arguments = ("--server", llama, "--model", gguf, "--no-start")
    done = session.run(*arguments, environ=environ)
    assert done.returncode == 69
    assert f"{llama} cannot use NVIDIA GeForce RTX 4090: it is built for the CPU" in done.stderr
    assert "install.sh | sh" in done.stderr
    assert list(session.home.iterdir()) == []
    assert session.run(*arguments, "--gpu-layers", "0", environ=environ).returncode == 0


@pytest.mark.skipif(os.path.exists("/dev/nvidia-uvm"), reason="this machine has the file")
def test_a_missing_device_file_of_cuda_is_reported(session: Session, gguf: str) -> None:
    tools = session.root / "tools"
    write_nvidia_smi(tools, "NVIDIA A")
    llama = write_server(session.root / "llama-server", ["CUDA0: NVIDIA A (24000 MiB, 23000 MiB free)"])
    environ = {"PATH": f"{tools}:{session.environ['PATH']}"}
    done = session.run("--server", llama, "--model", gguf, "--no-start", environ=environ)
    assert done.returncode == 0, done.stderr
    assert "/dev/nvidia-uvm is missing and a service cannot create it" in done.stderr
    assert "sudo nvidia-modprobe -u -c 0" in done.stderr


def test_without_a_gpu_it_estimates_the_speed_and_suggests_a_faster_model(session: Session, llama: str) -> None:
    arguments = ("--server", llama, "--dry-run", "--no-start", "--ignore-fit")
    done = session.run(*arguments, environ=NO_HUB)
    assert "qwen2.5-14b: no GPU found: expect about " in done.stderr
    assert "faster on this machine: --model " in done.stderr
    assert "qwen2.5-14b-instruct-q4_k_m-00001-of-00003.gguf" in done.stdout
    chosen = session.run(*arguments, "--gpu-layers", "0", environ=NO_HUB)
    assert "about" in chosen.stderr


def test_on_a_terminal_the_user_can_choose_the_faster_model(session: Session, llama: str) -> None:
    environ = {**session.environ, **NO_HUB}
    arguments = ["--server", llama, "--dry-run", "--no-start", "--ignore-fit"]
    code, errors, output = on_terminal(session, arguments, b"y\n", environ)
    assert code == 0, errors
    assert re.search("Use [^ ]+ instead", errors)
    assert "qwen2.5-14b" not in output


def test_a_refused_option_is_reported_with_the_message_of_llama_server(session: Session, gguf: str, llama: str) -> None:
    for extra, problem in (("--mlock", "invalid argument: --mlock"), ("--temp hot", 'handling argument "--temp"')):
        done = session.run("--model", gguf, "--server", llama, "--no-start", f"--extra={extra}")
        assert done.returncode == 2
        assert "llama-server refuses these options: " in done.stderr
        assert problem in done.stderr
    assert list(session.home.iterdir()) == []


def test_a_server_that_does_not_start_is_reported_before_any_change(session: Session, gguf: str) -> None:
    broken = session.root / "llama-server"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries: libcudart.so.12' >&2\nexit 127\n")
    broken.chmod(0o755)
    done = session.run("--model", gguf, "--server", str(broken), "--no-start")
    assert done.returncode == 69
    assert f"{broken} --version failed (exit code 127): error while loading shared libraries" in done.stderr
    assert list(session.home.iterdir()) == []


def test_a_server_without_cors_origins_causes_a_warning(session: Session, gguf: str, llama: str) -> None:
    old = write_server(session.root / "old", options=["--list-devices"])
    arguments = ("--model", gguf, "--no-start", "--dry-run", "--server")
    assert "this llama-server has no --cors-origins: any web page" in session.run(*arguments, old).stderr
    assert "--cors-origins" not in session.run(*arguments, llama).stderr


def test_the_single_program_llama_is_found(session: Session, gguf: str, native: Path) -> None:
    own = session.home / ".local" / "bin"
    own.mkdir(parents=True)
    (own / "llama").symlink_to(native / "llama")
    for named in ([], ["--server", str(own / "llama")]):
        done = session.run("--model", gguf, "--no-start", "--dry-run", *named)
        assert done.returncode == 0, done.stderr
        assert f"\nExecStart={own}/llama serve -m " in done.stdout


def test_another_program_named_llama_is_ignored(session: Session, gguf: str) -> None:
    tools = session.root / "tools"
    tools.mkdir()
    (tools / "llama").write_text("#!/bin/sh\necho 'usage: llama [-h] {model,stack}'\nexit 2\n")
    (tools / "llama").chmod(0o755)
    done = session.run("--model", gguf, "--no-start", environ={"PATH": f"{tools}:{session.environ['PATH']}"})
    assert "llama-server is not on PATH" in done.stderr
