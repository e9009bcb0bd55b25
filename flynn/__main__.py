"""`python -m flynn`."""

import sys

from flynn.cli import main

sys.exit(main())
