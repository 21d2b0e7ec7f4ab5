"""The lists of a data folder of any kind that dust reads, in one form: what ``dust check`` looks at."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dust.convert.health import Health, look_at_all, measure
from dust.datasets.arrays import ArrayFiles, SampleError, is_row, split_reference
from dust.datasets.keystep.files import RECORDINGS
from dust.datasets.keystep.layouts import STATE_LABELS, TABLE, read_procedures
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.clips import classes_of
from dust.datasets.manifest.columns import column_name
from dust.datasets.manifest.conflicts import Sample, samples_of
from dust.datasets.manifest.manifest import SPLITS, available_splits, detect_format, read_manifest
from dust.datasets.manifest.shards import lists_of
from dust.datasets.manifest.table import SPLIT_NAMES, Table, read_csv, read_lines, read_table
from dust.datasets.manifest.votes import Votes, write_votes
from dust.datasets.multimodal.fusion_manifest import FILES, ONE_FILE, read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules, count_channels
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import PUBLISHED_TABLE, read_track_manifest
from dust.datasets.tracks.manifest import TABLE as TRACK_TABLE
from dust.datasets.video.epic_list import HEADER, NAMES, read_epic
from dust.decode.members import member_of
from dust.utils.errors import ConfigError, DataError, Problems
from dust.utils.files import like_missing

KINDS = ("clips", "fusion", "tracks", "keystep", "epic")
#: A frame so large that no point is outside: for tracks whose files do not say their size.
_ANY_SIZE = (1_000_000, 1_000_000)


@dataclass(frozen=True)
class ListOptions:
    """What a configuration says of the lists.

    Attributes:
        kind: one of KINDS; "" finds it.
        span: seconds that a clip of the configuration covers; 0 = not known.
        layout, table: KEYSTEP.LAYOUT and PROCEDURE.
        rules: of series; None takes what the first series shows.
        frame_size: of tracks, height and width; None = as the files say.
        num_verbs, num_nouns: of EPIC-KITCHENS.
    """

    kind: str = ""
    format: str = "auto"
    separator: str = ""
    path_prefix: str = ""
    multi_label: bool = False
    split_number: int = 1
    group_column: str = ""
    corrections: str = ""
    segment_unit: str = "seconds"
    extra_columns: Sequence[str] = ()
    frame_pattern: str = ""
    span: float = 0.0
    layout: str = "auto"
    table: str = ""
    rules: SeriesRules | None = None
    frame_size: tuple[int, int] | None = None
    num_verbs: int = 97
    num_nouns: int = 300
    background: Background | None = None
    soft_labels: bool = False
    annotations: str = ""
    epic_label: str = "action"

    def __post_init__(self) -> None:
        if self.multi_label and self.soft_labels:
            raise ConfigError(
                "--multi-label is for clips of several classes, --soft-labels for clips of one class of which people "
                "are unsure: give one of them"
            )


@dataclass
class Lists:
    """All splits of a data folder.

    Attributes:
        clips: split -> what its reader returns.
        files: what is to be read -> video | rows | series | tracks.
        source: split -> what was read, as the reader returns it (a manifest, or a procedure's data).
    """

    kind: str
    class_names: list[str]
    clips: dict[str, Sequence[Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def samples(self) -> dict[str, list[Sample]]:
        return {split: samples_of(clips) for split, clips in self.clips.items()}

    def votes(self, clip: Any) -> Votes | None:
        """Return what several people said of a clip, where the lists say that."""
        found = (getattr(manifest, "votes", {}).get(clip.id) for manifest in self.source.values())
        return next((votes for votes in found if votes), None)

    def words(self, clip: Any) -> str:
        """Return the label as a list writes it; "" for none."""
        label = clip.label
        votes = self.votes(clip)
        if votes:
            return write_votes(votes, self.class_names)
        if self.kind == "epic" and label is not None:
            return f"{label[0]},{label[1] - self.source['num_verbs']}"
        return ",".join(self.class_names[number] for number in classes_of(label))


def find_kind(root: str, separator: str = "") -> str:
    """Return which of KINDS a folder, or a list, is of. ``separator``: of csv columns, "" finds it."""
    folder = Path(root)
    if folder.is_dir():
        if (folder / RECORDINGS).is_file() or (folder / TABLE).is_file() or _has_recordings(folder):
            return "keystep"
        if (folder / TRACK_TABLE).is_file() or (folder / PUBLISHED_TABLE).is_file():
            return "tracks"
        if (folder / ONE_FILE).is_file():
            return "fusion"
        if any((folder / name).is_file() for name in NAMES.values()):
            return "epic"
    lists = [folder / f"{split}.csv" for split in SPLITS] if folder.is_dir() else [folder]
    first = next((path for path in lists if path.is_file()), None)
    if first is None:
        return "clips"
    lines = read_lines(first, Problems(), separator=separator)
    names = [column_name(cell) for cell in lines[0].cells] if lines else []
    if {"sample", "view", "file"} <= set(names) or {"sample_id", "camera", "path"} <= set(names):
        return "tracks"
    if set(HEADER) <= set(names) or (len(names) == 3 and all(cell.isdecimal() for cell in names[1:])):
        return "epic"
    stacked = "video" in names and len(lines) > 1 and is_row(lines[1].cells[min(names.index("video"), len(names) - 1)])
    return "fusion" if "id" in names and ("series" in names or stacked) else "clips"


def _has_recordings(folder: Path) -> bool:
    return any(next(folder.glob(f"{pattern}{STATE_LABELS}"), None) for pattern in ("recordings/*/*/", "*/*/"))


def read_lists(root: str, options: ListOptions) -> Lists:
    """Read every split that there is. DataError for lists that cannot be read, with all their problems."""
    root = os.path.expanduser(root)
    folder = lists_of(root)
    if not os.path.exists(folder):
        raise DataError(f"the data folder {root} does not exist")
    kind = options.kind or find_kind(folder, options.separator)
    readers = {"fusion": _fusion, "tracks": _tracks, "keystep": _keystep, "epic": _epic, "clips": _clips}
    if kind not in readers:
        raise DataError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    lists = readers[kind](root, options)
    if not lists.clips:
        raise DataError(f"{root} has no train, val or test split in the format {options.format}")
    return lists


def _shared(options: ListOptions) -> dict[str, Any]:
    return {
        "group_column": options.group_column,
        "corrections": options.corrections,
        "extra_columns": options.extra_columns,
    }


def _clips(root: str, options: ListOptions) -> Lists:
    lists = Lists("clips", [])
    layout = detect_format(lists_of(root)) if options.format == "auto" else options.format
    if layout == "charades":
        splits, options = available_splits(root, layout), replace(options, multi_label=True)
    elif os.path.isfile(root):
        rows = read_csv(root, split="", separator=options.separator, multi_label=options.multi_label).rows
        splits = [split for split in SPLITS if any(SPLIT_NAMES.get(row.split.lower()) == split for row in rows)] or [
            "test"
        ]
    else:
        splits = available_splits(root, layout, options.split_number, options.annotations)
    for split in splits:
        manifest = read_manifest(
            root=root,
            split=split,
            format=layout,
            separator=options.separator,
            path_prefix=options.path_prefix,
            class_names=lists.class_names or None,
            multi_label=options.multi_label,
            split_number=options.split_number,
            segment_unit=options.segment_unit,
            background=options.background,
            soft_labels=options.soft_labels,
            annotations=options.annotations,
            epic_label=options.epic_label,
            check_files=False,  # in every kind of list a missing file is one more bad clip
            **_shared(options),
        )
        lists.class_names, lists.source[split] = manifest.class_names, manifest
        lists.clips[split] = manifest.clips
        lists.files |= {clip.path: "video" for clip in manifest.clips}
    return lists


def _csv_splits(root: str, separator: str = "") -> dict[str, Table]:
    """Return the table of each split; that of one file for all splits under ""."""
    one = root if os.path.isfile(root) else os.path.join(root, ONE_FILE)
    paths = {"": one} if os.path.isfile(one) else {split: os.path.join(root, f"{split}.csv") for split in SPLITS}
    return {
        split: read_table(path, Problems(), separator=separator)
        for split, path in paths.items()
        if os.path.isfile(path)
    }


def _fusion(root: str, options: ListOptions) -> Lists:
    lists = Lists("fusion", [])
    tables = _csv_splits(root, options.separator)
    rows = [cells for table in tables.values() for _, _, cells in table.rows]
    modalities = [name for name in FILES if any(row.get(name) for row in rows)]
    if not modalities:  # reading says what is missing
        modalities = [name for name in FILES if any(name in table.header for table in tables.values())] or [*FILES]
    splits = list(tables)
    if splits == [""]:
        splits = [split for split in SPLITS if any(row.get("split", "") in (split, "") for row in rows)]
    for split in splits:
        manifest = read_fused_manifest(
            root=root,
            split=split,
            modalities=modalities,
            separator=options.separator,
            path_prefix=options.path_prefix,
            class_names=lists.class_names or None,
            multi_label=options.multi_label,
            check_files=False,
            soft_labels=options.soft_labels,
            **_shared(options),
        )
        lists.class_names, lists.source[split] = manifest.class_names, manifest
        lists.clips[split] = manifest.clips
        for clip in manifest.clips:
            if clip.video:
                lists.files[clip.video] = "rows" if is_row(clip.video) else "video"
            if clip.series:
                lists.files[clip.series] = "series"
    return lists


def _tracks(root: str, options: ListOptions) -> Lists:
    lists = Lists("tracks", [])
    for split in SPLITS:
        try:
            manifest = read_track_manifest(
                root=root,
                split=split,
                class_names=lists.class_names or None,
                leaks=True,
                check_files=False,
                **_shared(options),
            )
        except DataError as error:
            if "split holds no clip" in str(error):
                continue
            raise
        lists.class_names, lists.source[split] = manifest.class_names, manifest
        lists.clips[split] = manifest.clips
        lists.files |= {file: "tracks" for clip in manifest.clips for file in clip.files.values()}
    return lists


def _keystep(root: str, options: ListOptions) -> Lists:
    lists = Lists("keystep", [])
    own = Path(root, RECORDINGS)
    if own.is_file():
        rows = _csv_splits(str(own))[""].rows
        splits = [split for split in SPLITS if any(cells.get("split") == split for _, _, cells in rows)]
    else:
        splits = [split for split in SPLITS if any(Path(root, name, split).is_dir() for name in ("recordings", ""))]
    for split in splits:
        data = read_procedures(
            root,
            split,
            layout=options.layout,
            table=options.table,
            pattern=options.frame_pattern,
            check_files=False,
            **_shared(options),
        )
        lists.class_names, lists.source[split] = data.components, data
        lists.clips[split] = data.recordings
        lists.files |= {one.path: "video" for one in data.recordings}
    return lists


def _epic(root: str, options: ListOptions) -> Lists:
    lists = Lists("epic", [])
    lists.source["num_verbs"] = options.num_verbs
    for split in (split for split in SPLITS if os.path.isfile(os.path.join(root, f"{split}.csv"))):
        manifest = read_epic(
            root,
            split,
            num_verbs=options.num_verbs,
            num_nouns=options.num_nouns,
            path_prefix=options.path_prefix,
            check_files=False,
            **_shared(options),
        )
        lists.class_names, lists.source[split] = manifest.class_names, manifest
        lists.clips[split] = manifest.clips
        lists.files |= {clip.path: "video" for clip in manifest.clips}
    return lists


# ------------------------------------------------------------------------------------------------------------ reading


def look_at(path: str, *, kind: str, options: ListOptions, unfit: Collection[str] = ()) -> Health:
    """Read one file of ``Lists.files`` to its end. One that is not there is missing.

    Args:
        unfit: series that are not brought to a rate and length; see :func:`_look_at_series`.
    """
    file, _ = split_reference(path)
    if member_of(file) is None and not os.path.exists(file):
        hint = "" if kind != "video" or os.path.splitext(file)[1] else " (a header? name its columns path and label)"
        return Health(f"missing{hint or like_missing(file)}")
    try:
        if kind == "rows":
            return _look_at_row(path)
        if kind == "series":
            return _look_at_series(path, options, path not in unfit)
        if kind == "tracks":
            tracks = read_tracks(path, size=options.frame_size or _ANY_SIZE)
            return Health("", len(tracks.xy), fps=tracks.fps)
    except DataError as error:
        return Health(str(error).removeprefix(f"{path}: ").removeprefix(f"{file}: "))
    return measure(path, decode=True, pattern=options.frame_pattern)


def look_at_files(lists: Lists, options: ListOptions, *, workers: int = 0) -> dict[str, Health]:
    """Read every file of the lists, in parallel where there are ``workers``."""
    found: dict[str, Health] = {}
    for kind in dict.fromkeys(lists.files.values()):
        paths = [path for path, own in lists.files.items() if own == kind]
        unfit: Collection[str] = ()
        if kind == "series":
            sources = [pair for samples in lists.samples().values() for one in samples for pair in one.sources]
            unfit = paths if options.rules is None else {path for path, part in sources if part}
            options = options if options.rules else replace(options, rules=_rules_of(paths))
        look = partial(look_at, kind=kind, options=options, unfit=frozenset(unfit))
        found |= look_at_all(paths, look, workers=workers, desc=kind)
    return found


def _rules_of(paths: Sequence[str]) -> SeriesRules:
    """Ask for as many channels as the first series has that can be read; missing values are nobody's fault here."""
    for path in paths:
        try:
            return SeriesRules(num_channels=count_channels(path), missing="mask")
        except SampleError:
            continue
    return SeriesRules(num_channels=1, missing="mask")


def _look_at_series(path: str, options: ListOptions, whole: bool) -> Health:
    """Read a series; a ``whole`` one is brought to the configuration's rate and length as a run does it. It is none
    where no configuration is given, or where samples are windows of it."""
    assert options.rules is not None
    series = options.rules.read(path)
    options.rules.check_values(series.values, path)
    if whole:
        options.rules.prepare(series, path)
    count = series.values.shape[1]
    if series.times is None or count < 2:
        return Health("", count)
    return Health("", count, fps=float((count - 1) / (series.times[-1] - series.times[0])))


def _look_at_row(path: str) -> Health:
    file, key = split_reference(path)
    if not key.isdecimal():
        return Health("a row that is no number")
    row = ArrayFiles().row(file, int(key))
    if row.ndim != 4:
        return Health(f"a row of shape {row.shape}, where (channels, frames, height, width) is needed")
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        return Health("values that are not finite")
    return Health("", row.shape[1], row.shape[2], row.shape[3])
