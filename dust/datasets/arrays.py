"""Arrays on disk, read a row at a time: ``file.npy#7`` is row 7 of a stacked .npy, ``file.npz#name`` one of an archive.

A stacked file is mapped once per process, at its first use. What is sent to a worker is the name, never the array.
"""

import struct
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.utils.errors import DataError

_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
#: What NumPy and zipfile raise for a file that is damaged.
DAMAGE: tuple[type[Exception], ...] = (
    ValueError, EOFError, KeyError, SyntaxError, OverflowError, MemoryError, NotImplementedError, RuntimeError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_OPEN_FILES = 64  # maps that one process keeps


class SampleError(DataError):
    """One sample's file that cannot be used. ``reason`` says why and the way out, ``detail`` what was found in it."""

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason, self.detail)


def split_reference(written: str) -> tuple[str, str]:
    """``("a.npy", "7")`` for ``a.npy#7``; ``(written, "")`` for anything else: # counts behind .npy and .npz only."""
    path, mark, key = written.rpartition("#")
    return (path, key) if mark and path.lower().endswith((".npy", ".npz")) else (written, "")


def is_row(written: str) -> bool:
    """Whether this names a row of a stacked .npy."""
    path, key = split_reference(written)
    return bool(key) and path.lower().endswith(".npy")


def load(path: str) -> Any:
    """A memory map of a .npy file's array, or the open archive of an .npz. Pickles are never opened.

    Raises:
        SampleError: no file, no such file, objects instead of numbers, cut short.
    """
    suffix = path[-4:].lower()
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if not start.startswith(_MAGIC[suffix]):
            raise SampleError(
                path, f"not a {suffix} file: save it with numpy.{'save' if suffix == '.npy' else 'savez'}"
            )
        # mapped, so that a header which announces more than the file holds is found out before it is allocated
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SampleError(path, f"cannot be read: {error.strerror or error}") from error
    except DAMAGE as error:
        raise array_error(path, error) from error


def array_error(path: str, error: Exception) -> SampleError:
    """What NumPy's complaint about a file means for the user."""
    if "object" in str(error).lower():
        return SampleError(path, "holds Python objects, which are never unpickled: save it as an array of numbers")
    return SampleError(path, "damaged: write it again", str(error))


class ArrayFiles:
    """Maps of stacked .npy files, opened at first use and closed when more than 64 others were used since."""

    def __init__(self) -> None:
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_maps": OrderedDict()}  # a map pickles as a copy of the whole array

    def open(self, path: str) -> np.ndarray:
        """The array, read-only. SampleError as :func:`load`."""
        array = self._maps.get(path)
        if array is None:
            array = np.asarray(load(path))  # as a plain ndarray, which is cheaper to slice than a memmap
            self._maps[path] = array
            if len(self._maps) > _OPEN_FILES:
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(path)
        return array

    def row(self, path: str, row: int) -> np.ndarray:
        """Row ``row`` of a stacked array, not copied. SampleError if there is none."""
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
        """Sample ``index``'s row, not copied."""
        return self.files.row(self.paths[self.file[index]], int(self.row[index]))

    def block(self, indices: np.ndarray) -> np.ndarray:
        """(len(indices), ...) rows, copied; one read per file. The files' rows must have one shape."""
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
