"""The clips of a split in columns: a :class:`Clip` is made when it is asked for, and no list of ten million is kept."""

import bisect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from dust.datasets.manifest.column_file import BLOCK, Columns, Numbers, Texts
from dust.decode.remote import under
from dust.decode.segment import SECONDS, Segment
from dust.utils.errors import SampleError

_CHECKED = 1 << 20  # numbers that are looked at at once
Label = int | tuple[int, ...] | None


def classes_of(label: Label) -> tuple[int, ...]:
    """Return the classes of a label: none, one or several."""
    return label if isinstance(label, tuple) else () if label is None else (label,)


@dataclass(frozen=True, slots=True)
class Clip:
    """``id``: unique in its split. ``path``: a file, or a folder of frames. ``label``: a class index, several (sorted,
    each once) with ``multi_label``, None in a test split without labels. ``group``: what should be in one split only (a
    person, a recording), "" where the list does not say: then it is the file. ``segment``: the part of the file that is
    the clip, None for all of it. ``part``: the number of its data folder, of several."""

    id: str
    path: str
    label: Label
    group: str = ""
    segment: Segment | None = None
    part: int = 0

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The file and the part of it; see :class:`dust.datasets.protocol.HasSources`."""
        return ((self.path, "" if self.segment is None else self.segment.part),)


@dataclass(frozen=True)
class Places:
    """Where the files of a list lie.

    Attributes:
        bases: folders that paths are under.
        base: (rows,) which of them each row's is, or one number for all.
        others: row -> path of the few that lie elsewhere.
    """

    bases: Sequence[str] = ("",)
    base: np.ndarray | int = 0
    others: Mapping[int, str] = field(default_factory=dict)

    def paths(self, rows: Sequence[int], written: Sequence[str]) -> list[str]:
        """Return the paths of some rows' files."""
        base, others = self.base, self.others
        if isinstance(base, int) and not others:
            folder, begin, isabs = self.bases[base], os.path.join(self.bases[base], ""), os.path.isabs
            return [under(folder, one) if isabs(one) or "://" in one else begin + one for one in written]
        numbers = [base] * len(written) if isinstance(base, int) else base[rows].tolist()
        pairs = zip(rows, numbers, written, strict=True)
        return [others[row] if row in others else under(self.bases[number], one) for row, number, one in pairs]


@dataclass(frozen=True)
class ClipList:
    """The clips of one list.

    Attributes:
        columns: ``path``, as written; ``label``, numbers in ``labels``, -1 for none; where there are such, ``id`` (""
            where it is the path), ``group``, numbers in ``groups``, -1 for none, ``start`` and ``end`` of segments,
            NaN for none.
        labels: those that occur, and None behind them.
        groups: those that occur.
        places: of the files.
        unit: of the segments.
        rows: which are meant; None for all, in order.
        prefix: stands before every id.
        part: see :class:`Clip`.
    """

    columns: Columns
    labels: Sequence[Label]
    groups: Sequence[str] = ()
    places: Places = Places()
    unit: str = SECONDS
    rows: np.ndarray | None = None
    prefix: str = ""
    part: int = 0

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> "ClipList":
        """Return clips that are there one by one."""
        clips = list(clips)
        labels, label = coded(clip.label for clip in clips)
        columns: dict[str, Numbers | Texts] = {"path": Texts.of(clip.path for clip in clips), "label": label}
        groups: list[str] = []
        if any(clip.id != clip.path for clip in clips):
            columns["id"] = Texts.of("" if clip.id == clip.path else clip.id for clip in clips)
        if any(clip.group for clip in clips):
            groups, columns["group"] = coded(clip.group or None for clip in clips)
        segments = [clip.segment for clip in clips]
        columns |= _segment_columns(segments)
        unit = next((segment.unit for segment in segments if segment is not None), SECONDS)
        return cls(Columns(columns), [*labels, None], groups, unit=unit)

    def __len__(self) -> int:
        return len(self.columns) if self.rows is None else len(self.rows)

    def clip(self, index: int) -> Clip:
        """Return clip ``index`` of those that are meant."""
        return self._made(slice(index, index + 1))[0]

    def __iter__(self) -> Iterator[Clip]:
        for some in self._blocks():
            yield from self._made(some)

    def ids(self) -> Iterator[str]:
        """Yield the id of each, in order."""
        for some in self._blocks():
            yield from self._ids(self._texts("path", some), some)

    def paths(self) -> Iterator[str]:
        """Yield where the file of each is, in order."""
        for some in self._blocks():
            yield from self.places.paths(self._numbers(some), self._texts("path", some))

    def group_codes(self) -> np.ndarray:
        """Return (clips,) int32: which of ``groups`` each has, -1 for none."""
        everything = slice(0, len(self))
        return self._of("group", everything) if "group" in self.columns.columns else np.full(len(self), -1, np.int32)

    def take(self, indices: np.ndarray) -> "ClipList":
        """Return some of the clips, in that order."""
        rows = indices if self.rows is None else self.rows[indices]
        return replace(self, rows=rows.astype(np.int32 if len(self.columns) < 1 << 31 else np.int64))

    def codes(self) -> np.ndarray:
        """Return (clips,) int32: which of ``labels`` each has, -1 for none."""
        return self._of("label", slice(0, len(self)))

    def code_counts(self) -> np.ndarray:
        """Return (labels,) how many clips have each of ``labels``."""
        counts = np.zeros(len(self.labels) + 1, np.int64)
        for first in range(0, len(self), _CHECKED):
            counts += np.bincount(self._of("label", slice(first, first + _CHECKED)) + 1, minlength=len(counts))
        return counts[1:]

    def used(self) -> list[Label]:
        """Return the labels that occur, each once."""
        return [self.labels[code] for code in np.flatnonzero(self.code_counts()).tolist()]

    def counts(self, num_classes: int) -> np.ndarray:
        """Return (num_classes,) clips of each class."""
        counts = np.zeros(num_classes, np.int64)
        for label, number in zip(self.labels, self.code_counts().tolist(), strict=True):
            for one in classes_of(label):
                counts[one] += number
        return counts

    @property
    def has_segments(self) -> bool:
        """Whether some are parts of files."""
        return "start" in self.columns.columns

    def segments(self) -> Iterator[Segment | None]:
        """Yield the part of its file that each is."""
        for some in self._blocks():
            yield from self._segments(some)

    def with_labels(self, change: Callable[[Any], Label]) -> "ClipList":
        """Return the same with other labels; ``change`` is asked once about each that occurs."""
        pairs = zip(self.labels, self.code_counts().tolist(), strict=True)
        return replace(self, labels=[change(label) if count else None for label, count in pairs])

    def where(self, wanted: Callable[[Label], bool]) -> "ClipList":
        """Return those with a label that is wanted."""
        good = np.array([wanted(label) for label in self.labels])
        return self.take(np.flatnonzero(good[self.codes()]))

    def _blocks(self) -> Iterator[slice]:
        for first in range(0, len(self), BLOCK):
            yield slice(first, min(first + BLOCK, len(self)))

    def _numbers(self, some: slice) -> Sequence[int]:
        """Return the rows of some clips."""
        return range(some.start, some.stop) if self.rows is None else self.rows[some].tolist()

    def _of(self, name: str, some: slice) -> np.ndarray:
        """Return numbers of some clips."""
        column: Any = self.columns.columns[name]
        return column[some] if self.rows is None else column[self.rows[some]]

    def _texts(self, name: str, some: slice) -> list[str]:
        column: Any = self.columns.columns[name]
        return column[some] if self.rows is None else [column[row] for row in self.rows[some].tolist()]

    def _ids(self, written: Sequence[str], some: slice) -> list[str]:
        ids = written
        if "id" in self.columns.columns:
            pairs = zip(self._texts("id", some), written, strict=True)
            ids = [own or path for own, path in pairs]
        return [f"{self.prefix}{one}" for one in ids] if self.prefix else list(ids)

    def _segments(self, some: slice) -> Iterator[Segment | None]:
        if not self.has_segments:
            yield from [None] * (some.stop - some.start)
            return
        for start, end in zip(self._of("start", some).tolist(), self._of("end", some).tolist(), strict=True):
            yield None if start != start else Segment(start, None if end != end else end, self.unit)

    def _made(self, some: slice) -> list[Clip]:
        count = some.stop - some.start
        written, here = self._texts("path", some), self.columns.columns
        labels = [self.labels[code] for code in self._of("label", some).tolist()]
        groups = [""] * count
        if "group" in here:
            groups = ["" if code < 0 else self.groups[code] for code in self._of("group", some).tolist()]
        segments = self._segments(some)
        paths = self.places.paths(self._numbers(some), written)
        columns = (self._ids(written, some), paths, labels, groups, segments)
        return [Clip(*values, self.part) for values in zip(*columns, strict=True)]


class Clips(Sequence[Clip]):
    """The clips of a split: one list, or several one behind the other."""

    def __init__(self, lists: Sequence[ClipList]) -> None:
        self.lists = list(lists)
        self._ends = np.cumsum([len(one) for one in self.lists]).tolist()

    @classmethod
    def of(cls, clips: "Iterable[Clip]") -> "Clips":
        """Return clips in columns, whatever they come in."""
        return clips if isinstance(clips, Clips) else cls([ClipList.of(clips)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, key: int) -> Clip: ...
    @overload
    def __getitem__(self, key: slice) -> list[Clip]: ...
    def __getitem__(self, key: int | slice) -> Clip | list[Clip]:
        if isinstance(key, slice):
            return [self[index] for index in range(*key.indices(len(self)))]
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"clip {key} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self.lists[number].clip(index - (self._ends[number - 1] if number else 0))

    def __iter__(self) -> Iterator[Clip]:
        for one in self.lists:
            yield from one

    def ids(self) -> Iterator[str]:
        """Yield the id of each, in order."""
        for one in self.lists:
            yield from one.ids()

    def labels(self) -> Iterator[Label]:
        """Yield the label of each, in order."""
        for one in self.lists:
            labels = one.labels
            yield from (labels[code] for code in one.codes().tolist())

    def classes(self) -> np.ndarray:
        """Return (clips,) int32 the class of each; -1 for one of none, or of several."""
        found = [np.zeros(0, np.int32)]
        for one in self.lists:
            table = np.array([label if isinstance(label, int) else -1 for label in one.labels], np.int32)
            found.append(table[one.codes()])
        return np.concatenate(found)

    def parts(self) -> np.ndarray:
        """Return (clips,) int32 the number of each one's data folder."""
        return np.repeat(np.array([one.part for one in self.lists], np.int32), [len(one) for one in self.lists])

    def used(self) -> list[Label]:
        """Return the labels that occur."""
        return list(dict.fromkeys(label for one in self.lists for label in one.used()))

    def counts(self, num_classes: int) -> list[int]:
        """Return the clips of each class."""
        return sum((one.counts(num_classes) for one in self.lists), np.zeros(num_classes, np.int64)).tolist()

    @property
    def has_segments(self) -> bool:
        """Whether some are parts of files."""
        return any(one.has_segments for one in self.lists)

    def segments(self) -> Iterator[Segment | None]:
        """Yield the part of its file that each is."""
        for one in self.lists:
            yield from one.segments()

    def paths(self) -> Iterator[str]:
        """Yield where the file of each is."""
        for one in self.lists:
            yield from one.paths()

    def groups(self) -> Iterator[str | None]:
        """Yield the group of each; None for none."""
        for one in self.lists:
            yield from (None if code < 0 else one.groups[code] for code in one.group_codes().tolist())

    def with_labels(self, change: Callable[[Any], Label]) -> "Clips":
        """Return the same with other labels; ``change`` is asked once about each that occurs."""
        return Clips([one.with_labels(change) for one in self.lists])

    def where(self, wanted: Callable[[Label], bool]) -> "Clips":
        """Return those with a label that is wanted."""
        return Clips([one.where(wanted) for one in self.lists])


def checked(columns: Columns, sizes: Mapping[str, int]) -> Columns:
    """Return columns from a file, whose numbers mean something.

    Args:
        sizes: {name: how many things the numbers of a column may mean}; -1 is none of them.

    Raises SampleError.
    """
    found: dict[str, Any] = columns.columns
    for name, size in sizes.items():
        for some in _in_parts(found[name]) if name in found else ():
            if some.min() < -1 or some.max() >= size:
                raise SampleError(columns.path, "damaged: remove it", f"{name} outside of its table")
    if ("start" in found) != ("end" in found):
        raise SampleError(columns.path, "damaged: remove it", "one bound of segments")
    if "start" in found:
        for start, end in zip(_in_parts(found["start"]), _in_parts(found["end"]), strict=True):
            if np.isinf(start).any() or np.isinf(end).any() or (start < 0).any() or (end <= start).any():
                raise SampleError(columns.path, "damaged: remove it", "segments that are none")
    return columns


def _in_parts(column: Any) -> Iterator[np.ndarray]:
    return (column[first : first + _CHECKED] for first in range(0, len(column), _CHECKED))


def coded(values: Iterable[Any]) -> tuple[list[Any], np.ndarray]:
    """Return (the values that occur, (N,) int32 which of them each is); -1 for None."""
    numbers: dict[Any, int] = {}
    codes = np.fromiter((-1 if one is None else numbers.setdefault(one, len(numbers)) for one in values), np.int32)
    return list(numbers), codes


def _segment_columns(segments: Sequence[Segment | None]) -> dict[str, Numbers | Texts]:
    """Return ``start`` and ``end`` of segments; nothing where there is none."""
    if not any(segments):
        return {}
    start = np.array([np.nan if one is None else one.start for one in segments], "<f8")
    end = np.array([np.nan if one is None or one.end is None else one.end for one in segments], "<f8")
    return {"start": start, "end": end}
