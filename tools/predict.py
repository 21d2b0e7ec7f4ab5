"""Asks a trained model about new clips."""

import sys

from dust.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
