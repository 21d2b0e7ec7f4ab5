"""The few bits of a video file that prove, without decoding, which frames can be reached from where.

Facts are from the public specifications: ITU-T H.264 (7.3.2.1, 7.4.1, D.1.8), ITU-T H.265 (7.3.1.2, 7.3.6.1),
ISO/IEC 14496-12 and -15 (boxes, avcC, hvcC), RFC 6386 (VP8 frame header), the VP9 bitstream specification (6.2,
annex B) and ITU-T H.222.0 (transport packets). Every function answers the careful way ("not proven")
for bytes that it does not follow.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from dust.decode.deadline import check_time
from dust.decode.members import length, open_bytes

_H264_IDR, _H264_SEI, _H264_SLICE = 5, 6, 1
_HOLE = bytes(16)
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class BitReader:
    """Reads bits and Exp-Golomb numbers from a NAL unit's payload (emulation prevention removed)."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """Return the next ``count`` bits as an unsigned number; ValueError past the end."""
        if count > self._left:
            raise ValueError("the data end here")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """Return an unsigned Exp-Golomb number."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)

    def se(self) -> int:
        """Return a signed Exp-Golomb number."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield NAL units of one packet: length-prefixed (avcC/hvcC, ``length_size`` bytes) or start codes (0)."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            yield data[at : at + size]
            at += size
        return
    for piece in data.split(b"\x00\x00\x01")[1:]:
        if piece:
            yield piece


def is_sound(data: bytes, length_size: int) -> bool:
    """Tell whether length-prefixed NAL units fill the packet to its last byte, none of them empty and none with a run
    of zeros inside, which emulation prevention forbids (a hole in the file looks so)."""
    at, end = 0, len(data)
    while at + length_size < end:
        size = int.from_bytes(data[at : at + length_size], "big")
        if not size:
            return False
        at += length_size
        hole = data.find(_HOLE, at, at + size)
        if hole >= 0 and data[hole : at + size].strip(b"\0"):  # zeros at the very end are padding
            return False
        at += size
    return at == end


def nal_length_size(codec: str, extradata: bytes) -> int:
    """Return the bytes of a NAL unit's length prefix by the decoder configuration; 0 where start codes are used."""
    at = 4 if codec == "h264" else 21
    if len(extradata) > at and extradata[0] == 1:
        return (extradata[at] & 3) + 1
    return 0


def h264_frames_only(extradata: bytes, length_size: int) -> bool:
    """Tell whether every sequence parameter set says that pictures are whole frames (no field can be a packet
    alone)."""
    try:
        if length_size:
            sets, at = [], 6
            for _ in range(extradata[5] & 31):
                size = int.from_bytes(extradata[at : at + 2], "big")
                sets.append(extradata[at + 2 : at + 2 + size])
                at += 2 + size
        else:
            sets = [nal for nal in nal_units(extradata, 0) if nal[0] & 31 == 7]
        return bool(sets) and all(_sps_frames_only(one) for one in sets)
    except (ValueError, IndexError):
        return False


def _sps_frames_only(nal: bytes) -> bool:
    reader = BitReader(nal[1:])
    profile = reader.bits(8)
    reader.bits(16)
    reader.ue()
    if profile in _HIGH_PROFILES:
        chroma = reader.ue()
        if chroma == 3:
            reader.bits(1)
        reader.ue(), reader.ue(), reader.bits(1)
        if reader.bits(1):
            for index in range(12 if chroma == 3 else 8):
                if reader.bits(1):
                    _skip_scaling_list(reader, 16 if index < 6 else 64)
    reader.ue()
    order_type = reader.ue()
    if order_type == 0:
        reader.ue()
    elif order_type == 1:
        reader.bits(1), reader.se(), reader.se()
        for _ in range(reader.ue()):
            reader.se()
    reader.ue(), reader.bits(1), reader.ue(), reader.ue()
    return bool(reader.bits(1))


def _skip_scaling_list(reader: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.se()) % 256
        last = following or last


def h264_entry_point(data: bytes, length_size: int) -> bool:
    """Tell whether decoding may begin at this packet and is exact from its display time on: an IDR picture, or a
    recovery point of 0 frames that promises an exact match."""
    try:
        for nal in nal_units(data, length_size):
            kind = nal[0] & 31 if nal else 0
            if kind == _H264_IDR:
                return True
            if kind == _H264_SEI and (exact := _recovery_point(nal)) is not None:
                return exact
            if kind == _H264_SLICE:
                return False
    except (ValueError, IndexError):
        pass
    return False


def _recovery_point(nal: bytes) -> bool | None:
    """Tell whether the SEI holds an immediate, exact recovery point; None where it holds none at all."""
    payload, at = nal[1:].replace(b"\x00\x00\x03", b"\x00\x00"), 0
    while at + 2 < len(payload):
        kind = size = 0
        while payload[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + payload[at], at + 1
        while payload[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + payload[at], at + 1
        if kind == 6:
            reader = BitReader(payload[at : at + size])
            return reader.ue() == 0 and reader.bits(1) == 1
        at += size
    return None


def h264_disposable(data: bytes, length_size: int) -> bool:
    """Tell whether no other picture refers to this packet's: nal_ref_idc is 0 in its first slice."""
    for nal in nal_units(data, length_size):
        if nal and nal[0] & 31 in (_H264_SLICE, 2, _H264_IDR):
            return not nal[0] & 0x60
    return False


def hevc_facts(data: bytes, length_size: int) -> tuple[bool, bool, bool, bool]:
    """Return (entry point, in a higher temporal layer, discards pictures not yet shown, disposable) of one HEVC
    packet."""
    for nal in nal_units(data, length_size):
        if len(nal) < 3:
            continue
        kind = (nal[0] >> 1) & 63
        if kind < 32:
            entry = 16 <= kind <= 21
            return entry, (nal[1] & 7) > 1, entry and bool(nal[2] & 0x40), kind <= 14 and kind % 2 == 0
    return False, True, False, False


def vp8_shown(data: bytes) -> bool:
    """Return False for a VP8 frame that is only a reference (alt-ref)."""
    return bool(data[0] & 0x10)


def vp9_shown(data: bytes) -> bool:
    """Return False for a VP9 packet whose frame is only a reference; a superframe always ends with a shown frame."""
    if data[-1] & 0xE0 == 0xC0:
        return True
    reader = BitReader(data[:2])
    reader.bits(2)
    profile = reader.bits(1) | reader.bits(1) << 1
    if profile == 3:
        reader.bits(1)
    if reader.bits(1):  # show_existing_frame
        return True
    reader.bits(1)
    return bool(reader.bits(1))


def mp4_is_upright(path: str) -> bool:
    """Tell whether no matrix of an mp4/mov (movie header, track headers) asks for rotation or mirroring; False where
    that is not certain."""
    tracks = 0
    try:
        with open_bytes(path) as file:
            for moov in boxes(file, 0, length(file), b"moov"):
                for at, _ in boxes(file, *moov, b"mvhd"):
                    if not _matrix_is_upright(file, at, (36, 48)):
                        return False
                for track in boxes(file, *moov, b"trak"):
                    for at, _ in boxes(file, *track, b"tkhd"):
                        if not _matrix_is_upright(file, at, (40, 52)):
                            return False
                        tracks += 1
    except (OSError, struct.error, IndexError):
        return False
    return tracks > 0


def _matrix_is_upright(file: BinaryIO, at: int, offsets: tuple[int, int]) -> bool:
    """Tell whether the matrix that stands ``offsets[version]`` bytes into a header box only scales and shifts."""
    file.seek(at)
    file.seek(at + offsets[file.read(1)[0] == 1])
    a, b, _, c, d = struct.unpack(">5i", file.read(20))
    return a > 0 and d > 0 and b == 0 and c == 0


def boxes(file: BinaryIO, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """Yield (first, last) byte of the content of each ISO box of one kind that lies between two places."""
    while start + 8 <= end:
        check_time()
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            size, content = struct.unpack(">Q", file.read(8))[0], start + 16
        elif size == 0:
            size = end - start
        if size < 8:
            return
        if name == kind:
            yield content, min(start + size, end)
        start += size


def transport_is_cut(path: str) -> bool:
    """Tell whether an MPEG transport stream (188-byte packets) ends inside a packet."""
    try:
        with open_bytes(path) as file:
            total, head = length(file), file.read(2 * 188 + 1)
        return head[0] == head[188] == head[376] == 0x47 and total % 188 != 0
    except (OSError, IndexError):
        return False
