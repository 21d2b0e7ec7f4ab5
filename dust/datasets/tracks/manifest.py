"""Which clips of point tracks a split has: a csv with a row per clip and camera, or the published action_labels.csv.

A manifest is complete and right, or there is one error that lists everything wrong. No sequence is in two splits.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dust.datasets.manifest.columns import check_columns, column_name, find_group
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.labels import CLASS_LIST, index_labels, read_class_list
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.table import RawSplit, Row, read_table
from dust.datasets.tracks.files import SUFFIXES
from dust.decode.segment import FRAMES, Segment
from dust.utils.errors import DataError, Problems
from dust.utils.files import hash_order, like_missing, restored
from dust.utils.structured import read_json
from dust.utils.text import whole_number

logger = logging.getLogger(__name__)

TABLE = "tracks.csv"
PUBLISHED_TABLE = "action_labels.csv"
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
COLUMNS = {  # the names that a column may have
    "sample": ("sample", "sample_id"),
    "view": ("view", "camera"),
    "label": ("label", "class"),
    "file": ("file", "path"),
    "sequence": ("sequence", "seq"),
    "split": ("split",),
    "start": ("start",),
    "end": ("end",),
}
NEEDED = ("sample", "view", "file", "sequence")
PUBLISHED_COLUMNS = ("sequence_number", "view", "action_label", "start frame", "end frame")


@dataclass(slots=True)
class TrackClip:
    """``files``: camera number -> file. ``where``: camera number -> the row that names it. ``start``, ``end``: which
    frames of the files are the clip, end exclusive and None for all; ``clock``: the camera that they are counted in."""

    id: str
    label: int | None
    sequence: str
    files: dict[int, str]
    where: dict[int, str]
    split: str = ""
    word: str | None = None
    start: int = 0
    end: int | None = None
    clock: int | None = None
    group: str = ""

    @property
    def path(self) -> str:
        """The file of the first camera."""
        return self.files[min(self.files)]

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The cameras' files, with the frames that are meant; see :class:`dust.datasets.protocol.HasSources`."""
        whole = not self.start and self.end is None
        frames = "" if whole else Segment(self.start, self.end, FRAMES).part
        return tuple((self.files[view], frames) for view in sorted(self.files))


@dataclass
class TrackManifest:
    """The clips of one split, and the classes in their order."""

    clips: list[TrackClip]
    class_names: list[str]
    source: str
    problems: Problems = field(default_factory=Problems)


def read_track_manifest(
    *,
    root: str,
    split: str,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    views: Sequence[int] = (),
    group_column: str = "",
    corrections: str | os.PathLike = "",
    leaks: bool = False,
    check_files: bool = True,
    extra_columns: Sequence[str] = (),
) -> TrackManifest:
    """Read one split.

    Args:
        root: a folder with tracks.csv, with train.csv, val.csv and test.csv, or with action_labels.csv; or a csv file.
        split: train | val | test.
        class_names: the classes in their order, from training or a checkpoint. None: those of ``classes.txt`` beside
            the file, else of the original's ``classes.json``, else the training labels, sorted.
        num_classes: what the model has; another number of classes is an error.
        views: the cameras that will be used. A clip may lack some of them, which is logged; all clips may not.
        group_column: see :func:`dust.datasets.manifest.columns.find_group`; without one the sequence is the group.
        corrections: a file of :mod:`dust.datasets.manifest.corrections`, or "".
        leaks: let sequences of train be in other splits too.
        check_files: whether a missing file is an error.
        extra_columns: see :func:`dust.datasets.manifest.columns.check_columns`.

    Raises:
        DataError: with all problems of all splits.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    table = _find_table(root)
    problems = Problems()
    clips = [clip for path in table for clip in _read_table(path, problems, group_column, check_files, extra_columns)]
    _assign_splits(clips, str(table[0].parent), problems)
    correct = Corrections(corrections)
    ids = [clip.id for clip in clips]
    kept = []
    for name in SPLITS:
        own = [clip for clip in clips if clip.split == name]
        known = ids if name == split else [*ids, *(row.id for row in correct.rows)]  # an unknown id is said once
        kept += correct.apply(own, name, problems, _relabelled, others=partial(list, known))
    clips = kept
    _check_sequences(clips, leaks, problems)
    source = str(table[0] if len(table) == 1 else table[0].parent)
    names = list(class_names) if class_names is not None else _listed_classes(table[0].parent, clips)
    names = _index(clips, "train", names, num_classes, source, problems)
    if split != "train":
        _index(clips, split, names, num_classes, source, problems)
    wanted = [clip for clip in clips if clip.split == split]
    present = sorted({view for clip in clips for view in clip.files})
    absent = [view for view in views if view not in present]
    if absent and clips:
        problems.add(f"cameras of TRACKS.VIEWS that no clip has (there are {present})", f"{absent}")
    problems.raise_if_any(source)
    if not wanted:
        raise DataError(f"{source}: the {split} split holds no clip")
    logger.info("%s: %d clips of %d classes for %s", source, len(wanted), len(names), split)
    lacking = [len(set(views) - clip.files.keys()) for clip in wanted]
    if any(lacking):
        logger.warning(
            "%d of the clips lack a camera of TRACKS.VIEWS, %d lack all of them",
            sum(map(bool, lacking)),
            lacking.count(len(views)),
        )
    return TrackManifest(wanted, names, source)


def read_new_clips(path: str) -> list[TrackClip]:
    """Return the clips of a csv of tracks that are to be predicted: all, or where it has splits those of the test.
    Labels are left aside, and a file that is missing is found when it is read.

    Raises:
        DataError: with all problems of the list.
    """
    problems = Problems()
    clips = _read_table(Path(path).expanduser(), problems, "", False)
    problems.raise_if_any(path)
    return [clip for clip in clips if clip.split in ("", "test")]


def _find_table(root: str) -> list[Path]:
    path = Path(root).expanduser()
    if not root or not path.exists():
        raise DataError(f"the data folder {root!r} does not exist: set DATA.PATH_TO_DATA_DIR")
    if path.is_file():
        return [path]
    splits = [path / f"{split}.csv" for split in SPLITS if (path / f"{split}.csv").is_file()]
    single = [path / name for name in (TABLE, PUBLISHED_TABLE) if (path / name).is_file()]
    found = [file.name for file in (*splits, *single)]
    if len(single) + bool(splits) > 1:
        raise DataError(f"{path} holds several lists ({', '.join(found)}): give the csv file as DATA.PATH_TO_DATA_DIR")
    if not found:
        raise DataError(f"{path} holds no list of tracks: {TABLE}, train.csv or {PUBLISHED_TABLE} are looked for")
    return single or splits


# --- tables -----------------------------------------------------------------------------------------------------


def _relabelled(clip: TrackClip, label: str) -> TrackClip:
    clip.word = label
    return clip


def _read_table(
    path: Path, problems: Problems, group_column: str, check_files: bool, extra_columns: Sequence[str] = ()
) -> list[TrackClip]:
    table = read_table(path, problems, where=f"{path.name} line {{}}")
    if not table.header:
        raise DataError(f"{path} is empty")
    rows = [(where, cells) for where, _, cells in table.rows]
    if set(PUBLISHED_COLUMNS) <= set(table.header):
        return _published_clips(path.parent, rows, problems, check_files)
    return _clips(path, table.header, rows, group_column, problems, check_files, extra_columns)


Rows = Iterable[tuple[str, dict[str, str]]]


def _clips(
    path: Path, header: list[str], rows: Rows, group_column: str, problems: Problems, check_files: bool,
    extra_columns: Sequence[str],
) -> list[TrackClip]:  # fmt: skip
    """Return one row per clip and camera."""
    named = {name: next((alias for alias in aliases if alias in header), "") for name, aliases in COLUMNS.items()}
    missing = [name for name in NEEDED if not named[name]]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)} in the header {','.join(header)}")
    group = find_group([column_name(name) for name in header], group_column, problems)
    named["group"] = "" if group is None else header[group]
    used = [column for column in named.values() if column]
    check_columns(list(dict.fromkeys(header)), used, str(path), problems, extra_columns)
    own_split = path.stem if path.stem in SPLITS and not named["split"] else ""
    clips: dict[str, TrackClip] = {}
    for where, cells in rows:
        row = {name: cells[column] if column else "" for name, column in named.items()}
        row["split"] = own_split or row["split"]
        view = _number(row["view"], "a view that is not a camera's number (0, 1, ...)", where, problems)
        start = _number(row["start"] or "0", "a start that is not a frame's number", where, problems)
        end = _number(row["end"], "an end that is not a frame's number", where, problems) if row["end"] else None
        empty = [name for name in NEEDED if not row[name]]
        if empty:
            problems.add("an empty field", f"{where}: {', '.join(empty)}")
        if empty or view is None or start is None or (row["end"] and end is None):
            continue
        file = _locate(path.parent, row["file"])
        if file is None:
            file = str(path.parent / row["file"])
            if check_files:
                problems.add("a file that is missing", f"{where}: {file}{like_missing(file)}")
        facts: dict[str, Any] = {
            "word": row["label"] or None,
            "sequence": row["sequence"],
            "split": row["split"],
            "group": row["group"] or row["sequence"],
            "start": start,
        }
        facts["end"] = end
        clip = clips.setdefault(row["sample"], TrackClip(row["sample"], None, files={}, where={}, **facts))
        for name, value in facts.items():
            if getattr(clip, name) != value:
                first = next(iter(clip.where.values()), "before")
                shown = f"{value!r} but {getattr(clip, name)!r} in {first}"
                problems.add(
                    "a sample whose rows disagree",
                    f"{where}: sample {clip.id}: {name.replace('word', 'label')} {shown}",
                )
        if view in clip.files:
            problems.add(
                "a view that a sample has twice", f"{where}: sample {clip.id}, view {view} ({clip.where[view]})"
            )
            continue
        clip.files[view], clip.where[view] = file, where
    return [clip for clip in clips.values() if clip.files]


def _number(text: str, problem: str, where: str, problems: Problems) -> int | None:
    number = whole_number(text)
    if number is None:
        problems.add(problem, f"{where}: {text!r}")
    return number


def _locate(folder: Path, written: str) -> str | None:
    places = (restored(str(folder / written)), restored(written))
    return next((path for path in places if os.path.exists(path)), None)


def _published_clips(folder: Path, rows: Rows, problems: Problems, check_files: bool) -> list[TrackClip]:
    """Return one row per segment; its cameras are what ``seq_4/seq_4_view_1`` (a folder, or a file) and so on hold.
    Cameras count from 1 there and from 0 here."""
    clips = []
    for where, cells in rows:
        sequence = cells["sequence_number"]
        frames = [
            _number(cells[name], f"a {name} that is not a number", where, problems) for name in PUBLISHED_COLUMNS[3:]
        ]
        clock = _number(cells["view"], "a view that is not a camera's number (1, 2, ...)", where, problems)
        if None in frames or not clock:
            continue
        files = {}
        for number in range(1, 100):
            stem = folder / sequence / f"{sequence}_view_{number}"
            found = next((path for suffix in ("", *SUFFIXES) if (path := Path(f"{stem}{suffix}")).exists()), None)
            if found is not None:
                files[number - 1] = str(found)
        if not files:
            files[0] = str(folder / sequence / f"{sequence}_view_1")
            if check_files:
                problems.add("a sequence without tracks", f"{where}: {files[0]} and so on")
        start, end = frames
        clips.append(
            TrackClip(
                f"{sequence}_{start}_{end}",
                None,
                sequence,
                files,
                dict.fromkeys(files, where),
                word=cells["action_label"],
                start=start or 0,
                end=end,
                clock=clock - 1 if clock - 1 in files else None,
                group=sequence,
            )
        )
    return clips


# --- splits and labels ------------------------------------------------------------------------------------------


def _assign_splits(clips: list[TrackClip], root: str, problems: Problems) -> None:
    """Assign splits where there is no column of them: 80, 10 and 10 % of the sequences, in the order of their names'
    hashes."""
    given = [clip for clip in clips if clip.split]
    for clip in given:
        if clip.split not in SPLITS:
            problems.add(f"a split that is none of {', '.join(SPLITS)}", f"{_first(clip)}: {clip.split!r}")
    if given:
        for clip in clips:
            if not clip.split:
                problems.add("a sample without a split, where others have one", _first(clip))
        return
    dealt = deal_sequences({clip.sequence for clip in clips})
    if len(dealt) < len(SHARES):
        problems.add("too few sequences for three splits: add a column split", f"{len(dealt)} sequences")
    for clip in clips:
        clip.split = dealt[clip.sequence]
    logger.info("%s has no splits: 80/10/10 of %d sequences by the hash of their names", root, len(dealt))


def deal_sequences(names: Iterable[str]) -> dict[str, str]:
    """Return {sequence: split}: 80, 10 and 10 % of them, in the order of their names' hashes; one of val and test at
    least."""
    sequences = sorted(set(names), key=hash_order)
    held_out = max(1, round(SHARES["val"] * len(sequences)))
    left = {name: len(sequences) - place for place, name in enumerate(sequences)}
    return {
        name: "test" if left[name] <= held_out else "val" if left[name] <= 2 * held_out else "train"
        for name in sequences
    }


def _check_sequences(clips: list[TrackClip], leaks: bool, problems: Problems) -> None:
    """Check that a sequence of train is in no other split; val and test may be one list."""
    train = {clip.sequence: clip for clip in clips if clip.split == "train"}
    ids: dict[tuple[str, str], TrackClip] = {}
    for clip in clips:
        other = train.get(clip.sequence)
        if other is not None and clip.split != "train" and not leaks:
            problems.add(
                "a sequence of train in another split, which would test on what was trained on: keep it together",
                f"{_first(clip)}: {clip.sequence} in {clip.split}, and in train ({_first(other)})",
            )
        if ids.setdefault((clip.id, clip.split), clip) is not clip:
            problems.add("a sample named twice", f"{_first(clip)}: {clip.id} ({_first(ids[clip.id, clip.split])})")


def _first(clip: TrackClip) -> str:
    return clip.where[min(clip.where)]


def _listed_classes(folder: Path, clips: list[TrackClip]) -> list[str] | None:
    if (folder / CLASS_LIST).exists():
        return read_class_list(folder / CLASS_LIST)
    published = folder / "classes.json"
    if not published.exists():
        return None
    try:
        numbers = {str(name): int(number) for name, number in read_json(published)["classes"].items()}
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError):
        raise DataError(f'{published} is not {{"classes": {{name: number}}}}') from None
    used = {clip.word for clip in clips}  # the list also has "no action", which no segment is labelled with
    return [name for name in sorted(numbers, key=numbers.__getitem__) if name in used]


def _index(
    clips: list[TrackClip],
    split: str,
    names: list[str] | None,
    num_classes: int | None,
    source: str,
    problems: Problems,
) -> list[str]:
    """Set the labels of one split's clips and return the classes."""
    chosen = [clip for clip in clips if clip.split == split]
    if split != "test":
        for clip in chosen:
            if clip.word is None:
                problems.add("no label", f"{_first(clip)}: sample {clip.id}")
    raw = RawSplit(source, [Row(_first(clip), clip.id, clip.word) for clip in chosen], problems=problems)
    labels, found = index_labels(raw, names, num_classes, multi_label=False)
    for clip, label in zip(chosen, labels, strict=True):
        clip.label = None if label is None else label[0]
    return found
