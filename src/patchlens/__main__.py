"""`python -m patchlens` is the command line."""

import sys

from patchlens.cli import main

if __name__ == "__main__":
    sys.exit(main())
