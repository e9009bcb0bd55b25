"""Measure the installed size of a package with its dependencies: number of packages, bytes including bytecode.

    python -m bench.sizes NAME...     # prints a line of JSON: versions, packages, bytes

Adds up the files that pip recorded for the packages and all their dependencies, in the environment of the running
Python. The result equals an empty folder after `pip install --target` of the packages.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Iterable, List, Sequence, Set, Tuple

Requirement = Tuple[str, str]  # a package, and one of its extras or ""


def main(*names: str) -> None:
    packages = {normal(package) for package, _ in required(names)}
    size = sum(installed(distribution(package)) for package in packages)
    versions = {name: distribution(name).version for name in names}
    print(json.dumps({"versions": versions, "packages": len(packages), "bytes": size}))


def required(names: Sequence[str]) -> Set[Requirement]:
    """Return the packages and all their direct and indirect dependencies in this environment."""
    visited: Set[Requirement] = set()
    queue: List[Requirement] = [(name, "") for name in names]
    while queue:
        package = queue.pop()
        if package not in visited:
            visited.add(package)
            queue += requirements(*package)
    return visited


def requirements(name: str, extra: str) -> Iterable[Requirement]:
    """Yield the direct dependencies of a package with an extra."""
    required = distribution(name).requires
    if not required:
        return
    from packaging import requirements as parser  # installed wherever a package has dependencies

    for requirement in map(parser.Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name, ""
            for name_of_extra in requirement.extras:
                yield requirement.name, name_of_extra


def installed(package: Distribution) -> int:
    """Return the bytes of the installed files of a package."""
    paths = {Path(str(path.locate())) for path in package.files or []}
    return sum(path.stat().st_size for path in paths if path.exists())


def normal(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(*sys.argv[1:])
