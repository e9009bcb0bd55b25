"""Finding llama-server, and learning which options this one has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional

from .errors import EXIT_UNAVAILABLE, EXIT_USAGE, InstallError

BACKEND_SAMPLING = "--backend-sampling"
_USUAL_PLACES = (
    "~/.local/bin",
    "~/llama.cpp/build/bin",
    "/usr/local/bin",
    "/opt/llama.cpp/build/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/opt/homebrew/bin",
)
_HOW_TO_GET_IT = """\
Install it, e.g. with: brew install llama.cpp
or build it:  git clone https://github.com/ggml-org/llama.cpp && cd llama.cpp &&
              cmake -B build -DGGML_CUDA=ON && cmake --build build -t llama-server -j
              (without -DGGML_CUDA=ON for a machine without an NVIDIA GPU)
If it is somewhere else: make install-service ARGS="--server /path/to/llama-server\""""


def find(named: Optional[str], environ: Mapping[str, str], ask: Callable[[str], Optional[str]]) -> str:
    """The absolute path of llama-server: the one that was named, on PATH, in a usual place, or what the user answers.

    Args:
        named: what `--server` says: a path, or a name to look for on PATH.
        ask: puts a question to the user; None where there is nobody to ask.

    Raises:
        InstallError: there is none, or the one named cannot be run.
    """
    if named is not None:
        return _checked(named, environ)
    places = [environ.get("PATH", os.defpath), *(os.path.expanduser(place) for place in _USUAL_PLACES)]
    found = shutil.which("llama-server", path=os.pathsep.join(places))
    if found:
        return os.path.abspath(found)
    answer = ask("llama-server was not found. Its path (empty to stop): ")
    if answer:
        return _checked(answer, environ)
    raise InstallError("llama-server is not on PATH", hint=_HOW_TO_GET_IT, status=EXIT_UNAVAILABLE)


def _checked(named: str, environ: Mapping[str, str]) -> str:
    found = shutil.which(os.path.expanduser(named), path=environ.get("PATH"))
    if found:
        return os.path.abspath(found)
    what = "cannot be run" if Path(named).exists() else "there is no such program"
    raise InstallError(f"--server {named}: {what}", hint=_HOW_TO_GET_IT, status=EXIT_USAGE)


def options_of(server: str) -> frozenset[str]:
    """The long and short options that `llama-server --help` lists.

    Raises:
        InstallError: it cannot be run.
    """
    try:
        done = subprocess.run([server, "--help"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f"{server} --help: {error}", status=EXIT_UNAVAILABLE) from error
    listed = frozenset(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", done.stdout))
    if done.returncode or not listed:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InstallError(f"{server} --help failed: {last}", status=EXIT_UNAVAILABLE)
    return listed
