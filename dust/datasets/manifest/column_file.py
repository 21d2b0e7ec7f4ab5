"""Columns of many rows in one file: numbers and texts, read where they are asked for, by any number of processes.

The file is an uncompressed .npz, which ``numpy.load`` reads too. A column of numbers is an array of its name; one of
texts is two, ``NAME.bytes`` with all of them one behind the other (UTF-8) and ``NAME.starts``: text i is the bytes from
``starts[i]`` to ``starts[i + 1]``. ``facts`` holds plain values as JSON.

Rows are read by ``pread`` and not mapped: the system keeps what was read once for all processes of a machine, so that
none holds a copy, and a file that is cut meanwhile is an error with its name instead of the end of the process.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, overload

import numpy as np

from dust.utils.arrays import Archive, StoredArray, open_npz
from dust.utils.errors import SampleError
from dust.utils.files import replacing
from dust.utils.structured import parse_json

TEXT = "text"
BLOCK = 1 << 14  # rows that are read at once where all are
_FORMAT = 1
_CHECKED = 1 << 20  # rows that are looked at at once when a file is opened
_FACTS = "facts"
_DAMAGED = "damaged, or not a file of columns: remove it, and it is written again"

Numbers = np.ndarray | StoredArray


class Texts(Sequence[str]):
    """Texts one behind the other, in memory or in a file; a slice is a list of some.

    Args:
        data: (bytes,) uint8, all texts as UTF-8; a byte of a file's name that is none stays as it is.
        starts: (rows + 1,) where each begins, and the end of the last.
    """

    def __init__(self, data: Numbers, starts: Numbers) -> None:
        self.data, self.starts = data, starts

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Return the texts in memory, of which no list need be made."""
        found, texts = TextsBuilder(), iter(texts)
        while some := list(islice(texts, BLOCK)):
            found.extend(some)
        return found.texts()

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            return self._run(first, last) if step == 1 else [self[row] for row in range(first, last, step)]
        row = key + len(self) if key < 0 else key
        if not 0 <= row < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        first, last = self.starts[row : row + 2].tolist()
        return self.data[first:last].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), BLOCK):
            yield from self._run(first, min(first + BLOCK, len(self)))

    def _run(self, first: int, last: int) -> list[str]:
        """Return the texts from row ``first`` to ``last``, without the last, in one read."""
        if first >= last:
            return []
        starts = self.starts[first : last + 1]
        raw = self.data[int(starts[0]) : int(starts[-1])].tobytes()
        places = pairwise((starts - starts[0]).tolist())
        if raw.isascii():
            text = raw.decode("ascii")
            return [text[begin:end] for begin, end in places]
        return [raw[begin:end].decode("utf-8", "surrogateescape") for begin, end in places]


class TextsBuilder:
    """Texts that come in blocks, of which only the bytes are kept."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lengths = [np.zeros(1, np.uint32)]

    def extend(self, texts: Iterable[str]) -> None:
        """Put some more behind those that are there."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self.data += b"".join(encoded)
        self.lengths.append(np.fromiter(map(len, encoded), np.uint32, len(encoded)))

    def texts(self) -> Texts:
        """Return all of them. Nothing can be added after that."""
        kind = np.uint32 if len(self.data) < 1 << 32 else np.uint64
        return Texts(np.frombuffer(self.data, np.uint8), np.cumsum(np.concatenate(self.lengths), dtype=kind))


@dataclass
class Columns:
    """Columns by name.

    Attributes:
        columns: all with the same number of rows.
        tables: others, each as long as it is: the words that a column has the numbers of, say.
        facts: plain values, as JSON can.
        path: of the file; "" in memory.
    """

    columns: dict[str, Numbers | Texts]
    tables: dict[str, Numbers | Texts] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class _ThereAlready(Exception):
    """Another process has made the file meanwhile."""


def write_columns(
    path: str | os.PathLike, columns: Columns, kind: str, there: Callable[[], bool] = lambda: False
) -> None:  # fmt: skip
    """Write columns into one file, whole or not at all.

    Args:
        kind: what they are; whoever opens the file says it again.
        there: asked at the end: whether another process has made the same file meanwhile, which is then left as it is.
            Who has opened that one continues reading it, and on a network a file that was replaced is gone.

    Raises OSError.
    """
    if len({len(column) for column in columns.columns.values()}) != 1:
        raise ValueError(f"columns of different numbers of rows: {', '.join(columns.columns)}")
    arrays: dict[str, Any] = {}
    for name, column in {**columns.columns, **columns.tables}.items():
        if isinstance(column, Texts):
            arrays |= {f"{name}.bytes": column.data, f"{name}.starts": column.starts}
        else:
            arrays[name] = column
    facts = json.dumps({"kind": kind, "format": _FORMAT, "facts": columns.facts})
    arrays[_FACTS] = np.frombuffer(facts.encode(), np.uint8)
    with contextlib.suppress(_ThereAlready), replacing(path, suffix=".npz") as temporary:
        np.savez(temporary, **arrays)
        with open(temporary, "rb+") as file:  # now: from the question to the new name no time passes
            os.fsync(file.fileno())
        if there():
            raise _ThereAlready


def open_columns(
    path: str | os.PathLike,
    kind: str,
    columns: Mapping[str, str],
    *,
    tables: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> Columns:
    """Open what :func:`write_columns` wrote, after all of it was read once and held against its checksums.

    Args:
        kind: see :func:`write_columns`.
        columns: {name: ``text``, or the type of its numbers as NumPy writes it, ``<i4``}.
        tables: likewise.
        optional: names that may be absent.

    Raises:
        SampleError: it is missing or damaged, of another kind, or a column is of another type, of another number of
            rows, or of texts that do not lie one behind the other. What numbers mean is the caller's to check.
    """
    name = os.fspath(path)
    with open_npz(name) as archive:
        facts = _facts(archive, kind, name)
        archive.verify()
        found = {
            one: _column(name, one, dtype, archive.names)
            for one, dtype in {**columns, **(tables or {})}.items()
            if one not in optional or one in archive.names or f"{one}.starts" in archive.names
        }
    result = Columns(
        {one: found[one] for one in columns if one in found}, {one: found[one] for one in tables or () if one in found},
        facts, name,
    )  # fmt: skip
    lengths = {one: len(column) for one, column in result.columns.items()}
    if len(set(lengths.values())) != 1:
        raise SampleError(name, _DAMAGED, f"columns of {lengths} rows"[:300])
    if len({array.identity for column in found.values() for array in _arrays(column)}) != 1:
        raise SampleError(name, "was replaced while it was opened: start again")
    return result


def _arrays(column: Numbers | Texts) -> list[StoredArray]:
    parts = (column.data, column.starts) if isinstance(column, Texts) else (column,)
    return [part for part in parts if isinstance(part, StoredArray)]


def _facts(archive: Archive, kind: str, path: str) -> dict[str, Any]:
    text = archive.read(_FACTS)
    if text.dtype != np.uint8:
        raise SampleError(path, _DAMAGED, f"facts of {text.dtype}")
    head = parse_json(text.tobytes(), path)
    if not isinstance(head, dict) or head.get("kind") != kind or head.get("format") != _FORMAT:
        raise SampleError(path, _DAMAGED, f"not {kind}, format {_FORMAT}")
    if not isinstance(head.get("facts"), dict):
        raise SampleError(path, _DAMAGED, "no facts")
    return head["facts"]


def _column(path: str, name: str, dtype: str, names: Collection[str]) -> Numbers | Texts:
    """Return a column of an archive that has ``names``. SampleError."""
    for one in [f"{name}.bytes", f"{name}.starts"] if dtype == TEXT else [name]:
        if one not in names:
            raise SampleError(path, _DAMAGED, f"no {one}")
    if dtype != TEXT:
        return _numbers(path, name, (np.dtype(dtype),))
    data = _numbers(path, f"{name}.bytes", (np.dtype(np.uint8),))
    starts = _numbers(path, f"{name}.starts", (np.dtype("<u4"), np.dtype("<u8")))
    before = 0
    for first in range(0, len(starts), _CHECKED):
        some = starts[first : first + _CHECKED]
        if some[0] < before or (not first and some[0]) or (some[1:] < some[:-1]).any():
            raise SampleError(path, _DAMAGED, f"{name}: texts that do not lie one behind the other")
        before = int(some[-1])
    if not len(starts) or before != len(data):
        raise SampleError(path, _DAMAGED, f"{name}: texts of {before:,} bytes, where there are {len(data):,}")
    return Texts(data, starts)


def _numbers(path: str, name: str, dtypes: Collection[np.dtype]) -> StoredArray:
    array = StoredArray(path, name)
    if array.ndim != 1 or array.dtype not in dtypes:
        raise SampleError(path, _DAMAGED, f"{name}: {array.dtype} {array.shape}")
    return array
