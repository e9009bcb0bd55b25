#!/usr/bin/env python3
"""Run llama-server as a systemd user service. `make install-service` runs this script; see `--help`.

python3 scripts/install_service.py              # install
python3 scripts/install_service.py uninstall    # remove the service
python3 scripts/install_service.py status
python3 scripts/install_service.py logs
"""

import sys
from pathlib import Path

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("the installer needs Python 3.9 or later, this is Python " + sys.version.split()[0])

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from installer.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
