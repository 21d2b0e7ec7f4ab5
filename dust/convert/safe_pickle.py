"""Reads a pickle that holds one array of numbers, without unpickling it.

A pickle is a program: ``pickle.load`` calls whatever the file names. Nothing is called here. The file's instructions
are followed with names and small numbers only; a long string is kept as its place in the file, so that an array larger
than the memory can be read block by block. What comes out must be one of the two forms in which NumPy 1 and 2 write an
array, in protocols 0 to 5:

    _reconstruct(ndarray, (0,), b"b"), then its state (1, shape, dtype, is_fortran, data)
    _frombuffer(data, dtype, shape, order[, axis_order])

A third function occurs in protocols 0 to 2, which have no bytes: _codecs.encode(text, "latin1"). Any other name is
refused. The format of pickles: Python's ``pickletools``, PEP 307, PEP 3154 and PEP 574.

Why not ``pickle.Unpickler`` with an allow-list in ``find_class``: it builds every string that the file announces before
anyone is asked, so that neither an array larger than the memory nor a file that lies about its sizes could be read; a
call that is allowed runs with whatever arguments the file gives; and its limits are Python's, not ours.
"""

import codecs
import math
import os
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from dust.utils.errors import DataError
from dust.utils.files import open_file

__all__ = ["PickledArray", "read_pickled_array"]

BLOCK = 1 << 24  # bytes of an array that are read at once, if a row is not larger
MAX_STEPS = 400  # instructions; an array takes about 60
MAX_NAME = 256  # bytes of a name or of a number written as text
MAX_AXES = 32

_NAMES = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
_NAMES |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
_NAMES |= {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")  # bool, integers, floats; no objects, records, strings or dates
_SPREAD = {"utf-8": 2, "raw-unicode-escape": 10}  # bytes that one byte of data takes at most as text
_STRINGS = {
    "BINUNICODE": (4, "utf-8"),
    "SHORT_BINUNICODE": (1, "utf-8"),
    "BINUNICODE8": (8, "utf-8"),
    "SHORT_BINBYTES": (1, ""),
    "BINBYTES": (4, ""),
    "BINBYTES8": (8, ""),
    "BYTEARRAY8": (8, ""),
}  # bytes of the length before it, encoding
_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_MARK = object()


@dataclass(frozen=True, slots=True)
class PickledArray:
    """An array in a pickle. ``shape`` and ``dtype`` are the array's; its numbers are still in the file.

    ``start`` and ``size``: the bytes of the file that hold the numbers, in C order with the axes ``stored``; transposed
    by ``axes`` they are the array. ``coding``: "" for the numbers themselves, else the encoding of a text that has one
    character (0..255) for each of their bytes.
    """

    path: str
    dtype: np.dtype
    stored: tuple[int, ...]
    axes: tuple[int, ...]
    start: int
    size: int
    coding: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored[axis] for axis in self.axes)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) one after the other: at most ``size`` bytes at once, but at least one row. The array
        must have an axis.

        Where rows do not lie together in the file (Fortran order), numbers are mapped from the file instead, and read
        whole only if they are written as text.

        Raises:
            DataError: the numbers are damaged, or the file changed since it was opened.
        """
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = max(1, size // row)
        if self.axes[0] != 0:
            whole = self._mapped()
            for first in range(0, self.shape[0], step):
                yield first, whole[first : first + step]
            return
        with open_file(self.path) as file:
            source = self._source(file)
            for first in range(0, self.shape[0], step):
                count = min(step, self.shape[0] - first)
                rows = self._numbers(source.read(count * row), (count, *self.stored[1:]))
                yield first, rows.transpose(self.axes)
            self._check_end(source)

    def load(self) -> np.ndarray:
        """Return the whole array, read-only. Raises DataError like ``blocks``."""
        with open_file(self.path) as file:
            source = self._source(file)
            array = self._numbers(source.read(math.prod(self.stored) * self.dtype.itemsize), self.stored)
            self._check_end(source)
        return array.transpose(self.axes)

    def _mapped(self) -> np.ndarray:
        if self.coding:
            return self.load()
        return np.memmap(self.path, self.dtype, "r", self.start, self.stored).transpose(self.axes)

    def _source(self, file: IO[bytes]) -> "IO[bytes] | _Latin1":
        file.seek(self.start)
        return _Latin1(self.path, file, self.size, self.coding) if self.coding else file

    def _numbers(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if len(data) != math.prod(shape) * self.dtype.itemsize:
            raise DataError(f"{self.path}: damaged: the numbers of the array end too early. Copy the file again")
        return np.frombuffer(data, self.dtype).reshape(shape)

    def _check_end(self, source: "IO[bytes] | _Latin1") -> None:
        if isinstance(source, _Latin1) and source.read(1):
            raise DataError(f"{self.path}: damaged: it holds more numbers than the array of shape {self.shape} has")


class _Latin1:
    """Reads bytes that were written as text, one character for each."""

    def __init__(self, path: str, file: IO[bytes], size: int, coding: str) -> None:
        self.path, self.file, self.left = path, file, size
        self.decoder = codecs.getincrementaldecoder(coding)()
        self.held = bytearray()

    def read(self, count: int) -> bytes:
        while len(self.held) < count and self.left:
            piece = self.file.read(min(self.left, BLOCK))
            self.left = self.left - len(piece) if piece else 0
            try:
                self.held += self.decoder.decode(piece, final=not self.left).encode("latin1")
            except UnicodeError as error:
                raise DataError(f"{self.path}: damaged: its data are not what NumPy writes ({error})") from error
        taken = bytes(self.held[:count])
        del self.held[:count]
        return taken


def read_pickled_array(path: str | os.PathLike) -> PickledArray:
    """Find the array in a pickle that holds nothing else. Runs nothing, and allocates nothing that the file announces.

    Raises:
        DataError: the file cannot be read, is cut off or damaged, names anything that an array does not need (the
            message says what), or holds another thing than one array of bools, integers or floats.
    """
    try:
        with open_file(path) as file:
            return _Reader(Path(path), file).run()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


# --- following the instructions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Name:
    """One of the names that an array's pickle may hold."""

    name: str


@dataclass(frozen=True, slots=True)
class _Span:
    """A string: its place in the file. Text has a coding; bytes have one only where they were written as text."""

    start: int
    size: int
    coding: str
    is_text: bool


@dataclass(slots=True)
class _Dtype:
    code: str
    order: str = "|"


@dataclass(slots=True)
class _Fresh:
    """What ``_reconstruct`` makes: an array that has no state yet."""

    array: PickledArray | None = None


class _Reader:
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.end = os.fstat(file.fileno()).st_size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> PickledArray:
        for _ in range(MAX_STEPS):
            at = self.file.tell()
            code = self.number(1)
            if code not in _OPCODES:
                raise self.error(f"is not a pickle: byte {at} is 0x{code:02X}, which is no instruction")
            if _OPCODES[code] == "STOP":
                return self.result()
            self.step(_OPCODES[code], at)
        raise self.foreign(f"more than {MAX_STEPS} instructions")

    def result(self) -> PickledArray:
        value = self.pop()
        array = value.array if isinstance(value, _Fresh) else value
        if not isinstance(array, PickledArray) or self.stack:
            raise self.error("holds no array of numbers as its only value")
        if self.file.tell() != self.end:
            raise self.error(f"{self.end - self.file.tell()} bytes follow the first array: save one array per file")
        return array

    def step(self, name: str, at: int) -> None:
        """Follow one instruction of ``pickletools``, which stands at byte ``at``."""
        match name:
            case "PROTO":
                if (protocol := self.number(1)) > 5:
                    raise self.error(f"protocol {protocol} of pickle is not known, 0 to 5 are: it may be damaged")
            case "FRAME":
                self.number(8)
            case "MARK":
                self.stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT1" | "BININT2" | "BININT":
                self.stack.append(self.number({"BININT1": 1, "BININT2": 2, "BININT": 4}[name], signed=name == "BININT"))
            case "LONG1":
                if (width := self.number(1)) > 8:
                    raise self.error(f"damaged: an integer of {width} bytes")
                self.stack.append(self.number(width, signed=True))
            case "INT" | "LONG":
                self.stack.append(self.written_number())
            case "UNICODE":
                self.stack.append(self.line_span())
            case _ if name in _STRINGS:
                self.stack.append(self.span(*_STRINGS[name]))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                self.stack.append(self.since_mark())
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[self.memo_key(name)] = self.top()
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self.remembered(self.memo_key(name)))
            case "GLOBAL" | "INST":
                self.stack.append(self.named(self.line(), self.line()))
                if name == "INST":
                    raise self.foreign("the instruction INST, which makes an object,")
            case "STACK_GLOBAL":
                attribute, module = self.text(self.pop()), self.text(self.pop())
                self.stack.append(self.named(module, attribute))
            case "REDUCE":
                arguments = self.pop()
                self.stack.append(self.call(self.pop(), arguments))
            case "BUILD":
                self.build(self.pop(), self.top())
            case _:
                raise self.foreign(f"the instruction {name} at byte {at}")

    # --- what the file says

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise self.error("is cut off: it ends in the middle of the pickle. Copy it again")
        return data

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        data = self.file.readline(MAX_NAME)
        if not data.endswith(b"\n"):
            raise self.error(f"is cut off, or has a name of more than {MAX_NAME} bytes: no array has one")
        return data[:-1].decode("utf-8", "backslashreplace")

    def written_number(self) -> bool | int:
        text = self.line()
        if text in ("00", "01"):  # how protocols 0 and 1 write bools
            return text == "01"
        if not re.fullmatch(r"-?\d{1,19}L?", text):
            raise self.error(f"damaged: {text!r} should be an integer")
        return int(text.rstrip("L"))

    def span(self, width: int, coding: str) -> _Span:
        size = self.number(width)
        start = self.file.tell()
        if size > self.end - start:
            raise self.error(
                f"is cut off or damaged: it announces {size:,} bytes at byte {start:,}, and has {self.end - start:,}"
            )
        self.file.seek(size, os.SEEK_CUR)
        return _Span(start, size, coding, bool(coding))

    def line_span(self) -> _Span:
        start = self.file.tell()
        while piece := self.file.readline(BLOCK):
            if piece.endswith(b"\n"):
                return _Span(start, self.file.tell() - 1 - start, "raw-unicode-escape", True)
        raise self.error("is cut off: it ends in the middle of a text. Copy it again")

    def text(self, value: Any) -> str:
        if not (isinstance(value, _Span) and value.is_text and value.size <= MAX_NAME):
            raise self.foreign("something where a name should stand")
        here = self.file.tell()
        self.file.seek(value.start)
        data = self.take(value.size)
        self.file.seek(here)
        return data.decode(value.coding, "replace")

    # --- the stack

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.error("is not a pickle, or damaged: an instruction lacks what it works on")
        return self.stack[-1]

    def since_mark(self) -> tuple:
        items: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return tuple(items[::-1])
            items.append(value)
        raise self.error("damaged: a tuple has no start")

    def memo_key(self, name: str) -> int:
        if name in ("PUT", "GET"):
            return int(self.written_number())
        return self.number(1 if name in ("BINPUT", "BINGET") else 4)

    def remembered(self, key: int) -> Any:
        if key not in self.memo:
            raise self.error(f"damaged: it refers to item {key}, which it does not have")
        return self.memo[key]

    # --- what an array's pickle may do

    def named(self, module: str, name: str) -> _Name:
        if (module, name) not in _NAMES:
            raise self.foreign(f"{module}.{name}", verb="names")
        return _Name(name)

    def call(self, what: Any, arguments: Any) -> Any:
        match what, arguments:
            case _Name("encode"), (_Span(is_text=True) as data, coding) if self.text(coding) == "latin1":
                return replace(data, is_text=False)
            case _Name("dtype"), (code, 0, 1):
                return self.number_type(self.text(code))
            case _Name("_reconstruct"), (_Name("ndarray"), (0,), _Span(is_text=False)):
                return _Fresh()
            case _Name("_frombuffer"), (_Span(is_text=False) as data, _Dtype() as dtype, tuple() as shape, order):
                if (written := self.text(order)) in ("C", "F"):
                    return self.array(data, dtype, shape, fortran=written == "F")
            case _Name("_frombuffer"), (_Span(is_text=False) as data, _Dtype() as dtype, tuple() as shape, order, axes):
                if self.text(order) == "K" and isinstance(axes, tuple) and _is_permutation(axes, len(shape)):
                    return replace(self.array(data, dtype, shape, fortran=False), axes=axes)
        name = what.name if isinstance(what, _Name) else "something that is no function"
        raise self.foreign(f"a call of {name} as no array has it")

    def build(self, state: Any, target: Any) -> None:
        match target, state:
            case _Dtype(), (3, _Span() as order, None, None, None, int(), int(), int()):
                target.order = self.byte_order(self.text(order))
            case _Fresh(), (1, tuple() as shape, _Dtype() as dtype, bool() as fortran, _Span(is_text=False) as data):
                target.array = self.array(data, dtype, shape, fortran)
            case _:
                raise self.foreign("a state that no array of numbers has")

    def number_type(self, code: str) -> _Dtype:
        if not _NUMBERS.fullmatch(code):
            kind = "Python objects" if code.startswith("O") else f"the type {code}"
            raise self.error(f"is an array of {kind}: save an array of bools, integers or floats")
        return _Dtype(code)

    def byte_order(self, order: str) -> str:
        if order not in ("<", ">", "|", "="):
            raise self.error(f"damaged: the byte order {order!r} is none")
        return order

    def array(self, data: _Span, dtype: _Dtype, shape: tuple, fortran: bool) -> PickledArray:
        if len(shape) > MAX_AXES or not all(type(side) is int and side >= 0 for side in shape):
            raise self.error("damaged: its shape is none")
        numbers = np.dtype(dtype.order + dtype.code)
        needed = math.prod(shape) * numbers.itemsize
        if not needed:
            raise self.error(f"is an empty array, of shape {shape}")
        if not needed <= data.size <= needed * _SPREAD.get(data.coding, 1):
            raise self.error(
                f"damaged: an array of shape {shape} and type {numbers} has {needed:,} bytes, the file {data.size:,}"
            )
        axes = tuple(range(len(shape)))
        if fortran:
            shape, axes = shape[::-1], axes[::-1]
        return PickledArray(str(self.path), numbers, shape, axes, data.start, data.size, data.coding)

    # --- errors

    def error(self, text: str) -> DataError:
        return DataError(f"{self.path}: {text}")

    def foreign(self, what: str, verb: str = "holds") -> DataError:
        return self.error(
            f"{verb} {what}; an array of numbers does not, and nothing else is read (nothing in the file was run). If "
            "you know who made the file and trust them, save its arrays one by one with numpy.save or pickle.dump"
        )


def _is_permutation(axes: tuple, count: int) -> bool:
    return all(type(axis) is int for axis in axes) and sorted(axes) == list(range(count))
