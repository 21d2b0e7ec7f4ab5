"""The csv of several modalities, ``id,label[,video][,series][,split]``: one file per split, or one for all.

DATASET.md describes it. Labels follow the rules of :mod:`dust.datasets.manifest.manifest`.
As there, a manifest is complete and
right, or there is one error that lists everything wrong.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dust.datasets.arrays import ArrayFiles, is_row, split_reference
from dust.datasets.manifest.columns import ANNOTATOR, column_name, find_group
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.labels import CLASS_LIST, read_class_list, report_unused
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.once import once
from dust.datasets.manifest.places import add_missing, find_file
from dust.datasets.manifest.table import RawSplit, Row, read_table
from dust.datasets.manifest.votes import Indexed, Votes, index_rows, merge_rows
from dust.datasets.multimodal.series import Window
from dust.decode.segment import Segment
from dust.utils.errors import DataError, Problems, SampleError
from dust.utils.text import near_names, whole_number

logger = logging.getLogger(__name__)

COLUMNS = ("id", "label", "video", "series", "split", "group", "start", "end", "offset_s", "drift_ppm")
WINDOW = ("start", "end", "offset_s", "drift_ppm")  # columns of numbers: see Window
FILES = ("video", "series")  # columns that name files
ONE_FILE = "manifest.csv"
# what people write where one of COLUMNS or SPLITS is meant: for the hint in the error
_OTHER_NAMES = {"path": "video", "file": "video", "clip": "video", "class": "label", "labels": "label"}
_OTHER_NAMES |= {"name": "id", "sample": "id", "kinematics": "series", "sensor": "series", "signal": "series"}
_OTHER_SPLITS = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True, slots=True)
class FusedClip:
    """``video``, ``series``: where they are, ``file`` or ``file.npy#row``; "" where not asked for. ``path``: one of
    them, for messages. ``label``: as in :class:`dust.datasets.manifest.manifest.Clip`. ``window``: the part of the
    recording that is meant; None for all of it."""

    id: str
    path: str
    label: int | tuple[int, ...] | None
    video: str = ""
    series: str = ""
    group: str = ""
    window: Window | None = None

    @property
    def segment(self) -> Segment | None:
        """The window as a part of the video, whose clock is the recording's."""
        return None if self.window is None else Segment(self.window.start or 0.0, self.window.end)

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """See :class:`dust.datasets.protocol.HasSources`; a row of an array is a file of its own."""
        part = str(self.window) if self.window is not None else ""
        return tuple((name, part) for name in (self.video, self.series) if name)


@dataclass
class FusedManifest:
    """The samples of one split. ``class_names[label]`` names a class; ``source`` says what was read. ``votes``: id
    -> what several people said (DATA.SOFT_LABELS)."""

    clips: list[FusedClip]
    class_names: list[str]
    source: str
    multi_label: bool
    votes: Mapping[str, Votes] = field(default_factory=dict)


@dataclass(slots=True)
class _Row(Row):
    """A line of the csv. ``cells``: by column."""

    cells: dict[str, str] = field(default_factory=dict)


@dataclass
class _Table:
    """One csv file, with the rows of all its splits."""

    path: str
    columns: list[str]
    rows: list[_Row]
    problems: Problems

    def of(self, split: str, multi_label: bool) -> list[_Row]:
        """Return the rows of one split, their labels None where a test split has none."""
        rows = self.rows if "split" not in self.columns else self._chosen(split)
        unlabelled = split == "test" and not any(row.label for row in rows) and not multi_label
        for row in rows:
            if unlabelled:
                row.label = None
            elif row.label == "" and not multi_label:
                self.problems.add("an empty label", f"{row.where}: {row.id}")
                row.label = None
        return rows

    def _chosen(self, split: str) -> list[_Row]:
        rows, name = [], os.path.basename(self.path)
        for row in self.rows:
            written = row.cells["split"].strip()
            if written not in SPLITS:
                near = _OTHER_SPLITS.get(written.lower())
                hint = f"; did you mean {near}?" if near else ""
                self.problems.add(f"a split that is none of {', '.join(SPLITS)}", f"{row.where}: {written!r}{hint}")
            elif written == split:
                rows.append(row)
            elif name == f"{split}.csv":
                self.problems.add(f"a row of another split in {name}", f"{row.where}: {written}")
        return rows


@once
def read_fused_manifest(
    *,
    root: str,
    split: str,
    modalities: Sequence[str],
    separator: str = "",
    path_prefix: str = "",
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    num_classes: int | None = None,
    check_files: bool = True,
    group_column: str = "",
    corrections: str | os.PathLike = "",
    extra_columns: Sequence[str] = (),
    soft_labels: bool = False,
) -> FusedManifest:
    """Read one split.

    Args:
        root: the folder of ``<split>.csv`` or ``manifest.csv``, or a csv file itself.
        modalities: those of video and series whose files are needed.
        path_prefix: folder that relative paths are under; "" is the csv's own.
        separator, class_names, multi_label, num_classes, group_column, corrections, extra_columns, soft_labels: as in
            :func:`dust.datasets.manifest.manifest.read_manifest`.
        check_files: a missing file, or a row that an array does not have, is an error.

    Raises:
        DataError: with all problems of the split, or what was looked for and found.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    root, path_prefix = os.path.expanduser(root), os.path.expanduser(path_prefix)
    path = _csv_of(root, split)
    folder = os.path.dirname(path)
    wanted = [name for name in FILES if name in modalities]
    correct = Corrections(corrections)
    table = _read_table(path, split, wanted, separator, group_column, extra_columns, soft_labels)
    ids = partial(_ids_beside, root, table, split, separator)
    rows = correct.apply(table.of(split, multi_label), split, table.problems, _relabelled, others=ids)
    raw = RawSplit(path, [*rows], bases=[path_prefix or folder], problems=table.problems)
    names = list(class_names) if class_names is not None else _class_list(folder)
    own_names = names is None
    if names is None and split != "train":
        index = partial(index_rows, num_classes=num_classes, multi_label=multi_label, soft_labels=soft_labels)
        names = _train_classes(root, table, separator, group_column, correct, multi_label, extra_columns, index)
    labels, names, votes = index_rows(raw, names, num_classes, multi_label=multi_label, soft_labels=soft_labels)
    if own_names and split == "train" and not multi_label:
        report_unused(raw, labels, names)
    places = _locate(raw, rows, wanted, check_files)
    windows = [_window(row, wanted, raw.problems) for row in rows]
    raw.problems.raise_if_any(path)
    if not rows:
        raise DataError(f"{path}: no sample of the {split} split in it")
    clips = []
    found = zip(rows, labels, places["video"], places["series"], windows, strict=True)
    for row, indices, video, series, window in found:
        label = indices if indices is None or multi_label else indices[0]
        clips.append(FusedClip(row.id or "", video or series, label, video, series, row.group, window))
    logger.info("%s: %d samples of %d classes for %s", path, len(clips), len(names), split)
    return FusedManifest(clips, names, path, multi_label, votes)


def _window(row: _Row, wanted: Sequence[str], problems: Problems) -> Window | None:
    """Return the part of a recording that a row means; None for all of it."""
    values: dict[str, float] = {}
    for name in WINDOW:
        written = row.cells.get(name, "").strip()
        if not written:
            continue
        try:
            values[name] = float(written)
        except ValueError:
            values[name] = math.nan
        if not math.isfinite(values[name]):
            problems.add(f"a {name} that is no number", f"{row.where}: {row.id}: {written!r}")
            return None
    if not values:
        return None
    where = f"{row.where}: {row.id}"
    if "start" not in values and "end" not in values:
        problems.add("an offset_s or drift_ppm without start and end, which would change nothing", where)
    if values.get("end", math.inf) <= values.get("start", -math.inf):
        problems.add("an end that is not behind its start", f"{where}: {values['start']:g} to {values['end']:g}")
    if values.get("start", 0.0) < 0:
        problems.add("a start below 0, which is the recording's beginning", f"{where}: {values['start']:g}")
    if "video" in wanted and is_row(row.cells["video"].strip()):
        problems.add("start and end of a video that is a row of an array: only files are cut", where)
    return Window(**values)


# --- the file -------------------------------------------------------------------------------------------------------


def _csv_of(root: str, split: str) -> str:
    if not root:
        raise DataError("no data folder given: set DATA.PATH_TO_DATA_DIR")
    if os.path.isfile(root):
        return root
    names = [f"{split}.csv", ONE_FILE]
    found = [os.path.join(root, name) for name in names if os.path.isfile(os.path.join(root, name))]
    others = [f"{name}.csv" for name in SPLITS if os.path.isfile(os.path.join(root, f"{name}.csv"))]
    if others and os.path.isfile(os.path.join(root, ONE_FILE)):
        raise DataError(
            f"{root} holds {ONE_FILE} and {', '.join(others)}: remove one kind, or give a csv as DATA.PATH_TO_DATA_DIR"
        )
    if not found:
        there = sorted(os.listdir(root))[:10] if os.path.isdir(root) else []
        hint = ", which TRAIN.EVAL_PERIOD 0 trains without" if split == "val" else ""
        raise DataError(
            f"{root}: neither {split}.csv nor {ONE_FILE} for the {split} split{hint} (header: "
            f"id,label[,video][,series][,split]). Found: {', '.join(there) or 'nothing'}"
        )
    return found[0]


def _relabelled(row: _Row, label: str) -> _Row:
    row.label = label
    return row


def _ids_beside(root: str, table: _Table, split: str, separator: str) -> list[str]:
    """Return the ids of the other splits, in this table or in lists of their own."""
    paths = [os.path.join(root, f"{other}.csv") for other in SPLITS if other != split]
    found = [read_table(path, Problems(), separator=separator) for path in paths if os.path.isfile(path)]
    ids = [cells.get("id", "") for one in found for _, _, cells in one.rows]
    return [*ids, *(row.id or "" for row in table.rows)]


def _read_table(
    path: str, split: str, wanted: Sequence[str], separator: str, group_column: str, extra_columns: Sequence[str],
    soft_labels: bool = False,
) -> _Table:  # fmt: skip
    """Return header and cells. Problems of the header are raised here; those of rows are collected."""
    problems, problems_of_header = Problems(), Problems()
    table = read_table(path, problems, separator=separator, empty=False)
    if not table.header:
        raise DataError(f"{path}: an empty file: its first line must be a header, id,label[,video][,series][,split]")
    found = find_group([column_name(name) for name in table.header], group_column, problems_of_header)
    group = "" if found is None else table.header[found]
    known = [*COLUMNS, group, *map(column_name, extra_columns), *([ANNOTATOR] if soft_labels else [])]
    _check_columns(problems_of_header, table.header, split, wanted, known)
    problems_of_header.raise_if_any(path)
    rows = [
        _Row(
            where,
            text,
            cells.get("label"),
            cells["id"],
            group=cells.get(group, ""),
            cells=cells,
            annotator=cells.get(ANNOTATOR, ""),
        )
        for where, text, cells in table.rows
    ]
    if soft_labels:  # rows that say the same but for the label
        own = ("label", ANNOTATOR)
        rows = merge_rows(rows, lambda row: tuple(c for name, c in row.cells.items() if name not in own), problems)
    _check_ids(problems, rows)
    return _Table(path, table.header, rows, problems)


def _check_columns(
    problems: Problems, columns: Sequence[str], split: str, wanted: Sequence[str], known: Sequence[str]
) -> None:
    for name in dict.fromkeys(columns):
        if name not in known and column_name(name) not in known:
            near = _OTHER_NAMES.get(name) or next(iter(near_names(name, COLUMNS, n=1)), "")
            hint = f"; did you mean {near}?" if near and near not in columns else ""
            kind = f"an unknown column: the header's names are {', '.join(COLUMNS)}, and those of DATA.EXTRA_COLUMNS"
            problems.add(kind, f"{name!r}{hint}")
    if "id" not in columns:
        kind = "no column id: every sample needs a name of its own, by which features are joined to it"
        problems.add(kind, f"line 1: {', '.join(columns)}")
    if "label" not in columns and not (split == "test" and "split" not in columns):
        problems.add(f"no column label, which a {split} split needs", f"line 1: {', '.join(columns)}")
    for name in wanted:
        if name not in columns:
            problems.add(f"no column {name}, which DATA.MODALITIES asks for", f"line 1: {', '.join(columns)}")


def _check_ids(problems: Problems, rows: Sequence[_Row]) -> None:
    """Check that ids differ within a file: a sample of train that is in another split too would be tested on what it
    was taught. val and test may share samples."""
    seen: dict[str, _Row] = {}
    for row in rows:
        if not row.id:
            problems.add("an empty id", row.where)
            continue
        before = seen.setdefault(row.id, row)
        if before is row:
            continue
        splits = [one.cells.get("split", "").strip() for one in (row, before)]
        if splits[0] == splits[1]:
            problems.add("an id used twice: ids must differ", f"{row.where}: {row.id} (before: {before.where})")
        elif "train" in splits:
            case = f"{row.where}: {row.id} in {splits[0]} (before: {before.where}, in {splits[1]})"
            problems.add("an id in train and in another split: a sample of training is in no other", case)


# --- classes --------------------------------------------------------------------------------------------------------


def _class_list(folder: str) -> list[str] | None:
    path = os.path.join(folder, CLASS_LIST)
    return read_class_list(path) if os.path.lexists(path) else None


def _train_classes(
    root: str,
    table: _Table,
    separator: str,
    group_column: str,
    correct: Corrections,
    multi_label: bool,
    extra_columns: Sequence[str],
    index: Callable[..., Indexed],
) -> list[str] | None:
    """Return the classes of the train split, or None where there is none."""
    train = os.path.join(root, "train.csv")
    if os.path.isfile(train):
        table = _read_table(train, "train", (), separator, group_column, extra_columns)
    elif "split" not in table.columns:
        return None
    raw = RawSplit(table.path, [])
    rows = _Table(table.path, table.columns, table.rows, Problems()).of("train", multi_label)
    ids = partial(_ids_beside, root, table, "train", separator)
    raw.rows = [*correct.apply(rows, "train", raw.problems, _relabelled, others=ids)]
    if not raw.rows:
        return None
    names = index(raw, None)[1]
    raw.problems.raise_if_any(raw.source)
    return names


# --- files ----------------------------------------------------------------------------------------------------------


class _Finder:
    """Where the files of a manifest are. Each distinct file is looked for once: thousands of rows share a stack."""

    def __init__(self, raw: RawSplit, check: bool) -> None:
        self.raw = raw
        self.check = check
        self.files = ArrayFiles()
        self.found: dict[str, str | None] = {}
        self.counts: dict[str, int | str] = {}  # rows of each stacked file, or why it cannot be read

    def find(self, written: str, row: Row, column: str) -> str:
        """Return the located reference; "" for one that cannot be used, which is then among the problems."""
        path, key = split_reference(written)
        problems, where = self.raw.problems, f"{row.where}: {row.id}: {column} {written}"
        stacked = is_row(written)
        if stacked and whole_number(key) is None:
            problems.add("a row that is no number: write file.npy#0 for the first row of file.npy", where)
            return ""
        if path not in self.found:
            self.found[path] = find_file(path, self.raw.bases, self.check)
        found = self.found[path]
        if found is None:
            add_missing(problems, f"{row.where}: {row.id}: {column}", path, self.raw.bases)
            return ""
        if stacked and self.check:
            if found not in self.counts:
                self.counts[found] = self._count(found)
            count = self.counts[found]
            if isinstance(count, str):
                problems.add("a stacked array that cannot be read", f"{where}: {count}")
                return ""
            if int(key) >= count:
                problems.add("a row beyond the end of its array: rows count from 0", f"{where}, of {count} rows")
                return ""
        return f"{found}#{key}" if key else found

    def _count(self, path: str) -> int | str:
        try:
            shape = self.files.open(path).shape
        except SampleError as error:
            return error.reason
        return shape[0] if shape else "a single number"


def _locate(raw: RawSplit, rows: Sequence[_Row], wanted: Sequence[str], check: bool) -> dict[str, list[str]]:
    """Return for each of FILES, each row's located reference ("" where not wanted); problems go into
    ``raw.problems``."""
    finder = _Finder(raw, check)
    places: dict[str, list[str]] = {}
    for column in FILES:
        if column not in wanted:
            places[column] = [""] * len(rows)
            continue
        places[column] = []
        for row in rows:
            written = row.cells[column].strip()
            if not written:
                raw.problems.add(f"no {column}, which DATA.MODALITIES asks for", f"{row.where}: {row.id}")
            places[column].append(finder.find(written, row, column) if written else "")
    _check_videos(raw.problems, rows, places["video"])
    return places


def _check_videos(problems: Problems, rows: Sequence[Row], videos: Sequence[str]) -> None:
    """Check that videos are all files or all rows of arrays: the two are sampled differently."""
    stacked = [(row, video) for row, video in zip(rows, videos, strict=True) if is_row(video)]
    for row, video in zip(rows, videos, strict=True):
        if video.lower().endswith((".npy", ".npz")):
            problems.add("an array where a row is needed: write file.npy#0 for its first", f"{row.where}: {video}")
    if stacked and len(stacked) < sum(map(bool, videos)):
        kind = "videos that are files and videos that are rows of arrays in one split: make them of one kind"
        problems.add(kind, f"{stacked[0][0].where}: {stacked[0][1]}")
