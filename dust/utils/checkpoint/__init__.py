"""Checkpoints: one file or a folder of parts; reading, verifying and loading weights.

reader (what is in a file, safely) <- single (one file) <- sharded (a folder of parts) <- store (both) <- weights.
"""

from dust.utils.checkpoint.hub import is_weights_folder, weights_files
from dust.utils.checkpoint.reader import pickle_globals
from dust.utils.checkpoint.sharded import Layout, save_sharded
from dust.utils.checkpoint.single import save_checkpoint
from dust.utils.checkpoint.store import (
    checkpoint_name,
    file_sha256,
    find_latest,
    is_checkpoint_name,
    is_sharded,
    learnt_of,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    remove_leftovers,
    verify_checkpoint,
)
from dust.utils.checkpoint.weights import (
    AdaptsStateDict,
    HasFreshParts,
    LoadReport,
    StatesConstants,
    load_weights,
)

__all__ = [
    "AdaptsStateDict",
    "HasFreshParts",
    "Layout",
    "LoadReport",
    "StatesConstants",
    "checkpoint_name",
    "file_sha256",
    "find_latest",
    "is_checkpoint_name",
    "is_sharded",
    "is_weights_folder",
    "learnt_of",
    "list_checkpoints",
    "load_checkpoint",
    "load_weights",
    "pickle_globals",
    "read_checkpoint",
    "remove_checkpoint",
    "remove_leftovers",
    "save_checkpoint",
    "save_sharded",
    "verify_checkpoint",
    "weights_files",
]
