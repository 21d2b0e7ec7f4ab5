"""Whether a Matroska or WebM file is whole, by its elements alone: where one is broken, a demuxer looks for the next
sound one without a word, and the frames between are lost.

Facts are from RFC 8794 (EBML: sizes, CRC-32) and RFC 9559 (which elements a Segment, a Cluster and a BlockGroup hold).
"""

import zlib
from typing import BinaryIO

from dust.decode.deadline import check_time
from dust.decode.members import length, open_bytes

_EBML, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_VOID, _CRC, _TRACK_ENTRY, _TRACK_NUMBER = 0xEC, 0xBF, 0xAE, 0xD7
_BLOCK_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1043A770, 0x1941A469, 0x1254C367}
_IN_SEGMENT |= {_CLUSTER, _TRACKS, _VOID, _CRC}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, _SIMPLE_BLOCK, _BLOCK_GROUP, _VOID, _CRC}
_NUMBERS = {0xE7, 0xA7, 0xAB}  # one bit away from a block's, and of 8 bytes at most
_IN_GROUP = {_BLOCK, 0x9B, 0xFB, 0xFA, 0xFD, 0xA2, 0xA4, 0x8E, 0xC8, 0x75A1, 0x75A2, _VOID, _CRC}
_OPEN = 1 << 62  # where an element "ends" whose size a live recorder left open
_PIECE = 1 << 20  # bytes that are held at a time
#: By its first byte, how many bytes a number has, and all its bits but the one that says so.
_WIDTHS = [9 - byte.bit_length() for byte in range(256)]
_MASKS = [0, *((1 << 7 * width) - 1 for width in range(1, 9)), 0]


class _Broken(Exception):
    """The first thing that is wrong, as a sentence."""


def find_break(path: str) -> str:
    """Return what is wrong with the structure of a Matroska file, as a sentence; "" where its elements follow one
    another without a gap and the checksums of its clusters are right."""
    try:
        with open_bytes(path) as file:
            _Walk(file, length(file)).segment()
    except (_Broken, OSError) as error:
        return str(error)
    return ""


class _Walk:
    """One pass over a file of ``total`` bytes, from element to element."""

    def __init__(self, file: BinaryIO, total: int) -> None:
        self.file, self.total = file, total
        self.piece, self.begin = b"", 0  # what is held of the file, and where it lies
        self.tracks: set[int] = set()

    def segment(self) -> None:
        kind, _, at = self.element(0)
        if kind != _EBML or at > self.total:
            raise _Broken("the file does not begin with an EBML header")
        kind, content, end = self.element(at)
        while kind == _VOID:
            kind, content, end = self.element(end)
        if kind != _SEGMENT:
            raise _Broken(f"no segment where one belongs, at byte {at}")
        if end == _OPEN:
            end = self.total
        elif end > self.total:
            raise _Broken("the file ends before its segment does")
        at = content
        while at < end:
            kind, content, after = self.element(at)
            is_open = after == _OPEN and kind == _CLUSTER
            if kind not in _IN_SEGMENT or (after > end and not is_open):
                raise _Broken(f"bytes at {at} are no part of a segment")
            if kind == _TRACKS:
                self.tracks |= self.track_numbers(content, after)
            at = self.cluster(at, content, end if is_open else after, is_open) if kind == _CLUSTER else after

    def cluster(self, start: int, at: int, end: int, is_open: bool) -> int:
        """Look through a cluster; where the next element of the segment begins."""
        first = at
        while at < end:
            at = self.simple_blocks(at, end)
            if at >= end:
                break
            kind, content, after = self.element(at)
            if is_open and kind in _IN_SEGMENT and kind not in _IN_CLUSTER:
                return at
            if kind not in _IN_CLUSTER or after > end or (kind in _NUMBERS and after - content > 8):
                raise _Broken(f"bytes at {at} are no part of a cluster")
            if kind == _SIMPLE_BLOCK:
                self.check_track(at, content)
            elif kind == _BLOCK_GROUP:
                self.group(at, content, after)
            elif kind == _CRC and at == first and not is_open:
                self.check_sum(start, content, after, end)
            at = after
        return at

    def simple_blocks(self, at: int, end: int) -> int:
        """Return where the run of simple blocks of known tracks ends that begins at a place, as far as the piece
        reaches: most of a file is such, so this asks what :meth:`cluster` asks of them in the fewest steps."""
        data, begin, tracks = self.piece, self.begin, self.tracks
        place, limit = at - begin, min(len(data) - 16, end - begin - 1)
        while 0 <= place <= limit and data[place] == _SIMPLE_BLOCK:
            width = _WIDTHS[data[place + 1]]
            content = place + 1 + width
            size = int.from_bytes(data[place + 1 : content], "big") & _MASKS[width]
            track = data[content]
            if track < 0x80 or track & 0x7F not in tracks or size == _MASKS[width] or content + size > end - begin:
                break
            place = content + size
        return place + begin

    def group(self, start: int, at: int, end: int) -> None:
        blocks = 0
        while at < end:
            kind, content, after = self.element(at)
            if kind not in _IN_GROUP or after > end:
                raise _Broken(f"bytes at {at} are no part of a group of blocks")
            if kind == _BLOCK:
                self.check_track(at, content)
                blocks += 1
            at = after
        if blocks != 1:
            raise _Broken(f"the group at byte {start} holds {blocks} blocks")

    def check_track(self, start: int, content: int) -> None:
        place = content - self.begin
        if not 0 <= place <= len(self.piece) - 8:
            self.bytes(content, 8)
            place = content - self.begin
        number, _ = _size(self.piece, place, start)
        if self.tracks and number not in self.tracks:
            raise _Broken(f"the block at byte {start} is of track {number}, and there is none")

    def check_sum(self, start: int, content: int, at: int, end: int) -> None:
        expected, found = int.from_bytes(self.bytes(content, 4), "little"), 0
        while at < end and (piece := self.bytes(at, min(end - at, _PIECE))):
            found, at = zlib.crc32(piece, found), at + len(piece)
        if found != expected:
            raise _Broken(f"the checksum of the cluster at byte {start} is wrong")

    def track_numbers(self, at: int, end: int) -> set[int]:
        """Return the numbers of all tracks."""
        numbers = set()
        while at < end:
            kind, content, after = self.element(at)
            while kind == _TRACK_ENTRY and content < after:
                field, value, content = self.element(content)
                if field == _TRACK_NUMBER:
                    numbers.add(int.from_bytes(self.bytes(value, content - value), "big"))
            at = after
        return numbers

    def element(self, at: int) -> tuple[int, int, int]:
        """Return (kind, where its content begins, where it ends) of the element at a place."""
        place = at - self.begin
        if not 0 <= place <= len(self.piece) - 12:
            self.bytes(at, 12)
            place = at - self.begin
        data = self.piece
        if place >= len(data):
            raise _Broken(f"the file ends at byte {at}, where an element belongs")
        kind = data[place]
        width = _WIDTHS[kind]
        if width > 1:
            kind = int.from_bytes(data[place : place + width], "big")
        size, more = _size(data, place + width, at)
        content = at + width + more
        return kind, content, _OPEN if size == _MASKS[more] else content + size

    def bytes(self, at: int, count: int) -> bytes:
        """Return bytes of the file, fewer where it ends; ``count`` at most _PIECE."""
        place = at - self.begin
        if place < 0 or place + count > len(self.piece):
            check_time()
            self.file.seek(at)
            self.piece, self.begin, place = self.file.read(_PIECE), at, 0
        return self.piece[place : place + count]


def _size(data: bytes, place: int, at: int) -> tuple[int, int]:
    """Return (value, bytes used) of an EBML number in the bytes of the element at ``at``; all bits set: an open
    size."""
    if place < len(data):
        width = _WIDTHS[data[place]]
        if width == 1:
            return data[place] & 0x7F, 1
        if width <= 8 and place + width <= len(data):
            return int.from_bytes(data[place : place + width], "big") & _MASKS[width], width
    raise _Broken(f"bytes at {at} are no element")
