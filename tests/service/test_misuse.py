"""What a user, a file or a folder may have wrong: one clear line, and nothing that was there is lost."""

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


def _one_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode in (1, 2, 69), done.stderr
    assert "Traceback" not in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_unit_s_name_that_is_no_file_is_said(session: Session, arguments: list[str], command: str) -> None:
    session.unit_dir.mkdir(parents=True)
    unit = session.unit_dir / "llama-server.service"
    given = arguments if command == "install" else []
    unit.symlink_to("gone")
    _one_line(session.run(command, *given), f"{unit} is a broken link to gone")
    unit.unlink()
    unit.symlink_to("/dev/null")
    _one_line(session.run(command, *given), "llama-server.service is masked")
    unit.unlink()
    unit.mkdir()
    _one_line(session.run(command, *given), f"{unit} is not a file")
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
def test_a_record_that_is_none_counts_as_empty(session: Session, arguments: list[str], text: str) -> None:
    record = session.home / ".local" / "share" / "flynn" / "service.json"
    record.parent.mkdir(parents=True)
    record.write_text(text, encoding="latin-1")
    done = session.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(record.read_text())["model_files"] == []
    record.write_text(text, encoding="latin-1")
    assert session.run("uninstall").returncode == 0


@pytest.mark.parametrize("sources", [{"SPEC": [["/nowhere/m.gguf", 5, "x"]]}, {"SPEC": [[]]}, {"SPEC": [[1, 2, 3]]}])
def test_a_record_of_a_model_that_is_gone_is_not_believed(
    session: Session, arguments: list[str], gguf: str, sources: dict[str, object]
) -> None:
    record = session.home / ".local" / "share" / "flynn" / "service.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"sources": {gguf: sources["SPEC"]}}))
    assert session.run(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--models-dir", "~nosuch/models"], "--models-dir ~nosuch/models: no such user"),
        (["--model", "https://[::1/m.gguf", "--sha256", "a" * 64], "https://[::1/m.gguf: invalid URL"),
        (["--model", "~nosuch/m.gguf"], "no such file"),
        (["--model", "hf:a/b/../c.gguf"], "'..' is not allowed"),
        (["--server", "~nosuch/llama-server"], "no such program"),
        (["--socket", "/nowhere/a.sock"], "the folder does not exist"),
    ],
)
def test_a_value_that_means_nothing_is_said(
    session: Session, arguments: list[str], given: list[str], said: str
) -> None:
    at = arguments.index(given[0]) if given[0] in arguments else len(arguments)
    _one_line(session.run(*arguments[:at], *arguments[at + 2 :], *given), said)


@pytest.mark.parametrize("endpoint", ["https://[::1", "https://hub:port", "ftp://hub", "hub"])
def test_an_endpoint_of_a_hub_that_is_none_is_said(session: Session, endpoint: str) -> None:
    done = session.run("--print-unit", environ={"HF_ENDPOINT": endpoint})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["plain", "\U0001f999 llama", "na\u00efve", b"not utf-8 \xff", 'quo"te\\', "a: b # c"])
def test_flynn_reads_what_is_written_whatever_the_home_is_called(
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


def test_a_configuration_that_is_a_dangling_link_is_left_alone(session: Session, arguments: list[str]) -> None:
    config = session.home / ".config" / "flynn" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.symlink_to("dotfiles/flynn.yaml")
    assert session.run(*arguments).returncode == 0
    assert os.readlink(config) == "dotfiles/flynn.yaml"


def test_a_folder_in_the_way_is_named(session: Session, arguments: list[str]) -> None:
    key = session.home / ".config" / "flynn" / "api-key"
    key.mkdir(parents=True)
    _one_line(session.run(*arguments, "--api-key"), str(key))
    config = session.home / ".config" / "systemd"
    config.touch()
    _one_line(session.run(*arguments), f"{config}")


def test_killed_before_any_change_of_a_file_it_ends_as_if_it_had_not_been() -> None:
    assert kill_everywhere("7", most=5) == {"installations": 5, "removals": 5}
