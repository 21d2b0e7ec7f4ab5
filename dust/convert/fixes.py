"""What becomes of a check: its lists of findings, a list of corrections, or clean lists of the same kind."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dust.convert.check import BAD, NAMES, Finding, Report
from dust.convert.lists import Lists
from dust.convert.splits import BAD_CLIPS, make_folder, refuse_overwriting, written_path
from dust.datasets.arrays import split_reference
from dust.datasets.keystep.files import write_own
from dust.datasets.manifest.labels import CLASS_LIST, write_class_list
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.manifest.table import read_lines
from dust.datasets.multimodal.fusion_manifest import WINDOW
from dust.datasets.video.epic_list import HEADER
from dust.datasets.video.epic_list import NAMES as EPIC_NAMES
from dust.utils.errors import DataError, Problems
from dust.utils.files import write_csv

logger = logging.getLogger(__name__)

FINDINGS = "check.csv"
COLUMNS = {
    BAD_CLIPS: ["split", "id", "path", "reason"],
    FINDINGS: ["level", "kind", "split", "id", "path", "detail", "action", "label"],
}
_LISTS = [*(f"{split}.csv" for split in SPLITS), CLASS_LIST, "recordings.csv", "procedure.json"]
#: Which of several findings about one sample decides what becomes of it.
_RANK = {"keep": 0, "relabel": 1, "drop": 2}


def folder_of_findings(root: str, out: str = "", *, force: bool = False) -> Path:
    """Return where the lists of a check go: ``out``, else the data folder, else (where that is read-only) the working
    folder.

    An older check's lists are replaced.

    Raises:
        DataError: files of these names that are somebody else's, without ``force``.
    """
    root = os.path.expanduser(root)
    folder = Path(out or (os.path.dirname(os.path.abspath(root)) if os.path.isfile(root) else root))
    if not out and not os.access(folder, os.W_OK):
        folder = Path.cwd() / f"check_{folder.absolute().name}"
    foreign = [name for name in COLUMNS if not _is_ours(folder / name, COLUMNS[name])]
    refuse_overwriting(folder, foreign, force)
    return folder


def _is_ours(path: Path, columns: Sequence[str]) -> bool:
    if not path.exists():
        return True
    try:
        lines = read_lines(path, Problems())
    except DataError:
        return False
    return not lines or lines[0].cells == list(columns)


def write_findings(report: Report, folder: Path) -> Path:
    """Write ``bad_clips.csv`` (what cannot be read) and ``check.csv`` (all findings); returns the latter's path."""
    make_folder(folder)
    bad = [(one.split, one.id, one.path, one.detail) for one in report.findings if one.kind == BAD]
    write_csv(folder / BAD_CLIPS, COLUMNS[BAD_CLIPS], bad)
    rows = [[getattr(one, name) for name in COLUMNS[FINDINGS]] for one in report.findings]
    write_csv(folder / FINDINGS, COLUMNS[FINDINGS], rows)
    return folder / FINDINGS


# ---------------------------------------------------------------------------------------------------------------- fixes


def refuse_fix(fix: str, *, force: bool = False) -> None:
    """Refuse a place of ``--fix`` that is taken, before anything is decoded. DataError."""
    path = Path(fix)
    if path.suffix == ".csv":
        refuse_overwriting(path.parent, [path.name], force)
    else:
        refuse_overwriting(path, _LISTS, force)


def decisions(report: Report) -> dict[tuple[str, str], Finding]:
    """Map (split, id) -> the finding that decides: one that drops the sample before one that relabels it."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in report.findings:
        if finding.id:
            key = finding.split, finding.id
            if key not in found or _RANK[finding.action] > _RANK[found[key].action]:
                found[key] = finding
    return found


def write_corrections(report: Report, path: str | os.PathLike, *, force: bool = False) -> dict[str, int]:
    """Write the corrections that the findings propose, for DATA.CORRECTIONS; returns how many there are of each action.

    A row of ``keep`` changes nothing: it stands for a person to look at. Names that are only nearly alike get none.
    """
    path = Path(path)
    refuse_overwriting(path.parent, [path.name], force)
    rows = [
        (sample, one.action, one.label, split, f"{one.kind}: {one.detail}")
        for (split, sample), one in decisions(report).items()
        if (one.kind, one.action) != (NAMES, "keep")
    ]
    make_folder(path.parent)
    write_csv(path, ("id", "action", "label", "split", "reason"), rows)
    return {action: sum(row[1] == action for row in rows) for action in _RANK}


def write_clean(report: Report, out: str | os.PathLike, *, force: bool = False) -> dict[str, int]:
    """Write the lists again, of the same kind, after the corrections that the findings propose. Files stay.

    Returns:
        How many samples each split has.

    Raises:
        DataError: files in the way without ``force``, a split of which nothing is left, or lists of frames.
    """
    lists = report.lists
    _refuse_lists(Path(out), lists, force)
    chosen = decisions(report)
    kept: dict[str, list[tuple[Any, str]]] = {}
    for split, clips in lists.clips.items():
        kept[split] = []
        for clip in clips:
            decision = chosen.get((split, clip.id))
            if decision is None or decision.action != "drop":
                relabelled = decision is not None and decision.action == "relabel"
                kept[split].append((clip, decision.label if decision and relabelled else lists.words(clip)))
    empty = [split for split, rows in kept.items() if not rows]
    if empty:
        raise DataError(f"no sample is left in {', '.join(empty)}: nothing is written to {out}")
    words = {label for _, label in kept.get("train", ())} | _renamed(lists, kept)
    gone = sorted({lists.words(clip) for clip in lists.clips.get("train", ())} - words)
    if gone:
        logger.warning("train has no sample of %s any more", ", ".join(gone))
    write_lists(out, lists, kept, force=force)
    return {split: len(rows) for split, rows in kept.items()}


Kept = dict[str, list[tuple[Any, str]]]


def write_lists(out: str | os.PathLike, lists: Lists, kept: Kept, *, force: bool = False) -> None:
    """Write lists of the kind of ``lists`` into the folder ``out``.

    Args:
        kept: split -> (clip of ``lists``, its label as a list writes it).

    Raises:
        DataError: files in the way without ``force``, or lists of frames.
    """
    out = Path(out)
    _refuse_lists(out, lists, force)
    make_folder(out)
    writers = {"clips": _clips, "fusion": _fusion, "tracks": _tracks, "epic": _epic, "keystep": _keystep}
    writers[lists.kind](out, lists, kept)


def _refuse_lists(out: Path, lists: Lists, force: bool) -> None:
    if lists.kind == "clips" and any(manifest.frames for manifest in lists.source.values()):
        raise DataError("lists of frames (Charades) are not written again: give --fix a FILE.csv, for DATA.CORRECTIONS")
    refuse_overwriting(out, _LISTS, force)


def write_list(out: Path, split: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a csv without the columns that are empty everywhere."""
    used = [
        column
        for column, name in enumerate(header)
        if name in ("id", "path", "label") or any(row[column] for row in rows)
    ]
    used = [column for column in used if header[column] != "label" or any(row[column] for row in rows)]
    table = [[row[column] for column in used] for row in rows]
    write_csv(out / f"{split}.csv", [header[column] for column in used], table)


def _reference(written: str, out: Path) -> str:
    """Return a path, or a row of an array, as it is written into a list of ``out``."""
    if not written:
        return ""
    file, key = split_reference(written)
    return written_path(file, out) + (f"#{key}" if key else "")


def _write_classes(out: Path, lists: Lists, kept: Kept) -> None:
    """Write the class list, without the names that nobody has any more because they were relabelled."""
    used = {word for rows in kept.values() for _, label in rows for word in label.split(",")}
    relabelled = _renamed(lists, kept)
    write_class_list(out / CLASS_LIST, [name for name in lists.class_names if name in used or name not in relabelled])


def _renamed(lists: Lists, kept: Kept) -> set[str]:
    """Return names of classes that samples were taken from by relabelling."""
    pairs = (
        (lists.words(clip), label) for rows in kept.values() for clip, label in rows if isinstance(clip.label, int)
    )
    return {before for before, label in pairs if before != label}


def _clips(out: Path, lists: Lists, kept: Kept) -> None:
    for split, rows in kept.items():
        table = [
            (
                clip.id,
                _reference(clip.path, out),
                label,
                clip.group,
                *(clip.segment.cells if clip.segment else ("", "")),
            )
            for clip, label in rows
        ]
        write_list(out, split, ("id", "path", "label", "group", "start", "end"), table)
    _write_classes(out, lists, kept)


def _fusion(out: Path, lists: Lists, kept: Kept) -> None:
    for split, rows in kept.items():
        table = [
            (clip.id, label, _reference(clip.video, out), _reference(clip.series, out), clip.group, *_window(clip))
            for clip, label in rows
        ]
        write_list(out, split, ("id", "label", "video", "series", "group", *WINDOW), table)
    _write_classes(out, lists, kept)


def _window(clip: Any) -> list[str]:
    """Return the cells of a clip's part of a recording; empty where it is all of it."""
    if clip.window is None:
        return [""] * len(WINDOW)
    start, end, *clock = (getattr(clip.window, name) for name in WINDOW)
    return ["" if value is None else repr(value) for value in (start, end)] + [
        repr(one) if one else "" for one in clock
    ]


def _tracks(out: Path, lists: Lists, kept: Kept) -> None:
    header = ("sample", "view", "label", "file", "sequence", "group", "start", "end")
    for split, rows in kept.items():
        table = [
            (clip.id, str(view), label, written_path(file, out), clip.sequence, clip.group, str(clip.start),
             "" if clip.end is None else str(clip.end))
            for clip, label in rows
            for view, file in sorted(clip.files.items())
        ]  # fmt: skip
        write_list(out, split, header, table)
    _write_classes(out, lists, kept)


def _epic(out: Path, lists: Lists, kept: Kept) -> None:
    for split, rows in kept.items():
        table = [(clip.id, *(label.split(",") if label else ("", "")), clip.group) for clip, label in rows]
        write_list(out, split, (*HEADER, "group"), table)
    for name in EPIC_NAMES.values():
        source = Path(lists.source["train" if "train" in lists.source else next(iter(kept))].source).parent / name
        if source.is_file():
            shutil.copy(source, out / name)


def _keystep(out: Path, lists: Lists, kept: Kept) -> None:
    any_split = next(iter(lists.source.values()))  # a part that is new is of the same procedures
    data = {
        split: replace(lists.source.get(split, any_split), recordings=[clip for clip, _ in rows])
        for split, rows in kept.items()
    }
    write_own(out, data)
