"""The installer without systemd: what it prepares, prints, and refuses."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from gguf import random_model

from .booted import booted
from .session import Session, on_terminal, why_no_manager
from .skipping import skip_or_fail
from .stand_in import write_server

NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}
FIVE_STARTS = "# Five failed starts and it stays down: a model that cannot be loaded is not tried for ever."


def test_no_start_prepares_everything_and_prints_the_commands_to_start(session: Session, gguf: str, llama: str) -> None:
    done = session.run("--model", gguf, "--server", llama, "--no-start")
    assert done.returncode == 0, done.stderr
    assert "systemctl --user daemon-reload && systemctl --user enable --now llama-server.service" in done.stderr
    by_hand = f"env LLAMA_ARG_PORT=8080 LLAMA_ARG_CORS_ORIGINS=localhost {llama} -m '{gguf}' -ngl 99 -c 8192"
    assert by_hand in done.stderr
    assert f'ExecStart={llama} -m "{gguf}"' in (session.unit_dir / "llama-server.service").read_text()
    config = session.home / ".config" / "flynn" / "config.yaml"
    assert config.read_text() == (
        "models:\n  local:\n    provider: llamacpp\n    endpoint: http://127.0.0.1:8080\n    timeout: 900\n"
    )


def test_running_it_twice_changes_nothing(session: Session, gguf: str, llama: str) -> None:
    arguments = ("--model", gguf, "--server", llama, "--no-start", "--api-key", "--on-demand")
    assert session.run(*arguments).returncode == 0
    before = _snapshot(session.home)
    done = session.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert _snapshot(session.home) == before


def test_dry_run_changes_nothing_and_shows_every_step(session: Session, llama: str) -> None:
    arguments = ("--server", llama, "--dry-run", "--no-start", "--ignore-fit", "--api-key")
    done = session.run(*arguments, environ=NO_HUB)
    assert done.returncode == 0, done.stderr
    assert list(session.home.iterdir()) == []
    for text in ("would download http://", "00003-of-00003.gguf", "c8d37006760a", "would store an API key"):
        assert text in done.stderr
    assert "ExecStart=" in done.stdout


def test_print_unit_prints_only_the_unit_and_needs_no_server(session: Session) -> None:
    done = session.run("--print-unit")
    message = "missing: llama-server is not on PATH; the unit below uses /usr/bin/llama-server\n"
    assert (done.returncode, done.stderr) == (0, message)
    assert "-00001-of-00003.gguf -ngl 99 -c 8192\n" in done.stdout


def test_xdg_folders_are_used(session: Session, gguf: str, llama: str) -> None:
    config, data = session.root / "conf", session.root / "data"
    environ = {"XDG_CONFIG_HOME": str(config), "XDG_DATA_HOME": str(data)}
    assert session.run("--model", gguf, "--server", llama, "--no-start", environ=environ).returncode == 0
    assert (config / "systemd" / "user" / "llama-server.service").exists()
    assert (config / "flynn" / "config.yaml").exists()
    assert str(data / "flynn" / "models") in session.run("--print-unit", environ=environ).stdout


def test_without_yes_a_different_unit_is_shown_and_kept(session: Session, gguf: str, llama: str) -> None:
    unit = session.unit_dir / "llama-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/opt/mine\n")
    done = session.run("--model", gguf, "--server", llama, "--no-start")
    assert done.returncode == 2
    assert "-ExecStart=/opt/mine" in done.stderr
    assert "--yes" in done.stderr
    assert unit.read_text() == "[Service]\nExecStart=/opt/mine\n"


def test_with_yes_a_backup_is_kept(session: Session, gguf: str, llama: str) -> None:
    unit = session.unit_dir / "llama-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/opt/mine\n")
    assert session.run("--model", gguf, "--server", llama, "--no-start", "--yes").returncode == 0
    (backup,) = session.unit_dir.glob("llama-server.service.backup-*")
    assert backup.read_text() == "[Service]\nExecStart=/opt/mine\n"


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 1), (b"n\n", 1)])
def test_on_a_terminal_it_asks_before_it_replaces_a_unit(
    session: Session, gguf: str, llama: str, answer: bytes, code: int
) -> None:
    unit = session.unit_dir / "llama-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/opt/mine\n")
    returned, errors, _ = on_terminal(session, ["--model", gguf, "--server", llama, "--no-start"], answer)
    assert returned == code, errors
    assert "[y/N]" in errors
    assert ("/opt/mine" in unit.read_text()) == bool(code)


def test_the_api_key_is_only_in_a_private_file(session: Session, gguf: str, llama: str) -> None:
    done = session.run("--model", gguf, "--server", llama, "--no-start", "--api-key")
    key_file = session.home / ".config" / "flynn" / "api-key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_text().strip()
    assert len(key) >= 32
    assert key not in done.stdout + done.stderr
    unit = (session.unit_dir / "llama-server.service").read_text()
    assert f"--api-key-file {key_file}" in unit
    assert all(key not in path.read_text() for path in session.home.rglob("*") if path.is_file() and path != key_file)
    assert f"auth_token_file: {key_file}" in (session.home / ".config" / "flynn" / "config.yaml").read_text()


def test_a_key_that_other_users_can_read_is_refused(session: Session, gguf: str, llama: str) -> None:
    key_file = session.home / ".config" / "flynn" / "api-key"
    key_file.parent.mkdir(parents=True)
    key_file.write_text("mine-own-key\n")
    key_file.chmod(0o644)
    done = session.run("--model", gguf, "--server", llama, "--no-start", "--api-key")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr
    key_file.chmod(0o600)
    assert session.run("--model", gguf, "--server", llama, "--no-start", "--api-key").returncode == 0
    assert key_file.read_text() == "mine-own-key\n"


@pytest.mark.parametrize("key", ["a\nb", "a b", "a\x1b[31m", "a,b", "schlüssel", ""])
def test_a_key_that_cannot_be_sent_in_a_header_is_refused_and_not_printed(
    session: Session, gguf: str, llama: str, key: str
) -> None:
    key_file = session.home / ".config" / "flynn" / "api-key"
    key_file.parent.mkdir(parents=True)
    key_file.write_text(key)
    key_file.chmod(0o600)
    done = session.run("--model", gguf, "--server", llama, "--no-start", "--api-key")
    assert done.returncode == 2
    assert f"{key_file}: the API key must be" in done.stderr
    assert not key or key not in done.stderr.replace(str(session.root), "")


def test_a_configuration_of_the_user_is_never_changed(session: Session, gguf: str, llama: str) -> None:
    config = session.home / ".config" / "flynn" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n")
    assert session.run("--model", gguf, "--server", llama, "--no-start").returncode == 0
    assert config.read_text() == "# mine\n"
    assert session.run("uninstall").returncode == 0
    assert config.read_text() == "# mine\n"


def test_extra_options_are_passed_to_the_server(session: Session, gguf: str, llama: str) -> None:
    done = session.run("--model", gguf, "--server", llama, "--print-unit", "--extra", "--flash-attn on --grammar 'a b'")
    assert '--flash-attn on --grammar "a b"\n' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--extra", "--api-key secret"], "use the installer's own --api-key"),
        (["--extra", "--port 1"], "use the installer's own --port"),
        (["--extra", "'unclosed"], "no closing quotation"),
        (["--port", "0"], "from 1 to 65535"),
        (["--port", "80x"], "from 1 to 65535"),
        (["--idle", "-1"], "minutes"),
        (["--idle", "5"], "--idle needs --on-demand"),
        (["--socket", "/a.sock", "--port", "1"], "--socket cannot be combined"),
        (["--host", "a b"], "not an address"),
        (["--host", "häst"], "not an address"),
        (["--gpu-layers", "some"], "from 0 to 9999"),
        (["--model", "a.gguf", "--model", "b.gguf", "--alias", "c"], "--alias needs exactly one --model"),
        (["--extra", "--sleep-idle-seconds 9"], "use the installer's own --on-demand"),
        (["--frobnicate"], "unrecognized"),
    ],
)
def test_wrong_usage_prints_one_line_and_exits_with_2(session: Session, arguments: list[str], message: str) -> None:
    done = session.run("--print-unit", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_missing_systemd_is_reported_before_anything_is_written(session: Session, gguf: str) -> None:
    tools = session.root / "tools"
    tools.mkdir()
    llama = write_server(session.root / "llama-server")
    done = session.run("--server", llama, "--model", gguf, environ={"PATH": str(tools)})
    assert done.returncode == 69
    assert "systemd does not run on this machine" in done.stderr
    assert f"{llama} -m " in done.stderr.partition("To start llama-server without systemd: env LLAMA_ARG_PORT=8080 ")[2]
    assert "--no-start" in done.stderr
    assert list(session.home.iterdir()) == []


def test_without_a_user_manager_it_prints_the_commands_that_help(session: Session, gguf: str, llama: str) -> None:
    reason = why_no_manager()
    if reason:
        skip_or_fail(reason)
    with booted():
        done = session.run("--model", gguf, "--server", llama)
    assert done.returncode == 69
    assert "sudo loginctl enable-linger tester" in done.stderr
    assert "export XDG_RUNTIME_DIR=/run/user/" in done.stderr


def test_sudo_is_refused(session: Session, gguf: str, llama: str) -> None:
    done = session.run("--model", gguf, "--server", llama, "--no-start", environ={"SUDO_UID": "1000"})
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: do not use sudo")
    assert list(session.home.iterdir()) == []


def test_a_dry_run_needs_neither_systemd_nor_a_server(session: Session, gguf: str) -> None:
    tools = session.root / "tools"
    tools.mkdir()
    done = session.run("--model", gguf, "--dry-run", environ={"PATH": str(tools)})
    assert done.returncode == 0, done.stderr
    assert "missing: llama-server is not on PATH" in done.stderr
    assert "missing: systemd does not run on this machine" in done.stderr
    assert "would write " in done.stderr
    assert "ExecStart=" in done.stdout


def test_a_unit_of_an_earlier_version_is_updated_without_a_question(session: Session, gguf: str, llama: str) -> None:
    assert session.run("--model", gguf, "--server", llama, "--no-start").returncode == 0
    unit = session.unit_dir / "llama-server.service"
    current = unit.read_text()
    old = re.sub(r"(?m)^Environment=.*\n", "", current)
    old = re.sub(r"(?m)^# Twenty starts.*\n#.*\n", f"{FIVE_STARTS}\n", old).replace("Burst=20", "Burst=5")
    unit.write_text(old)
    done = session.run("--model", gguf, "--server", llama, "--no-start")
    assert done.returncode == 0, done.stderr
    assert "+Environment=LLAMA_ARG_PORT=8080" in done.stderr
    assert unit.read_text() == current
    (backup,) = session.unit_dir.glob("llama-server.service.backup-*")
    assert backup.read_text() == old
    unit.write_text(old.replace("[Service]", "[Service]\nEnvironment=CUDA_VISIBLE_DEVICES=1"))
    assert session.run("--model", gguf, "--server", llama, "--no-start").returncode == 2, (
        "a line of the user needs consent"
    )


def test_several_models_are_listed_in_a_file_of_presets(session: Session, gguf: str, llama: str) -> None:
    other = session.root / "other.gguf"
    other.write_bytes(random_model(100_000))
    done = session.run("--model", gguf, "--model", str(other), "--server", llama, "--no-start")
    assert done.returncode == 0, done.stderr
    presets = session.home / ".local" / "share" / "flynn" / "models.ini"
    assert presets.read_text() == f"[tiny model]\nmodel = {gguf}\n\n[other]\nmodel = {other}\n"
    assert f"llama-server --models-preset {presets} -ngl 99" in (session.unit_dir / "llama-server.service").read_text()
    assert '    model: "tiny model"\n' in (session.home / ".config" / "flynn" / "config.yaml").read_text()
    twice = session.run("--model", gguf, "--model", gguf, "--server", llama, "--no-start")
    assert "two models have the same name" in twice.stderr


def test_uninstall_without_systemd_removes_the_prepared_files(session: Session, gguf: str, llama: str) -> None:
    assert session.run("--model", gguf, "--server", llama, "--no-start", "--api-key", "--on-demand").returncode == 0
    done = session.run("uninstall")
    assert done.returncode == 0, done.stderr
    assert [path for path in session.home.rglob("*") if path.is_file()] == []
    assert Path(gguf).exists()


def test_uninstall_lists_leftovers_and_purge_deletes_them(session: Session, gguf: str, llama: str) -> None:
    arguments = ("--model", gguf, "--server", llama, "--no-start", "--yes")
    assert session.run(*arguments).returncode == 0
    assert session.run(*arguments, "--ctx-size", "512").returncode == 0
    models = session.home / ".local" / "share" / "flynn" / "models"
    models.mkdir()
    (models / "m.gguf.corrupt").touch()
    (backup,) = session.unit_dir.glob("*.backup-*")
    done = session.run("uninstall")
    assert done.returncode == 0, done.stderr
    assert f"  {backup}\n  {models}/m.gguf.corrupt\n" in done.stderr
    assert backup.exists()
    assert "nothing is installed" in session.run("uninstall", "--purge").stderr
    assert [path for path in session.home.rglob("*") if path.is_file()] == []


def test_uninstall_keeps_a_unit_of_another_program(session: Session) -> None:
    unit = session.unit_dir / "llama-server.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/opt/mine\n")
    done = session.run("uninstall")
    assert done.returncode == 2
    assert unit.exists()


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
