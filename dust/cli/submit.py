"""Train and test on a Slurm cluster, in jobs that save before they end, and go on.

dust submit --cfg configs/X.yaml --partition gpu --num_shards 2
"""

import sys
from collections.abc import Sequence

from dust.cli.command import guarded
from dust.engine.submit import parser, read, submit


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        parser().print_usage(sys.stderr)
        return 2

    def run() -> None:
        for line in submit(read(words)):
            print(line)

    return guarded(run)
