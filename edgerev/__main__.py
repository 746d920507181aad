"""`python -m edgerev`."""

import sys

from edgerev.cli import main

if __name__ == "__main__":
    sys.exit(main())
