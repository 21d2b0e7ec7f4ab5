"""One reading of every on-disk layout: which clips a split has, and their labels as class indices.

DATASET.md describes the layouts. A manifest is complete and right, or there is one error that lists everything wrong.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from dust.datasets.manifest import formats
from dust.datasets.manifest.annotated import READERS as ANNOTATED
from dust.datasets.manifest.annotated import AnnotatedFolder
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.clips import Clip, ClipList, Clips
from dust.datasets.manifest.column_file import Columns
from dust.datasets.manifest.columns import ANNOTATOR
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.detect import FORMATS, SPLITS, csv_files, detect_format
from dust.datasets.manifest.frame_lists import FrameLabels, frame_list, index_frames, is_frame_list, read_frame_list
from dust.datasets.manifest.labels import CLASS_LIST, index_labels, read_class_list, report_unused
from dust.datasets.manifest.long_list import KeptList, Listed, clips_of, corrected, is_long, words_of
from dust.datasets.manifest.once import once
from dust.datasets.manifest.places import add_missing, find_file
from dust.datasets.manifest.row_columns import AllAtOnce, columns_in_pieces, columns_of, raise_where_longest
from dust.datasets.manifest.shards import agree_on_unit, lists_of
from dust.datasets.manifest.table import RawSplit, Row, name_rows, read_csv
from dust.datasets.manifest.votes import Votes, index_rows, merge_rows
from dust.decode.segment import SECONDS
from dust.utils.errors import DataError, Problems
from dust.utils.text import counted

logger = logging.getLogger(__name__)

FORM_OF_LONGEST = "write UTF-8, a first line path,label that names the columns, and an id where rows repeat"


@dataclass
class Manifest:
    """The clips of one split. ``class_names[label]`` names a class; ``source`` says what was read. ``frames``: id ->
    what single frames show, where the list says that. ``votes``: id -> what several people said (DATA.SOFT_LABELS)."""

    clips: Sequence[Clip]
    class_names: list[str]
    source: str
    multi_label: bool
    frames: Mapping[str, FrameLabels] = field(default_factory=dict)
    votes: Mapping[str, Votes] = field(default_factory=dict)


@once
def read_manifest(
    *,
    root: str,
    split: str,
    format: str = "auto",
    separator: str = "",
    path_prefix: str = "",
    class_names: Sequence[str] | None = None,
    multi_label: bool = False,
    num_classes: int | None = None,
    split_number: int = 1,
    check_files: bool = True,
    group_column: str = "",
    corrections: str | os.PathLike = "",
    segment_unit: str = SECONDS,
    extra_columns: Sequence[str] = (),
    background: Background | None = None,
    soft_labels: bool = False,
    annotations: str = "",
    epic_label: str = "action",
    cache: str = "",
    shared: bool = False,
) -> Manifest:
    """Read one split.

    Args:
        root: the data folder, or a csv file itself.
        split: train | val | test.
        format: one of FORMATS; auto looks at the files.
        separator: of csv columns; "" finds it.
        path_prefix: folder that relative paths are under; "" looks in the data folder, then in the working folder.
        class_names: the classes in their order, from training or a checkpoint; the labels must be among them.
            None: the labels' own, for val and test those of the train split.
        num_classes: what the model has; another number of classes is an error, as are training labels that end below.
        split_number: 1..3, of UCF101's and HMDB51's official splits.
        check_files: whether a missing file is an error.
        group_column: of a csv; "" reads a column called group, if there is one.
        corrections: a file of :mod:`dust.datasets.manifest.corrections`, or "".
        segment_unit: of a csv's columns start and end: seconds from the first frame's time | frames as decoded, from 0.
        extra_columns: of a csv, of which nothing is to be said; see :mod:`dust.datasets.manifest.columns`.
        background: a class that is made of the gaps between segments, or None.
        soft_labels: cells and rows say what several people said, see :mod:`dust.datasets.manifest.votes`; a clip's
            label is then the class with the largest share. Not with ``multi_label``.
        annotations, epic_label: of the formats of :mod:`dust.datasets.manifest.annotated`: the file, or a folder of
            files, "" for the data folder; and what the label is, verb | noun | action.
        cache: folder that keeps the columns of a long csv which cannot be written beside it; "" for none.
        shared: all processes of the run read this split now, and share the work of a long list.

    Raises:
        DataError: with all problems of the split, or what was looked for and found.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if format not in FORMATS:
        raise DataError(f"DATA.FORMAT {format!r} is none of {', '.join(FORMATS)}")
    if not root:
        raise DataError("no data folder given: set DATA.PATH_TO_DATA_DIR")
    given, path_prefix = os.path.expanduser(root), os.path.expanduser(path_prefix)
    root = lists_of(given)
    if not os.path.exists(root):
        raise DataError(f"the data folder {root} does not exist: set DATA.PATH_TO_DATA_DIR")
    layout = detect_format(root) if format == "auto" else format
    if layout == "charades" and not multi_label:
        raise DataError("Charades has several labels for a clip: set DATA.MULTI_LABEL True and a loss of bce_logit")
    if layout == "shards":
        agree_on_unit(root, segment_unit)
        path_prefix = path_prefix or given
    if group_column and layout not in ("csv", "charades"):
        raise DataError(f"DATA.GROUP_COLUMN {group_column}: {root} has no list with columns ({layout}); set it to ''")
    reader = _Reader(root, layout, separator, path_prefix, multi_label, split_number, check_files, group_column)
    reader.corrections = Corrections(corrections)
    reader.segment_unit, reader.extra_columns, reader.background = segment_unit, extra_columns, background
    reader.soft_labels, reader.annotations, reader.epic_label = soft_labels, annotations, epic_label
    reader.cache, reader.shared = cache, shared
    return _read_long(reader, split, class_names, num_classes) or _read_rows(reader, split, class_names, num_classes)


def _read_rows(
    reader: "_Reader", split: str, class_names: Sequence[str] | None, num_classes: int | None
) -> Manifest:  # fmt: skip
    """Return a split of any layout, row by row."""
    raw, multi_label = reader.read(split), reader.multi_label
    names = list(class_names) if class_names is not None else raw.class_names
    if names is None and split != "train":
        names = reader.train_classes(num_classes)
    own_names = names is None
    options = {"multi_label": multi_label, "soft_labels": reader.soft_labels}
    labels, names, votes = index_rows(raw, names, num_classes, **options)
    if own_names and split == "train" and not multi_label:
        report_unused(raw, labels, names)
    clips = Clips.of(_locate(raw, labels, multi_label, reader.check_files))
    raw.problems.raise_if_any(raw.source)
    found = _manifest(clips, names, raw.source, split, multi_label, index_frames(raw, names, num_classes))
    return replace(found, votes=votes)


def _read_long(
    reader: "_Reader", split: str, class_names: Sequence[str] | None, num_classes: int | None
) -> Manifest | None:
    """Return a split that a long csv lists; None for any other, and where rows must say what is wrong."""
    listed = reader.long_list(split)
    if listed is None:
        return None
    path, multi_label = reader.csv_path(split), reader.multi_label
    words = words_of(listed, path)
    names = list(class_names) if class_names is not None else reader.class_list(path)
    if names is None and split != "train":
        names = reader.train_classes(num_classes)
    own_names = names is None
    labels, names = index_labels(words, names, num_classes, multi_label)
    if own_names and split == "train" and not multi_label:
        report_unused(words, labels, names)
    if words.problems.kinds:
        raise_where_longest(words.problems, path)
        return None
    problems = Problems()
    clips = clips_of(
        listed, words, labels, multi_label, reader.bases(path),
        unit=reader.segment_unit, check_files=reader.check_files, shared=reader.shared, problems=problems,
    )  # fmt: skip
    problems.raise_if_any(path)
    return _manifest(Clips([clips]), names, path, split, multi_label, {})


def _manifest(
    clips: Clips, names: list[str], source: str, split: str, multi_label: bool, frames: Mapping[str, FrameLabels]
) -> Manifest:
    if not len(clips):
        raise _holds_no_clip(source, split)
    logger.info("%s: %s of %s for %s", source, counted(len(clips), "clip"), counted(len(names), "class"), split)
    return Manifest(clips, names, source, multi_label, frames)


def _holds_no_clip(source: str, split: str) -> DataError:
    return DataError(f"{source}: the {split} split holds no clip")


def read_new_clips(
    path: str,
    *,
    separator: str = "",
    path_prefix: str = "",
    segment_unit: str = SECONDS,
    extra_columns: Sequence[str] = (),
) -> list[Clip]:
    """Return the clips of a csv list that are to be predicted. Labels are left aside, whatever they are, and a file
    that is missing is found when it is read.

    Args:
        separator, path_prefix, segment_unit, extra_columns: see :func:`read_manifest`.

    Raises:
        DataError: with all problems of the list.
    """
    if is_frame_list(path):
        raw = read_frame_list(path, "test", path_prefix, extra_columns=extra_columns)
    else:
        options: dict[str, Any] = {"segment_unit": segment_unit, "extra_columns": extra_columns}
        raw = read_csv(path, split="test", separator=separator, **options)
        raw.bases = [path_prefix] if path_prefix else list(dict.fromkeys([os.path.dirname(path), ""]))
    name_rows(raw)
    for row in raw.rows:
        row.label = None
    clips = _locate(raw, [None] * len(raw.rows), False, False)
    raw.problems.raise_if_any(path)
    return clips


def available_splits(root: str, format: str = "auto", split_number: int = 1, annotations: str = "") -> list[str]:
    """Return those of train, val, test that a data folder has. DataError if it has no known layout."""
    root = lists_of(os.path.expanduser(root))
    if not os.path.exists(root):
        raise DataError(f"the data folder {root} does not exist")
    layout = detect_format(root) if format == "auto" else format
    reader = _Reader(root, layout, "", "", False, split_number, False, annotations=annotations)
    return [split for split in SPLITS if reader.has(split)]


@dataclass
class _Reader:
    """Reads the splits of one data folder in one layout."""

    root: str
    format: str
    separator: str
    path_prefix: str
    multi_label: bool
    split_number: int
    check_files: bool
    group_column: str = ""
    corrections: Corrections = field(default_factory=Corrections)
    segment_unit: str = SECONDS
    extra_columns: Sequence[str] = ()
    background: Background | None = None
    soft_labels: bool = False
    annotations: str = ""
    epic_label: str = "action"
    cache: str = ""
    shared: bool = False
    _paths: dict[str, str] = field(default_factory=dict)

    @cached_property
    def annotated(self) -> AnnotatedFolder:
        """The data folder with its annotation files."""
        options = (self.annotations, self.path_prefix, self.epic_label, self.check_files)
        return AnnotatedFolder(self.format, self.root, *options)

    def read(self, split: str) -> RawSplit:
        """Return the rows of a split, each with an id, as they are after the corrections."""
        raw = self._named(split)
        ids = partial(self._ids_beside, split)
        raw.rows = self.corrections.apply(raw.rows, split, raw.problems, _relabelled, others=ids)
        return raw

    def long_list(self, split: str) -> Listed | None:
        """Return the rows of a long csv, corrected; None for any other list, and where something is wrong."""
        columns, problems = self._columns(split), Problems()
        if columns is None:
            return None
        ids = partial(self._ids_beside, split)
        listed = corrected(columns, partial(self.corrections.choose, split=split, problems=problems, others=ids))
        raise_where_longest(problems, self.csv_path(split))
        return None if problems.kinds else listed

    def _columns(self, split: str) -> Columns | None:
        """Return all rows of a long csv; None too where rows are made one, or added."""
        if self.soft_labels or self.background is not None:
            return None
        if self.format not in ("csv", "shards") or not is_long(path := self.csv_path(split)):
            return None
        options = (split, self.separator, self.multi_label, self.group_column, self.segment_unit, *self.extra_columns)
        kept = KeptList(path, options, cache=self.cache, shared=self.shared)
        return kept.read(partial(self._csv_columns, path, split))

    def _csv_columns(self, path: str, split: str) -> Columns | None:
        try:
            return columns_in_pieces(path, **self._csv_options(split))
        except AllAtOnce as reason:
            problems = Problems()
            problems.add("too long to be read at once, and pieces of it do not tell", f"{reason} ({FORM_OF_LONGEST})")
            raise_where_longest(problems, path)
            logger.info("it is read all at once: %s", reason)
        raw = self._csv_rows(path, split)
        return columns_of(raw) if raw.rows and not raw.problems.kinds else None

    def _csv_options(self, split: str) -> dict[str, Any]:
        """Return how its csv files are written."""
        return {
            "split": split,
            "separator": self.separator,
            "multi_label": self.multi_label,
            "group_column": self.group_column,
            "segment_unit": self.segment_unit,
            "extra_columns": [*self.extra_columns, ANNOTATOR] if self.soft_labels else self.extra_columns,
        }

    def _ids_beside(self, split: str) -> Iterator[str]:
        """Yield the ids of the other splits."""
        for other in SPLITS:
            if other != split and self.has(other):
                yield from self._ids(other)

    def _ids(self, split: str) -> Iterable[str]:
        columns = self._columns(split)
        if columns is not None:
            return ClipList(columns, ()).ids()
        return [row.id or "" for row in self._named(split).rows]

    def _named(self, split: str) -> RawSplit:
        """Return the rows of a split and those of gaps, each with an id."""
        raw = self._read(split)
        if self.background is not None:
            one_list = os.path.isfile(self.root) and not any(row.split for row in raw.rows)  # it is every split
            others = [] if one_list else [other for other in SPLITS if other != split and self.has(other)]
            self.background.add_to(raw, split, {other: self._read(other).rows for other in others})
        name_rows(raw)
        return raw

    def _read(self, split: str) -> RawSplit:
        if self.format not in ("csv", "charades") and not os.path.isdir(self.root):
            raise DataError(f"{self.root} is a file: DATA.FORMAT {self.format} needs a folder")
        if self.format == "folder":
            return formats.read_folders(self.root, split)
        if self.format == "ssv2":
            return formats.read_ssv2(self.root, split, self.path_prefix, self.check_files)
        if self.format == "ucf101":
            return formats.read_ucf101(self.root, split, self.split_number, self.path_prefix)
        if self.format == "hmdb51":
            return formats.read_hmdb51(self.root, split, self.split_number, self.path_prefix)
        if self.format == "charades":
            return read_frame_list(self.root, split, self.path_prefix, self.group_column, self.extra_columns)
        return self.annotated.read(split) if self.format in ANNOTATED else self._read_csv(split)

    def csv_path(self, split: str) -> str:
        """Return the csv of a split. DataError if there is none."""
        if os.path.isfile(self.root):
            return self.root
        if split not in self._paths:
            paths = csv_files(self.root, split)
            if not paths:
                hint = ", which TRAIN.EVAL_PERIOD 0 trains without" if split == "val" else ""
                others = [os.path.relpath(path, self.root) for name in SPLITS for path in csv_files(self.root, name)]
                raise DataError(
                    f"{self.root}: no {split}.csv for the {split} split{hint} (looked there and in metadata/; "
                    f"found {', '.join(others) or 'no other list'})"
                )
            if len(paths) > 1:
                logger.warning("%s is read, %s is not", *paths)
            self._paths[split] = paths[0]
        return self._paths[split]

    def bases(self, path: str) -> list[str]:
        """Return the folders in which a csv's relative paths are looked for."""
        folder = os.path.dirname(path)
        bases = [self.path_prefix] if self.path_prefix else [folder if path == self.root else self.root, folder, ""]
        return list(dict.fromkeys(bases))

    def class_list(self, path: str) -> list[str] | None:
        """Return the classes in the order of the list beside a csv; None without one."""
        classes = os.path.join(os.path.dirname(path), CLASS_LIST)
        if not os.path.lexists(classes):
            return None
        logger.info("the order of the classes is that of %s", classes)
        return read_class_list(classes)

    def _csv_rows(self, path: str, split: str) -> RawSplit:
        """Return the rows of a csv, each with an id."""
        raw = read_csv(path, **self._csv_options(split))
        if self.soft_labels:
            raw.rows = merge_rows(raw.rows, lambda row: row.id or (row.written, row.segment), raw.problems)
        name_rows(raw)
        return raw

    def _read_csv(self, split: str) -> RawSplit:
        path = self.csv_path(split)
        raw = self._csv_rows(path, split)
        raw.bases, raw.class_names = self.bases(path), self.class_list(path)
        return raw

    def has(self, split: str) -> bool:
        """Tell whether there is a list or a folder of that split."""
        if self.format == "folder":
            return formats.has_folder(self.root, split)
        if self.format == "ssv2":
            return formats.ssv2_file(self.root, split) is not None
        if self.format == "ucf101":
            return formats.ucf_file(self.root, formats.ucf_list(split, self.split_number)) is not None
        if self.format == "hmdb51":
            return bool(formats.hmdb_files(self.root, self.split_number))
        if self.format == "charades":
            return frame_list(self.root, split) is not None
        if self.format in ANNOTATED:
            return self.annotated.has(split)
        return os.path.isfile(self.root) or bool(csv_files(self.root, split))

    def train_classes(self, num_classes: int | None) -> list[str] | None:
        """Return the classes of the train split, or None where there is no such split."""
        if os.path.isfile(self.root) or not self.has("train"):
            return None
        listed = self.long_list("train")
        if listed is not None:
            raw = words_of(listed, self.csv_path("train"))
            names = index_labels(raw, None, num_classes, self.multi_label)[1]
            if not raw.problems.kinds:
                return names
        raw = self.read("train")
        names = index_rows(raw, None, num_classes, multi_label=self.multi_label, soft_labels=self.soft_labels)[1]
        raw.problems.raise_if_any(raw.source)
        if not names:
            raise _holds_no_clip(raw.source, "train")
        return names


# --- files and ids ----------------------------------------------------------------------------------------------


def _locate(
    raw: RawSplit, labels: Sequence[tuple[int, ...] | None], multi_label: bool, check_files: bool
) -> list[Clip]:
    """Return the clips, with paths found; missing files go into ``raw.problems``."""
    clips: list[Clip] = []
    for row, indices in zip(raw.rows, labels, strict=True):
        path = row.path or find_file(row.written, raw.bases, check_files)
        if path is None:
            header = not clips and row.frames is None
            add_missing(raw.problems, row.where, row.written, raw.bases, header=header)
            continue
        if row.label is not None and indices is None:
            continue  # reported with the labels
        label = indices if multi_label or not indices else indices[0]
        clips.append(Clip(row.id or row.written, path, label, row.group, row.segment))
    return clips


def _relabelled(row: Row, label: str) -> Row:
    row.label, row.frames = label, None  # a corrected label is that of all frames
    return row
