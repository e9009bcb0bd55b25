#!/usr/bin/env python3
"""Makes llama-server a service of this user, from nothing: `make install-service` runs this. See `--help`.

python3 scripts/install_service.py              # install
python3 scripts/install_service.py uninstall    # undo it
python3 scripts/install_service.py status
python3 scripts/install_service.py logs
"""

import sys
from pathlib import Path

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("this needs Python 3.9 or later, and is run by " + sys.version.split()[0])

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from installer.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
