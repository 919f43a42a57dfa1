"""``python -m mcnn`` is the command line."""

import sys

from mcnn.ledger.cli import main

if __name__ == "__main__":
    sys.exit(main())
