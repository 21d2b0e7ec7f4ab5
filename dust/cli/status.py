"""Show what the runs of a folder are doing: state, epoch, best figure, last sign of life.

dust status runs/

A run is looked at from its files alone, so it may be on any machine that shares the folder. `lost` means that it holds
its folder, but has written nothing for ten minutes, or that its process on this machine is gone.
"""

import argparse
from pathlib import Path

from dust.cli.command import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="DIR", help="a run, or a folder of runs (runs)")


def run(args: argparse.Namespace) -> None:
    from dust.analysis.status import find_runs, table_of
    from dust.utils.errors import DataError

    root = Path(args.folder)
    runs = find_runs(root)
    if not runs:
        raise DataError(
            f"{root}: no run here: a run has a config.yaml and a stdout.log or checkpoints/ once its data is read"
        )
    print(table_of(runs, root))


main = command("status", __doc__, add_arguments, run)
