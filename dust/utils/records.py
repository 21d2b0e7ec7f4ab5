"""Records of an evaluation that one process collects: in its memory while they are few, then in a file of its own."""

import hashlib
import hmac
import os
import pickle
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dust.utils.errors import DataError
from dust.utils.files import open_file

Record = dict[str, Any]
#: Bytes of records that all processes together keep in memory, before each writes its own to a file.
HELD_BYTES = 64 << 20
_BUFFER = 1 << 20
_MAC = 16  # bytes
_HEAD = struct.Struct("<Q")  # the length of what follows a record's code


@dataclass(frozen=True)
class Part:
    """What one process hands on of its records: themselves, or the file that they are in.

    The file is a pickle for each record, behind a code that only who has ``key`` can make: it is in the memory of the
    run's processes and nowhere else. So nothing is unpickled that this run has not written.
    """

    count: int
    held: Sequence[Record] = ()
    path: str = ""
    size: int = 0
    key: bytes = b""

    def __iter__(self) -> Iterator[Record]:
        if not self.path:
            yield from self.held
            return
        try:
            with open_file(self.path) as file:
                if file.seek(0, 2) != self.size:
                    raise DataError(
                        f"{self.path}: has {file.tell():,} of {self.size:,} bytes of records: OUTPUT_DIR must be a "
                        "folder that all nodes see alike"
                    )
                file.seek(0)
                for number in range(self.count):
                    code = file.read(_MAC)
                    (size,) = _HEAD.unpack(file.read(_HEAD.size).ljust(_HEAD.size, b"\xff"))
                    data = file.read(min(size, self.size))
                    if not hmac.compare_digest(code, _code(self.key, number, data)):
                        raise DataError(
                            f"{self.path}: record {number} is not what this run has written: start it again"
                        )
                    yield pickle.loads(data)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error


def _code(key: bytes, number: int, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, salt=_HEAD.pack(number), digest_size=_MAC).digest()


def joined_records(parts: Iterable[Part]) -> Sequence[Record]:
    """Return the records of all processes in the order of the list: a list of them, where none of them is in a file."""
    known = list(parts)
    if any(part.path for part in known):
        return JoinedRecords(known)
    return [record for part in known for record in part]


class JoinedRecords(Sequence[Record]):
    """The records of all processes in the order of the list, read one by one, as often as is asked."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = list(parts)

    @property
    def folder(self) -> str | None:
        """Where they are, or some of them; None where none is in a file."""
        return next((os.path.dirname(part.path) for part in self.parts if part.path), None)

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __iter__(self) -> Iterator[Record]:
        for part in self.parts:
            yield from part

    def __getitem__(self, index: Any) -> Any:
        """Return a record, or a list of some; all before them are read too."""
        whole = range(len(self))[index]
        if isinstance(whole, int):
            return next(islice(iter(self), whole, None))
        wanted = list(self)
        return [wanted[number] for number in whole]


class KeptPairs:
    """Pairs of arrays that come one after the other, to be gone through again and again: in memory while they are few,
    then in a file without a name.

    Args:
        pairs: is read once.
        folder: for the file; None for the system's own.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], folder: str | None = None) -> None:
        self.file: Any = tempfile.SpooledTemporaryFile(HELD_BYTES, dir=folder)  # noqa: SIM115 - it lives as long
        self.count = 0
        try:
            for self.count, pair in enumerate(pairs, start=1):
                for array in pair:
                    np.save(self.file, array, allow_pickle=False)
        except OSError as error:
            where = folder or tempfile.gettempdir()
            raise DataError(f"{where}: cannot be written to: {error.strerror or error}; free space there") from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.file.seek(0)
        for _ in range(self.count):
            yield np.load(self.file, allow_pickle=False), np.load(self.file, allow_pickle=False)


class Records(JoinedRecords):
    """Those of this process, while they are collected.

    Args:
        path: of the file that they go to; its folder is made then.
        held_bytes: how much of them may be in memory.
    """

    def __init__(self, path: str | Path, held_bytes: int = HELD_BYTES) -> None:
        self.path, self.held_bytes = Path(path), held_bytes
        self.held: list[Record] = []
        self.added = self.size = 0
        self.file: BinaryIO | None = None
        self.key = os.urandom(32)

    @property
    def parts(self) -> list[Part]:  # type: ignore[override]
        return [self.part()]

    def append(self, record: Record) -> None:
        """Add one. Raises DataError, naming the file, where it cannot be written: the disk is full."""
        data = pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
        self.added += 1
        self.size += len(data)
        if self.file is None:
            self.held.append(record)
            if self.size > self.held_bytes:
                self._spill()
            return
        try:
            self._write(self.file, self.added - 1, data)
        except OSError as error:
            raise self._not_written(error) from error

    def _write(self, file: BinaryIO, number: int, data: bytes) -> None:
        file.write(_code(self.key, number, data) + _HEAD.pack(len(data)))
        file.write(data)

    def _spill(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(  # noqa: SIM115 - it is open while records come
                self.path, "wb", buffering=_BUFFER, opener=lambda path, flags: os.open(path, flags, 0o600)
            )
            for number, record in enumerate(self.held):
                self._write(self.file, number, pickle.dumps(record, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise self._not_written(error) from error
        self.held = []

    def part(self) -> Part:
        """Return what there is by now, for whoever reads it, in this process or in another."""
        if self.file is None:
            return Part(self.added, self.held)
        try:
            if not self.file.closed:
                self.file.flush()
        except OSError as error:
            raise self._not_written(error) from error
        size = self.size + self.added * (_MAC + _HEAD.size)
        return Part(self.added, path=str(self.path), size=size, key=self.key)

    def close(self) -> None:
        """Close the file; nothing can be added from now on."""
        self.part()
        if self.file is not None:
            self.file.close()

    def _not_written(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: the records of the evaluation cannot be written: {error.strerror or error}. Free space, or "
            "choose another OUTPUT_DIR, and start the same command again"
        )
