"""Unit files: systemd must read them correctly with any paths, names and options."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installer.errors import InstallError
from installer.quoting import exec_line
from installer.unit import SERVICE, Choices, arguments, environment, unit_file

from .session import Session
from .skipping import skip_or_fail

HOSTILE = [
    "plain",
    "two words",
    " leading and trailing ",
    "",
    'double " quote',
    "single ' quote",
    "50 % of %h and %%",
    "$HOME and ${HOME} and $$",
    "$HOME",
    "back\\slash and \\n and \\x41",
    "ends with \\",
    "line\nbreak\rand\ttab",
    "llämä 模型 🦙",
    "; true",
    ";",
    "# no comment",
    "--flag=a b",
    "-",
    "a;b|c&d>e<f*g?h~",
    "\x01\x7f\u2028",
    os.fsdecode(b"not utf-8: \xff\xfe"),
    "ExecStart=/bin/false\n[Install]\nWantedBy=default.target",
]


def hostile_texts(count: int) -> list[str]:
    """Return HOSTILE and random mixtures of characters that are special to systemd, a shell, or UTF-8."""
    random_ = random.Random(20)
    alphabet = " \t\n\r\"'\\%$;#{}=@:-+!~*?.,abc01äß模🦙\x02\x7f"
    return HOSTILE + ["".join(random_.choices(alphabet, k=random_.randrange(1, 24))) for _ in range(count)]


@pytest.fixture
def choices() -> Choices:
    return Choices(command=("/bin/true",), model="/models/a.gguf")


def test_the_default_command_line(choices: Choices) -> None:
    text = unit_file(dataclasses.replace(choices, command=("/usr/bin/llama-server",), model="/data/m.gguf"))
    assert "\nExecStart=/usr/bin/llama-server -m /data/m.gguf -ngl 99 -c 8192\n" in text
    assert "\nRestart=on-failure\n" in text
    assert text.endswith("\n[Install]\nWantedBy=default.target\n")


def test_the_unit_always_sets_the_port_and_allows_no_web_page(choices: Choices) -> None:
    assert environment(choices) == {"LLAMA_ARG_PORT": "8080", "LLAMA_ARG_CORS_ORIGINS": "localhost"}
    other = dataclasses.replace(choices, port=9000)
    assert environment(other) == {"LLAMA_ARG_CORS_ORIGINS": "localhost"}
    assert arguments(other)[-2:] == ["--port", "9000"]


def test_llama_serve_gets_the_same_arguments(choices: Choices) -> None:
    text = unit_file(dataclasses.replace(choices, command=("/home/u/.local/bin/llama", "serve")))
    assert "\nExecStart=/home/u/.local/bin/llama serve -m /models/a.gguf -ngl 99 -c 8192\n" in text


def test_a_server_for_embeddings_accepts_a_text_as_long_as_its_context(choices: Choices) -> None:
    words = " ".join(arguments(dataclasses.replace(choices, pooling="last", ctx_size=4096)))
    assert words.endswith("-c 4096 --embeddings --pooling last --batch-size 4096 --ubatch-size 4096")


def test_on_demand_sets_an_option_of_llama_server(choices: Choices) -> None:
    text = unit_file(dataclasses.replace(choices, idle_seconds=900))
    assert " --sleep-idle-seconds 900\n" in text
    assert "python" not in text


def test_the_number_of_restarts_is_limited(choices: Choices) -> None:
    unit_section = unit_file(choices).partition("[Service]")[0]
    assert "StartLimitBurst=20" in unit_section
    assert "StartLimitIntervalSec=" in unit_section


def test_systemd_passes_every_argument_unchanged(login: Session) -> None:
    texts = hostile_texts(400)
    output = login.root / "output"
    output.mkdir()
    program = login.root / "show arguments"
    program.write_text(
        f"#!{sys.executable} -IS\nimport json, os, sys\n"
        "with open(f'{sys.argv[1]}/{sys.argv[2]}', 'w') as file:\n"
        "    json.dump([os.fsencode(argument).hex() for argument in sys.argv[3:]], file)\n"
    )
    program.chmod(0o755)
    groups = [texts[at : at + 40] for at in range(0, len(texts), 40)]
    lines = [f"ExecStart={exec_line(str(program), [str(output), str(n), *group])}" for n, group in enumerate(groups)]
    _start_oneshot(login, "arguments.service", lines)
    for number, group in enumerate(groups):
        received = [bytes.fromhex(text) for text in json.loads((output / str(number)).read_text())]
        assert received == [os.fsencode(text) for text in group]


def test_systemd_runs_a_program_at_any_path(login: Session) -> None:
    for number, name in enumerate(text for text in HOSTILE if text and "/" not in text):
        folder = login.root / "programs" / name
        folder.mkdir(parents=True)
        program = folder / "llama-server"
        program.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{login.root}/ran-{number}'\n")
        program.chmod(0o755)
        _start_oneshot(login, f"program-{number}.service", [f"ExecStart={exec_line(str(program), ['$a %b'])}"])
        assert (login.root / f"ran-{number}").read_text() == "$a %b", name


def test_a_relative_path_of_a_program_is_refused() -> None:
    with pytest.raises(InstallError, match="absolute"):
        exec_line("llama-server", [])


def test_every_possible_unit_passes_systemd_analyze_verify(tmp_path: Path, choices: Choices) -> None:
    count = 0
    for number, text in enumerate(hostile_texts(12)):
        for variant in _variants(choices, text, number):
            try:
                text_of_unit = unit_file(variant)
            except InstallError:
                continue  # a unit cannot contain this text
            folder = tmp_path / f"{count}"
            folder.mkdir()
            (folder / SERVICE).write_text(text_of_unit, encoding="utf-8", errors="surrogateescape")
            count += 1
    assert count > 50
    _verify(sorted(tmp_path.glob("*/*.service")), tmp_path)


def test_systemd_analyze_verify_finds_an_invalid_unit(tmp_path: Path) -> None:
    invalid = tmp_path / "0" / SERVICE
    invalid.parent.mkdir()
    invalid.write_text("[Service]\nExecStart=/bin/true %k%!\nRestart=maybe\n")
    with pytest.raises(AssertionError):
        _verify([invalid], tmp_path)


def test_no_text_can_add_a_line_to_a_unit(choices: Choices) -> None:
    plain = unit_file(dataclasses.replace(choices, alias="a", extra=("b",))).count("\n")
    for text in hostile_texts(200):
        try:
            unit = unit_file(dataclasses.replace(choices, alias=text, extra=(text,), model=f"/models/{text}.gguf"))
        except InstallError:
            continue
        assert unit.count("\n") == plain


@pytest.mark.parametrize("path", ["relative.sock", "/" + "a" * 103 + ".sock", "/run/a", "/run/a\n.sock"])
def test_an_invalid_socket_path_is_refused(choices: Choices, path: str) -> None:
    with pytest.raises(InstallError, match="--socket"):
        unit_file(dataclasses.replace(choices, socket=path))


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080")],
)
def test_a_client_on_this_machine_can_reach_the_endpoint(choices: Choices, host: str, endpoint: str) -> None:
    assert dataclasses.replace(choices, host=host).endpoint == endpoint


def test_hardening_lowers_the_exposure_level_of_systemd(tmp_path: Path, choices: Choices) -> None:
    bare = "[Service]\nExecStart=/bin/true\nRestart=on-failure\n[Install]\nWantedBy=default.target\n"
    assert _exposure(tmp_path / "with", unit_file(choices)) < _exposure(tmp_path / "without", bare) - 2.5


def _variants(choices: Choices, text: str, number: int) -> list[Choices]:
    name = text.replace("/", "_").replace("\0", "_")[:40]
    with_names = dataclasses.replace(
        choices,
        model=f"/models/{name}/m.gguf",
        alias=text,
        api_key_file=f"/keys/{name}",
        extra=(text, name),
        parallel=number + 1,
        port=9000 + number,
        host=random.Random(number).choice(["127.0.0.1", "0.0.0.0", "::1", "::"]),
    )
    at_socket = dataclasses.replace(with_names, socket=f"/run/{name}.sock")
    several = dataclasses.replace(with_names, model="", presets=f"/{name}/models.ini", idle_seconds=900)
    return [with_names, at_socket, several, dataclasses.replace(choices, pooling=text, gpu_layers="auto")]


def _verify(files: list[Path], runtime: Path) -> None:
    """Check that `systemd-analyze --user verify` reports no problem."""
    if not shutil.which("systemd-analyze"):
        skip_or_fail("systemd is not installed")
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(runtime)}
    for folder in sorted({file.parent for file in files}):
        command = ["systemd-analyze", "--user", "verify", *(str(file) for file in files if file.parent == folder)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace")
        assert (done.returncode, done.stderr) == (0, ""), (folder / SERVICE).read_text(errors="replace")


def _exposure(folder: Path, text: str) -> float:
    if not shutil.which("systemd-analyze"):
        skip_or_fail("systemd is not installed")
    folder.mkdir()
    (folder / SERVICE).write_text(text)
    command = ["systemd-analyze", "--user", "security", "--offline=true", "--no-pager", str(folder / SERVICE)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    return float(done.stdout.rpartition("exposure level for")[2].split(":")[1].split()[0])


def _start_oneshot(login: Session, name: str, lines: list[str]) -> None:
    login.unit_dir.mkdir(parents=True, exist_ok=True)
    path = login.unit_dir / name
    text = "\n".join(["[Service]", "Type=oneshot", *lines, ""])
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    try:
        login.systemctl("daemon-reload")
        message = login.systemctl("start", name)
        assert message == "", f"{message}\n{text}\n{(login.root / 'systemd.log').read_text()[-2000:]}"
    finally:
        path.unlink()
        login.systemctl("daemon-reload")
