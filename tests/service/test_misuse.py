"""Mistakes of users, and wrong files and folders: the installer prints one clear line and loses no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trials.installs import kill_everywhere

from .session import INSTALLER, Session


@pytest.fixture
def arguments(gguf: str, llama_server: Path) -> list[str]:
    return ["--model", gguf, "--server", str(llama_server), "--no-start"]


def _check_message(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode in (1, 2, 69), done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_that_is_not_a_file_is_reported(session: Session, arguments: list[str], command: str) -> None:
    session.unit_dir.mkdir(parents=True)
    unit = session.unit_dir / "llama-server.service"
    options = arguments if command == "install" else []
    unit.symlink_to("gone")
    _check_message(session.run(command, *options), f"{unit} is a broken link to gone")
    unit.unlink()
    unit.symlink_to("/dev/null")
    _check_message(session.run(command, *options), "llama-server.service is masked")
    unit.unlink()
    unit.mkdir()
    _check_message(session.run(command, *options), f"{unit} is not a file")
    assert unit.is_dir()


RECORDS = [
    "null",
    "[]",
    '{"model_files": null}',
    '{"model_files": [null, 3]}',
    '{"sources": {"a": null}, "key_stamp": "x", "config_text": 7}',
    "[" * 100_000,
    "\xff",
]


@pytest.mark.parametrize("text", RECORDS)
def test_an_invalid_record_counts_as_empty(session: Session, arguments: list[str], text: str) -> None:
    record = session.home / ".local" / "share" / "flynn" / "service.json"
    record.parent.mkdir(parents=True)
    record.write_text(text, encoding="latin-1")
    done = session.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(record.read_text())["model_files"] == []
    record.write_text(text, encoding="latin-1")
    assert session.run("uninstall").returncode == 0


@pytest.mark.parametrize("sources", [{"SPEC": [["/nowhere/m.gguf", 5, "x"]]}, {"SPEC": [[]]}, {"SPEC": [[1, 2, 3]]}])
def test_a_record_of_a_missing_model_is_ignored(
    session: Session, arguments: list[str], gguf: str, sources: dict[str, object]
) -> None:
    record = session.home / ".local" / "share" / "flynn" / "service.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"sources": {gguf: sources["SPEC"]}}))
    assert session.run(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models-dir", "~nosuch/models"], "--models-dir ~nosuch/models: no such user"),
        (["--model", "https://[::1/m.gguf", "--sha256", "a" * 64], "https://[::1/m.gguf: invalid URL"),
        (["--model", "~nosuch/m.gguf"], "no such file"),
        (["--model", "hf:a/b/../c.gguf"], "'..' is not allowed"),
        (["--server", "~nosuch/llama-server"], "no such program"),
        (["--socket", "/nowhere/a.sock"], "the folder does not exist"),
    ],
)
def test_an_invalid_value_is_reported(session: Session, arguments: list[str], options: list[str], message: str) -> None:
    index = arguments.index(options[0]) if options[0] in arguments else len(arguments)
    _check_message(session.run(*arguments[:index], *arguments[index + 2 :], *options), message)


@pytest.mark.parametrize("endpoint", ["https://[::1", "https://hub:port", "ftp://hub", "hub"])
def test_an_invalid_endpoint_of_the_hub_is_reported(session: Session, endpoint: str) -> None:
    done = session.run("--print-unit", environ={"HF_ENDPOINT": endpoint})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["plain", "\U0001f999 llama", "na\u00efve", b"not utf-8 \xff", 'quo"te\\', "a: b # c"])
def test_flynn_reads_the_configuration_whatever_the_home_is_called(
    session: Session, gguf: str, llama_server: Path, name: object
) -> None:
    home = session.root / (os.fsdecode(name) if isinstance(name, bytes) else str(name))
    home.mkdir()
    environ = {**session.environ, "HOME": str(home)}
    command = [
        sys.executable,
        str(INSTALLER),
        "--model",
        gguf,
        "--server",
        str(llama_server),
        "--no-start",
        "--api-key",
    ]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    key = (home / ".config" / "flynn" / "api-key").read_text().strip()
    code = "from flynn import load_config; print(load_config().models['local'].auth_token)"
    read = subprocess.run(
        [sys.executable, "-c", code], cwd=INSTALLER.parents[1], env=environ, capture_output=True, text=True
    )
    assert read.stdout.strip() == key, read.stderr


def test_a_configuration_that_is_a_broken_link_is_not_changed(session: Session, arguments: list[str]) -> None:
    config = session.home / ".config" / "flynn" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.symlink_to("dotfiles/flynn.yaml")
    assert session.run(*arguments).returncode == 0
    assert os.readlink(config) == "dotfiles/flynn.yaml"


def test_a_path_of_the_wrong_kind_is_named(session: Session, arguments: list[str]) -> None:
    key = session.home / ".config" / "flynn" / "api-key"
    key.mkdir(parents=True)
    _check_message(session.run(*arguments, "--api-key"), str(key))
    config = session.home / ".config" / "systemd"
    config.touch()
    _check_message(session.run(*arguments), f"{config}")


def test_after_a_kill_before_any_change_of_a_file_a_second_run_completes() -> None:
    assert kill_everywhere("7", limit=5) == {"installations": 5, "removals": 5}
