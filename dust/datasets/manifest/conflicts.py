"""What contradicts itself in the lists of a data set: clips in two splits, one clip under two labels, clips twice.

One rule for every kind of data. A clip (or a group: a person, a recording) of training that is in another split too is
a leak, an error; that val and test share clips is usual in published splits, a warning.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.datasets.manifest.clips import Clip, Clips
from dust.datasets.protocol import HasGroup, HasLabel, HasSources
from dust.decode.segment import Segment
from dust.utils.errors import SHOWN
from dust.utils.text import counted

ERROR, WARNING = "error", "warning"
LEAK, GROUP_LEAK, SHARED, LABELS, DUPLICATE = "leak", "group", "shared", "labels", "duplicate"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a list.

    Attributes:
        label: anything that can be compared; None for no label.
        group: "" for none.
        sources: (file, part of it that is meant, "" for all) of everything that the sample is made of; see
            :class:`dust.datasets.protocol.HasSources`.
    """

    id: str
    label: Any
    group: str
    sources: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Conflict:
    """One kind of contradiction.

    Attributes:
        level: error | warning.
        kind: leak | group | shared | labels | duplicate.
        one, several: how the sentence continues behind the number of cases.
        cases: for each, (split, sample) of all that are in it; those of train first.
    """

    level: str
    kind: str
    one: str
    several: str
    cases: list[list[tuple[str, Sample]]]

    def summary(self) -> str:
        """Return the contradiction in a line, with the first few ids."""
        ids = [" = ".join(dict.fromkeys(f"{sample.id} ({split})" for split, sample in case[:4])) for case in self.cases]
        more = ", ..." if len(ids) > SHOWN else ""
        return f"{counted(len(self.cases), self.one, self.several)}: {', '.join(ids[:SHOWN])}{more}"


def samples_of(clips: Iterable[Any]) -> list[Sample]:
    """Return the clips of any dataset (``dataset.clips``) as samples."""
    found: list[Sample] = []
    labelled = grouped = made = None
    for clip in clips:
        if labelled is None:  # all clips of a list are of one class
            labelled, grouped, made = (
                isinstance(clip, HasLabel),
                isinstance(clip, HasGroup),
                isinstance(clip, HasSources),
            )
        sources = tuple(clip.sources) if made else ((str(clip.path), ""),)
        found.append(Sample(clip.id, _plain(clip.label) if labelled else None, clip.group if grouped else "", sources))
    return found


def _plain(label: Any) -> Any:
    """Return a label that can be compared and stored; None for one of another kind (an array, a dictionary)."""
    if isinstance(label, np.generic):
        return label.item()
    if isinstance(label, (list, tuple)):
        return tuple(map(_plain, label))
    return label if isinstance(label, (int, str, float)) else None


def suspects(splits: Mapping[str, Clips]) -> dict[str, list[Clip]]:
    """Return those of very many clips that :func:`find_conflicts` can have anything to say of; it says the same of them
    alone.

    A clip that has its file, or its part of it, and its group to itself is in no conflict. Files are told apart by 64
    bits of a hash: where two meet, a clip too many is looked at.
    """
    lists = [(number, one) for number, split in enumerate(splits) for one in splits[split].lists]
    owners = np.repeat(np.array([number for number, _ in lists], np.int32), [len(one) for _, one in lists])
    files = np.fromiter((hash(absolute(path)) for _, one in lists for path in one.paths()), np.int64, len(owners))
    doubtful = _met(files, owners)
    parts = (hash(segment.part) if segment else 0 for _, one in lists for segment in one.segments())
    segmented = any(one.has_segments for _, one in lists)
    whole = files ^ np.fromiter(parts, np.int64, len(owners)) if segmented else files
    doubtful |= _met(whole, np.arange(len(owners), dtype=np.int32))
    names = {number: set[str]() for number in range(len(splits))}
    for number, one in lists:
        names[number].update(one.groups[code] for code in np.unique(one.group_codes()).tolist() if code >= 0)
    train = list(splits).index("train") if "train" in splits else -1
    shared = names.get(train, set()) & set().union(*(own for number, own in names.items() if number != train))
    found: dict[str, list[Clip]] = {split: [] for split in splits}
    first = 0
    for number, one in lists:
        mine = doubtful[first : first + len(one)]
        if shared:
            mine |= np.isin(one.group_codes(), [code for code, name in enumerate(one.groups) if name in shared])
        found[list(splits)[number]] += one.take(np.flatnonzero(mine))
        first += len(one)
    return found


def absolute(path: str) -> str:
    """Return ``os.path.abspath``, at once for a path that is so already."""
    plain = path.startswith("/") and "//" not in path and "/." not in path and not path.endswith("/")
    return path if plain else os.path.abspath(path)


def _met(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return (N,) whether what has the same value has another owner, too."""
    if not len(values):
        return np.zeros(0, bool)
    order = np.argsort(values, kind="stable")
    ordered, owned = values[order], owners[order]
    begins = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    several = np.minimum.reduceat(owned, begins) != np.maximum.reduceat(owned, begins)
    met = np.empty(len(values), bool)
    met[order] = np.repeat(several, np.diff(np.append(begins, len(values))))
    return met


def find_conflicts(splits: Mapping[str, Sequence[Sample]], same: Mapping[str, str] | None = None) -> list[Conflict]:
    """Return everything that contradicts itself in these lists.

    Args:
        splits: train, val, test, as far as they are there.
        same: file -> the file that stands for all with its content; without it, files differ by their names alone.
    """
    same = same or {}
    of_file: dict[str, list[tuple[str, Sample, Segment]]] = defaultdict(list)
    of_whole: dict[tuple[tuple[str, str], ...], list[tuple[str, Sample]]] = defaultdict(list)
    of_group: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    for split in sorted(splits, key=lambda name: name != "train"):
        for sample in splits[split]:
            sources = tuple((same.get(file, file), part) for file, part in sample.sources)
            for file, part in dict.fromkeys(sources):
                of_file[file].append((split, sample, Segment.of_part(part) or Segment()))
            of_whole[sources].append((split, sample))
            if sample.group:
                of_group[sample.group].append((split, sample))
    how = "the same content" if same else "the same file"
    leaks, shared = _several_splits(case for entries in of_file.values() for case in _overlapping(entries))
    labels = [case for case in of_whole.values() if _labels_differ(case)]
    too, both = "in another split too", f"in val and in test ({how}), as in data sets without a list for each"
    again = f"in one split more than once ({how})"
    groups_too, repeated = _several_splits(of_group.values())[0], _repeated(of_whole.values())
    found = [
        Conflict(ERROR, LEAK, f"clip of train is {too} ({how})", f"clips of train are {too} ({how})", leaks),
        Conflict(ERROR, GROUP_LEAK, f"group of train is {too}", f"groups of train are {too}", groups_too),
        Conflict(ERROR, LABELS, f"clip has several labels ({how})", f"clips have several labels ({how})", labels),
        Conflict(WARNING, SHARED, f"clip is {both}", f"clips are {both}", shared),
        Conflict(WARNING, DUPLICATE, f"clip stands {again}", f"clips stand {again}", repeated),
    ]
    return [conflict for conflict in found if conflict.cases]


def shared_ids(samples: Iterable[Sample], others: Iterable[Sample]) -> list[str]:
    """Return the ids of ``samples`` that have some moment of a file in common with one of ``others``."""
    known: dict[str, list[Segment]] = defaultdict(list)
    for sample in others:
        for file, part in sample.sources:
            known[file].append(Segment.of_part(part) or Segment())
    return [
        sample.id
        for sample in samples
        if any(
            (Segment.of_part(part) or Segment()).overlaps(segment)
            for file, part in sample.sources
            for segment in known.get(file, ())
        )
    ]


Cases = Iterable[list[tuple[str, Sample]]]


def _overlapping(entries: list[tuple[str, Sample, Segment]]) -> Iterator[list[tuple[str, Sample]]]:
    """Yield the samples of one file that have a moment of it in common: all, where all are of the whole file; else for
    each sample that overlaps with some of other splits a case of it and these."""
    if all(segment == Segment() for _, _, segment in entries):
        yield [(split, sample) for split, sample, _ in entries]
        return
    if len({split for split, _, _ in entries}) < 2:
        return
    met: dict[int, list[int]] = defaultdict(list)
    running: list[int] = []
    for number in sorted(range(len(entries)), key=lambda one: entries[one][2].start):
        split, _, segment = entries[number]
        running = [one for one in running if _is_running(entries[one][2], segment)]
        for one in running:
            if entries[one][0] != split and entries[one][2].overlaps(segment):
                met[min(one, number)].append(max(one, number))
        running.append(number)
    for number in sorted(met):
        split, sample, _ = entries[number]
        yield [(split, sample), *(entries[other][:2] for other in sorted(met[number]))]


def _is_running(before: Segment, segment: Segment) -> bool:
    return before.end is None or before.end > segment.start


def _several_splits(cases: Cases) -> tuple[list[list[tuple[str, Sample]]], list[list[tuple[str, Sample]]]]:
    """Return those in train and another split, and those in val and test alone; each sample's case once."""
    leaks: list[list[tuple[str, Sample]]] = []
    shared: list[list[tuple[str, Sample]]] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for case in cases:
        owners = {split for split, _ in case}
        key = tuple((split, sample.id) for split, sample in case)
        if len(owners) > 1 and key not in seen:
            seen.add(key)
            (leaks if "train" in owners else shared).append(case)
    return leaks, shared


def _labels_differ(case: list[tuple[str, Sample]]) -> bool:
    return len({sample.label for _, sample in case if sample.label is not None}) > 1


def _repeated(cases: Cases) -> list[list[tuple[str, Sample]]]:
    found = []
    for case in cases:
        for split in dict.fromkeys(split for split, _ in case):
            own = [(split, sample) for name, sample in case if name == split]
            if len(own) > 1 and not _labels_differ(own):
                found.append(own)
    return found
