"""Running `flynn batch`, and reading the files that it writes."""

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
    """Run `flynn batch` on a file and wait for its end."""
    return home.run("batch", name, "--endpoint", llama.endpoint, *options, **settings)


def start(home: Home, llama: Llama, *options: str, name: str = "in.jsonl", **settings: Any) -> subprocess.Popen[bytes]:
    """Start `flynn batch` on a file without waiting for it."""
    return home.start("batch", name, "--endpoint", llama.endpoint, *options, **settings)


def questions(count: int, start: int = 1) -> str:
    """Return input lines with the prompts p1, p2 and so on."""
    return "".join(f'{{"prompt": "p{n}"}}\n' for n in range(start, start + count))


def request_ids(count: int) -> List[str]:
    """Return the IDs of the first `count` requests of an input."""
    return [f"request-{n}" for n in range(1, count + 1)]


def lines(path: Path) -> List[Dict[str, Any]]:
    """Return the lines of a file, all of which must be complete."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def whole_lines(path: Path) -> List[Dict[str, Any]]:
    """Return the complete lines of a file, which may be torn or missing."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def ids(home: Home, name: str = "out.jsonl") -> List[str]:
    return [line["custom_id"] for line in lines(home.path / name)]


def content(line: Dict[str, Any]) -> str:
    """Return the text of the answer in a result."""
    return str(line["response"]["body"]["choices"][0]["message"]["content"])
