"""``python -m dust`` is ``dust``."""

import sys

from dust.cli.main import main
from dust.utils.ending import end_in_moments


def run() -> int:
    """Be the command ``dust``, in a process of its own."""
    end_in_moments()
    return main()


if __name__ == "__main__":
    sys.exit(run())
