"""Several data folders as one list of clips: DATA.PATH_TO_DATA_DIR [a, b], with classes that are merged by name."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dust.datasets.manifest.clips import ClipList, Clips, classes_of
from dust.datasets.manifest.frame_lists import FrameLabels
from dust.datasets.manifest.manifest import Manifest, available_splits, read_manifest
from dust.datasets.manifest.votes import Votes
from dust.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def one_folder(folders: str | Sequence[str], reader: str) -> str:
    """Return the data folder, for a ``reader`` that takes one. ConfigError where several are named."""
    if isinstance(folders, str):
        return folders
    raise ConfigError(
        f"DATA.PATH_TO_DATA_DIR {list(folders)}: {reader} reads one data folder, name one; VideoDataset "
        "and SSv2 read several"
    )


def read_folders(folders: str | Sequence[str], split: str, **options: Any) -> Manifest:
    """Read a split of one data folder, or of several as one.

    A class is its name: the classes of the first folder keep their numbers, new ones of the others stand behind them.
    Ids begin with the end of the folder's path by which it differs from the others, ``kitchen/0001.mp4``, and a clip's
    ``part`` is the number of its folder. A folder without a validation or test split is left out of that, with a
    warning.

    Args:
        options: of :func:`dust.datasets.manifest.manifest.read_manifest`, but ``root`` and ``split``.

    Raises:
        DataError: what is wrong with a folder; labels that are numbers, which mean nothing beside another folder's.
    """
    if isinstance(folders, str):
        return read_manifest(root=folders, split=split, **options)
    given = options.pop("class_names", None)
    count = options.pop("num_classes", None)
    having = [folder for folder in folders if split == "train" or _has(folder, split, options)]
    if not having:
        raise DataError(f"none of {', '.join(folders)} has a {split} split")
    if len(having) < len(folders):
        without = ", ".join(folder for folder in folders if folder not in having)
        logger.warning("no %s split in %s: it is made of the others", split, without)
    found = {folder: read_manifest(root=folder, split=split, **options) for folder in having}
    for folder in _numbered(found, given is not None):
        found[folder] = read_manifest(root=folder, split=split, class_names=given, **options)
    names = list(given) if given is not None else _merged(folders, found, options)
    if count is not None and len(names) != count:
        raise DataError(
            f"{', '.join(folders)}: {len(names)} classes, but MODEL.NUM_CLASSES is {count}: set MODEL.NUM_CLASSES "
            f"{len(names)}, or correct the labels ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
        )
    lists: list[ClipList] = []
    frames: dict[str, FrameLabels] = {}
    votes: dict[str, Votes] = {}
    for part, (folder, prefix) in enumerate(zip(folders, distinct_ends(folders), strict=True)):
        if folder in having:
            relabel = _relabelling(found[folder], names)
            own = Clips.of(found[folder].clips).with_labels(relabel)
            lists += [replace(one, prefix=f"{prefix}/", part=part) for one in own.lists]
            frames |= {f"{prefix}/{name}": labels for name, labels in found[folder].frames.items()}
            for name, said in found[folder].votes.items():
                votes[f"{prefix}/{name}"] = tuple(sorted((relabel(one), weight) for one, weight in said))
    if frames and any(one.class_names != names for one in found.values()):
        raise DataError(f"{', '.join(having)}: lists with labels of single frames must have the same classes")
    return Manifest(Clips(lists), names, ", ".join(having), options.get("multi_label", False), frames, votes)


def _has(folder: str, split: str, options: Mapping[str, Any]) -> bool:
    layout, number = options.get("format", "auto"), options.get("split_number", 1)
    return split in available_splits(folder, layout, number, options.get("annotations", ""))


def _numbered(found: Mapping[str, Manifest], named_elsewhere: bool) -> list[str]:
    """Return the folders whose classes have no names. DataError unless a list of classes says what their numbers
    mean."""
    numbered = [folder for folder, own in found.items() if all(name.isdigit() for name in own.class_names)]
    if numbered and not named_elsewhere:
        raise DataError(
            f"the labels of {', '.join(numbered)} are numbers, which may mean other classes in another folder: name "
            "the classes in a classes.txt beside the lists of each, or all of them in DATA.CLASS_LIST"
        )
    return numbered


def _merged(folders: Sequence[str], found: Mapping[str, Manifest], options: Mapping[str, Any]) -> list[str]:
    """Return the classes of all folders, those too of one that has a training split alone."""
    whole = dict(found)
    for folder in folders:
        if folder not in whole and _has(folder, "train", options):
            whole[folder] = read_manifest(root=folder, split="train", **{**options, "check_files": False})
    _numbered(whole, False)
    return list(dict.fromkeys(name for folder in folders if folder in whole for name in whole[folder].class_names))


def _relabelling(own: Manifest, names: Sequence[str]) -> Callable[[Any], Any]:
    """Return what turns a folder's class numbers into those of all. DataError for classes of clips that are none of
    ``names``."""
    numbers = {name: number for number, name in enumerate(names)}
    labels = [label for label in Clips.of(own.clips).used() if label is not None]
    used = {one for label in labels for one in classes_of(label)}
    used |= {one for said in own.votes.values() for one, _ in said}
    unknown = sorted(own.class_names[one] for one in used if own.class_names[one] not in numbers)
    if unknown:
        raise DataError(f"{own.source}: {', '.join(unknown[:10])}: none of the {len(names)} classes that are known")

    def relabel(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(sorted(numbers[own.class_names[one]] for one in label))
        return None if label is None else numbers[own.class_names[label]]

    return relabel


def distinct_ends(folders: Sequence[str]) -> list[str]:
    """Return for each path its last parts, as few as tell it from the others: a/x, b/x -> a/x, b/x; a/x, a/y -> x,
    y."""
    parts = [Path(os.path.abspath(os.path.expanduser(folder))).parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(one[-count:]).lstrip("/") for one in parts]
        if len(set(ends)) == len(ends):
            return ends
    raise DataError(f"DATA.PATH_TO_DATA_DIR {list(folders)}: a folder is named twice")
