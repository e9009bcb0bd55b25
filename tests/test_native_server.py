"""scripts/native_server.py: llama.cpp's own programs from Debian, and a chat with their llama-server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from debian import debian_only
from real_server import RealServer

from flynn import LlamaCppClient


@pytest.mark.parametrize("command", [["llama-server"], ["llama", "serve"]])
def test_a_chat_and_a_stream(server_at_hand: None, native: Path, command: list[str]) -> None:
    with (
        RealServer(command=[str(native / command[0]), *command[1:]], threads=1) as server,
        LlamaCppClient(server.endpoint) as client,
    ):
        reply = client.chat("Why is the sky blue?", max_tokens=16, temperature=0)
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 16
        text = "".join(client.chat_stream("Why is the sky blue?", max_tokens=16, temperature=0).text())
        assert text == reply.content


def test_its_programs_run_through_symbolic_links(native: Path, tmp_path: Path) -> None:
    for name in ("llama-server", "llama-fit-params", "llama-bench"):
        (tmp_path / name).symlink_to(native / name)
        assert subprocess.run([tmp_path / name, "--list-devices"], capture_output=True).returncode == 0
    unknown = subprocess.run([native / "llama", "frobnicate"], capture_output=True, text=True)
    assert (unknown.returncode, unknown.stderr) == (1, "error: unknown command 'frobnicate'\n")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            "deb http://mirror/debian trixie main contrib\ndeb http://mirror/debian trixie-updates main\n"
            "deb http://security/debian-security trixie-security main\n# deb http://old/debian/ woody main\n",
            "deb http://mirror/debian sid main",
        ),
        (
            "Types: deb\nURIs: http://mirror/debian/\nSuites: trixie trixie-updates\nComponents: main contrib\n"
            "Signed-By: /keys.gpg\n\nTypes: deb\nURIs: http://other/nodes\nSuites: now\nComponents: main\n",
            "Types: deb\nURIs: http://mirror/debian/\nSuites: sid\nComponents: main\nSigned-By: /keys.gpg",
        ),
        (
            "deb [signed-by=/k arch=amd64] http://m/debian/ sid main\n",
            "deb [signed-by=/k arch=amd64] http://m/debian/ sid main",
        ),
        ("deb http://mirror/ubuntu noble main\n", ""),
    ],
)
def test_another_suite_is_read_from_the_mirror_of_this_machine(sources: str, expected: str) -> None:
    assert debian_only(sources, "sid") == expected
