"""Weights by name: ``python tools/zoo.py {list,download,verify,convert,table}``. See MODEL_ZOO.md."""

import sys

from dust.cli.zoo import main

if __name__ == "__main__":
    sys.exit(main())
