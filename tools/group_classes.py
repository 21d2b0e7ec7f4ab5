"""Groups of classes for TSTL: a class_grouping.json from what a model confuses, or from the classes' names."""

import sys

from dust.cli.group_classes import main

if __name__ == "__main__":
    sys.exit(main())
