"""Annotation files of public sets that are data formats too (DATA.FORMAT): ActivityNet, Kinetics, EPIC-KITCHENS."""

import csv
import io
from pathlib import Path
from typing import Any

from dust.datasets.manifest.annotation import (
    Annotated,
    Annotation,
    checked,
    mapping,
    sequence,
    to_seconds,
    to_split,
    video_place,
)
from dust.datasets.manifest.columns import refuse_twice
from dust.datasets.manifest.table import find_separator
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text
from dust.utils.structured import read_json
from dust.utils.text import csv_value


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a csv file that are not empty, without spaces around their cells. DataError for broken
    quoting."""
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        raise DataError(f"{path}: is JSON, where a csv is read: export a table of it")
    separator = find_separator(text.split("\n", 1)[:1])
    try:
        written = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
        rows = [[csv_value(cell.strip()) for cell in row] for row in written]
    except csv.Error as error:
        raise DataError(f"{path}: broken quoting ({error})") from error
    return [row for row in rows if any(row)]


def read_named(path: Path, needed: tuple[str, ...], what: str) -> list[dict[str, str]]:
    """Return rows by lower-case column names. DataError where a needed column is missing, or a row has another
    number."""
    rows = read_rows(path)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}: not {what}")
    return by_name(path, header, rows[1:])


def by_name(path: Path, header: list[str], rows: list[list[str]]) -> list[dict[str, str]]:
    """Return rows under their header. DataError for columns of one name, and for a row of another length: a comma
    without quotes would shift its cells."""
    problems = Problems()
    refuse_twice(header, problems)
    problems.raise_if_any(str(path))
    number, odd = next(((n, row) for n, row in enumerate(rows, 2) if len(row) != len(header)), (0, []))
    if odd:
        raise DataError(
            f"{path}: row {number} has {len(odd)} columns, the header {len(header)}: {', '.join(odd[:4])} ... Texts "
            "that hold the separator need quotes"
        )
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_activitynet(path: Path) -> Annotated:
    """Read ActivityNet's form: ``{"database": {ID: {"subset", "annotations": [{"segment": [s, e], "label"}]}}}``.

    ``{"results": {ID: [{"segment", "label", "score"}]}}``, the form of predictions, which `dust predict --timeline`
    writes, is read as well: so a timeline can be corrected by hand and trained on.
    """
    document = mapping(read_json(path))
    found, problems = Annotated(), Problems()
    videos: dict[str, Any] = mapping(document.get("database")) or mapping(document.get("results"))
    if not videos:
        raise DataError(f"{path}: neither a database nor results: not ActivityNet's form")
    for name, video in videos.items():
        facts = mapping(video)
        pieces = sequence(video) or sequence(facts.get("annotations"))
        if not pieces:
            found.empty.append(video_place(str(name)))
        for number, piece in enumerate(map(mapping, pieces), 1):
            ends, where = sequence(piece.get("segment")), f"{name}: annotation {number}"
            if len(ends) != 2:
                problems.add("a segment is [start, end]", f"{where}: {piece.get('segment')!r}")
                continue
            start, end = (to_seconds(value, where, problems) for value in ends)
            sure = to_seconds(piece.get("score", 1.0), f"{where}: score", problems)
            label, split = piece.get("label"), to_split(facts.get("subset"))
            label = "" if label is None else str(label)
            folder, file = video_place(str(name))
            found.items.append(Annotation(file, start, end, label, split, confidence=sure, folder=folder))
    found.left_out(len(found.empty), "videos without annotations")
    return checked(found, path, problems)


def read_kinetics(path: Path) -> Annotated:
    """Read Kinetics' own csv: label, youtube_id, time_start, time_end, split."""
    found, problems = Annotated(), Problems()
    unlabelled = 0
    for number, row in enumerate(read_named(path, ("youtube_id", "time_start", "time_end"), "Kinetics' csv"), 2):
        if not row.get("label", "").strip():  # the test list
            unlabelled += 1
            continue
        start, end = (to_seconds(row[name], f"row {number}: {name}", problems) for name in ("time_start", "time_end"))
        found.items.append(Annotation(row["youtube_id"], start, end, row["label"], to_split(row.get("split"))))
    found.left_out(unlabelled, "rows without a label")
    return checked(found, path, problems)


def read_epic(path: Path, kind: str = "") -> Annotated:
    """Read EPIC-KITCHENS' csv over its long videos: participant_id, video_id, start_timestamp, stop_timestamp, verb,
    noun.

    Args:
        kind: verb | noun | action, what the label is; "" for action, "verb noun".
    """
    if kind not in ("", "verb", "noun", "action"):
        raise DataError(f"--label {kind}: verb, noun or action")
    found, problems = Annotated(), Problems()
    needed = ("video_id", "start_timestamp", "stop_timestamp", "verb", "noun")
    for number, row in enumerate(read_named(path, needed, "EPIC-KITCHENS' csv"), 2):
        start, end = (to_seconds(row[f"{name}_timestamp"], f"row {number}", problems) for name in ("start", "stop"))
        words = [row[name] for name in ("verb", "noun") if kind in ("", "action", name)]
        label = " ".join(words) if all(words) else ""
        split = next((one for one in ("train", "validation", "test") if one in path.stem.lower()), "")
        person = row.get("participant_id", "")
        found.items.append(Annotation(row["video_id"], start, end, label, to_split(split), person))
    return checked(found, path, problems)
