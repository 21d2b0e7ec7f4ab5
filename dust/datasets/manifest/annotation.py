"""What an annotation file says of one stretch of a video, and what its readers have in common."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

from dust.datasets.manifest.columns import to_number
from dust.datasets.manifest.table import SPLIT_NAMES
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text

#: How the splits of public sets are called besides the names of our own lists.
_SUBSETS = {**SPLIT_NAMES, "validate": "val", "held_out": "test", "holdout": "test"}
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")


@dataclass(frozen=True, slots=True)
class Annotation:
    """A stretch of a video with one label, [start, end).

    Attributes:
        video: as the file names it, without folders or address.
        start, end: seconds from the beginning; of ``in_frames``, frames from 0.
        split: train | val | test; "" where the file does not say.
        group: what belongs together (a person); "" where the file does not say.
        confidence: of a prediction.
        folder: of the video, as far as the file names it: it tells videos of one name apart.
        picture: of a video that is a folder of pictures, the one from which frames count; "" for its first.
    """

    video: str
    start: float
    end: float
    label: str
    split: str = ""
    group: str = ""
    in_frames: bool = False
    confidence: float = 1.0
    folder: str = ""
    picture: str = ""


@dataclass
class Annotated:
    """All stretches of a file.

    Attributes:
        notes: what was left out of it, and why.
        empty: (folder, video) of those that are named without a stretch: a timeline in which nothing was found, or a
            video whose annotation is kept back.
    """

    items: list[Annotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)

    def left_out(self, count: int, what: str) -> None:
        if count:
            self.notes.append(f"left out: {count} {what}")


def video_place(written: str) -> tuple[str, str]:
    """Return the folder and name of a video file without address: ``file:///home/a%20b.mp4``,
    ``/data/local-files/?d=x/c.mp4``."""
    text = written.strip()
    if "?d=" in text:  # Label Studio's local files
        text = text.partition("?d=")[2]
    elif "://" in text:
        try:
            text = urlparse(text).path
        except ValueError:  # http://[x/a.mp4 is no address
            text = text.partition("://")[2]
    return os.path.split(unquote(text).replace("\\", "/").rstrip("/"))


def video_name(written: str) -> str:
    """Return the name of a video file without folders and address."""
    return video_place(written)[1]


def to_split(written: Any) -> str:
    """Return our name of a split; "" for any other."""
    return _SUBSETS.get(str(written or "").strip().lower(), "")


def to_seconds(written: Any, where: str, problems: Problems) -> float:
    """Return a time in seconds: a number, or ``HH:MM:SS.sss``, with a point or a comma; NaN, noted, for anything
    else."""
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        written = repr(written)
    if isinstance(written, int | float):
        value = float(written) if abs(written) < 1e300 else math.nan  # a whole number may have any length
    else:
        clock = _CLOCK.fullmatch(written.strip())
        try:
            if clock:
                hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), to_number(clock[3])
                right = seconds < 60 and (minutes < 60 or clock[1] is None)
                value = hours * 3600 + minutes * 60 + seconds if right else math.nan
            else:
                value = to_number(written or "nan")
        except ValueError:
            value = math.nan
    if not math.isfinite(value):
        problems.add(f"{written!r} is no time (seconds, or HH:MM:SS)", where)
        return math.nan
    return value


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file. DataError if it is damaged, or declares entities (which can grow without end)."""
    text = read_text(path)
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise DataError(f"{path}: declares entities or a document type, which is refused: export it again")
    try:
        return ElementTree.fromstring(text)  # as a text, whatever encoding it says it has
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: is not XML ({error}): export it again") from error


def checked(found: Annotated, path: Path, problems: Problems) -> Annotated:
    """Return the annotations, in order. DataError for times that end before they begin, or a file without a video."""
    for one in found.items:
        if one.end <= one.start or one.start < 0:
            kind = "ends before it begins, or has no length, or begins below 0"
            problems.add(kind, f"{one.video}: {one.label} {one.start:g}-{one.end:g}")
        if not one.label.strip():
            problems.add("has no label", f"{one.video} {one.start:g}-{one.end:g}")
        if not one.video:
            problems.add("names no video", f"{one.label} {one.start:g}-{one.end:g}")
    problems.raise_if_any(str(path))
    if not found.empty:
        require_items(found, path)
    return found


def require_items(found: Annotated, path: Path) -> None:
    """Raise a DataError, with what was left out, where no stretch is there."""
    if not found.items:
        raise DataError(f"{path}: holds no stretch with a label" + "".join(f"; {note}" for note in found.notes))


def mapping(value: Any) -> dict[str, Any]:
    """Return the value, where it is a mapping; else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """Return the value, where it is a list; else an empty one."""
    return value if isinstance(value, list) else []
