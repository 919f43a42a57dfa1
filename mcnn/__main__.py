"""``python -m mcnn`` is the command line."""

import sys

from mcnn.cli import main

sys.exit(main())
