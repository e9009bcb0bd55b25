"""The measured subjects: the floors, Flynn and its peers, and the environments they run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Tuple

import environment

SCRIPTS = environment.ROOT / "scripts"


@dataclass(frozen=True)
class Subject:
    """A floor, Flynn, or a peer.

    Attributes:
        name: the name in the tables.
        module: its module in bench.clients; None for the bare Python.
        imports: the statement that the measure `import` runs.
        packages: the names of its packages.
        extra: the extra of setup.cfg that installs it; None if it needs none.
        asynchronous: True if it has an asynchronous client.
        llama_server: True if it can talk to a llama-server.
    """

    name: str
    module: Optional[str] = None
    imports: str = "pass"
    packages: Tuple[str, ...] = ()
    extra: Optional[str] = None
    asynchronous: bool = False
    llama_server: bool = True


BARE = Subject("bare python")
RAW = Subject("raw socket", "raw", "import json, socket")
HTTP_CLIENT = Subject("http.client", "http_client", "import http.client, json")
FLYNN = Subject("flynn", "with_flynn", "import flynn", ("flynn-llama",), asynchronous=True)
OURS = [BARE, RAW, HTTP_CLIENT, FLYNN]
PEERS = [
    Subject("ollama", "with_ollama", "import ollama", ("ollama",), "bench", True, llama_server=False),
    Subject("openai", "with_openai", "import openai", ("openai",), "bench", True),
    Subject("httpx + httpx-sse", "with_httpx", "import httpx, httpx_sse", ("httpx", "httpx-sse"), "bench", True),
    Subject("requests", "with_requests", "import requests", ("requests",), "bench"),
    Subject("langchain", "with_langchain", "import langchain_llama_cpp", ("langchain-llama-cpp",), "bench", True),
    Subject("litellm", "with_litellm", "import litellm", ("litellm",), "bench-litellm", True),
]


class Place:
    """The environments of the subjects: Pythons with the peers, one without packages, and a compiled copy of Flynn.

    All are virtual environments of the running Python.
    """

    def __init__(self, folder: Path, *, peers: bool) -> None:
        extras = {subject.extra for subject in PEERS if subject.extra} if peers else set()
        self._pythons = {extra: str(environment.environment(extra)) for extra in extras}
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        # The environment of the extra has setuptools, which builds the wheel.
        self.builder = self._pythons.get("bench", sys.executable)
        self.python = str(folder / "venv" / "bin" / "python")
        for package in (environment.ROOT / "flynn", SCRIPTS / "bench"):
            shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(
            [self.python, "-m", "compileall", "-q", str(folder / "flynn"), str(folder / "bench")], check=True
        )

    def python_of(self, subject: Subject) -> str:
        """Return the path of the Python that has the subject's packages."""
        return self._pythons[subject.extra] if subject.extra else self.python

    @property
    def variables(self) -> Dict[str, str]:
        """The environment variables of measured processes, without the user's, which could slow some subjects down."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.folder),
            # Otherwise the .pth file of setuptools makes every process import setuptools.
            "SETUPTOOLS_USE_DISTUTILS": "stdlib",
            # Otherwise importing litellm downloads a list of prices.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
