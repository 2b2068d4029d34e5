"""``python -m gguflike``."""

import sys

from gguflike.cli import script

if __name__ == "__main__":
    sys.exit(script())
