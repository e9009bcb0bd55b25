"""Start a command in a restricted environment."""

from __future__ import annotations

from typing import List

# Makes everything read-only, in a mount namespace, and checks that. Coverage is disabled: it could not write its data.
READ_ONLY = """
unset COVERAGE_PROCESS_CONFIG
for place in $(cut -d' ' -f2 /proc/self/mounts); do mount -o remount,bind,ro "$place" 2> /dev/null; done
! touch here 2> /dev/null"""

WITHOUT_SSL = """
import sys

class RefuseSSL:
    def find_spec(self, name, path=None, target=None):
        if name in ("ssl", "_ssl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, RefuseSSL())
from flynn.cli import main
sys.exit(main())
"""


def after(script: str) -> List[str]:
    """Return the words to put before a command that is to run after a shell script."""
    return ["sh", "-c", f'{script} && exec "$@"', "sh"]
