"""The command in a home, and what its files hold."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List

from command import Ended, Home

from .server import Llama

OUT = ("-o", "out.jsonl")
ERRORS = "out.jsonl.errors.jsonl"


def batch(home: Home, llama: Llama, *options: str, name: str = "in.jsonl", **settings: Any) -> Ended:
    """Run a batch of a file to its end."""
    return home.run("batch", name, "--endpoint", llama.endpoint, *options, **settings)


def start(home: Home, llama: Llama, *options: str, name: str = "in.jsonl", **settings: Any) -> subprocess.Popen[bytes]:
    """Start a batch of a file."""
    return home.start("batch", name, "--endpoint", llama.endpoint, *options, **settings)


def questions(count: int, start: int = 1) -> str:
    """Lines that ask p1, p2 and so on."""
    return "".join(f'{{"prompt": "p{n}"}}\n' for n in range(start, start + count))


def names(count: int) -> List[str]:
    """The IDs of as many questions."""
    return [f"request-{n}" for n in range(1, count + 1)]


def lines(path: Path) -> List[Dict[str, Any]]:
    """The lines of a file, each of which is whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def whole_lines(path: Path) -> List[Dict[str, Any]]:
    """The lines of a file that may be torn, or not there."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def ids(home: Home, name: str = "out.jsonl") -> List[str]:
    return [line["custom_id"] for line in lines(home.path / name)]


def content(line: Dict[str, Any]) -> str:
    """The text of a result."""
    return str(line["response"]["body"]["choices"][0]["message"]["content"])
