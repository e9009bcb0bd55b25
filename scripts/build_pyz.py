"""Build Flynn as one executable file, which is both command and library, with the standard module zipapp.

    python3 scripts/build_pyz.py [FILE]      # default: dist/flynn.pyz

The build is reproducible with the same Python and zlib: all files get the time $SOURCE_DATE_EPOCH, by default 1980
(https://reproducible-builds.org/specs/source-date-epoch/). The file contains no bytecode, which fits only one Python.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipapp
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
EARLIEST = 315576000  # seconds; 1980-01-01 12:00 UTC: a zip file cannot have a date before 1980, in any time zone


def build(path: Path) -> None:
    """Write the file. An existing file is replaced only when the new one is complete."""
    date = max(EARLIEST, int(os.environ.get("SOURCE_DATE_EPOCH") or 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        shutil.copytree(ROOT / "flynn", staged / "flynn", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "flynn" / "__main__.py", staged)
        shutil.copy(ROOT / "LICENSE", staged)
        for file in staged.rglob("*"):
            os.utime(file, (date, date))
        zipapp.create_archive(staged, draft, interpreter="/usr/bin/env python3", compressed=True)
    draft.replace(path)


def main(arguments: List[str]) -> None:
    path = Path(arguments[0]) if arguments else ROOT / "dist" / "flynn.pyz"
    try:
        build(path)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
