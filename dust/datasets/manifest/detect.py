"""Which layout a data folder has."""

import os
from pathlib import Path

from dust.datasets.manifest import formats
from dust.datasets.manifest.annotated import READERS as ANNOTATED
from dust.datasets.manifest.frame_lists import is_frame_list
from dust.datasets.manifest.shards import is_sharded
from dust.utils.errors import DataError

FORMATS = ("auto", "csv", "folder", "ssv2", "ucf101", "hmdb51", "charades", "shards", *ANNOTATED)
SPLITS = ("train", "val", "test")


def detect_format(root: str) -> str:
    """Return the layout of a data folder. Lists (csv, json, split files) go before class folders, which they may
    describe.

    Raises:
        DataError: no layout, or more than one kind of list.
    """
    if os.path.isfile(root):
        return "charades" if is_frame_list(root) else "csv"
    if not os.path.isdir(root):
        raise DataError(f"{root} is a pipe or a device: give the data folder, or a csv file")
    if is_sharded(root):
        return "shards"
    lists = {
        "csv": [os.path.relpath(path, root) for split in SPLITS for path in csv_files(root, split)],
        "ssv2": formats.find_ssv2(root),
        "ucf101": formats.find_ucf101(root),
        "hmdb51": formats.find_hmdb51(root),
    }
    found = {name: files for name, files in lists.items() if files}
    if len(found) > 1:
        listed = "; ".join(f"{name}: {', '.join(files)}" for name, files in found.items())
        raise DataError(
            f"{root} holds lists of several formats ({listed}): set DATA.FORMAT to one of {', '.join(found)}"
        )
    if found:
        name = next(iter(found))
        return "charades" if name == "csv" and is_frame_list(os.path.join(root, found[name][0])) else name
    if formats.find_folders(root):
        return "folder"
    names = sorted(os.listdir(root))
    shown = ", ".join(names[:10]) + (f", ... ({len(names)} entries)" if len(names) > 10 else "")
    raise DataError(
        f"{root} holds no clips in a known layout. Looked for: train.csv, val.csv, test.csv (there or in metadata/); "
        "something-something-v2-*.json or train.json, validation.json (there, in labels/ or annotations/); "
        "trainlist01.txt with classInd.txt; <class>_test_split1.txt; class folders with videos, with or without "
        f"train/, val/, test/ above them. Found: {shown or 'an empty folder'}. "
        f"{Path(__file__).parents[1] / 'DATASET.md'} shows each layout"
    )


def csv_files(root: str, split: str) -> list[str]:
    """Return the csv files of a split, in the folder and in its metadata/."""
    paths = (os.path.join(root, folder, f"{split}.csv") for folder in ("", "metadata"))
    return [path for path in paths if os.path.isfile(path)]
