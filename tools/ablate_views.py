"""Tests a trained point track model with every subset of its cameras."""

import sys

from dust.cli.ablate_views import main

if __name__ == "__main__":
    sys.exit(main())
