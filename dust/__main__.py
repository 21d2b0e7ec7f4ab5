"""``python -m dust`` is ``dust``."""

import sys

from dust.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
