"""A video file opened for demuxing, and what its header promises against what its packets keep."""

import functools
import os
import struct
from collections.abc import Iterator
from typing import Any

from dust.decode import bitstream, iso, matroska
from dust.decode.deadline import check_time, open_options
from dust.decode.members import member_of, open_bytes, open_window
from dust.utils.errors import VideoError
from dust.utils.files import refuse_special

TINY_MPEG4 = 20  # bytes; a "not coded" VOP is smaller and gives no frame
_BUFFER = 1 << 17  # bytes that are asked of a tar at a time
_SHORT = (0.5, 0.02)  # a span is "clearly short" beyond both this many seconds and this share of the duration


@functools.cache
def read_errors() -> tuple[type[Exception], type[OSError]]:
    """Return what PyAV raises for bad data. PyAV is imported where it is needed first: models train on arrays without
    it."""
    import av

    return av.error.FFmpegError, OSError


def open_stream(path: str, threads: int = 1) -> tuple[Any, Any]:
    """Return (container, best video stream); VideoError where there is none."""

    try:
        container = _open(path)
    except (*read_errors(), ValueError) as error:
        raise VideoError(path, _other_file(path) or f"cannot be opened: {words(error)}") from error
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise VideoError(path, "has no video stream" if stream is None else "has a video stream of an unknown codec")
    if wrong := _is_picture(path, container.format.name, stream):
        container.close()
        raise VideoError(path, wrong)
    stream.codec_context.thread_count = threads
    if threads != 1:
        stream.codec_context.thread_type = "FRAME"
    return container, stream


#: What files that are no video begin with, and what to do.
_OTHERS = {
    b"PK\x03\x04": "is a zip archive, and no video: unpack it",
    b"Rar!": "is a rar archive, and no video: unpack it",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive, and no video: unpack it",
    b"\x1f\x8b": "is compressed by gzip, and no video: unpack it",
    b"BZh": "is compressed by bzip2, and no video: unpack it",
    b"\xfd7zXZ": "is compressed by xz, and no video: unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd, and no video: unpack it",
    b"version https://git-lfs": "is a pointer of Git LFS, and no video: git lfs pull brings the file",
    b"ffconcat": "is a list of other files, which are not opened for it: name the videos themselves",
    b"#EXTM3U": "is a playlist of other files, which are not opened for it: name the videos themselves",
    bytes(512): "begins with zeros, and is no video: it was not copied whole, copy it again",
}


def _other_file(path: str) -> str:
    """Return what a file that FFmpeg cannot open is in place of a video, and what to do; "" where its beginning does
    not tell."""
    try:
        with open_bytes(path) as file:
            head = file.read(512)
    except (OSError, VideoError):
        return ""
    if head[257:262] == b"ustar":
        return "is a tar, and no video: unpack it, or make a list of its parts (dust convert-data webdataset)"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, and no video: download it again"
    return next((said for begin, said in _OTHERS.items() if head.startswith(begin)), "")


def _is_picture(path: str, form: str, stream: Any) -> str:
    """Return which picture a file holds in place of a video, of which FFmpeg gives nothing or a part without a word;
    ""."""
    import av

    if stream.disposition & av.stream.Disposition.attached_pic:
        return "has no video stream, only a cover picture"
    if stream.disposition & av.stream.Disposition.dependent:
        return "is a picture in tiles (HEIC, AVIF), which are not put together: save it as PNG or JPEG"
    kind = {"webp_pipe": "an animated WebP", "tiff_pipe": "a TIFF of several pictures"}.get(form)
    try:
        several = kind and _has_several(path)
    except OSError as error:
        return f"cannot be read: {words(error)}"
    return f"is {kind}, which is not read as a clip: save its pictures in a folder, or as a video" if several else ""


def _has_several(path: str) -> bool:
    """Tell whether a WebP is animated (RFC 9649, flag of VP8X), or behind the first directory of a TIFF comes
    another."""
    with open_bytes(path) as file:
        head = file.read(21).ljust(21, b"\0")
        if head[:4] == b"RIFF":
            return head[12:16] == b"VP8X" and bool(head[20] & 2)
        order = "<" if head[:2] == b"II" else ">"
        (directory,) = struct.unpack(f"{order}I", head[4:8])
        file.seek(directory)
        (entries,) = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))
        file.seek(directory + 2 + 12 * entries)
        return any(file.read(4))


def _open(path: str) -> Any:
    import av

    member = member_of(path)
    if member is not None:
        return av.open(open_window(member), metadata_errors="ignore", buffer_size=_BUFFER, **open_options())
    refuse_special(path)
    # a whole path: FFmpeg takes 12:30.mp4 for an address, of a protocol that is called 12
    return av.open(os.path.abspath(path), metadata_errors="ignore", **open_options())


def stated_duration(path: str) -> float:
    """Return the seconds that a file's header says, at the cost of opening it; 0 where it says none or cannot be
    opened."""
    try:
        container, stream = open_stream(path)
    except VideoError:
        return 0.0
    with container:
        return Facts(path, container, stream).duration


def be_strict(stream: Any) -> None:
    """Make a decoder that has not begun raise an error where it would hide damage; sound data decode alike."""
    stream.codec_context.options = {"err_detect": "explode"}


def discard_others(container: Any, stream: Any) -> None:
    """Spare the demuxer the reading of sound and subtitles (PyAV that knows how)."""
    import av

    nothing = getattr(av.stream, "Discard", None)
    for other in container.streams:
        if nothing is not None and other.index != stream.index:
            other.discard = nothing.all


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the stream's packets that hold data, in file order from the present place."""
    for packet in container.demux(stream):
        check_time()
        if packet.size:
            yield packet


class Facts:
    """What the header promises and the packets keep: counts, cut packets, time covered."""

    def __init__(self, path: str, container: Any, stream: Any) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.format = container.format.name
        # Only these formats state a duration; elsewhere FFmpeg estimates it.
        states = any(word in self.format for word in ("mov", "matroska", "avi", "flv", "asf"))
        self.duration = float(stream.duration * stream.time_base) if states and stream.duration else 0.0
        self.whole_file = states and not self.duration and bool(container.duration)
        if self.whole_file:
            self.duration = container.duration / 1e6
        self.seen = self.empty = self.discarded = self.tiny = 0
        self.wrong = ""
        self.broken: str | None = None
        self.clock: int | None = None
        self.edited = "mov" in self.format  # only there an edit list can hide frames
        self.steps: set[int] = set()  # from one packet to the next, in ticks
        self.shown: tuple[int, int] | None = None  # ticks of the first and the last frame that is shown
        self.marked: list[int] = []
        codec, extradata = stream.codec_context.name, stream.codec_context.extradata or b""
        self.looked_into = codec in ("h264", "hevc", "vp8", "vp9")
        self.data = b""  # of the packet at hand
        self.unit = bitstream.nal_length_size(codec, extradata) if codec in ("h264", "hevc") else 0
        self.begin, self.end = float("inf"), float("-inf")

    def watch(self) -> Iterator[Any]:
        """Yield the video packets; others are looked at only where the header knows no more than the file's
        duration."""
        if not self.whole_file:
            discard_others(self.container, self.stream)
        base = float(self.stream.time_base)
        for packet in self.container.demux() if self.whole_file else self.container.demux(self.stream):
            check_time()
            if packet.dts is None and not packet.size:
                continue  # the sign that a stream has ended
            if packet.stream_index != self.stream.index:
                self._time(packet, float(packet.time_base))
                continue
            self._time(packet, base)
            if not packet.size:
                self.empty += 1
                continue
            self.discarded += packet.is_discard
            if self.edited:
                self._hidden(packet)
            self.tiny += packet.size < TINY_MPEG4
            if "mpegts" in self.format:
                self._marks(packet)
            elif packet.is_corrupt:
                self.wrong = self.wrong or f"packet {self.seen} is cut short"
            if self.looked_into:
                self.data = bytes(packet)
            if self.unit and not bitstream.is_sound(self.data, self.unit):
                self.wrong = self.wrong or f"packet {self.seen} is not made of whole units"
            self.seen += 1
            yield packet

    def _hidden(self, packet: Any) -> None:
        if packet.dts is None or packet.pts is None:
            self.edited = False
            return
        if self.clock is not None and len(self.steps) < 2:
            self.steps.add(packet.dts - self.clock)
        self.clock = packet.dts
        if not packet.is_discard:
            first, last = self.shown or (packet.pts, packet.pts)
            self.shown = min(first, packet.pts), max(last, packet.pts)

    def _holes(self) -> int:
        """Return the frames that are missing between the shown ones where an edit list hides some and all come at one
        step: it then hides what a wrong time has put elsewhere. An edit list itself leaves no hole."""
        if not (self.edited and self.discarded and self.shown and len(self.steps) == 1 and min(self.steps) > 0):
            return 0
        return (self.shown[1] - self.shown[0]) // min(self.steps) + 1 - (self.seen - self.discarded)

    def _marks(self, packet: Any) -> None:
        """Count packets that a transport stream marks as broken, but for those just before a splice, where its clock
        falls back: there the mark only says that two streams were joined."""
        if packet.dts is not None:
            if self.clock is not None and packet.dts < self.clock:
                self.marked = [one for one in self.marked if one < self.seen - 3]
            self.clock = packet.dts
        if packet.is_corrupt:
            self.marked.append(self.seen)

    def _time(self, packet: Any, base: float) -> None:
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.is_discard:
            return
        self.begin = min(self.begin, time * base)
        self.end = max(self.end, (time + (packet.duration or 0)) * base)

    def declared(self) -> int:
        """Return the frames that the header promises to show; 0 = it does not say."""
        stated = self.stream.frames
        if "mov" in self.format:
            # nb_frames also counts what an edit list leaves out; the entries do not. Where PyAV is too old to show
            # them, frames that are missing are believed to be left out unless time is missing too.
            entries = getattr(self.stream, "index_entries", None)
            stated = len(entries) if entries is not None else stated
            if entries is None and not self._is_short():
                stated = min(stated, self.seen + self.empty)
        return max(stated - self.discarded, 0)

    def _span(self) -> float:
        return max(self.end - self.begin, 0.0)

    def _is_short(self) -> bool:
        return bool(self.duration) and self.duration - self._span() > max(_SHORT[0], _SHORT[1] * self.duration)

    def _gap(self) -> str:
        """Return what the file's own structure says, where that is looked through."""
        if self.broken is None:
            self.broken = ""
            if "matroska" in self.format:
                self.broken = matroska.find_break(self.path)
            elif "mov" in self.format:
                self.broken = iso.find_break(self.path, self.stream.id, bool(self.discarded))
        return self.broken

    def errors(self) -> list[str]:
        """Return what already demuxing shows to be wrong, once every packet was seen."""
        found = []
        have, declared = self.seen + self.empty - self.discarded, self.declared()
        if self.wrong:
            found.append(self.wrong)
        if self.marked:
            found.append(f"packet {self.marked[0]} is marked as damaged in transport")
        if gap := self._gap():
            found.append(gap)
        if "mpegts" in self.format and bitstream.transport_is_cut(self.path):
            found.append("the file ends inside a packet")
        if (holes := self._holes()) > 0:
            found.append(f"{self.discarded} frames are hidden, and {holes} are missing between the others")
        if have < declared:
            found.append(f"only {have} of {declared} declared frames are in the file")
        elif self._is_short():
            found.append(f"frames cover {self._span():.2f} s of the declared {self.duration:.2f} s")
        return found


def words(error: BaseException) -> str:
    """Return an FFmpeg error's own sentence, without number and path."""
    return str(getattr(error, "strerror", None) or error)


_ASPECTS = (0.25, 4.0)  # of a pixel; beyond, a header says nonsense


def pixel_aspect(stream: Any) -> float:
    """Return the width over height of a stored pixel, as the file states it; 1 where it states none, or nonsense."""
    stated = float(stream.sample_aspect_ratio or 1)
    return stated if _ASPECTS[0] <= stated <= _ASPECTS[1] else 1.0


#: Decoders that keep the time of each packet for its frame, however they order them.
KEEP_TIMES = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libaom-av1", "mpeg4", "mjpeg", "prores", "png"}


def shown(packet: Any) -> Any:
    """Return a packet whose frame is given out, though an edit list hides it: others may refer to it, and if it is
    damaged nothing else tells. The same packet where it is not hidden."""
    if not packet.is_discard:
        return packet
    import av

    copy = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    return copy
