"""The csv of clips and labels, ``path<SEP>label``: what SlowFast, TimeSformer, VideoMAE, TSTL and people write.

Rules (DATASET.md says them with examples):

* separator: the one given, else a tab, else a comma, else the LAST space of the line;
* a header is there if the first row names a path column (path, video, file, id) and a label column (label, labels,
  class), or consists of such names only;
* ``"`` quotes a field that holds the separator; a byte order mark and CRLF are accepted; UTF-8 only.
"""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dust.utils.errors import DataError, Problems
from dust.utils.files import read_text

PATH_NAMES = ("path", "video", "file", "id")
LABEL_NAMES = ("label", "labels", "class")
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".flv", ".3gp", ".ogv", ".vob", ".gif"}
)

# "a path" <spaces> "a label", each quoted or not; without quotes the label is what follows the last space
_SPACED = re.compile(r'(?:"((?:[^"]|"")*)"|(.*?\S))[ \t]+(?:"((?:[^"]|"")*)"|(\S+))')
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_INTEGERS = re.compile(r"\d+(,\d+)+")


@dataclass(slots=True)
class Row:
    """One clip as a file names it. ``path`` is None until the file is located; ``label`` None where there is none."""

    where: str
    written: str
    label: str | None
    id: str | None = None
    path: str | None = None


@dataclass
class RawSplit:
    """What a format's reader returns. ``bases``: folders in which relative paths are looked for, in this order.
    ``class_names``: the classes in their order, where the format has such a list."""

    source: str
    rows: list[Row]
    bases: list[str] = field(default_factory=list)
    class_names: list[str] | None = None
    problems: Problems = field(default_factory=Problems)


def _written_with_spaces(line: str) -> bool:
    """Whether the comma in this line belongs to a path or to a list of labels (``a.mp4 0,5,17``), since what stands
    before the last space is already a whole path."""
    head = line.rstrip().rpartition(" ")[0].rstrip().strip('"')
    return os.path.splitext(head)[1].lower() in VIDEO_SUFFIXES


def find_separator(lines: Sequence[str]) -> str:
    """A tab or a comma if at least half of the lines hold one outside quotes; else a space."""
    bare = [_QUOTED.sub("", line) if '"' in line else line for line in lines]
    if 2 * sum("\t" in text for text in bare) >= len(lines):
        return "\t"
    commas = sum("," in text and not _written_with_spaces(line) for text, line in zip(bare, lines, strict=True))
    return "," if 2 * commas >= len(lines) else " "


def split_line(line: str, separator: str, columns: int | None = None) -> list[str]:
    """The fields of one line. With a space as the separator and ``columns`` not above 2: at most two fields, cut at
    the last space. ValueError says what is wrong with the quoting."""
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
class _Columns:
    """Which field is what. ``count`` is None without a header: then two fields, or one in a test split."""

    count: int | None = None
    path: int = 0
    label: int | None = 1
    id: int | None = None


def find_header(line: str, separator: str) -> _Columns | None:
    """The columns that the first line names, or None if it is a clip like the others."""
    try:
        cells = split_line(line, separator)
    except ValueError:
        return None
    if separator == " " and '"' not in line:
        cells = line.split()  # "id path label": three names, which the rule of the last space would not part
    names = [cell.strip().lower() for cell in cells]
    paths = [name for name in PATH_NAMES if name in names]
    labels = [name for name in LABEL_NAMES if name in names]
    if not paths or not (labels or all(name in PATH_NAMES + LABEL_NAMES for name in names)):
        return None
    return _Columns(
        count=len(names),
        path=names.index(paths[0]),
        label=names.index(labels[0]) if labels else None,
        id=names.index("id") if "id" in names and paths[0] != "id" else None,
    )


def _clips_only(lines: Sequence[str]) -> bool:
    """Whether every line ends in the name of a video: a list of clips without labels."""
    return all(os.path.splitext(line.strip().strip('"'))[1].lower() in VIDEO_SUFFIXES for line in lines)


def read_csv(path: str | os.PathLike, *, split: str, separator: str = "", multi_label: bool = False) -> RawSplit:
    """Reads one csv file. Labels stay text. Problems are collected in the result, with line numbers.

    Args:
        split: only in "test" may the labels be absent (a header without a label column, or one column everywhere).
        separator: "" to find it; " " means the last space of the line; ``\\t`` may be written with a backslash.
        multi_label: an empty label field then means "none of the classes".
    """
    raw = RawSplit(source=str(path), rows=[])
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) < len(lines):
        filled = {number for number, _ in numbered}
        for number in range(1, len(lines) + 1):
            if number not in filled:
                raw.problems.add("an empty line: remove it", f"line {number}")
    if not numbered:
        return raw
    texts = [line for _, line in numbered]
    separator = {"\\t": "\t"}.get(separator, separator) or find_separator(texts)
    header = find_header(texts[0], separator)
    if header is not None:
        numbered = numbered[1:]
    elif split == "test" and separator == " " and _clips_only(texts):
        header = _Columns(count=1, label=None)
    if header is not None and header.label is None and split != "test":
        raw.problems.add(f"no label column in a {split} split: add one named label", f"line 1: {texts[0]}")
        return raw
    _read_rows(raw, numbered, separator, header or _Columns(), split, multi_label)
    return raw


def _read_rows(
    raw: RawSplit, numbered: list[tuple[int, str]], separator: str, columns: _Columns, split: str, multi_label: bool
) -> None:
    shown = {"\t": "a tab", " ": "a space", ",": "a comma"}.get(separator, repr(separator))
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
        if len(cells) == 1 and columns.count is None:
            bare.append(len(raw.rows))
            raw.rows.append(Row(where, cells[0], None))
            continue
        if len(cells) != (columns.count or 2):
            raw.problems.add(
                f"not {columns.count or 2} columns with {shown} as the separator: quote a path or several labels that "
                "hold the separator, or set DATA.PATH_LABEL_SEPARATOR",
                f"{where}: {len(cells)} columns: {line}",
            )
            continue
        label = None if columns.label is None else cells[columns.label].strip()
        if label == "" and not multi_label:
            raw.problems.add("an empty label", f"{where}: {line}")
        elif label and not multi_label and _INTEGERS.fullmatch(label):
            raw.problems.add("several labels for one clip: set DATA.MULTI_LABEL True", f"{where}: {line}")
        elif not cells[columns.path].strip():
            raw.problems.add("an empty path", f"{where}: {line}")
        else:
            clip_id = None if columns.id is None else cells[columns.id].strip()
            raw.rows.append(Row(where, cells[columns.path], label, clip_id))
    if bare and (split != "test" or len(bare) < len(raw.rows)):
        for index in bare:
            raw.problems.add(
                f"one column, where a path and a label are needed (separator: {shown}; "
                "set DATA.PATH_LABEL_SEPARATOR if it is another)",
                f"{raw.rows[index].where}: {raw.rows[index].written}",
            )
        raw.rows = [row for row in raw.rows if row.label is not None]


# ------------------------------------------------------------------------------------------------ tables with a header


class Line(NamedTuple):
    """One line of a table. ``where`` names it in an error, ``text`` is what is written there."""

    where: str
    text: str
    cells: list[str]


def read_lines(
    path: str | os.PathLike, problems: Problems, *, where: str = "line {}", separator: str = ",", empty: bool = True
) -> list[Line]:
    """Read the lines of a csv file, each with its cells, without spaces around them.

    Args:
        problems: gets the lines whose quoting is broken.
        where: how a line is named in an error: its number for ``{}``.
        separator: "" to find it in the first line: a tab, a comma or a space.
        empty: whether empty lines are passed over; else they are a problem.

    Raises:
        DataError: it is no text file, or its first line is broken.
    """
    texts = read_text(path).split("\n")
    if texts[-1] == "":
        texts.pop()
    separator = {"\\t": "\t"}.get(separator, separator) or find_separator(texts[:1])
    lines: list[Line] = []
    for number, text in enumerate(texts, 1):
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
        lines.append(Line(name, text, [cell.strip() for cell in cells]))
    return lines


@dataclass
class Table:
    """A csv file with a header: the columns' names in lower case, and where each row stands, its text and its cells by
    column."""

    header: list[str]
    rows: list[tuple[str, str, dict[str, str]]]


def read_table(
    path: str | os.PathLike, problems: Problems, *, where: str = "line {}", separator: str = ",", empty: bool = True
) -> Table:
    """Read a csv file whose first line names its columns; an empty file has no header. See :func:`read_lines`.

    Which columns there must be is the caller's to check. A row with more or fewer cells is a problem.
    """
    lines = read_lines(path, problems, where=where, separator=separator, empty=empty)
    if not lines:
        return Table([], [])
    header = [name.lower() for name in lines[0].cells]
    rows = []
    for name, text, cells in lines[1:]:
        if len(cells) == len(header):
            rows.append((name, text, dict(zip(header, cells, strict=True))))
        else:
            kind = f"a field that holds the separator must be quoted; not {len(header)} columns, as the header has"
            problems.add(kind, f"{name}: {len(cells)} columns: {text}")
    return Table(header, rows)
