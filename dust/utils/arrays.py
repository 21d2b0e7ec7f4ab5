"""Arrays of numbers in .npy and .npz files of others: checked before they are believed, never mapped.

An array of Python objects is a program, or, mapped, a list of addresses: it is refused before anything is made of it.
A header that announces more than the file holds is refused before memory is taken. Parts are read by ``pread``, so
that a file that is cut meanwhile is an error with its name; a memory map of it would end the process.
"""

import contextlib
import copy
import io
import math
import os
import struct
import tokenize
import weakref
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from dust.utils.errors import SampleError
from dust.utils.files import open_file

NUMBERS = "biuf"  # kinds of dtypes: bool, signed, unsigned, floating
_MAGIC, _ZIP = b"\x93NUMPY", b"PK"
_LONGEST_HEADER = 10_000  # bytes, as numpy.load allows
_MOST_UNPACKED = 1 << 32  # bytes of one compressed array
_OPEN_FILES = 64  # that one process keeps
# what NumPy and zipfile raise for a file that is damaged
_DAMAGE: tuple[type[Exception], ...] = (
    ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError, NotImplementedError,
    RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_UNREADABLE: tuple[type[Exception], ...] = (*_DAMAGE, OSError)
_OBJECTS = "holds Python objects, which are never unpickled: save it as an array of numbers"


@dataclass(frozen=True)
class _Header:
    """``start``: of the numbers, in bytes from the beginning of the array's own file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(file: BinaryIO | Any, size: int, path: str | os.PathLike, kinds: str) -> _Header:
    """Return the header of a .npy of ``size`` bytes that begins here, with what it says held against that size.

    Raises SampleError.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise SampleError(path, "not an array of plain numbers: save it as one", f"npy version {version}")
        length = struct.unpack("<H" if version == (1, 0) else "<I", file.read(2 if version == (1, 0) else 4))[0]
        if length > _LONGEST_HEADER:
            raise SampleError(path, "damaged: write it again", f"a header of {length:,} bytes")
        text = file.read(length)
        if len(text) < length:
            raise SampleError(path, "damaged: write it again", "it ends in its header")
        # handed to NumPy once more, whose parser knows all forms that were ever written
        again = io.BytesIO(struct.pack("<H" if version == (1, 0) else "<I", length) + text)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(again)
    except _DAMAGE as error:
        raise SampleError(path, "damaged: write it again", f"{error}"[:200]) from error
    if dtype.hasobject:
        raise SampleError(path, _OBJECTS)
    if dtype.kind not in kinds or not dtype.itemsize:
        raise SampleError(path, "not an array of real numbers", f"dtype {dtype}")
    if any(type(number) is not int for number in shape):  # NumPy takes True for one
        raise SampleError(path, "damaged: write it again", f"shape {shape}"[:200])
    header = _Header(tuple(shape), dtype, bool(fortran), 8 + (2 if version == (1, 0) else 4) + length)
    largest = math.prod(max(1, number) for number in shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(shape) > 32 or largest > np.iinfo(np.int64).max:
        raise SampleError(path, "damaged: write it again", f"shape {shape}"[:200])
    if header.start + header.nbytes != size:
        there = f"{size - header.start:,} bytes of numbers, where {dtype} {shape} has {header.nbytes:,}"
        raise SampleError(path, "damaged or cut short: write it again", there)
    return header


# --- one array ------------------------------------------------------------------------------------------------------


class _Handle:
    """An open file, closed with the last reference to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = os.dup(file.fileno())
        self.identity = _identity(file)

    def __del__(self) -> None:
        os.close(self.number)


_recent: "OrderedDict[int, weakref.ref[StoredArray]]" = OrderedDict()  # arrays whose file is open, by id


class StoredArray:
    """An array in a file. What is asked for along the first axis is read then, and is a copy.

    Attributes: ``path`` of the file; ``shape``, ``dtype``, ``ndim`` and ``size`` as NumPy's.

    Args:
        name: of the array in an .npz, where it must be stored uncompressed; "" for a .npy.

    Raises:
        SampleError: here, a file that is missing, damaged, or holds something else than numbers; later, one that
            was cut or replaced since.
    """

    def __init__(self, path: str | os.PathLike, name: str = "") -> None:
        self.path = os.fspath(path)
        with _opened(self.path) as file:
            start, size = 0, os.fstat(file.fileno()).st_size
            if name:
                with _zip(file, self.path) as archive:
                    start, size = _stored_at(archive, file, self.path, name)
            header = _header_at(file, start, size, self.path, NUMBERS)
            self._open: _Handle | None = _Handle(file)
        self.identity = self._open.identity
        self.shape, self.dtype, self.fortran = header.shape, header.dtype, header.fortran and len(header.shape) > 1
        self.start = start + header.start
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self._whole: np.ndarray | None = None
        self._touch()

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a single number")
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None, "_whole": None}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)

    def read(self) -> np.ndarray:
        """Return the whole array, in memory."""
        try:
            flat = np.empty(self.size, self.dtype)
        except MemoryError as error:
            raise SampleError(self.path, "more than the memory holds", f"{self.dtype} {self.shape}") from error
        if flat.size:
            self._fill(flat, [0, flat.nbytes], [self.start])
        return flat.reshape(self.shape, order="F" if self.fortran else "C")

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return rows: ``array[7]``, ``array[2:5]``, ``array[[4, 1]]``. IndexError for one that is not there.

        Of an array in Fortran's order, whose rows lie scattered, the whole is kept in memory from the first time on.
        """
        if self.fortran:
            self._whole = self.read() if self._whole is None else self._whole
            return self._whole[key].copy()
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            if step == 1:  # one read, of one row among hundreds of millions too
                return self._run(first, max(first, last))
            numbers = np.arange(first, last, step)
        else:
            numbers = np.asarray(key, np.int64)
        rows = numbers.reshape(-1)
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            raise IndexError(f"row {rows[outside][0]} of {len(self)}")
        rows, each = rows % max(1, len(self)), math.prod(self.shape[1:])
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if found.size:
            # rows that follow each other are one read
            begins = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1])
            row_bytes = each * self.dtype.itemsize
            places = (np.append(begins, len(rows)) * row_bytes).tolist()
            self._fill(found, places, (self.start + rows[begins] * row_bytes).tolist())
        return found.reshape((*numbers.shape, *self.shape[1:]))

    def _run(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last``, without the last."""
        found = np.empty((last - first, *self.shape[1:]), self.dtype)
        if found.size:
            self._fill(found, [0, found.nbytes], [self.start + first * (found.nbytes // len(found))])
        return found

    def flattened(self) -> "StoredArray":
        """Return the same file with its first two axes as one, so that rows of a row are read alone."""
        if self.fortran or self.ndim < 2:
            raise ValueError(f"{self.path}: of shape {self.shape} in {'F' if self.fortran else 'C'} order")
        flat = copy.copy(self)
        flat.shape, flat.ndim = (self.shape[0] * self.shape[1], *self.shape[2:]), self.ndim - 1
        return flat

    def _fill(self, numbers: np.ndarray, places: Sequence[int], starts: Sequence[int]) -> None:
        """Read bytes ``places[i]`` to ``places[i + 1]`` of ``numbers`` from byte ``starts[i]`` of the file on."""
        view, handle = numbers.reshape(-1).view(np.uint8).data, self._handle()
        try:
            for begin, end, at in zip(places, places[1:], starts, strict=False):
                while begin < end:  # a read may give less than was asked for
                    got = os.preadv(handle.number, [view[begin:end]], at)
                    if not got:
                        where = f"at byte {at:,}"
                        raise SampleError(self.path, "was cut while it was in use: write it again", where)
                    begin, at = begin + got, at + got
        except OSError as error:
            raise SampleError(self.path, f"cannot be read: {error.strerror or error}") from error

    def _handle(self) -> _Handle:
        handle = self._open
        if handle is None:
            with _opened(self.path) as file:
                handle = _Handle(file)
            if handle.identity != self.identity:
                raise SampleError(self.path, "was replaced or changed while it was in use: start again")
            self._open = handle
        self._touch()
        return handle

    def _touch(self) -> None:
        """Remember that this file was used last; close that which was not for longest, where there are many."""
        key = id(self)
        if key not in _recent:
            _recent[key] = weakref.ref(self, lambda _: _recent.pop(key, None))
        _recent.move_to_end(key)
        while len(_recent) > _OPEN_FILES:
            oldest = _recent.popitem(last=False)[1]()
            if oldest is not None:
                oldest._open = None


def _identity(file: BinaryIO) -> tuple[int, int, int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Return the array of a .npy file, in memory. SampleError as for :class:`StoredArray`."""
    return StoredArray(path).read()


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file; what reading it may raise within becomes a SampleError."""
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise SampleError(path, f"cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise SampleError(path, "damaged: write it again", f"{error}"[:200]) from error


def _header_at(file: BinaryIO, start: int, size: int, path: str | os.PathLike, kinds: str) -> _Header:
    file.seek(start)
    if file.read(6) != _MAGIC:
        raise SampleError(path, "not a .npy file: save it with numpy.save")
    file.seek(start)
    return _read_header(file, size, path, kinds)


# --- archives -------------------------------------------------------------------------------------------------------


class Archive:
    """The arrays of an open .npz, by name. Only what is asked for is unpacked; nothing is unpickled."""

    def __init__(self, archive: zipfile.ZipFile, path: str | os.PathLike) -> None:
        self.path, self._archive = path, archive
        self._members = _members(archive, path)
        self.names = list(self._members)

    def read(self, name: str, *, text: bool = False) -> np.ndarray:
        """Return one array, in memory; of texts where ``text``. SampleError if it is damaged or of another kind."""
        info = self._members.get(name)
        if info is None:
            raise SampleError(self.path, "no array of that name", f"{name} of {', '.join(self.names) or 'none'}"[:300])
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MOST_UNPACKED:
            reason = "far too large to be unpacked: save it with numpy.savez, uncompressed"
            raise SampleError(self.path, reason, f"{name}: {info.file_size:,} bytes")
        with self._member(info) as member:
            header = _read_header(member, info.file_size, self.path, "U" if text else NUMBERS)
            data = bytearray(member.read())  # to its end: then its checksum was right
        if len(data) != header.nbytes:
            raise SampleError(self.path, "damaged or cut short: write it again", name)
        flat = np.frombuffer(data, header.dtype, math.prod(header.shape))
        return flat.reshape(header.shape, order="F" if header.fortran else "C")

    def refuse_objects(self) -> None:
        """Raise SampleError if one of the arrays holds something else than numbers and texts. Only headers are read."""
        for info in self._members.values():
            with self._member(info) as member:
                _read_header(member, info.file_size, self.path, NUMBERS + "U")

    def verify(self) -> None:
        """Read every array to its end, and keep none. SampleError unless the archive's own checksums are right."""
        for info in self._members.values():
            with self._member(info) as member:
                while member.read(1 << 20):
                    pass

    @contextlib.contextmanager
    def _member(self, info: zipfile.ZipInfo) -> Iterator[Any]:
        try:
            with self._archive.open(info) as member:
                yield member
        except _UNREADABLE as error:
            raise SampleError(self.path, "damaged: write it again", f"{info.filename}: {error}"[:200]) from error


@contextlib.contextmanager
def open_npz(path: str | os.PathLike) -> Iterator[Archive]:
    """Open the archive that ``numpy.savez`` or ``savez_compressed`` wrote. SampleError for anything else."""
    with _opened(path) as file, _zip(file, path) as archive:
        yield Archive(archive, path)


def is_stored(path: str | os.PathLike, name: str) -> bool:
    """Tell whether an .npz holds an array uncompressed, so that :class:`StoredArray` can read parts of it."""
    with _opened(path) as file, _zip(file, path) as archive:
        info = _members(archive, path).get(name)
        return info is not None and info.compress_type == zipfile.ZIP_STORED


@contextlib.contextmanager
def _zip(file: BinaryIO, path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    if file.read(2) != _ZIP:
        raise SampleError(path, "not a .npz file: save it with numpy.savez")
    with zipfile.ZipFile(file) as archive:
        yield archive


def _members(archive: zipfile.ZipFile, path: str | os.PathLike) -> dict[str, zipfile.ZipInfo]:
    infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) < len(infos):
        raise SampleError(path, "damaged: an array stands in it twice")
    return members


def _stored_at(archive: zipfile.ZipFile, file: BinaryIO, path: str | os.PathLike, name: str) -> tuple[int, int]:
    """Return where the bytes of an uncompressed member begin, and how many there are. SampleError."""
    info = _members(archive, path).get(name)
    if info is None:
        raise SampleError(path, "no array of that name", name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
        raise SampleError(path, "compressed, so that it cannot be read in parts: save it with numpy.savez", name)
    file.seek(info.header_offset)
    local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise SampleError(path, "damaged: write it again", f"{name} is not where it should be")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
    if start + info.file_size > os.fstat(file.fileno()).st_size:
        raise SampleError(path, "damaged or cut short: write it again", name)
    return start, info.file_size
