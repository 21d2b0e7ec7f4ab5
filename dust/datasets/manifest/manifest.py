"""One reading of every on-disk layout: which clips a split has, and their labels as class indices.

DATASET.md describes the layouts. A manifest is complete and right, or there is one error that lists everything wrong.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from dust.datasets.manifest import formats
from dust.datasets.manifest.annotated import READERS as ANNOTATED
from dust.datasets.manifest.annotated import AnnotatedFolder
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.frame_lists import FrameLabels, frame_list, index_frames, is_frame_list, read_frame_list
from dust.datasets.manifest.labels import CLASS_LIST, read_class_list, report_unused
from dust.datasets.manifest.places import find_file, missing_file
from dust.datasets.manifest.table import RawSplit, Row, read_csv
from dust.datasets.manifest.votes import Votes, index_rows, merge_rows
from dust.decode.segment import SECONDS, Segment
from dust.utils.errors import DataError
from dust.utils.text import printable

logger = logging.getLogger(__name__)

FORMATS = ("auto", "csv", "folder", "ssv2", "ucf101", "hmdb51", "charades", *ANNOTATED)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Clip:
    """``id``: unique in its split. ``path``: a file, or a folder of frames. ``label``: a class index, several (sorted,
    each once) with ``multi_label``, None in a test split without labels. ``group``: what should be in one split only (a
    person, a recording), "" where the list does not say: then it is the file. ``segment``: the part of the file that is
    the clip, None for all of it. ``part``: the number of its data folder, of several."""

    id: str
    path: str
    label: int | tuple[int, ...] | None
    group: str = ""
    segment: Segment | None = None
    part: int = 0

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The file and the part of it; see :class:`dust.datasets.protocol.HasSources`."""
        return ((self.path, "" if self.segment is None else self.segment.part),)


@dataclass
class Manifest:
    """The clips of one split. ``class_names[label]`` names a class; ``source`` says what was read. ``frames``: id ->
    what single frames show, where the list says that. ``votes``: id -> what several people said (DATA.SOFT_LABELS)."""

    clips: list[Clip]
    class_names: list[str]
    source: str
    multi_label: bool
    frames: Mapping[str, FrameLabels] = field(default_factory=dict)
    votes: Mapping[str, Votes] = field(default_factory=dict)


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
) -> Manifest:
    """Reads one split.

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

    Raises:
        DataError: with all problems of the split, or what was looked for and found.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if format not in FORMATS:
        raise DataError(f"DATA.FORMAT {format!r} is none of {', '.join(FORMATS)}")
    if not root:
        raise DataError("no data folder given: set DATA.PATH_TO_DATA_DIR")
    root, path_prefix = os.path.expanduser(root), os.path.expanduser(path_prefix)
    if not os.path.exists(root):
        raise DataError(f"the data folder {root} does not exist: set DATA.PATH_TO_DATA_DIR")
    layout = detect_format(root) if format == "auto" else format
    if layout == "charades" and not multi_label:
        raise DataError("Charades has several labels for a clip: set DATA.MULTI_LABEL True and a loss of bce_logit")
    if group_column and layout not in ("csv", "charades"):
        raise DataError(f"DATA.GROUP_COLUMN {group_column}: {root} has no list with columns ({layout}); set it to ''")
    reader = _Reader(root, layout, separator, path_prefix, multi_label, split_number, check_files, group_column)
    reader.corrections = Corrections(corrections)
    reader.segment_unit, reader.extra_columns, reader.background = segment_unit, extra_columns, background
    reader.soft_labels, reader.annotations, reader.epic_label = soft_labels, annotations, epic_label
    raw = reader.read(split)
    names = list(class_names) if class_names is not None else raw.class_names
    if names is None and split != "train":
        names = reader.train_classes(num_classes)
    own_names = names is None
    labels, names, votes = index_rows(raw, names, num_classes, multi_label=multi_label, soft_labels=soft_labels)
    if own_names and split == "train" and not multi_label:
        report_unused(raw, labels, names)
    clips = _locate(raw, labels, multi_label, check_files)
    raw.problems.raise_if_any(raw.source)
    if not clips:
        raise DataError(f"{raw.source}: the {split} split holds no clip")
    logger.info("%s: %d clips of %d classes for %s", raw.source, len(clips), len(names), split)
    return Manifest(clips, names, raw.source, multi_label, index_frames(raw, names, num_classes), votes)


def read_new_clips(
    path: str,
    *,
    separator: str = "",
    path_prefix: str = "",
    segment_unit: str = SECONDS,
    extra_columns: Sequence[str] = (),
) -> list[Clip]:
    """The clips of a csv list that are to be predicted. Labels are left aside, whatever they are, and a file that is
    missing is found when it is read.

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
    _name_rows(raw)
    for row in raw.rows:
        row.label = None
    clips = _locate(raw, [None] * len(raw.rows), False, False)
    raw.problems.raise_if_any(path)
    return clips


def available_splits(root: str, format: str = "auto", split_number: int = 1, annotations: str = "") -> list[str]:
    """Those of train, val, test that a data folder has. DataError if it has no known layout."""
    root = os.path.expanduser(root)
    if not os.path.exists(root):
        raise DataError(f"the data folder {root} does not exist")
    layout = detect_format(root) if format == "auto" else format
    reader = _Reader(root, layout, "", "", False, split_number, False, annotations=annotations)
    return [split for split in SPLITS if reader.has(split)]


# --- which layout -----------------------------------------------------------------------------------------------


def detect_format(root: str) -> str:
    """The layout of a data folder. Lists (csv, json, split files) go before class folders, which they may describe.

    Raises:
        DataError: no layout, or more than one kind of list.
    """
    if os.path.isfile(root):
        return "charades" if is_frame_list(root) else "csv"
    if not os.path.isdir(root):
        raise DataError(f"{root} is a pipe or a device: give the data folder, or a csv file")
    lists = {
        "csv": [os.path.relpath(path, root) for split in SPLITS for path in _csv_files(root, split)],
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


def _csv_files(root: str, split: str) -> list[str]:
    paths = (os.path.join(root, folder, f"{split}.csv") for folder in ("", "metadata"))
    return [path for path in paths if os.path.isfile(path)]


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

    @cached_property
    def annotated(self) -> AnnotatedFolder:
        """The data folder with its annotation files."""
        options = (self.annotations, self.path_prefix, self.epic_label, self.check_files)
        return AnnotatedFolder(self.format, self.root, *options)

    def read(self, split: str) -> RawSplit:
        """The rows of a split, each with an id, as they are after the corrections."""
        raw = self._named(split)
        ids = partial(self._ids_beside, split)
        raw.rows = self.corrections.apply(raw.rows, split, raw.problems, _relabelled, others=ids)
        return raw

    def _ids_beside(self, split: str) -> list[str]:
        """The ids of the other splits."""
        found = [self._named(other) for other in SPLITS if other != split and self.has(other)]
        return [row.id or "" for raw in found for row in raw.rows]

    def _named(self, split: str) -> RawSplit:
        """The rows of a split and those of gaps, each with an id."""
        raw = self._read(split)
        if self.soft_labels:
            raw.rows = merge_rows(raw.rows, lambda row: row.id or (row.path or row.written, row.segment), raw.problems)
        if self.background is not None:
            one_list = os.path.isfile(self.root) and not any(row.split for row in raw.rows)  # it is every split
            others = [] if one_list else [other for other in SPLITS if other != split and self.has(other)]
            self.background.add_to(raw, split, {other: self._read(other).rows for other in others})
        _name_rows(raw)
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

    def _read_csv(self, split: str) -> RawSplit:
        if os.path.isfile(self.root):
            path = self.root
        else:
            paths = _csv_files(self.root, split)
            if not paths:
                hint = ", which TRAIN.EVAL_PERIOD 0 trains without" if split == "val" else ""
                others = [os.path.relpath(path, self.root) for name in SPLITS for path in _csv_files(self.root, name)]
                raise DataError(
                    f"{self.root}: no {split}.csv for the {split} split{hint} (looked there and in metadata/; "
                    f"found {', '.join(others) or 'no other list'})"
                )
            path = paths[0]
            if len(paths) > 1:
                logger.warning("%s is read, %s is not", *paths)
        folder = os.path.dirname(path)
        raw = read_csv(
            path,
            split=split,
            separator=self.separator,
            multi_label=self.multi_label,
            group_column=self.group_column,
            segment_unit=self.segment_unit,
            extra_columns=self.extra_columns,
        )
        bases = [self.path_prefix] if self.path_prefix else [folder if path == self.root else self.root, folder, ""]
        raw.bases = list(dict.fromkeys(bases))
        classes = os.path.join(folder, CLASS_LIST)
        if os.path.lexists(classes):
            raw.class_names = read_class_list(classes)
            logger.info("the order of the classes is that of %s", classes)
        return raw

    def has(self, split: str) -> bool:
        """Whether there is a list or a folder of that split."""
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
        return os.path.isfile(self.root) or bool(_csv_files(self.root, split))

    def train_classes(self, num_classes: int | None) -> list[str] | None:
        """The classes of the train split, or None where there is no such split."""
        if os.path.isfile(self.root) or not self.has("train"):
            return None
        raw = self.read("train")
        names = index_rows(raw, None, num_classes, multi_label=self.multi_label, soft_labels=self.soft_labels)[1]
        raw.problems.raise_if_any(f"{raw.source} (read for its classes)")
        return names


# --- files and ids ----------------------------------------------------------------------------------------------


def _locate(
    raw: RawSplit, labels: Sequence[tuple[int, ...] | None], multi_label: bool, check_files: bool
) -> list[Clip]:
    """The clips, with paths found; missing files go into ``raw.problems``."""
    clips: list[Clip] = []
    for row, indices in zip(raw.rows, labels, strict=True):
        path = row.path or find_file(row.written, raw.bases, check_files)
        if path is None:
            hint = (
                ""
                if clips or row.frames is not None or os.path.splitext(row.written)[1]
                else " (a header? name its columns path and label)"
            )
            shown = row.written if os.path.isabs(row.written) else os.path.join(raw.bases[0], row.written)
            raw.problems.add(missing_file(raw.bases), f"{row.where}: {shown}{hint}")
            continue
        if row.label is not None and indices is None:
            continue  # reported with the labels
        label = indices if multi_label or not indices else indices[0]
        clips.append(Clip(row.id or row.written, path, label, row.group, row.segment))
    return clips


def _relabelled(row: Row, label: str) -> Row:
    row.label, row.frames = label, None  # a corrected label is that of all frames
    return row


def _name_rows(raw: RawSplit) -> None:
    """Give every row an id of its own: that of its column, which must differ, else its path and ``#start-end`` of a
    segment, with #2, #3, ... where that stands there again."""
    seen: dict[str, str] = {}
    copies: dict[str, int] = {}
    repeated = 0
    for row in raw.rows:
        clip_id = printable(row.id or row.written + ("" if row.segment is None else f"#{row.segment}"))
        if clip_id in seen and row.id:
            raw.problems.add("an id used twice: ids must differ", f"{row.where}: {clip_id} (before: {seen[clip_id]})")
        elif clip_id in seen:
            repeated += 1
            first, number = clip_id, copies.get(clip_id, 2)
            while f"{first}#{number}" in seen:
                number += 1
            clip_id, copies[first] = f"{first}#{number}", number + 1
        row.id = clip_id
        seen.setdefault(clip_id, row.where)
    if repeated:
        logger.warning("%s: %d rows name what is named before: their ids end in #2, #3, ...", raw.source, repeated)
