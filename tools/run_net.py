"""Train, test and extract: ``python tools/run_net.py --cfg configs/X.yaml [KEY VALUE ...]``."""

import sys

from dust.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
