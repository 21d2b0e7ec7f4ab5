"""SlowFast's lists of frames, as of Charades: a row for each picture of a video, with the labels that it shows."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from dust.datasets.manifest.columns import check_columns, column_name, find_group
from dust.datasets.manifest.labels import index_labels
from dust.datasets.manifest.table import RawSplit, Row, split_line, text_lines
from dust.utils.errors import DataError, Problems
from dust.utils.files import natural_order
from dust.utils.text import whole_number

HEADER = ("original_vido_id", "video_id", "frame_id", "path", "labels")  # the misspelling is the published lists'
FILES = {"train": ("train.csv",), "val": ("val.csv",), "test": ("test.csv", "val.csv")}


@dataclass(frozen=True, slots=True)
class FrameLabels:
    """What the pictures of one video show.

    Attributes:
        codes: (frames,) the place in ``sets`` of each picture's labels, in the order of the pictures' names.
        sets: every set of labels that occurs in the list, as class indices, sorted; all videos share it.
        names: :func:`names_hash` of the pictures.
    """

    codes: np.ndarray
    sets: Sequence[tuple[int, ...]]
    names: int

    def between(self, first: int, last: int) -> tuple[int, ...]:
        """Return the labels of the frames from ``first`` to ``last``, both included."""
        codes = np.unique(self.codes[first : last + 1])
        return tuple(sorted({label for code in codes for label in self.sets[code]}))


def names_hash(names: Sequence[str]) -> int:
    """Return a number that stands for the names of all pictures of a folder, in order."""
    return zlib.crc32("\n".join(names).encode(errors="surrogateescape"))


def frame_list(root: str, split: str) -> str | None:
    """Return the list of a split: a file itself, or that of a folder; SlowFast tests on val.csv."""
    if os.path.isfile(root):
        return root
    return next((path for name in FILES[split] if os.path.isfile(path := os.path.join(root, name))), None)


def is_frame_list(path: str) -> bool:
    """Tell whether a text file begins as such a list does."""
    if not os.path.isfile(path):
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline(1000).split()[: len(HEADER)] == list(HEADER)


@dataclass(slots=True)
class _Video:
    """The rows of one video as they stand in the list."""

    line: int
    folder: str
    group: str
    names: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


def read_frame_list(
    root: str, split: str, path_prefix: str, group_column: str = "", extra_columns: Sequence[str] = ()
) -> RawSplit:
    """Read one list: a row for each video, with all its labels, and what its pictures show in ``frames``.

    Args:
        root: its folder, or the file.
        path_prefix: folder that the pictures' paths are under; "" looks in the data folder, then in the working one.
        group_column, extra_columns: see :mod:`dust.datasets.manifest.columns`.

    Raises:
        DataError: there is no such list. What is wrong in it is among the problems of the result.
    """
    path = frame_list(root, split)
    if path is None:
        looked = " or ".join(os.path.join(root, name) for name in FILES[split])
        raise DataError(f"no {looked}: set DATA.PATH_TO_DATA_DIR to SlowFast's frame lists")
    lines, _, first = text_lines(path)
    if not lines or tuple(lines[0].split()[: len(HEADER)]) != HEADER:
        raise DataError(f"{path}: the first line must be: {' '.join(HEADER)}")
    names = [column_name(name) for name in lines[0].split()]
    folder = os.path.dirname(path)
    bases = [path_prefix] if path_prefix else [root if os.path.isdir(root) else folder, folder, ""]
    raw = RawSplit(path, [], list(dict.fromkeys(bases)))
    group = find_group(names, group_column, raw.problems)
    used = [*HEADER, *([] if group is None else [names[group]])]
    check_columns(names, used, path, raw.problems, extra_columns)
    sets: dict[str, int] = {}
    videos: dict[str, _Video] = {}
    for number, line in enumerate(lines[1:], first + 1):
        if line.strip():
            _read_row(line, number, len(names), group, videos, sets, raw.problems)
    raw.label_sets = list(sets)
    for name, video in videos.items():
        words = {word for code in set(video.codes) for word in raw.label_sets[code].split(",") if word}
        row = Row(f"line {video.line} and on", video.folder, ",".join(sorted(words, key=int)), name, group=video.group)
        row.frames = _in_order(name, video, raw.problems)
        raw.rows.append(row)
    return raw


def _read_row(
    line: str, number: int, columns: int, group: int | None, videos: dict[str, _Video], sets: dict[str, int],
    problems: Problems,
) -> None:  # fmt: skip
    where = f"line {number}"
    try:
        cells = split_line(line, " ", columns=len(line))
    except ValueError as error:
        problems.add("broken quoting: labels stand in one pair of quotes", f"{where}: {line} ({error})")
        return
    words = [word.strip() for word in cells[4].split(",") if word.strip()] if len(cells) == columns else ["?"]
    frame = whole_number(cells[2]) if len(cells) == columns else None
    if frame is None or any(whole_number(word) is None for word in words):
        problems.add(f"a row is {' '.join(HEADER)}, frame_id and labels numbers, labels with commas", where)
        return
    code = sets.setdefault(",".join(map(str, sorted({int(word) for word in words}))), len(sets))
    folder, name = os.path.split(cells[3])
    own = "" if group is None else cells[group]
    video = videos.setdefault(cells[0], _Video(number, folder, own))
    if video.folder != folder:
        problems.add("a video whose frames lie in several folders", f"{where}: {cells[0]}: {folder}, {video.folder}")
    if video.group != own:
        problems.add("a video of several groups", f"{where}: {cells[0]}: {own}, {video.group}")
    video.names.append(name)
    video.numbers.append(frame)
    video.codes.append(code)


def _in_order(name: str, video: _Video, problems: Problems) -> FrameLabels:
    """Return the labels in the order in which a folder's pictures are read, whatever the order of the rows."""
    keys = [natural_order(one) for one in video.names]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if len(set(video.names)) < len(order):
        problems.add("a picture that a video has twice", f"{name} (line {video.line} and on)")
    elif any(video.numbers[one] >= video.numbers[other] for one, other in pairwise(order)):
        kind = "pictures whose names rise in another order than their frame_id"
        problems.add(kind, f"{name} (line {video.line} and on)")
    codes = np.array(video.codes, np.uint32)[order]
    return FrameLabels(codes, (), names_hash([video.names[one] for one in order]))


def index_frames(raw: RawSplit, class_names: Sequence[str], num_classes: int | None) -> dict[str, FrameLabels]:
    """Map id -> what its pictures show, for the rows whose labels are still those of the list. Labels that are no class
    are those of a row too, and said there."""
    words = RawSplit(raw.source, [Row("", "", labels) for labels in raw.label_sets])
    sets = [found or () for found in index_labels(words, class_names, num_classes, multi_label=True)[0]]
    return {
        row.id or "": FrameLabels(row.frames.codes, sets, row.frames.names)
        for row in raw.rows
        if isinstance(row.frames, FrameLabels)
    }
