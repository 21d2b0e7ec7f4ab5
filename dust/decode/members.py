"""Clips that lie within tar files: the path ``SHARD.tar[START:END].mp4`` names the bytes START to END of a tar.

Nothing is unpacked: a clip is read where it lies, as a file would be read that holds these bytes alone. The tar is a
file, or has an address (``https://...``, ``s3://...``, see :mod:`dust.decode.remote`). Behind a clip that dust packed
stands its note (:func:`read_note`): the SHA-256 of the clip and its index of frames.

A tar's layout is that of POSIX 1003.1 (ustar): a header of 512 bytes, then the member's bytes, filled up to 512.
"""

import hashlib
import io
import os
import re
import tarfile
import zlib
from typing import BinaryIO, NamedTuple

from dust.decode import remote
from dust.utils.files import open_file

BLOCK = 512  # bytes; where a member of a tar may begin
NOTE_SUFFIX = "idx"
_NOTE = b"dust clip note 1\n"
_LONGEST_NOTE = 1 << 24  # bytes, packed
_LONGEST_INDEX = 1 << 26  # bytes of an index of frames, unpacked
_MEMBER = re.compile(r"(.+\.tar)\[(\d{1,18}):(\d{1,18})\](\.\w{1,8})?", re.DOTALL)


class Member(NamedTuple):
    """Bytes ``start`` to ``end`` of ``shard``, a tar file or its address; ``suffix`` is that of the clip, ".mp4"."""

    shard: str
    start: int
    end: int
    suffix: str = ""

    @property
    def path(self) -> str:
        """The path that names these bytes."""
        return f"{self.shard}[{self.start}:{self.end}]{self.suffix}"


def member_of(path: str | os.PathLike) -> Member | None:
    """Return what a path says of a part of a tar; None for the path of a file."""
    match = _MEMBER.fullmatch(os.fspath(path))
    if match is None or int(match[3]) < int(match[2]):
        return None
    return Member(match[1], int(match[2]), int(match[3]), match[4] or "")


class Window(io.RawIOBase):
    """Bytes ``start`` to ``end`` of an open file as a file of their own. The file is closed with it."""

    def __init__(self, file: BinaryIO, start: int, end: int, name: str = "") -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0
        self.name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(22, "a place before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        data = os.pread(self._file.fileno(), left if size is None or size < 0 else min(size, left), self._begin())
        self._at += len(data)
        return data

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _begin(self) -> int:
        return self._start + self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_bytes(path: str | os.PathLike) -> BinaryIO:
    """Open a file, or the part of a tar that a path names, for reading.

    Raises:
        OSError: as :func:`dust.utils.files.open_file`, and where the part lies behind the tar's end.
        DataError: a tar with an address that cannot be fetched.
    """
    member = member_of(path)
    return open_file(path) if member is None else io.BufferedReader(open_window(member), 1 << 16)


def open_window(member: Member) -> Window:
    """Return a part of a tar, without a buffer; see :func:`open_bytes`."""
    file, before = _open_shard(member)
    try:
        size = os.fstat(file.fileno()).st_size
        if member.end - before > size:
            there = f"{member.shard} ends at byte {size}, this member at {member.end}"
            raise OSError(22, f"{there}: the shard was cut, or the list is not its own")
        return Window(file, member.start - before, member.end - before, f"clip{member.suffix}")
    except BaseException:
        file.close()
        raise


def _open_shard(member: Member) -> tuple[BinaryIO, int]:
    """Return an open file that holds the member, and the place in the shard at which this file begins."""
    if not remote.is_remote(member.shard):
        return open_file(member.shard), 0
    for _ in range(20):
        file = remote.bring(member.shard, member.start, member.end, _extent, _is_whole)
        try:
            return open_file(file), member.start
        except FileNotFoundError:  # another process has made room in the cache
            continue
    raise remote.RemoteError(
        f"{member.path}: leaves the cache of shards before it can be opened: make it larger (DATA.SHARD_CACHE_GB)"
    )


def length(file: BinaryIO) -> int:
    """Return the bytes of an open file; its place is the beginning afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def bytes_facts(path: str) -> tuple[int, int]:
    """Return (bytes, when they were last changed in ns) of a file or a part of a tar; no time of one with an address.

    Raises:
        OSError, ValueError: it cannot be asked.
    """
    member = member_of(path)
    if member is None or not remote.is_remote(member.shard):
        facts = os.stat(path if member is None else member.shard)
        return facts.st_size if member is None else member.end - member.start, facts.st_mtime_ns
    return member.end - member.start, 0


def whole_path(path: str) -> str:
    """Return the absolute path; an address as it is."""
    return path if remote.is_remote(path) else os.path.abspath(path)


# ------------------------------------------------------------------------------------------------------------- notes


def make_note(sha256: str, index: bytes) -> bytes:
    """Return what stands behind a packed clip: the SHA-256 (hex) of its bytes, and its index of frames, b"" for
    none."""
    return _NOTE + sha256.encode() + b"\n" + zlib.compress(index, 9)


def read_note(path: str) -> tuple[str, bytes] | None:
    """Return (SHA-256, index of frames) that stand behind a clip in its tar; None where there is nothing of the kind.

    Raises:
        OSError: the tar cannot be read.
    """
    member = member_of(path)
    if member is None:
        return None
    file, before = _open_shard(member)
    with file:
        at = _filled_up(member.end - before)
        size = note_size(os.pread(file.fileno(), BLOCK, at))
        return None if size is None else _parse_note(os.pread(file.fileno(), size, at + BLOCK))


def _filled_up(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _parse_note(note: bytes) -> tuple[str, bytes] | None:
    head, _, packed = note.removeprefix(_NOTE).partition(b"\n")
    if not (note.startswith(_NOTE) and re.fullmatch(rb"[0-9a-f]{64}", head)):
        return None
    try:
        unpacker = zlib.decompressobj()
        index = unpacker.decompress(packed, _LONGEST_INDEX)
        return (head.decode("ascii"), index) if unpacker.eof else None
    except zlib.error:
        return None


def note_size(header: bytes) -> int | None:
    """Return the bytes of a note whose header in the tar this is; None for the header of anything else."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    known = info.isreg() and info.name.endswith(f".{NOTE_SUFFIX}") and len(_NOTE) < info.size <= _LONGEST_NOTE
    return info.size if known else None


def sha256_of_member(path: str) -> str:
    """Return the SHA-256 (hex) of the bytes that a path names. Raises OSError."""
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def spoilt(path: str) -> str:
    """Return how the bytes of a packed clip differ from those that were packed, in a sentence; "" where they do not, or
    where no note says what they were. Raises OSError."""
    note = read_note(path)
    if note is None or sha256_of_member(path) == note[0]:
        return ""
    return remote.WRONG_BYTES


def _extent(data: bytes, size: int) -> int:
    """Return how many bytes a clip of ``size`` bytes has with its note, of a shard's bytes from its beginning on."""
    note = note_size(data[_filled_up(size) : _filled_up(size) + BLOCK])
    return size if note is None else _filled_up(size) + BLOCK + note


def _is_whole(data: bytes, size: int) -> bool:
    """Tell whether a clip is what its note says; True where it has none."""
    if len(data) == size:
        return True
    note = _parse_note(data[_filled_up(size) + BLOCK :])
    return note is not None and hashlib.sha256(data[:size]).hexdigest() == note[0]
