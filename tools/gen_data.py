"""Generates data with a known answer."""

import sys

from dust.cli.gen_data import main

if __name__ == "__main__":
    sys.exit(main())
