"""The rows of a csv as columns: of rows that are there, or of a file of millions that is read piece by piece."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from dust.datasets.manifest.column_file import BLOCK, Columns, Numbers, Texts, TextsBuilder
from dust.datasets.manifest.table import (
    SEPARATOR_LINE,
    Header,
    RawSplit,
    Row,
    find_separator,
    own_name,
    read_header,
    read_rows,
)
from dust.decode.segment import SECONDS
from dust.utils.errors import Problems
from dust.utils.files import LONGEST_TEXT, open_file


class AllAtOnce(Exception):
    """A csv of which a piece does not tell how the others are to be read."""


def raise_where_longest(problems: Problems, path: str) -> None:
    """Raise what is wrong with a csv of which nobody can say more, for it is too long to be read at once. DataError."""
    if os.path.getsize(path) > LONGEST_TEXT:
        problems.raise_if_any(path)


class RowColumns:
    """Columns that grow by blocks of rows, which have their ids."""

    def __init__(self) -> None:
        self.path, self.id = TextsBuilder(), TextsBuilder()
        self.words: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.blocks: list[dict[str, np.ndarray]] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Put rows behind those that are there."""
        self.path.extend([row.written for row in rows])
        self.id.extend(["" if row.id == row.written else row.id or "" for row in rows])
        words, groups, count = self.words, self.groups, len(rows)
        label = (-1 if row.label is None else words.setdefault(row.label, len(words)) for row in rows)
        group = (-1 if not row.group else groups.setdefault(row.group, len(groups)) for row in rows)
        line = (int(row.where.removeprefix("line ")) for row in rows)
        block = {
            "label": np.fromiter(label, "<i4", count),
            "group": np.fromiter(group, "<i4", count),
            "line": np.fromiter(line, "<u4", count),
        }
        segments = [row.segment for row in rows]
        if any(segments):
            ends = (np.nan if one is None or one.end is None else one.end for one in segments)
            block["start"] = np.array([np.nan if one is None else one.start for one in segments], "<f8")
            block["end"] = np.fromiter(ends, "<f8", count)
        self.blocks.append(block)

    def columns(self, repeated: int, unread: Sequence[str]) -> Columns:
        """Return what :class:`dust.datasets.manifest.long_list.KeptList` keeps, of at least one row.

        Args:
            repeated, unread: see :class:`dust.datasets.manifest.table.RawSplit`.
        """
        columns: dict[str, Numbers | Texts] = {"path": self.path.texts(), "label": self._joined("label")}
        tables: dict[str, Numbers | Texts] = {"labels": Texts.of(self.words)}
        if self.id.data:
            columns["id"] = self.id.texts()
        if self.groups:
            columns["group"], tables["groups"] = self._joined("group"), Texts.of(self.groups)
        if any("start" in block for block in self.blocks):
            columns |= {"start": self._joined("start"), "end": self._joined("end")}
        line = self._joined("line")
        if (line[1:] != line[:-1] + 1).any():
            columns["line"] = line
        return Columns(columns, tables, {"line": int(line[0]), "repeated": repeated, "unread": list(unread)})

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([block.get(name, np.full(len(block["label"]), np.nan)) for block in self.blocks])


def columns_of(raw: RawSplit) -> Columns:
    """Return the rows of a csv, which have their ids, in columns."""
    found = RowColumns()
    for first in range(0, len(raw.rows), BLOCK):
        found.add(raw.rows[first : first + BLOCK])
    return found.columns(raw.repeated, raw.unread)


def columns_in_pieces(
    path: str,
    *,
    split: str,
    separator: str = "",
    multi_label: bool = False,
    group_column: str = "",
    segment_unit: str = SECONDS,
    extra_columns: Sequence[str] = (),
) -> Columns | None:
    """Return the columns of a long csv of which no more than a block of rows is in memory; the rows are those of
    :func:`dust.datasets.manifest.table.read_csv`, whose arguments these are.

    Returns:
        None where something is wrong with it, or it has no rows: whoever reads all of it says what.

    Raises:
        AllAtOnce: it must be read by read_csv. OSError. DataError: something is wrong, and it is too long for that.
    """
    raw, found, hashes = RawSplit(source=path, rows=[]), RowColumns(), list[np.ndarray]()
    given, separator = separator, {"\\t": "\t"}.get(separator, separator)
    header: Header | None = None
    lines = marked = 0
    for block in _blocks(path):
        texts = [text for _, text in block]
        if not all(map(str.strip, texts)):
            empty = next(number for number, text in block if not text.strip())
            raw.problems.add("an empty line: remove it", f"line {empty}")
            raise_where_longest(raw.problems, path)
            return None
        if not lines:
            separator = separator or find_separator(texts)
            header = read_header(raw, texts[0], "line 1", separator, split, group_column, extra_columns)
            block = block if header is None else block[1:]
            if header is None and separator == " " and split in ("test", ""):
                raise AllAtOnce(f"{path}: whether there are labels")
        lines += len(texts)
        if separator == " " and not given:
            marked += sum(any(mark in text for mark in "\t;,") for text in texts)
        read_rows(raw, block, separator, header or Header(), split, multi_label, segment_unit)
        if raw.problems.kinds:
            raise_where_longest(raw.problems, path)
            return None
        rows, raw.rows = raw.rows, []
        if header is None and any(row.label is None for row in rows):
            raise AllAtOnce(f"{path}: whether there are labels")
        for row in rows:
            row.id = own_name(row)
        hashes.append(np.fromiter((hash(row.id) for row in rows), np.int64, len(rows)))
        found.add(rows)
    if lines and 2 * marked >= lines:
        raise AllAtOnce(f"{path}: what the separator is")
    every = np.sort(np.concatenate([*hashes, np.zeros(0, np.int64)]))
    if (every[1:] == every[:-1]).any():
        raise AllAtOnce(f"{path}: rows that name what is named before")
    return found.columns(0, raw.unread) if len(every) else None


def _blocks(path: str) -> Iterator[list[tuple[int, str]]]:
    """Yield some thousand numbered lines at a time. AllAtOnce for what is no UTF-8, or names its separator. OSError."""
    with open_file(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
        lines: Any = enumerate(text, 1)
        try:
            while block := [(number, line.removesuffix("\n")) for number, line in islice(lines, BLOCK)]:
                if any("\0" in line for _, line in block) or (
                    block[0][0] == 1 and re.fullmatch(SEPARATOR_LINE, block[0][1].strip(" "), re.IGNORECASE)
                ):
                    raise AllAtOnce(f"{path}: UTF-16, or a first line of its own")
                yield block
        except UnicodeDecodeError as error:
            raise AllAtOnce(f"{path}: {error}") from error
