"""``python -m gguflike``."""

import sys

from gguflike.cli import main

if __name__ == "__main__":
    sys.exit(main())
