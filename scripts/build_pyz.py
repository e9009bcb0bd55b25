"""Build Flynn as one executable file, command and library, with the standard module zipapp.

    python3 scripts/build_pyz.py [FILE]      # default: dist/flynn.pyz

The same Python and zlib build the same bytes again: files are dated $SOURCE_DATE_EPOCH, or 1980 without it
(https://reproducible-builds.org/specs/source-date-epoch/). There is no bytecode in it: bytecode suits one Python only.
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
EARLIEST = 315576000  # seconds; 1980-01-01 12:00 UTC: a zip file holds no date before 1980 in any time zone


def build(path: Path) -> None:
    """Write the file, replacing an older one only once the new one is complete."""
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
