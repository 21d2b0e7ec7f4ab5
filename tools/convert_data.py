"""Writes train.csv, val.csv and test.csv for raw public data, and checks data before a training does."""

import sys

from dust.cli.convert_data import main

if __name__ == "__main__":
    sys.exit(main())
