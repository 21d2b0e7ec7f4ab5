"""Train and test on a Slurm cluster: ``dust submit --cfg configs/X.yaml --partition gpu --num_shards 2``."""

import sys
from collections.abc import Sequence

from dust.engine.submit import parser, read, submit
from dust.utils.errors import DustError


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        parser().print_usage(sys.stderr)
        return 2
    try:
        for line in submit(read(words)):
            print(line)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
