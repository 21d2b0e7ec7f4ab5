"""A sharded checkpoint as one file, or one file as a sharded checkpoint:

    dust convert-checkpoint runs/x/checkpoints/checkpoint_epoch_00010.dcp checkpoint.pyth
    dust convert-checkpoint checkpoint.pyth checkpoint_epoch_00010.dcp

Both hold the same dictionary, and either resumes on any number of processes. One process does it, in the CPU's memory.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dust.utils.checkpoint import is_sharded, load_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError, DustError


def convert(source: Path, target: Path) -> None:
    """Write ``source`` as what the name of ``target`` says: a folder .dcp, or a file."""
    if target.exists():
        raise CheckpointError(f"{target} is there already: name another, or remove it")
    state = load_checkpoint(source)
    if is_sharded(target):
        from dust.utils.checkpoint import save_sharded

        save_sharded(target, state)
    else:
        save_checkpoint(target, state)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint: a .pyth file or a .dcp folder")
    parser.add_argument("target", type=Path, help="what to write; .dcp for a folder, anything else for a file")
    args = parser.parse_args(argv)
    try:
        convert(args.source, args.target)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.target)
    return 0
