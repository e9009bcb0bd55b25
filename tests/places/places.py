"""How a command gets into places where little is given."""

from __future__ import annotations

from typing import List

# A mount namespace of its own in which all is read-only. Tried out, lest the test shows nothing. The coverage of what
# runs there could not be written.
READ_ONLY = """
unset COVERAGE_PROCESS_CONFIG
for place in $(cut -d' ' -f2 /proc/self/mounts); do mount -o remount,bind,ro "$place" 2> /dev/null; done
! touch here 2> /dev/null"""

WITHOUT_SSL = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name in ("ssl", "_ssl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusal())
from flynn.cli import main
sys.exit(main())
"""


def after(script: str) -> List[str]:
    """What stands before a command that is to run where a shell script leads."""
    return ["sh", "-c", f'{script} && exec "$@"', "sh"]
