"""Convert a sharded checkpoint to one file, or one file to a sharded checkpoint.

dust convert-checkpoint runs/x/checkpoints/checkpoint_epoch_00010.dcp checkpoint.pyth
dust convert-checkpoint checkpoint.pyth checkpoint_epoch_00010.dcp

Both hold the same dictionary, and either resumes on any number of processes. One process does it, in the CPU's memory.
"""

import argparse
from pathlib import Path

from dust.cli.command import command
from dust.utils.errors import CheckpointError


def convert(source: Path, target: Path) -> None:
    """Write ``source`` as what the name of ``target`` says: a folder .dcp, or a file."""
    from dust.utils.checkpoint import is_sharded, load_checkpoint, save_checkpoint, save_sharded

    if target.exists():
        raise CheckpointError(f"{target} is there already: name another, or remove it")
    state = load_checkpoint(source)
    if "files" in state:  # what the data folder's files are called since a folder has a list of that name
        state["carried"] = state.pop("files")
    if is_sharded(target):
        save_sharded(target, state)
    else:
        save_checkpoint(target, state)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a checkpoint: a .pyth file or a .dcp folder")
    parser.add_argument(
        "target", type=Path, metavar="TARGET", help="what to write; .dcp for a folder, anything else for a file"
    )


def run(args: argparse.Namespace) -> None:
    convert(args.source, args.target)
    print(args.target)


main = command("convert-checkpoint", __doc__, add_arguments, run)
