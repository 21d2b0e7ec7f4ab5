"""Annotations in csv: AVA, BORIS, and lists of segments."""

import re
from itertools import pairwise
from pathlib import Path

from dust.datasets.manifest.annotation import (
    Annotated,
    Annotation,
    checked,
    to_seconds,
    to_split,
    video_name,
    video_place,
)
from dust.datasets.manifest.annotation_files import by_name, read_named, read_rows
from dust.utils.errors import DataError, Problems
from dust.utils.text import NONE, counted

#: Seconds around a time stamp of AVA's that its label is of.
AVA_S = 1.0


def read_segments(path: Path) -> Annotated:
    """Read a list of segments: path (or video; else the name of the file tells), start, end (seconds), label, and
    split, group and confidence where they are there; so also ``NAME.segments.csv`` of ``dust predict --timeline``."""
    found, problems = Annotated(), Problems()
    rows = read_named(path, ("start", "end", "label"), "a list of segments")
    if not rows:
        found.empty.append(video_place(path.name.removesuffix(".segments.csv")))
    for number, row in enumerate(rows, 2):
        folder, video = video_place(row.get("path") or row.get("video") or path.name.removesuffix(".segments.csv"))
        if row["label"] == NONE:
            found.empty.append((folder, video))
            continue
        start, end, sure = (
            to_seconds(value, f"row {number}", problems)
            for value in (row["start"], row["end"], row.get("confidence") or 1.0)
        )
        split, group = to_split(row.get("split")), row.get("group", "")
        found.items.append(Annotation(video, start, end, row["label"], split, group, confidence=sure, folder=folder))
    found.left_out(len(found.empty) if rows else 0, f"stretches that are {NONE}")
    return checked(found, path, problems)


def read_ava(path: Path) -> Annotated:
    """Read AVA's csv, with or without boxes: video, seconds, (box,) action, ... Each row is of the second around its
    time.

    The same action of one second, of several people, counts once; neighbouring seconds stay apart. Actions are called
    by their numbers or names, as they stand.
    """
    found, problems, seen, empty = Annotated(), Problems(), set(), 0
    for number, row in enumerate(read_rows(path), 1):
        if number == 1 and row[0].strip().lower() in ("video_id", "video", "video_name"):
            continue
        label = row[2] if len(row) in (3, 4) else row[6] if len(row) >= 7 else ""
        if not label and len(row) >= 3 and not any(row[2:]):  # AVA-Kinetics: nobody is in the frame
            empty += 1
            continue
        if not label or (len(row) == 4 and row[3] and not row[3].isdecimal()):
            what = "3 columns (video, time, action), 4 with a person's number, or 7 and more with a box"
            problems.add(what, f"row {number}: {', '.join(row)}")
            continue
        time = to_seconds(row[1], f"row {number}", problems)
        if (row[0], time, label) in seen:
            continue
        seen.add((row[0], time, label))
        found.items.append(Annotation(video_name(row[0]), max(0.0, time - AVA_S / 2), time + AVA_S / 2, label))
    found.left_out(empty, "rows without an action")
    return checked(found, path, problems)


def read_boris(path: Path) -> Annotated:
    """Read BORIS' exports: aggregated events (Start (s), Stop (s)), or tabular events (Time with START and STOP).

    Point events have no length and are left out. The subject is the group.
    """
    rows = read_rows(path)
    place = next((number for number, row in enumerate(rows) if {"behavior", "subject"} <= _lower(row)), None)
    if place is None:
        raise DataError(f"{path}: no row with the columns Subject and Behavior: not BORIS' events")
    header = [cell.strip().lower() for cell in rows[place]]
    table = by_name(path, header, rows[place + 1 :])
    said = next((row[1] for row in rows[:place] if len(row) > 1 and row[0].strip().lower() == _OBSERVATION), "")
    table = [{_OBSERVATION: said, **row} for row in table]
    media = next((name for name in _MEDIA if name in header), "")
    if not media:
        raise DataError(f"{path}: no column Media file: nobody knows which video it is of")
    found, problems = Annotated(), Problems()
    read = _aggregated if "start (s)" in header else _tabular
    observations: dict[str, list[Annotation]] = {}
    points = read(table, media, observations, problems)
    found.items = [one for items in observations.values() for one in items]
    found.left_out(points, "point events, which have no length")
    _tell_several(observations, found, problems)
    unheeded = [(column, what) for column in header for name, what in _UNHEEDED.items() if column.startswith(name)]
    for column, what in unheeded:
        rows_of = sum(row[column].strip(" 0.") not in ("", "NA", "None") for row in table)
        if rows_of:
            found.notes.append(f"{counted(rows_of, 'event has', 'events have')} {column}, {what}")
    at_once = sum(len(_PLAYER.findall(row[media])) > 1 for row in table)
    if at_once:
        has = counted(at_once, "event has", "events have")
        found.notes.append(f"{has} several videos at once, of which the first is taken")
    return checked(found, path, problems)


#: Columns that name the video, of versions 7 to 9.
_MEDIA = ("media file path", "media file name", "media file name at start", "media file", "source")
_PLAYER = re.compile(r"player #\d+:\s*")
#: How columns begin that are not read, and why that is said.
_UNHEEDED = {
    "modifier": "which are no part of the label",
    "time offset (s)": "which is not heeded: times count from the beginning of the video",
}


_OBSERVATION = "observation id"
#: By their ids, "" where the table says none.
Observations = dict[str, list[Annotation]]


def _tell_several(observations: Observations, found: Annotated, problems: Problems) -> None:
    """Say what is in several observations; an observation that plays one video behind the other is a problem, since its
    times count from the beginning of the first."""
    seen: dict[tuple[str, str], list[str]] = {}
    for name, items in observations.items():
        spans: dict[tuple[str, str], tuple[float, float]] = {}
        for one in items:
            video = one.folder, one.video
            start, end = spans.get(video, (one.start, one.end))
            spans[video] = min(start, one.start), max(end, one.end)
        ordered = sorted(spans.values())
        if name and len(spans) > 1 and all(end <= start for (_, end), (start, _) in pairwise(ordered)):
            kind = "plays one video behind the other, and its times count from the beginning of the first: " \
                "observe each video alone"  # fmt: skip
            problems.add(kind, f"observation {name}: {', '.join(file for _, file in spans)}")
        for video in spans:
            seen.setdefault(video, []).append(name)
    twice = {file: names for (_, file), names in seen.items() if len(names) > 1}
    if twice:
        file, names = next(iter(twice.items()))
        are = counted(len(twice), "video is", "videos are")
        found.notes.append(f"{are} in several observations, whose stretches are all taken ({file}: {', '.join(names)})")


def _lower(row: list[str]) -> set[str]:
    return {cell.strip().lower() for cell in row}


def _aggregated(table: list[dict[str, str]], media: str, found: Observations, problems: Problems) -> int:
    points = 0
    for number, row in enumerate(table, 1):
        if row.get("behavior type", "STATE").upper() == "POINT":
            points += 1
            continue
        where = f"event {number} ({row['behavior']})"
        start, end = (to_seconds(row.get(name), f"{where}: {name}", problems) for name in ("start (s)", "stop (s)"))
        last = row.get("media file name at stop", "")
        if media == "media file name at start" and last and last != row[media]:
            problems.add("begins in one file and ends in another: cut it in BORIS", f"{where}: {row[media]}, {last}")
        folder, video = _video(row[media])
        one = Annotation(video, start, end, row["behavior"], group=_subject(row), folder=folder)
        found.setdefault(row[_OBSERVATION], []).append(one)
    return points


def _tabular(table: list[dict[str, str]], media: str, found: Observations, problems: Problems) -> int:
    points = 0
    begun: dict[tuple[str, ...], float] = {}
    times = [to_seconds(row.get("time"), f"event {number}", problems) for number, row in enumerate(table, 1)]
    for place in sorted(range(len(table)), key=lambda place: times[place]):  # some exports go by subject
        number, row, time = place + 1, table[place], times[place]
        folder, video = _video(row[media])
        key = (video, _subject(row), row["behavior"], row[_OBSERVATION], folder)
        status = row.get("status", row.get("behavior type", "POINT")).upper()
        if status == "START":
            if key in begun:
                problems.add("starts twice before it stops", f"event {number}: {' '.join(key[:3])}")
            begun[key] = time
        elif status == "STOP":
            if key not in begun:
                problems.add("stops without having started", f"event {number}: {' '.join(key[:3])}")
                continue
            one = Annotation(video, begun.pop(key), time, key[2], group=key[1], folder=folder)
            found.setdefault(key[3], []).append(one)
        else:
            points += 1
    for left in begun:
        problems.add("starts and does not stop", " ".join(left[:3]))
    return points


def _video(written: str) -> tuple[str, str]:
    """Return the folder and name of the first player's video; BORIS 8 writes ``player #1:/v/abc.mp4``, with ``;``
    between them."""
    first = next(filter(None, _PLAYER.split(written)), "")
    return video_place(first.rstrip(" ;\n") if first != written else written)


def _subject(row: dict[str, str]) -> str:
    subject = row.get("subject", "").strip()
    return "" if subject.lower() in ("", "no focal subject") else subject
