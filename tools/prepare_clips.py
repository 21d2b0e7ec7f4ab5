"""Re-encode a dataset once for faster loading: ``python tools/prepare_clips.py data/raw --out data/fast``."""

import sys

from dust.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main())
