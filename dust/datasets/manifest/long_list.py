"""A csv of millions of rows: read once, kept as columns beside it, and opened by all processes from there.

What is kept are the rows as they are written, so that classes, corrections and folders may change. A list that
anything is wrong with is not kept: whoever reads it in the ordinary way says what.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.datasets.manifest.clips import ClipList, Label, checked
from dust.datasets.manifest.column_file import TEXT, Columns, open_columns, write_columns
from dust.datasets.manifest.columns import say_unread
from dust.datasets.manifest.places import find_places
from dust.datasets.manifest.table import RawSplit, Row, say_repeated
from dust.utils import distributed
from dust.utils.errors import DustError, Problems, SampleError
from dust.utils.files import is_settled, sha256_of_file, sha256_of_text

logger = logging.getLogger(__name__)

#: Bytes of a csv that is kept as columns, some hundred thousand rows; a shorter one is read again in a second or two.
LONG = 8 << 20
KIND = "rows of a list of clips"
_COLUMNS = {"path": TEXT, "id": TEXT, "label": "<i4", "group": "<i4", "start": "<f8", "end": "<f8", "line": "<u4"}
_TABLES = {"labels": TEXT, "groups": TEXT}
_OPTIONAL = ("id", "group", "groups", "start", "end", "line")
_MOST_GROUPS = 1 << 16  # names that are kept as a list; more are read when they are asked for


@dataclass(frozen=True)
class Listed:
    """What is known of a csv.

    Attributes:
        columns: see :class:`dust.datasets.manifest.clips.ClipList`; the numbers in ``label`` are those of the table
            ``labels``, texts; ``line`` is where a row stands, absent where they follow each other.
        labels: of the numbers, for what corrections changed.
        rows: which are left; None for all.
    """

    columns: Columns
    labels: tuple[str, ...]
    rows: np.ndarray | None = None


def is_long(path: str | os.PathLike) -> bool:
    """Tell whether a csv is kept as columns."""
    try:
        return os.path.getsize(path) >= LONG
    except OSError:
        return False


def _checked(columns: Columns) -> Columns:
    """Return columns from a file, whose numbers mean something. SampleError."""
    tables = columns.tables
    checked(columns, {"label": len(tables["labels"]), "group": len(tables.get("groups", ()))})
    facts = columns.facts
    numbers, unread = (facts.get("line"), facts.get("repeated")), facts.get("unread")
    words = isinstance(unread, list) and all(isinstance(name, str) for name in unread)
    if not words or not all(isinstance(number, int) for number in numbers) or not len(columns):
        raise SampleError(columns.path, "damaged: facts of another list")
    return columns


# --- the file beside the csv ------------------------------------------------------------------------------------------


class KeptList:
    """The columns of one csv, from the file beside it or made again.

    Args:
        path: of the csv.
        options: all that its rows depend on besides its content, as JSON can.
        cache: folder for what cannot be written beside the csv; "" for none.
        shared: all processes of the run ask for it now: one makes the file, the others wait, and open it.
    """

    def __init__(self, path: str, options: Sequence[Any], *, cache: str = "", shared: bool = False) -> None:
        self.path, self.shared = path, shared and distributed.world_size() > 1
        name = sha256_of_text(json.dumps(list(options)))[:12]
        folder, file = os.path.split(os.path.abspath(path))
        self.files = [os.path.join(folder, f".{file}.{name}.npz")]
        if cache:
            whole = hashlib.sha256(os.fsencode(os.path.join(folder, file))).hexdigest()[:24]
            self.files.append(os.path.join(cache, f"{whole}.{name}.npz"))

    def read(self, rows: Callable[[], Columns | None]) -> Columns | None:
        """Return the columns; None where something is wrong with the list.

        Args:
            rows: makes them of the csv; None where something is wrong with it.
        """
        if not self.shared:
            return self._opened() or self._made(rows)
        found, failure = self._opened(), None
        for turn in (distributed.is_main(), distributed.local_rank() == 0, True):  # the last of them in memory
            if all(distributed.all_gather_objects(found is not None or failure is not None)):
                break
            try:
                found = found or self._opened() or (self._made(rows) if turn else None)
            except DustError as error:  # is said when nobody waits for this process
                failure = error
        if failure is not None:
            raise failure
        return found

    def _opened(self, *, fresh: bool = False) -> Columns | None:
        """Return the columns of a file; ``fresh``: the rows were read just now, and all was said of them."""
        for file in self.files:
            if not os.path.lexists(file):
                continue
            try:
                columns = _checked(open_columns(file, KIND, _COLUMNS, tables=_TABLES, optional=_OPTIONAL))
                if _is_of(columns.facts.get("csv"), self.path):
                    if not fresh:
                        say_unread(self.path, columns.facts["unread"])
                        say_repeated(self.path, columns.facts["repeated"])
                    return columns
            except DustError as error:
                logger.info("%s is not used: %s", file, error)
            except OSError as error:
                logger.info("%s is not used: %s cannot be read (%s)", file, self.path, error)
        return None

    def _made(self, rows: Callable[[], Columns | None]) -> Columns | None:
        try:
            before, began, content = _stamp(self.path), time.time_ns(), sha256_of_file(self.path)
            columns = rows()
            if columns is None:
                return None
            same = _stamp(self.path) == before and (
                is_settled((before["mtime_ns"], before["ctime_ns"]), began) or sha256_of_file(self.path) == content
            )  # fmt: skip
            columns.facts["csv"] = {**before, "sha256": content, "read_ns": time.time_ns()}
            if not same:
                return columns  # it is being written: the next run reads it again
        except OSError:
            return None  # whoever reads it in the ordinary way says why
        for file in self.files:
            try:
                os.makedirs(os.path.dirname(file), exist_ok=True)
                write_columns(file, columns, KIND, lambda: self._opened(fresh=True) is not None)
            except OSError as error:
                reason = f"{file}: {error.strerror or error}"
                continue
            logger.info("%s: %d rows are kept as columns in %s", self.path, len(columns), file)
            return self._opened(fresh=True) or columns
        logger.warning(
            "%s: the columns of its %d rows cannot be kept (%s): each process holds them in memory, and each run reads "
            "the list again. Set DATA.INDEX_CACHE to a folder that can be written", self.path, len(columns), reason,
        )  # fmt: skip
        return columns


def _stamp(path: str) -> dict[str, int]:
    facts = os.stat(path)
    return {"size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "ctime_ns": facts.st_ctime_ns}


def _is_of(facts: Any, path: str) -> bool:
    """Tell whether columns with these facts are of the csv as it is now. Raises OSError."""
    if not isinstance(facts, dict):
        return False
    now = _stamp(path)
    if facts.get("size") != now["size"]:
        return False
    read = facts.get("read_ns")
    same = all(facts.get(name) == value for name, value in now.items())
    if same and isinstance(read, int) and is_settled((now["mtime_ns"], now["ctime_ns"]), read):
        return True
    return facts.get("sha256") == sha256_of_file(path)


# --- from rows to clips -----------------------------------------------------------------------------------------------


def corrected(columns: Columns, choose: Callable[[Iterable[str]], tuple[list[int], dict[int, str]]]) -> Listed:
    """Return the rows after corrections.

    Args:
        choose: from the ids of all rows, those that go and the labels that others get.
    """
    table: Any = columns.tables["labels"]
    words = tuple(table)
    dropped, relabelled = choose(ClipList(columns, ()).ids())
    if relabelled:
        numbers = {word: number for number, word in enumerate(words)}
        label: Any = columns.columns["label"]
        codes = label[:]
        codes[list(relabelled)] = [numbers.setdefault(word, len(numbers)) for word in relabelled.values()]
        words = tuple(numbers)
        columns = Columns({**columns.columns, "label": codes}, columns.tables, columns.facts, columns.path)
    kept = None
    if dropped:
        left = np.ones(len(columns), bool)
        left[dropped] = False
        kept = np.flatnonzero(left).astype(np.int32)
    return Listed(columns, words, kept)


def words_of(listed: Listed, source: str) -> RawSplit:
    """Return the labels that occur, as the rows of a list that has each of them once."""
    counts = ClipList(listed.columns, range(len(listed.labels)), rows=listed.rows).code_counts().tolist()
    rows = [Row("some rows", "", word) for word, count in zip(listed.labels, counts, strict=True) if count]
    return RawSplit(source=source, rows=rows)


def clips_of(
    listed: Listed, words: RawSplit, labels: Sequence[tuple[int, ...] | None], multi_label: bool, bases: Sequence[str],
    *, unit: str, check_files: bool, shared: bool, problems: Problems,
) -> ClipList:  # fmt: skip
    """Return the clips of a list whose labels are known.

    Args:
        words, labels: see :func:`words_of` and :func:`dust.datasets.manifest.labels.index_labels`.
        bases, check_files, shared, problems: see :func:`dust.datasets.manifest.places.find_places`.
        unit: of segments.
    """
    numbers = {word: number for number, word in enumerate(listed.labels)}
    known: list[Label] = [None] * (len(listed.labels) + 1)
    for row, indices in zip(words.rows, labels, strict=True):
        if row.label is not None:
            known[numbers[row.label]] = indices if multi_label or not indices else indices[0]
    columns = listed.columns
    groups: Any = columns.tables.get("groups", ())
    groups = list(groups) if len(groups) <= _MOST_GROUPS else groups
    lines: Any = columns.columns.get("line")

    def where(row: int) -> str:
        return f"line {columns.facts['line'] + row if lines is None else int(lines[row])}"

    paths: Any = columns.columns["path"]
    places = find_places(
        paths, bases, rows=listed.rows, check=check_files, shared=shared, where=where, problems=problems
    )
    return ClipList(columns, known, groups, places, unit, listed.rows)
