"""Train and test on a Slurm cluster: ``python tools/submit.py --cfg configs/X.yaml --partition gpu --num_shards 2``."""

import sys

from dust.cli.submit import main

if __name__ == "__main__":
    sys.exit(main())
