"""From annotation files and a folder of videos to lists of segments."""

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dust.convert.annotations import json_files, tables, xml_files
from dust.convert.splits import make_folder, refuse_overwriting, written_path
from dust.datasets.manifest.annotated import DIGITS, annotation_files, find_video, videos_below
from dust.datasets.manifest.annotation import Annotated, Annotation, require_items
from dust.datasets.manifest.annotation_files import read_activitynet, read_epic, read_kinetics
from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.votes import read_votes
from dust.decode.container import stated_duration
from dust.decode.reader import FrameFolderReader, VideoReader
from dust.utils.errors import ConfigError, DataError, Problems, VideoError
from dust.utils.files import write_csv
from dust.utils.text import counted

#: All stretches of files that do not say their split, for `dust split`.
ONE_LIST = "data.csv"
HEADER_S = 0.1  # by how much headers may be wrong


@dataclass(frozen=True)
class Form:
    """A form of annotations: what it is, its reader, the endings of its files, what ``--label`` chooses ("" for
    nothing), and whether it may hold several people's words (``--soft-labels``)."""

    title: str
    read: Callable[..., Annotated]
    endings: tuple[str, ...]
    chooses: str = ""
    people: bool = False


READERS = {
    "activitynet": Form(
        "ActivityNet's or THUMOS' json, or a timeline that `dust predict` wrote",
        read_activitynet,
        (".json",),
    ),
    "ava": Form("AVA's csv, with or without boxes", tables.read_ava, (".csv",)),
    "boris": Form("BORIS' aggregated or tabular events", tables.read_boris, (".csv", ".tsv")),
    "cvat": Form(
        "CVAT for video (tracks) or images (tags), xml 1.1", xml_files.read_cvat, (".xml",), "attribute of a track"
    ),
    "elan": Form("ELAN's tiers, .eaf", xml_files.read_elan, (".eaf",), "tier"),
    "epic": Form("EPIC-KITCHENS' csv over the long videos", read_epic, (".csv",), "verb, noun or action"),
    "kinetics": Form("Kinetics' csv (youtube_id, time_start, time_end)", read_kinetics, (".csv",)),
    "label-studio": Form("Label Studio's JSON or JSON-MIN", json_files.read_label_studio, (".json",), people=True),
    "segments": Form(
        "lists of segments, as `dust predict --timeline` writes them (NAME.segments.csv)",
        tables.read_segments,
        (".segments.csv",),
    ),
    "via": Form("a project of VIA 3", json_files.read_via, (".json",), "attribute"),
}


@dataclass
class Converted:
    """``counts``: segments of each list. ``classes``: their names. ``notes``: what was left out, and why."""

    counts: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert_annotations(
    form: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    videos: str = "",
    label: str = "",
    soft_labels: bool = False,
    multi_label: bool = False,
    skip_missing: bool = False,
    force: bool = False,
) -> Converted:
    """Write ``train.csv`` and so on, or ``data.csv`` where no split is said: path, start, end (seconds), label, group.

    Frames become the times between which they lie, by the exact times of the video; so a video of varying rate is cut
    at the frames that were annotated.

    Args:
        form: a key of READERS.
        source: a file, or a folder of files of this form.
        videos: folder of the videos; "" for that of ``source``.
        label: which tier, attribute or column holds the label, where the form has several.
        soft_labels: labels are the shares of several annotators, where the form has them; see DATA.SOFT_LABELS.
        multi_label: several labels of one stretch are one row, see DATA.MULTI_LABEL; else a row each, and counted.
        skip_missing: leave out what is said of videos that are not there, or cannot be read; else that is an error.

    Raises:
        DataError: files that cannot be read, with all problems of each; videos that are not there; files in the way.
    """
    reader, out = READERS[form], Path(out)
    if label and not reader.chooses:
        raise ConfigError(f"--label {label}: {form} has one label for a stretch, there is nothing to choose")
    if soft_labels and not reader.people:
        raise ConfigError(f"--soft-labels: {form} does not say what several people said")
    if soft_labels and multi_label:
        raise ConfigError("--multi-label is for stretches of several classes, --soft-labels for shares: give one")
    source = Path(source).expanduser()
    files = annotation_files(source, reader.endings)
    packed = [str(file) for file in files if zipfile.is_zipfile(file)]
    if packed:
        raise DataError(f"{packed[0]}: a zip file or a spreadsheet: unpack it, or export it as {reader.endings[0]}")
    refuse_overwriting(out, [*(f"{split}.csv" for split in SPLITS), ONE_LIST, CLASS_LIST], force)
    result, items = Converted(), []
    said_in: dict[int, str] = {}
    for file in files:
        options = {"soft_labels": soft_labels} if reader.people else {}
        found = reader.read(file, *([label] if reader.chooses else []), **options)
        items += found.items
        result.notes += [f"{file.name}: {note}" for note in found.notes]
        said_in |= {id(one): file.name for one in found.items}
    if not items:
        require_items(Annotated(notes=result.notes), source)
    folder = Path(videos).expanduser() if videos else source if source.is_dir() else source.parent
    rows = _located(items, folder, out, skip_missing, result)
    if not rows:
        raise DataError(f"{source}: none of its videos is below {folder}; name their folder with --videos")
    result.notes += _met(rows, said_in)
    names = ((read_votes(one.label) if soft_labels else None) or {one.label: 1} for one, *_ in rows)
    result.classes = sorted(set().union(*names))
    if not soft_labels:
        rows = _of_one_stretch(rows, multi_label, result)
    _write(rows, out, result)
    return result


Row = tuple[Annotation, str, float | None, float | None]


def _met(rows: Iterable[Row], said_in: Mapping[int, str]) -> list[str]:
    """Return what to say of videos of which several files speak, or which several folders of the annotation have
    become; ``said_in``: the file of each annotation, by its ``id``."""
    files: dict[str, dict[str, str]] = {}
    folders: dict[str, dict[str, str]] = {}
    for one, path, *_ in rows:
        files.setdefault(path, {}).setdefault(said_in[id(one)], one.video)
        folders.setdefault(path, {}).setdefault(one.folder, one.video)
    notes = []
    for found, told in (
        (files, "in several files, whose stretches are all taken"),
        (folders, "in several folders as the annotation has it, and one is there: is it the same video?"),
    ):
        several = [words for words in found.values() if len(words) > 1]
        if several:
            video, where = next(iter(several[0].values())), ", ".join(word or "none" for word in several[0])
            notes.append(f"{counted(len(several), 'video is', 'videos are')} {told} ({video}: {where})")
    return notes


def _of_one_stretch(rows: list[Row], multi_label: bool, result: Converted) -> list[Row]:
    """Return one row for each stretch of a video, with all its labels (``a,b``); without ``multi_label`` the rows as
    they are, and note how many stretches have several."""
    stretches: dict[tuple, list[Row]] = {}
    for row in rows:
        stretches.setdefault((row[1], _time(row[2]), _time(row[3]), row[0].split, row[0].group), []).append(row)
    labels = [list(dict.fromkeys(one.label for one, *_ in found)) for found in stretches.values()]
    if multi_label:
        split = sorted({name for names in labels for name in names if "," in name})
        if split:
            raise DataError(f"--multi-label: a comma is between two labels, so rename {', '.join(split[:3])}")
        made = zip(stretches.values(), labels, strict=True)
        return [(replace(found[0][0], label=",".join(names)), *found[0][1:]) for found, names in made]
    several = [found[0][0] for found, names in zip(stretches.values(), labels, strict=True) if len(names) > 1]
    if several:
        has, one = counted(len(several), "stretch has", "stretches have"), several[0]
        result.notes.append(
            f"{has} several labels, which stand in a row each ({one.video} {one.start:g}-{one.end:g}) and contradict "
            "each other: --multi-label makes one row of them, for DATA.MULTI_LABEL True"
        )
    return rows


def _located(items: Iterable[Annotation], folder: Path, out: Path, skip: bool, result: Converted) -> list[Row]:
    """Return (annotation, path as written, start, end) of those whose video is there; without start and end where the
    file holds the stretch alone."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of videos")
    known = videos_below(folder)
    problems, rows, times, late = Problems(), [], {}, 0
    seconds: dict[str, list[Annotation]] = {}
    for one in items:
        path, whole = find_video(one, known, problems)
        if not path:
            continue
        start, end = (one.start, one.end) if whole else (None, None)
        if whole and not one.in_frames:
            seconds.setdefault(path, []).append(one)
        if one.in_frames:
            if path not in times:
                times[path] = _frame_times(path, problems)
            known_times = times[path]
            if known_times is None:
                continue
            edges, pictures = known_times
            if one.picture and one.picture not in pictures:
                problems.add("the picture is not there", f"{path}: {one.picture}")
                continue
            first, last = (int(end) + (pictures[one.picture] if one.picture else 0) for end in (one.start, one.end))
            late += last > len(edges) - 1
            if first >= len(edges) - 1:
                problems.add(
                    f"begins behind the last frame ({len(edges) - 1} frames)", f"{one.video} {one.start:g}-{one.end:g}"
                )
                continue
            start, end = edges[first], edges[min(last, len(edges) - 1)]
        rows.append((one, written_path(path, out), start, end))
    if late:
        result.notes.append(f"{late} stretches end behind the last frame of their video, and are cut there")
    result.notes += _beyond(seconds)
    if skip:
        result.notes += [f"left out: {len(cases)} that {kind}" for kind, cases in problems.kinds.items()]
    else:
        problems.raise_if_any(f"{folder} (--skip-missing leaves these out)")
    return rows


def _beyond(seconds: Mapping[str, Sequence[Annotation]]) -> list[str]:
    """Return what to say of stretches that end behind their video, as its header has it; they stay in the list."""
    late, begin, example = 0, 0, ""
    for path, items in seconds.items():
        length = 0.0 if os.path.isdir(path) else stated_duration(path)
        for one in items if length else ():
            if one.end > length + HEADER_S:
                late, begin = late + 1, begin + (one.start >= length)
                example = example or f"{one.video} {one.start:g}-{one.end:g} s, where its header says {length:.6g} s"
    if not late:
        return []
    has = counted(late, "stretch ends", "stretches end")
    return [
        f"{has} behind the end of the video, and {begin} begin there ({example}): wrong units, or another video? "
        "`dust check` names them"
    ]


def _frame_times(path: str, problems: Problems) -> tuple[list[float], dict[str, int]] | None:
    """Return times between frames: frame n lies from entry n to entry n + 1, seconds from the first frame; and of a
    folder the numbers of its pictures."""
    try:
        with (FrameFolderReader if os.path.isdir(path) else VideoReader)(path) as reader:
            shown: Any = reader
            pts = [float(time) - float(shown.pts[0]) for time in shown.pts]
            pictures = {name: number for number, name in enumerate(getattr(shown, "names", ()))}
            return [0.0, *((a + b) / 2 for a, b in pairwise(pts)), pts[-1] + 1 / reader.fps], pictures
    except VideoError as error:
        problems.add("the video cannot be read", f"{path}: {error.reason}")
        return None


def _write(rows: list[Row], out: Path, result: Converted) -> None:
    split_known = all(one.split for one, *_ in rows)
    lists: dict[str, list[Row]] = {}
    for row in rows:
        lists.setdefault(row[0].split if split_known else ONE_LIST.removesuffix(".csv"), []).append(row)
    if not split_known and any(one.split for one, *_ in rows):
        result.notes.append(f"some stretches have no split, so all are in {ONE_LIST}")
    make_folder(out)
    for name, part in lists.items():
        segments = any(start is not None for *_, start, _ in part)
        groups = any(one.group for one, *_ in part)
        header = ["path", *(["start", "end"] if segments else []), "label", *(["group"] if groups else [])]
        table = [
            [path, *([_time(start), _time(end)] if segments else []), one.label, *([one.group] if groups else [])]
            for one, path, start, end in part
        ]
        write_csv(out / f"{name}.csv", header, table)
        result.counts[name] = len(part)
    if split_known:  # else `dust split` writes it beside the lists that it cuts
        write_class_list(out / CLASS_LIST, result.classes)


def _time(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")
