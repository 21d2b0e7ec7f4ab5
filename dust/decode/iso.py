"""Where the boxes of an mp4 or mov file contradict each other: a demuxer takes what it can, and does not say what is
lost.

Facts are from ISO/IEC 14496-12: boxes, movie fragments (8.8), sample tables (8.6).
"""

import struct
from typing import BinaryIO

import numpy as np

from dust.decode.bitstream import boxes
from dust.decode.deadline import check_time
from dust.decode.members import length, open_bytes

_MOST = 1 << 26  # bytes of one table that are read
_LONGER = 1.02  # the samples' times against the track's duration


def find_break(path: str, track: int, hidden: bool) -> str:
    """Return what is wrong with the structure of a file, as a sentence; "" where nothing is seen to be.

    In a file of fragments these are bytes that are no box. Where an edit list hides frames (``hidden``), also what
    makes it hide the wrong ones: fragments whose time falls behind the one before, or tables of the ``track`` (its
    number) that count its samples differently, or give them more time than it has.
    """
    try:
        with open_bytes(path) as file:
            total = length(file)
            if any(boxes(file, 0, total, b"moof")):
                return _fragments(file, total, hidden)
            return _tables(file, total, track) if hidden else ""
    except (OSError, struct.error, IndexError, ValueError):
        return ""  # FFmpeg says what cannot be read at all


def _fragments(file: BinaryIO, total: int, hidden: bool) -> str:
    """Look through the boxes of a file of fragments, to its end."""
    at, times = 0, dict[int, int]()
    while at < total:
        check_time()
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return f"bytes at {at} are no box"
        size, name = struct.unpack(">I4s", head[:8])
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        elif size == 0:
            size = total - at
        if size < 8 or not all(0x20 <= letter < 0x7F for letter in name):
            return f"bytes at {at} are no box"
        if at + size > total:
            return f"the box at byte {at} ends behind the file"
        if name == b"moof" and hidden:
            for number, time in _fragment_times(file, at + 8, at + size):
                if time < times.get(number, 0):
                    return f"the fragment at byte {at} begins before the one that precedes it"
                times[number] = time
        at += size
    return ""


def _fragment_times(file: BinaryIO, start: int, end: int) -> list[tuple[int, int]]:
    """Return (track, time of its first sample) of each track's part of a fragment that says it."""
    found = []
    for part in boxes(file, start, end, b"traf"):
        number = None
        for at, _ in boxes(file, *part, b"tfhd"):
            file.seek(at + 4)
            number = int.from_bytes(file.read(4), "big")
        for at, _ in boxes(file, *part, b"tfdt"):
            file.seek(at)
            version = file.read(4)[0]
            if number is not None:
                found.append((number, int.from_bytes(file.read(8 if version else 4), "big")))
    return found


def _tables(file: BinaryIO, total: int, track: int) -> str:
    for movie in boxes(file, 0, total, b"moov"):
        for trak in boxes(file, *movie, b"trak"):
            if any(_number_of(file, at) == track for at, _ in boxes(file, *trak, b"tkhd")):
                return _table_of(file, trak)
    return ""


def _number_of(file: BinaryIO, at: int) -> int:
    """Return a track's number, from its header."""
    file.seek(at)
    content = file.read(24)
    return int.from_bytes(content[20:24] if content[0] else content[12:16], "big")


def _table_of(file: BinaryIO, trak: tuple[int, int]) -> str:
    samples = duration = 0
    steps, offsets = np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)
    for media in boxes(file, *trak, b"mdia"):
        for at, _ in boxes(file, *media, b"mdhd"):
            file.seek(at)
            content = file.read(32)
            duration = int.from_bytes(content[24:32] if content[0] else content[16:20], "big")
        for info in boxes(file, *media, b"minf"):
            for table in boxes(file, *info, b"stbl"):
                for at, _ in boxes(file, *table, b"stsz"):
                    file.seek(at + 8)
                    samples = int.from_bytes(file.read(4), "big")
                steps, offsets = _pairs(file, table, b"stts"), _pairs(file, table, b"ctts")
    if not samples or not len(steps):
        return ""
    for what, pairs in (("times", steps), ("composition times", offsets)):
        counted = int(pairs[:, 0].sum())
        if len(pairs) and counted != samples:
            return f"its tables have {samples} frames and {what} of {counted}"
    spent = int((steps[:, 0] * steps[:, 1]).sum())
    if duration and spent > _LONGER * duration + steps[-1, 1]:
        return f"its frames take {spent / duration:.3g} times as long as its duration"
    return ""


def _pairs(file: BinaryIO, table: tuple[int, int], name: bytes) -> np.ndarray:
    """Return (entries, 2) int64: how many samples, and what they have, of a table of runs; (0, 2) where there is
    none."""
    for at, end in boxes(file, *table, name):
        file.seek(at + 4)
        count = int.from_bytes(file.read(4), "big")
        if 8 * count <= min(end - at - 8, _MOST):
            return np.frombuffer(file.read(8 * count), ">u4").reshape(-1, 2).astype(np.int64)
    return np.zeros((0, 2), np.int64)
