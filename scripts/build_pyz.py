"""Flynn as one executable file, library and command: dist/flynn.pyz.

    python3 scripts/build_pyz.py [FILE]

Reproducible byte for byte: what is in it follows from the sources alone, and from $SOURCE_DATE_EPOCH if that is set
(https://reproducible-builds.org/specs/source-date-epoch/). The modules are in it as one compressed text, see
`pyz_importer.py`, and without what only people and type checkers read; each line keeps its number, so that tracebacks
tell the truth. Whole and each for itself they would take twice the size. There is no bytecode: that suits one version
of Python only.
"""

from __future__ import annotations

import ast
import io
import os
import sys
import time
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
_EARLIEST = 315532800  # 1980-01-01, where the dates of zip files begin


def build(path: Path) -> None:
    """Make the file, in the place of one that is there."""
    files = {
        "__main__.py": (ROOT / "flynn" / "__main__.py").read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        "flynn/__init__.py": b"from . import _importer\n",
        "flynn/_importer.py": lean(ROOT / "scripts" / "pyz_importer.py").encode(),
        "flynn/sources": zlib.compress(sources().encode(), 9),
    }
    date = time.gmtime(_seconds(os.environ.get("SOURCE_DATE_EPOCH")))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as target:
        target.write(SHEBANG)
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, date[:6])
                entry.create_system = 3  # Unix, wherever it is made
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, content)
    draft.chmod(0o755)
    draft.replace(path)


def sources() -> str:
    """All modules of Flynn in one text, as `pyz_importer.py` reads it."""
    files = sorted((ROOT / "flynn").rglob("*.py"))
    return "\0".join(text for file in files for text in (file.relative_to(ROOT).as_posix(), lean(file)))


def lean(path: Path) -> str:
    """A source without docstrings, comments and what only type checkers read, each line where it was."""
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column].rstrip()
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None and first.end_lineno:
                below = [""] * (first.end_lineno - first.lineno)
                lines[first.lineno - 1 : first.end_lineno] = [" " * first.col_offset + "''", *below]
    for node in module.body:
        if (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "TYPE_CHECKING"
            and not node.orelse
            and node.end_lineno
        ):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno + 1 - node.lineno)
    return "\n".join(lines)


def _seconds(text: Optional[str]) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"SOURCE_DATE_EPOCH is a number of seconds, not {text!r}")
    return max(_EARLIEST, int(text or 0))


def main(arguments: List[str]) -> None:
    """Build, and say what came of it."""
    path = Path(arguments[0]) if arguments else ROOT / "dist" / "flynn.pyz"
    try:
        build(path)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
