"""Use Debian packages without root: apt downloads and verifies them, and installs nothing.

`build` builds a folder in `.venv/platforms/` once, from packages that `apt` downloads. apt gets its own lists and state
there, so that the packages of the machine do not change.
"""

import re
import shutil
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

from environment import VENV, Unavailable, locked, run, say


class Recipe(NamedTuple):
    """How to build a folder.

    Attributes:
        progress: the message printed before the build.
        fetch: downloads packages into the given folder.
        script: a script for sh; `$1` is the folder with the downloads, `$2` the folder to fill.
    """

    progress: str
    fetch: Callable[[Path], None]
    script: str


def build(name: str, recipe: Recipe) -> Path:
    """Return the folder of a recipe. Build it if it is missing or the script has changed.

    Raises:
        Unavailable: the folder cannot be built on this machine.
    """
    folder = VENV / "platforms" / name
    with locked(name):
        if not is_built(name, recipe):
            if not shutil.which("apt-get"):
                raise Unavailable("apt-get is missing: this needs Debian or Ubuntu")
            say(recipe.progress)
            _build(recipe, folder)
    return folder


def is_built(name: str, recipe: Recipe) -> bool:
    """Return True if `build(name, recipe)` has nothing to do."""
    stamp = VENV / "platforms" / name / "made-from"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == recipe.script


def _build(recipe: Recipe, folder: Path) -> None:
    draft = folder.with_suffix(".part")
    shutil.rmtree(draft, ignore_errors=True)
    result = draft / "result"
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
    """Set up apt in `folder` with the package sources of the machine.

    Args:
        folder: apt changes nothing outside of this folder.
        kind: the kind of packages, `deb` or `deb-src`.
        architecture: the architecture of the packages; by default that of the machine.
        suite: a suite of Debian; by default the suites of the machine.

    Returns:
        The first words of an apt-get command.
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
    # Avoid security updates: mirrors do not always have all of them, and only this machine uses these packages.
    (folder / "preferences").write_text("Package: *\nPin: release a=*-security\nPin-Priority: 100\n", encoding="utf-8")
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state" / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "sources",
        "Dir::Etc::preferences": folder / "preferences",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # apt's own user may have no access to `folder`
        **({"APT::Architecture": architecture, "APT::Architectures": architecture} if architecture else {}),
    }
    # Skip the hooks that the machine runs after an update: they are for its own lists.
    lines = ["#clear APT::Update;", *(f'{name} "{value}";' for name, value in options.items())]
    (folder / "apt.conf").write_text("\n".join(lines), encoding="utf-8")
    command = ["apt-get", "-qq", "-c", str(folder / "apt.conf")]
    try:
        run([*command, "update", "--error-on=any"])
    except Unavailable as error:  # the failing source may not be needed
        say(f"apt-get update: {error}")
    return command


def debian_only(source: str, suite: str) -> str:
    """Reduce a file of apt sources to Debian's main archive, with `suite` instead of its suites.

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
