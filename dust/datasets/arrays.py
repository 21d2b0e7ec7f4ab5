"""Rows of arrays on disk: ``file.npy#7`` is row 7 of a stacked .npy, ``file.npz#name`` an array of an archive,
``file.parquet#a,b`` columns of a table, ``file.edf#a,b`` signals of a recording.

A stacked file is opened once per process, at its first use. What is sent to a worker is the name, never the array.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.utils.arrays import StoredArray
from dust.utils.errors import SampleError

#: Files of which a part can be named.
WITH_PARTS = (".npy", ".npz", ".parquet", ".edf", ".bdf")
_OPEN_FILES = 64  # files that are remembered


def split_reference(written: str) -> tuple[str, str]:
    """Return ``("a.npy", "7")`` for ``a.npy#7``; ``(written, "")`` for anything else: # counts behind WITH_PARTS
    only."""
    path, mark, key = written.rpartition("#")
    return (path, key) if mark and path.lower().endswith(WITH_PARTS) else (written, "")


def is_row(written: str) -> bool:
    """Tell whether this names a row of a stacked .npy."""
    path, key = split_reference(written)
    return bool(key) and path.lower().endswith(".npy")


class ArrayFiles:
    """Stacked .npy files, looked at when they are first used; the last 64 are remembered."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, StoredArray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": OrderedDict()}

    def open(self, path: str) -> StoredArray:
        """Return the array, of which rows are read when they are asked for. SampleError if it cannot be used."""
        array = self._files.get(path)
        if array is None:
            array = self._files[path] = StoredArray(path)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(path)
        return array

    def row(self, path: str, row: int) -> np.ndarray:
        """Return row ``row`` of a stacked array. SampleError if there is none."""
        array = self.open(path)
        if array.ndim < 1 or not 0 <= row < len(array):
            raise SampleError(
                path, "a row that the array does not have: rows count from 0", f"row {row} of {array.shape}"
            )
        return array[row]


class StackedRows:
    """A row of a stacked .npy for every sample. ``paths[file[i]]`` and ``row[i]`` are sample i's."""

    def __init__(self, references: Sequence[str], files: ArrayFiles) -> None:
        numbers: dict[str, int] = {}
        pairs = [split_reference(reference) for reference in references]
        self.file = np.array([numbers.setdefault(path, len(numbers)) for path, _ in pairs], np.int32)
        self.row = np.array([int(key) for _, key in pairs], np.int64)
        self.paths = list(numbers)
        self.files = files

    def __len__(self) -> int:
        return len(self.row)

    def one(self, index: int) -> np.ndarray:
        """Return sample ``index``'s row."""
        return self.files.row(self.paths[self.file[index]], int(self.row[index]))

    def block(self, indices: np.ndarray) -> np.ndarray:
        """Return (len(indices), ...) rows, copied; one read per file. The files' rows must have one shape."""
        numbers = self.file[indices]
        if (numbers == numbers[0]).all():
            return self._read(int(numbers[0]), self.row[indices])
        parts = {int(number): np.flatnonzero(numbers == number) for number in np.unique(numbers)}
        blocks = {number: self._read(number, self.row[indices[places]]) for number, places in parts.items()}
        first = next(iter(blocks.values()))
        block = np.empty((len(indices), *first.shape[1:]), np.result_type(*blocks.values()))
        for number, places in parts.items():
            block[places] = blocks[number]
        return block

    def _read(self, number: int, rows: np.ndarray) -> np.ndarray:
        path = self.paths[number]
        try:
            return self.files.open(path)[rows]
        except IndexError as error:
            raise SampleError(path, "a row that the array does not have: rows count from 0", str(error)) from error
