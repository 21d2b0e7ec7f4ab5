"""Lists cut into parts: training, validation and test by shares, or folds. What belongs together stays together."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.convert.fixes import write_lists
from dust.convert.lists import Lists
from dust.datasets.manifest.conflicts import samples_of
from dust.utils.errors import DataError


def assign(
    groups: Sequence[Hashable], classes: Sequence[Hashable], shares: Sequence[float], *, seed: int = 0
) -> np.ndarray:
    """Assign N samples to parts, group by group, so that every part comes near its share of every class and of all.

    The largest groups choose first: each goes where the squared distance from the wanted counts, relative to the size
    of the class, falls most. Groups of one size are drawn in random order.

    Args:
        groups: what each sample belongs to.
        classes: what each sample is counted as; all the same to heed numbers alone.
        shares: of each part, above 0; they are divided by their sum.

    Returns:
        (N,) numbers of parts. None of them is empty.

    Raises:
        DataError: there are fewer groups than parts.
    """
    parts = len(shares)
    _, group_of, sizes = np.unique(_numbered(groups), return_inverse=True, return_counts=True)
    if len(sizes) < parts:
        raise DataError(
            f"{len(groups)} samples in {len(sizes)} groups cannot make {parts} parts: what belongs together (the "
            "column group, else the file) stays in one part"
        )
    class_of = _numbered(classes)
    counts = np.zeros((len(sizes), class_of.max() + 1))
    np.add.at(counts, (group_of, class_of), 1)
    counts = np.column_stack([counts, sizes])
    wanted = np.outer(np.asarray(shares, float) / np.sum(shares), counts.sum(axis=0))
    weight = 1 / counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    have, chosen = np.zeros_like(wanted), np.empty(len(sizes), int)
    for done, group in enumerate(order):
        after = ((have + counts[group] - wanted) ** 2 - (have - wanted) ** 2) @ weight
        empty = have.sum(axis=1) == 0
        if empty.sum() == len(order) - done:  # no more groups than parts that have none
            after[~empty] = np.inf
        chosen[group] = int(after.argmin())
        have[chosen[group]] += counts[group]
    return chosen[group_of]


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


def cut(lists: Lists, clips: Sequence[Any], shares: Sequence[float], *, stratify: bool = True, seed: int = 0):
    """Cut clips of a list into parts, see :func:`assign`; returns (N,) numbers of parts.

    A clip's group is the one that the list names, else its first file. Clips with several labels, or none, are not
    stratified.
    """
    samples = samples_of(clips)
    groups = [one.group or one.sources[0][0] for one in samples]
    labels = [one.label if isinstance(one.label, int) else None for one in samples]
    if lists.kind == "epic":  # verb and noun: the verb
        labels = [one.label[0] if isinstance(one.label, tuple) else None for one in samples]
    return assign(groups, labels if stratify else [None] * len(samples), shares, seed=seed)


def write_split(
    lists: Lists, out: str | Path, shares: Mapping[str, float], *, stratify: bool = False, seed: int = 0,
    force: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Write train.csv, val.csv and test.csv of all clips of ``lists``, of whatever split; returns how many each has.

    Args:
        shares: split -> share.
    """
    clips = list({clip.id: clip for split in lists.clips.values() for clip in split}.values())
    if sum(map(len, lists.clips.values())) > len(clips):
        raise DataError(
            "some ids stand twice in the lists, or in several splits: `dust check` names them, and its --fix writes "
            "lists without them"
        )
    bare = sum(sample.label is None for sample in samples_of(clips)) if lists.kind != "keystep" else 0
    if 0 < bare < len(clips):
        raise DataError(f"{bare} of {len(clips)} clips have no label: cut the list of those that have one alone")
    parts = cut(lists, clips, list(shares.values()), stratify=stratify, seed=seed)
    kept = {
        split: [(clip, lists.words(clip)) for clip, part in zip(clips, parts, strict=True) if part == number]
        for number, split in enumerate(shares)
    }
    write_lists(out, lists, kept, force=force)
    return {split: len(rows) for split, rows in kept.items()}


def write_folds(lists: Lists, out: str | Path, folds: int, *, seed: int = 0) -> list[Path]:
    """Write ``out/fold_1`` to ``out/fold_N``: the training list without a part of it, which is the test list there.

    Every clip of the training list is tested once, by a model that has seen neither it nor others of its group. The
    validation list stays as it is; the test list is left aside.

    Raises:
        DataError: no training list, fewer than two folds, or fewer groups than folds.
    """
    if folds < 2:
        raise DataError(f"{folds} folds: it takes at least 2")
    clips = lists.clips.get("train", [])
    if not clips:
        raise DataError("there is no train list to be cut into folds")
    parts = cut(lists, clips, [1.0] * folds, seed=seed)
    rows = [(clip, lists.words(clip)) for clip in clips]
    rest = {"val": [(clip, lists.words(clip)) for clip in lists.clips["val"]]} if "val" in lists.clips else {}
    folders = []
    for number in range(folds):
        kept = {
            "train": [row for row, part in zip(rows, parts, strict=True) if part != number],
            **rest,
            "test": [row for row, part in zip(rows, parts, strict=True) if part == number],
        }
        folders.append(Path(out) / f"fold_{number + 1}")
        write_lists(folders[-1], lists, kept, force=True)
    return folders
