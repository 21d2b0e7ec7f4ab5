"""What travels between a sampler, a dataset and the engine besides samples."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from dust.datasets.manifest.clips import classes_of
from dust.datasets.manifest.votes import Votes, shares_of


class SampleRequest(NamedTuple):
    """What a sampler asks a training dataset for: sample number ``sample`` as it looks in ``epoch``. One that comes
    again within an epoch has ``epoch + n * AGAIN`` there, and so random draws of its own."""

    epoch: int
    sample: int


#: More epochs than any training has.
AGAIN = 1 << 32


class BadClip(NamedTuple):
    """Stands in a sample's place when its clip cannot be read whole."""

    id: str
    path: str
    reason: str


def class_counts(clips: Iterable[Any], num_classes: int) -> list[int]:
    """Return how many of the clips have each label."""
    counts = [0] * num_classes
    for clip in clips:
        for label in classes_of(clip.label):
            counts[label] += 1
    return counts


def unlearnt_classes(names: Sequence[str], trained: Sequence[int], other: Sequence[int], split: str) -> list[str]:
    """Return a sentence, or none, on the classes that have clips in another split and none in training: they cannot be
    learnt.

    Args:
        names: of the classes.
        trained, other: clips of every class in training, and in ``split``.
    """
    missing = [name for name, here, there in zip(names, trained, other, strict=False) if there and not here]
    if not missing or len(trained) != len(other):
        return []
    listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
    return [f"{len(missing)} of {len(names)} classes have clips in the {split} split and none in training: {listed}"]


def counted_from_one(names: Sequence[str], trained: Sequence[int]) -> list[str]:
    """Return a sentence, or none, on numbered classes of which the first alone has no clip in training.

    Args:
        names: of the classes.
        trained: clips of every class in training.
    """
    numbers = [str(number) for number in range(len(names))]
    if list(names) != numbers or len(names) < 2 or trained[0] or not all(trained[1:]):
        return []
    return ["class 0 has no training clip, and all others have: if the labels count from 1, subtract 1 from each"]


def target_of(label: Any, num_classes: int, multi_label: bool, votes: Votes | None = None) -> Any:
    """Return a clip's label as a sample has it: as it is, with ``multi_label`` (num_classes,) zeros and ones, and where
    ``votes`` of several people are given, (num_classes,) the share of each class."""
    if votes:
        return shares_of(votes, num_classes)
    if label is None or not multi_label:
        return label
    target = torch.zeros(num_classes)
    target[list(label) if isinstance(label, tuple) else label] = 1.0
    return target
