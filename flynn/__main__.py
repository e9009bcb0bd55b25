"""`python -m flynn`, and what flynn.pyz runs."""

import sys

# Up to here this file suits any Python, so that an old one can say this much.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit("Flynn needs Python 3.9 or later, and this is " + sys.version.split()[0])

from flynn.cli import main

sys.exit(main())
