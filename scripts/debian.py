"""Debian's packages without root: apt fetches and verifies them, and nothing is installed.

`made` builds a folder under `.venv/platforms/` once, out of packages that `apt` fetches. apt has lists and a state of
its own there, so that the machine's own packages stay as they are.
"""

import re
import shutil
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

from environment import MADE, Unavailable, alone, run, say


class Recipe(NamedTuple):
    """How a folder is made.

    Attributes:
        progress: what is said when it begins.
        fetch: is given a folder for what it fetches.
        script: of sh; `$1` is that folder, `$2` the one to be made.
    """

    progress: str
    fetch: Callable[[Path], None]
    script: str


def made(name: str, recipe: Recipe) -> Path:
    """The folder of a recipe, made if it is not there or was made by another script. Raises Unavailable."""
    folder = MADE / "platforms" / name
    with alone(name):
        if not is_made(name, recipe):
            if not shutil.which("apt-get"):
                raise Unavailable("it comes by way of apt-get, which Debian and Ubuntu have")
            say(recipe.progress)
            _make(recipe, folder)
    return folder


def is_made(name: str, recipe: Recipe) -> bool:
    """Whether nothing would have to be fetched or compiled for `made(name, recipe)`."""
    stamp = MADE / "platforms" / name / "made-from"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == recipe.script


def _make(recipe: Recipe, folder: Path) -> None:
    draft = folder.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)
    result = draft / "made"
    result.mkdir(parents=True)
    try:
        recipe.fetch(draft)
        run(["sh", "-euc", recipe.script, "sh", str(draft), str(result)])
        (result / "made-from").write_text(recipe.script, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        result.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def apt(folder: Path, kind: str = "deb", *, architecture: Optional[str] = None, suite: str = "") -> List[str]:
    """The beginning of apt-get commands that know the machine's sources and change nothing outside of `folder`.

    Args:
        kind: of packages, `deb` or `deb-src`.
        architecture: of packages, by default that of the machine.
        suite: of Debian, instead of the machine's own suites.
    """
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "status").touch()
    for source in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if source.exists():
            text = source.read_text(encoding="utf-8")
            text = debian_only(text, suite) if suite else text
            text = re.sub(r"(?m)^Types:.*", f"Types: {kind}", text)
            text = re.sub(r"(?m)^deb(-src)?(?=\s)", kind, text)
            (folder / "sources" / source.name).write_text(text, encoding="utf-8")
    # Mirrors are not always whole where security updates come and go, and these packages meet nobody but this machine.
    (folder / "preferences").write_text("Package: *\nPin: release a=*-security\nPin-Priority: 100\n", encoding="utf-8")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state" / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "sources",
        "Dir::Etc::preferences": folder / "preferences",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # another one may not be allowed to see `folder`
        **({"APT::Architecture": architecture, "APT::Architectures": architecture} if architecture else {}),
    }
    # What the machine does after an update concerns its own lists.
    lines = ["#clear APT::Update;", *(f'{name} "{value}";' for name, value in options.items())]
    (folder / "apt.conf").write_text("\n".join(lines), encoding="utf-8")
    command = ["apt-get", "-qq", "-c", str(folder / "apt.conf")]
    try:
        run([*command, "update", "--error-on=any"])
    except Unavailable as error:  # perhaps only of a source that is not needed here
        say(f"apt-get update: {error}")
    return command


def debian_only(source: str, suite: str) -> str:
    """A file of apt's sources with Debian's own archive alone, and in it with this suite instead of those named there.

    Example: `debian_only("deb http://mirror/debian trixie main contrib", "sid")` is
    `"deb http://mirror/debian sid main"`
    """
    stanzas = []
    for stanza in re.split(r"\n\s*\n", source):
        if re.search(r"(?m)^URIs:\s.*/debian/?$", stanza):
            stanza = re.sub(r"(?m)^Suites:.*", f"Suites: {suite}", stanza)
            stanzas.append(re.sub(r"(?m)^Components:.*", "Components: main", stanza))
    lines = re.findall(r"(?m)^(deb\s+(?:\[.*?\]\s+)?\S+/debian/?)\s", source)
    stanzas += [f"{line} {suite} main" for line in dict.fromkeys(lines)]
    return "\n\n".join(stanzas)
