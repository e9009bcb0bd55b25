"""What a package brings with it: how many packages and how many bytes lie installed, bytecode included.

    python -m bench.sizes NAME...     # prints a line of JSON: versions, packages, bytes

Counted as pip wrote it down, for the packages named and all that they require, in the environment of the Python that
runs this. It is what `pip install --target` of them leaves in an empty folder.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Iterable, List, Sequence, Set, Tuple

Wanted = Tuple[str, str]  # a package, and an extra of it or ""


def main(*names: str) -> None:
    packages = {normal(package) for package, _ in required(names)}
    counted = sum(installed(distribution(package)) for package in packages)
    versions = {name: distribution(name).version for name in names}
    print(json.dumps({"versions": versions, "packages": len(packages), "bytes": counted}))


def required(names: Sequence[str]) -> Set[Wanted]:
    """The packages themselves and what they require here, and what these require, and so on."""
    found: Set[Wanted] = set()
    left: List[Wanted] = [(name, "") for name in names]
    while left:
        package = left.pop()
        if package not in found:
            found.add(package)
            left += requirements(*package)
    return found


def requirements(name: str, extra: str) -> Iterable[Wanted]:
    required = distribution(name).requires
    if not required:
        return
    from packaging.requirements import Requirement  # only where something is required, and then it is there

    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name, ""
            for more in requirement.extras:
                yield requirement.name, more


def installed(package: Distribution) -> int:
    paths = {Path(str(path.locate())) for path in package.files or []}
    return sum(path.stat().st_size for path in paths if path.exists())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(*sys.argv[1:])
