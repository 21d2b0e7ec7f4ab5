"""The csv of clips and labels, ``path<SEP>label``: what SlowFast, TimeSformer, VideoMAE, TSTL and people write.

Rules (DATASET.md says them with examples):

* separator: the one given, or that of a first line ``sep=;``, else a tab, a semicolon, a comma, else the LAST space of
  the line;
* a header is there if the first row names a path column (path, video, file, filename ...) and a label column (label,
  class, category, target ...), or consists of such names only;
* one ``'`` before = + - @ is taken away: dust writes it so that a spreadsheet takes no text for a formula;
* ``"`` quotes a field that holds the separator; UTF-8 or UTF-16; a byte order mark and CRLF are accepted;
* a column ``group`` (or the one of DATA.GROUP_COLUMN) is read, a column ``split`` chooses rows, ``start`` and ``end``
  say which part of the file is meant; see :mod:`dust.datasets.manifest.columns` for all others.
"""

import csv
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dust.datasets.manifest.columns import (
    ANNOTATOR,
    END,
    GROUP,
    START,
    check_columns,
    column_name,
    find_group,
    path_of,
    read_segment,
    refuse_twice,
    several_numbers,
)
from dust.decode.folders import is_picture, is_video
from dust.decode.segment import SECONDS, Segment
from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text
from dust.utils.text import counted, csv_value, printable

logger = logging.getLogger(__name__)

#: What tools call the column of the file, in the order in which one is chosen; an id names it where nothing else does.
PATH_NAMES = (
    *("path", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path", "videopath"),
    *("video_file", "video_filename", "video_name", "videoname", "clip", "clip_path", "clip_file", "clip_name"),
    *("relative_path", "rel_path", "full_path", "fname", "frame_dir", "id"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "class_name", "classname", "label_name", "category", "category_name"),
    *("target", "action", "activity", "gesture", "class_id", "class_index", "class_label", "label_id", "category_id"),
)
SPLIT_NAMES = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}

# "a path" <spaces> "a label", each quoted or not; without quotes the label is what follows the last space
_SPACED = re.compile(r'(?:"((?:[^"]|"")*)"|(.*?\S))[ \t]+(?:"((?:[^"]|"")*)"|(\S+))')
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
SEPARATOR_LINE = r'"?sep=(.)"?'


@dataclass(slots=True)
class Row:
    """One clip as a file names it. ``path`` is None until the file is located; ``label`` None where there is none.
    ``group``: what must not be in two splits (a person, a recording), ``split``: as written; "" where there is none.
    ``segment``: the part of the file, None for all of it. ``annotator``: whose label it is; "" where nobody says that.
    ``frames``: what a list of frames says of each, see :mod:`dust.datasets.manifest.frame_lists`."""

    where: str
    written: str
    label: str | None
    id: str | None = None
    path: str | None = None
    group: str = ""
    split: str = ""
    segment: Segment | None = None
    frames: Any = None
    annotator: str = ""


@dataclass
class RawSplit:
    """What a format's reader returns. ``bases``: folders in which relative paths are looked for, in this order.
    ``class_names``: the classes in their order, where the format has such a list. ``label_sets``: of a list of frames,
    every set of labels that occurs. ``unread``: columns that nobody reads; ``repeated``: rows that name what is named
    before."""

    source: str
    rows: list[Row]
    bases: list[str] = field(default_factory=list)
    class_names: list[str] | None = None
    problems: Problems = field(default_factory=Problems)
    label_sets: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    repeated: int = 0


def say_repeated(source: str, rows: int) -> None:
    """Warn of rows that name what is named before."""
    if rows:
        what = counted(rows, "row names what is named before", "rows name what is named before")
        logger.warning("%s: %s: ids there end in #2, #3, ...", source, what)


def own_name(row: Row) -> str:
    """Return the id of a row that nothing else is called as."""
    return printable(row.id or row.written + ("" if row.segment is None else f"#{row.segment}"))


def name_rows(raw: RawSplit) -> None:
    """Give every row an id of its own: that of its column, which must differ, else its path and ``#start-end`` of a
    segment, with #2, #3, ... where that stands there again."""
    seen: dict[str, str] = {}
    copies: dict[str, int] = {}
    repeated = 0
    for row in raw.rows:
        clip_id = own_name(row)
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
    raw.repeated = repeated
    say_repeated(raw.source, repeated)


def _written_with_spaces(line: str) -> bool:
    """Tell whether the comma in this line belongs to a path or to a list of labels (``a.mp4 0,5,17``), since what
    stands before the last space is already a whole path."""
    return is_video(line.rstrip().rpartition(" ")[0].rstrip().strip('"'))


def find_separator(lines: Sequence[str]) -> str:
    """Return the separator under which the first line is a header; else a tab, a semicolon or a comma, if at least half
    of the lines hold it outside quotes; else a space."""
    bare = [_QUOTED.sub("", line) if '"' in line else line for line in lines]
    for mark in "\t;,":
        if lines and mark in bare[0] and find_header(lines[0], mark) is not None:
            return mark
    if 2 * sum("\t" in text for text in bare) >= len(lines):
        return "\t"

    def count(mark: str) -> int:
        return sum(mark in text and not _written_with_spaces(line) for text, line in zip(bare, lines, strict=True))

    def files(mark: str) -> int:
        cells = [line.split(mark)[0].strip().strip('"') for line in lines]
        return sum(is_video(cell) or is_picture(cell) for cell in cells)

    found = [mark for mark in ";," if 2 * count(mark) >= len(lines)]
    return max(found, key=files) if found else " "


def split_line(line: str, separator: str, columns: int | None = None) -> list[str]:
    """Return the fields of one line. With a space as the separator and ``columns`` not above 2: at most two fields, cut
    at the last space. ValueError says what is wrong with the quoting."""
    if separator == " " and (columns is None or columns <= 2):
        match = None if columns == 1 else _SPACED.fullmatch(line.strip())
        if match is None:
            whole = _QUOTED.fullmatch(line.strip())
            return [whole[1].replace('""', '"') if whole else line.strip()]
        quoted_path, path, quoted_label, label = match.groups()
        return [
            path if quoted_path is None else quoted_path.replace('""', '"'),
            label if quoted_label is None else quoted_label.replace('""', '"'),
        ]
    if len(separator) > 1:
        return [cell.strip().strip('"') for cell in line.split(separator)]
    if separator == " ":
        line = line.strip()
    if '"' not in line and separator != " ":
        return [cell.strip() for cell in line.split(separator)]
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error


@dataclass
class Header:
    """Which field is what. ``count`` is None without a header: then two fields, or one in a test split."""

    count: int | None = None
    path: int = 0
    label: int | None = 1
    id: int | None = None
    group: int | None = None
    split: int | None = None
    start: int | None = None
    end: int | None = None
    annotator: int | None = None
    names: tuple[str, ...] = ()


def find_header(line: str, separator: str) -> Header | None:
    """Return the columns that the first line names, or None if it is a clip like the others."""
    try:
        cells = split_line(line, separator)
    except ValueError:
        return None
    if separator == " " and '"' not in line:
        cells = line.split()  # "id path label": three names, which the rule of the last space would not part
    names = tuple(map(column_name, cells))
    paths = [name for name in PATH_NAMES if name in names]
    labels = [name for name in LABEL_NAMES if name in names]
    known = (*PATH_NAMES, *LABEL_NAMES, GROUP, "split", START, END)
    certain = any("path" in name or "file" in name for name in paths) and len(names) > 1
    if not paths or not (labels or certain or all(name in known for name in names)):
        return None
    if certain and not labels and any(re.fullmatch(r"[\d.,+-]*", cell.strip()) for cell in cells):
        return None  # a folder of frames that is called "file", and its number
    place = {name: names.index(name) for name in names}
    return Header(
        count=len(names), path=place[paths[0]], label=place[labels[0]] if labels else None,
        id=place.get("id") if paths[0] != "id" else None, split=place.get("split"), start=place.get(START),
        end=place.get(END), annotator=place.get(ANNOTATOR), names=names,
    )  # fmt: skip


def _clips_only(lines: Sequence[str]) -> bool:
    """Tell whether every line ends in the name of a video: a list of clips without labels."""
    return all(is_video(line.strip().strip('"')) for line in lines)


def text_lines(path: str | os.PathLike, separator: str = "") -> tuple[list[str], str, int]:
    """Return the lines of a file, the separator given or that of a first line ``sep=;``, the first line's number."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    separator = {"\\t": "\t"}.get(separator, separator)
    if lines and (match := re.fullmatch(SEPARATOR_LINE, lines[0].strip(" "), re.IGNORECASE)):
        return lines[1:], separator or match[1], 2
    return lines, separator, 1


def read_csv(
    path: str | os.PathLike,
    *,
    split: str,
    separator: str = "",
    multi_label: bool = False,
    group_column: str = "",
    segment_unit: str = SECONDS,
    extra_columns: Sequence[str] = (),
) -> RawSplit:
    """Read one csv file. Labels stay text. Problems are collected in the result, with line numbers.

    Args:
        split: only in "test" may the labels be absent (a header without a label column, or one column everywhere). A
            column ``split`` chooses the rows of this one. "" reads the rows of all splits, and labels may be absent.
        separator: "" to find it; " " means the last space of the line; ``\\t`` may be written with a backslash.
        multi_label: an empty label field then means "none of the classes".
        group_column: see :func:`dust.datasets.manifest.columns.find_group`.
        segment_unit: of the columns ``start`` and ``end``: seconds | frames.
        extra_columns: see :func:`check_columns`.
    """
    raw = RawSplit(source=str(path), rows=[])
    lines, separator, first = text_lines(path, separator)
    numbered = []
    for number, line in enumerate(lines, first):
        if line.strip():
            numbered.append((number, line))
        else:
            raw.problems.add("an empty line: remove it", f"line {number}")
    if not numbered:
        return raw
    texts = [line for _, line in numbered]
    separator = separator or find_separator(texts)
    header = read_header(raw, texts[0], f"line {first}", separator, split, group_column, extra_columns)
    if header is not None:
        numbered = numbered[1:]
        if header.label is None and split not in ("test", ""):
            return raw
    elif split in ("test", "") and separator == " " and _clips_only(texts):
        header = Header(count=1, label=None)
    read_rows(raw, numbered, separator, header or Header(), split, multi_label, segment_unit)
    return raw


def read_header(
    raw: RawSplit, text: str, where: str, separator: str, split: str, group_column: str, extra_columns: Sequence[str]
) -> Header | None:  # fmt: skip
    """Return the columns that a csv's first line names, with all that is wrong with them; None where it is a clip."""
    header = find_header(text, separator)
    if header is None:
        find_group((), group_column, raw.problems)
        return None
    header.group = find_group(header.names, group_column, raw.problems)
    places = (header.path, header.label, header.id, header.group, header.split, header.start, header.end)
    used = [header.names[place] for place in places if place is not None]
    raw.unread = check_columns(header.names, used, raw.source, raw.problems, extra_columns)
    if header.label is None and split not in ("test", ""):
        kind = f"no label column in a {split} split: call it label (or {', '.join(LABEL_NAMES[1:8])})"
        raw.problems.add(kind, f"{where}: {text}")
    return header


def read_rows(
    raw: RawSplit, numbered: list[tuple[int, str]], separator: str, columns: Header, split: str, multi_label: bool,
    unit: str,
) -> None:  # fmt: skip
    """Put the rows of numbered lines into ``raw``, and what is wrong with them among its problems."""
    shown = {"\t": "a tab", " ": "a space", ",": "a comma", ";": "a semicolon"}.get(separator, repr(separator))
    bare: list[int] = []
    for number, line in numbered:
        where = f"line {number}"
        try:
            cells = split_line(line, separator, columns.count)
        except ValueError as error:
            raw.problems.add(
                'broken quoting: write "a, b.mp4",3 and double a quote inside', f"{where}: {line} ({error})"
            )
            continue
        cells = [csv_value(cell) for cell in cells]
        if len(cells) == 1 and columns.count is None:
            bare.append(len(raw.rows))
            raw.rows.append(Row(where, path_of(cells[0], where, raw.problems), None))
            continue
        if len(cells) != (columns.count or 2):
            raw.problems.add(
                f"not {columns.count or 2} columns with {shown} as the separator: quote a path or several labels that "
                "hold the separator, or set DATA.PATH_LABEL_SEPARATOR",
                f"{where}: {len(cells)} columns: {line}",
            )
            continue
        of = "" if columns.split is None else cells[columns.split].strip()
        if columns.split is not None and not _is_of_split(of, split, where, raw):
            continue
        label = None if columns.label is None else cells[columns.label].strip()
        if label == "" and not multi_label:
            raw.problems.add("an empty label", f"{where}: {line}")
        elif label and not multi_label and (several := several_numbers(label)):
            raw.problems.add(several, f"{where}: {line}")
        elif not cells[columns.path].strip():
            raw.problems.add("an empty path", f"{where}: {line}")
        else:
            clip_id = None if columns.id is None else cells[columns.id].strip()
            group, who = ("" if place is None else cells[place].strip() for place in (columns.group, columns.annotator))
            path = path_of(cells[columns.path], where, raw.problems)
            row = Row(where, path, label, clip_id, group=group, split=of, annotator=who)
            if columns.start is not None or columns.end is not None:
                start, end = ("" if place is None else cells[place] for place in (columns.start, columns.end))
                row.segment = read_segment(start, end, unit, where, raw.problems)
            raw.rows.append(row)
    if bare and (split not in ("test", "") or len(bare) < len(raw.rows)):
        for index in bare:
            kind = f"one column, where a path and a label are needed (separator: {shown}; set DATA.PATH_LABEL_SEPARATOR"
            raw.problems.add(f"{kind} if it is another)", f"{raw.rows[index].where}: {raw.rows[index].written}")
        raw.rows = [row for row in raw.rows if row.label is not None]


def _is_of_split(written: str, split: str, where: str, raw: RawSplit) -> bool:
    """Tell whether the column ``split`` of a row names this one. A list that is called as a split has no rows of
    others."""
    if not split:
        return True
    named = SPLIT_NAMES.get(written.lower())
    if named is None:
        raw.problems.add("a split that is none of train, val, test", f"{where}: {written!r}")
    elif named != split and os.path.basename(raw.source) == f"{split}.csv":
        raw.problems.add(f"a row of another split in {split}.csv", f"{where}: {written}")
    return named == split


# ------------------------------------------------------------------------------------------------ tables with a header


class Line(NamedTuple):
    """One line of a table. ``where`` names it in an error, ``text`` is what is written there."""

    where: str
    text: str
    cells: list[str]


def read_lines(
    path: str | os.PathLike, problems: Problems, *, where: str = "line {}", separator: str = "", empty: bool = True
) -> list[Line]:
    """Read the lines of a csv file, each with its cells, without spaces around them.

    Args:
        problems: gets the lines whose quoting is broken.
        where: how a line is named in an error: its number for ``{}``.
        separator: "" to find it in the first line: a tab, a semicolon, a comma or a space.
        empty: whether empty lines are passed over; else they are a problem.

    Raises:
        DataError: it is no text file, or its first line is broken.
    """
    texts, separator, first = text_lines(path, separator)
    separator = separator or find_separator(texts[:1])
    if separator == " ":  # a first line of one word does not tell
        separator = find_separator(texts[:100])
    lines: list[Line] = []
    for number, text in enumerate(texts, first):
        name = where.format(number)
        if not text.strip():
            if not empty:
                problems.add("an empty line: remove it", name)
            continue
        try:
            cells = split_line(text, separator, columns=len(text))  # never the rule of the last space
        except ValueError as error:
            if not lines:
                raise DataError(f"{path}: {name}: broken quoting ({error})") from error
            kind = 'broken quoting: write "a, b.mp4" and double a quote inside'
            problems.add(kind, f"{name}: {text} ({error})")
            continue
        lines.append(Line(name, text, [csv_value(cell.strip()) for cell in cells]))
    return lines


@dataclass
class Table:
    """A csv file with a header: the columns' names in lower case, and where each row stands, its text and its cells by
    column."""

    header: list[str]
    rows: list[tuple[str, str, dict[str, str]]]


def read_table(
    path: str | os.PathLike, problems: Problems, *, where: str = "line {}", separator: str = "", empty: bool = True
) -> Table:
    """Read a csv file whose first line names its columns; an empty file has no header. See :func:`read_lines`.

    Which columns there must be is the caller's to check. Two columns of one name, and a row with more or fewer cells,
    are problems.
    """
    lines = read_lines(path, problems, where=where, separator=separator, empty=empty)
    if not lines:
        return Table([], [])
    header = [name.lower() for name in lines[0].cells]
    refuse_twice(header, problems)
    rows = []
    for name, text, cells in lines[1:]:
        if len(cells) == len(header):
            rows.append((name, text, dict(zip(header, cells, strict=True))))
        else:
            kind = f"a field that holds the separator must be quoted; not {len(header)} columns, as the header has"
            problems.add(kind, f"{name}: {len(cells)} columns: {text}")
    return Table(header, rows)
