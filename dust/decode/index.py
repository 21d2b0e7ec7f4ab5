"""What stands in a video file and how its frames are reached, found by demuxing alone wherever that proves it.

Frame ``i`` is always the i-th frame that decoding the file from its start yields. There are three ways to get at it:

- ``seek``: packets and frames are one to one and in the order of their timestamps, and key frames are proven entry
  points. Holds for sane mp4/mov and Matroska/WebM files; nothing was decoded to know it.
- ``start``: the file was decoded once to learn which packet gives which frame; reading begins at the first packet.
- ``count``: damage, or a decoder that does not say which packet a frame came from: decode from the start and count.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dust.decode import bitstream
from dust.decode.container import (
    KEEP_TIMES,
    TINY_MPEG4,
    Facts,
    be_strict,
    open_stream,
    pixel_aspect,
    read_errors,
    shown,
    words,
)
from dust.decode.pixels import UPRIGHT, Orientation, orientation_of
from dust.decode.times import NO_PTS, disagreement, frame_times, rate_of, stated_rate
from dust.utils.errors import VideoError

logger = logging.getLogger(__name__)

NONREF_CODECS = {"h264", "hevc", "mpeg2video"}
_REORDERING = {"h264", "hevc", "mpeg4"}


@dataclass(frozen=True)
class VideoReport:
    """What is known of a file's health.

    Attributes:
        errors: demux and decode errors and contradictions with the header, as sentences.
        corrupt_frames: frames that the decoder marked corrupt.
        declared: frames the header declares, less those that an edit list discards; 0 = it declares none.
        decoded: frames that can be had, which is ``len(reader)``.
        unknown: why the reader cannot tell whether there is damage; "" where it can.
        remarks: what is no damage and yet worth knowing: where a header and the file itself disagree, and which is
            believed.
    """

    errors: list[str] = field(default_factory=list)
    corrupt_frames: int = 0
    declared: int = 0
    decoded: int = 0
    unknown: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        return bool(self.errors or self.corrupt_frames)

    @property
    def reason(self) -> str:
        """One line for a list of bad clips; empty for a healthy file."""
        words = list(self.errors)
        if self.corrupt_frames:
            words.append(f"{self.corrupt_frames} of {self.decoded} frames are marked corrupt")
        return "; ".join(words)


@dataclass(frozen=True)
class VideoIndex:
    """One file's index. Arrays: ``packet_pts`` (packets,) in file order, NO_PTS where missing; ``order`` (frames,) the
    packet of each frame, ``frame_pts`` (frames,) seconds; ``entries`` packets where decoding may begin, by time;
    ``disposable`` (packets,) those that no other refers to, as far as that was looked up.
    ``height`` and ``width`` count stored pixels, turned as displayed; ``pixel_aspect`` is a stored pixel's width over
    its height, before the turn. ``closed``: nothing shown before an entry point is stored after it."""

    mode: str
    codec: str
    height: int
    width: int
    fps: float
    pixel_aspect: float
    orientation: Orientation
    skip_nonref: bool
    prime: bool
    closed: bool
    packet_pts: np.ndarray
    order: np.ndarray
    frame_pts: np.ndarray
    entries: np.ndarray
    disposable: np.ndarray
    report: VideoReport

    @property
    def nbytes(self) -> int:
        arrays = (self.packet_pts, self.order, self.frame_pts, self.entries, self.disposable)
        return 1024 + sum(array.nbytes for array in arrays)


def checked(index: VideoIndex) -> VideoIndex | None:
    """Return what may be believed of an index that somebody kept; None where it is none that :func:`build_index` makes.

    Its order of frames is held against its timestamps; these, and what timestamps cannot tell, are held against the
    file while it is read (:class:`dust.decode.session.DecodeSession`).
    """
    pts, order, entries = index.packet_pts, index.order, index.entries
    packets, frames = len(pts), len(order)
    if not frames or len(index.frame_pts) != frames or len(index.disposable) != packets:
        return None
    if index.mode not in ("seek", "start", "count") or not (np.diff(index.frame_pts) >= 0).all():
        return None
    if not (_plain(index) and np.isfinite(index.frame_pts).all()):
        return None
    if not (_is_rate(index) and 0 < index.height < 1 << 20 and 0 < index.width < 1 << 20):
        return None
    if index.mode == "count":
        return index
    if ((order < 0) | (order >= packets)).any() or len(np.unique(order)) < frames:
        return None
    by_time = bool((np.diff(pts[order]) > 0).all() and (pts[order] != NO_PTS).all())
    if index.mode == "start":
        # without times only a decoder that skips nothing shows whether the order is right
        return None if len(entries) else index if by_time else replace(index, skip_nonref=False)
    if not by_time or not len(entries) or ((entries < 0) | (entries >= packets)).any():
        return None
    ordered = entries[0] == 0 and bool((np.diff(pts[entries]) > 0).all()) and pts[order[0]] >= pts[0]
    return index if ordered else None


def _is_rate(index: VideoIndex) -> bool:
    """Return whether the rate is that of the times, as exactly as their resolution, which is not kept, may tell."""
    count, span = len(index.frame_pts) - 1, float(index.frame_pts[-1] - index.frame_pts[0])
    if not 0 < index.fps < math.inf:
        return False
    return span <= 0 or abs(count - span * index.fps) <= 2 + 0.02 * count


def _plain(index: VideoIndex) -> bool:
    """Tell whether the words and numbers of an index that somebody kept are of the kinds that they have here."""
    report = index.report
    texts = [index.codec, report.unknown, *report.errors, *report.remarks]
    counts = [index.height, index.width, report.corrupt_frames, report.declared, report.decoded]
    flags = [index.skip_nonref, index.prime, index.closed, *index.orientation]
    return (
        isinstance(report.errors, list)
        and isinstance(report.remarks, list)
        and all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(type(flag) is bool for flag in flags)
        and isinstance(index.fps, float | int)
        and isinstance(index.pixel_aspect, float | int)
        and 1e-3 < index.pixel_aspect < 1e3
    )


def build_index(path: str, threads: int = 1, spare: list[Any] | None = None) -> VideoIndex:
    """Return the index of one file: by demuxing, or where that proves too little, by one decode from the start.

    ``spare``, if given, receives the file still open, as (container, stream), where no decoder was needed.
    Raises VideoError for a file that cannot be opened, has no video stream or gives no frame.
    """
    container, stream = open_stream(path, threads)
    index = None
    try:
        scan = _DemuxScan(path, container, stream)
        index = scan.index() if scan.proven() else None
        if index is not None and spare is not None and not index.prime and not stream.codec_context.is_open:
            spare.append((container, stream))
            return index
    finally:
        if not spare:
            container.close()
    if index is None:
        logger.debug("%s: decoded once, because %s", path, scan.doubt)
        index = full_scan(path, threads)
    return index


class _DemuxScan:
    """One pass over the packets, and what follows from it."""

    def __init__(self, path: str, container: Any, stream: Any) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.format, self.context = container.format.name, stream.codec_context
        self.codec = self.context.name
        self.doubt = ""
        self.facts = Facts(path, container, stream)
        self.pts: list[int] = []
        self.shown: list[bool] = []
        self.disposable: list[bool] = []
        self.entries: list[int] = []
        self.layered = False
        self.first: Any = None

    def proven(self) -> bool:
        """Tell whether timestamps and key frames tell everything; ``doubt`` says why not."""
        if not ("mov" in self.format or "matroska" in self.format) or self.codec not in KEEP_TIMES:
            self.doubt = f"{self.codec} in {self.format} keeps no exact frame times"
            return False
        self._walk()
        if not self.doubt:
            self.doubt = self._contradiction()
        return not self.doubt

    def _walk(self) -> None:
        extradata = self.context.extradata or b""
        unit = bitstream.nal_length_size(self.codec, extradata) if self.codec in ("h264", "hevc") else 0
        if self.codec == "h264" and not bitstream.h264_frames_only(extradata, unit):
            self.doubt = "its pictures may be fields"
            return
        try:
            for packet in self.facts.watch():
                if not self.pts:
                    self.first = packet
                self.pts.append(NO_PTS if packet.pts is None else packet.pts)
                self.shown.append(not packet.is_discard)
                self.disposable.append(False)
                self._look(packet, unit)
        except read_errors() as error:
            self.doubt = f"demuxing fails: {words(error)}"
        if self.facts.errors():
            self.doubt = "; ".join(self.facts.errors())

    def _look(self, packet: Any, unit: int) -> None:
        """Note, codec by codec, what one packet says of itself."""
        entry = packet.is_keyframe
        data = self.facts.data
        if self.codec == "h264":
            entry = entry and bitstream.h264_entry_point(data, unit)
            self.disposable[-1] = bitstream.h264_disposable(data, unit)
        elif self.codec == "hevc":
            point, layered, drops, self.disposable[-1] = bitstream.hevc_facts(data, unit)
            entry, self.layered = entry and point, self.layered or layered
            if drops and len(self.pts) > 1:
                self.doubt = "a key frame discards frames that were not shown yet"
        elif self.codec in ("vp8", "vp9"):
            self.shown[-1] &= bitstream.vp8_shown(data) if self.codec == "vp8" else bitstream.vp9_shown(data)
        elif self.codec == "mpeg4" and packet.size < TINY_MPEG4:
            self.doubt = "it has pictures that are not coded"
        if entry:
            self.entries.append(len(self.pts) - 1)

    def _contradiction(self) -> str:
        pts, shown = np.array(self.pts, np.int64), np.array(self.shown, bool)
        if not shown.any():
            return "no packet is shown"
        if (pts == NO_PTS).any() or len(np.unique(pts)) != len(pts):
            return "frame times are missing or repeated"
        if not self.entries or self.entries[0] != 0 or (pts[shown] < pts[0]).any():
            return "it does not begin with a key frame"
        reordered = bool((np.diff(pts) < 0).any())
        if reordered != bool(self.codec in _REORDERING and self.context.has_b_frames):
            return "frame times and the codec disagree about the order"
        return ""

    def index(self) -> VideoIndex:
        pts = np.array(self.pts, np.int64)
        order = np.flatnonzero(np.array(self.shown, bool))
        order = order[np.argsort(pts[order], kind="stable")].astype(np.int32)
        entries = np.array(self.entries, np.int32)
        entries = entries[np.argsort(pts[entries], kind="stable")]
        orientation = self._orientation()
        height, width = self.context.height, self.context.width
        base = float(self.stream.time_base)
        seconds = pts[order] * base
        header = float(self.stream.average_rate or 0)
        rate = rate_of(seconds, stated_rate(self.stream), base)
        pixels = self.context.pix_fmt or ""
        return VideoIndex(
            mode="seek",
            codec=self.codec,
            height=width if orientation.transpose else height,
            width=height if orientation.transpose else width,
            fps=rate,
            pixel_aspect=pixel_aspect(self.stream),
            orientation=orientation,
            skip_nonref=self.codec in NONREF_CODECS and not self.layered,
            # Old x264 and Xvid say only in their first packet which of their habits a decoder must follow.
            prime=self.codec == "mpeg4" or (self.codec == "h264" and "444" in pixels),
            # Does no packet that follows an entry point belong before it in time?
            closed=bool((np.minimum.accumulate(pts[::-1])[::-1][entries] >= pts[entries]).all()),
            packet_pts=pts,
            order=order,
            frame_pts=seconds,
            entries=entries,
            disposable=np.array(self.disposable, bool),
            report=VideoReport(
                declared=self.facts.declared(), decoded=len(order), remarks=disagreement(len(order), rate, header)
            ),
        )

    def _orientation(self) -> Orientation:
        if "mov" in self.format and bitstream.mp4_is_upright(self.path):
            return UPRIGHT
        try:
            for packet in (self.first, None):
                for frame in self.context.decode(packet):
                    return orientation_of(frame)
        except read_errors():
            pass  # the read that wants this frame meets the same error and reports it
        return UPRIGHT


def full_scan(path: str, threads: int = 1, consumer: Callable[[int, Any], None] | None = None) -> VideoIndex:
    """Decode a file from its start to its end (or to the first error) and index what came.

    ``consumer(number, frame)`` sees every frame. A file at which the strict decoder stumbles is decoded again by the
    ordinary one, which hides damage where it can: the consumer then sees the frames again, and the report says so.
    Raises VideoError if there is no frame.
    """
    walk = _FullDecode(path, threads, consumer, strict=True)
    if walk.error:
        stumble = f"frames after number {len(walk.order)} are partly guessed: {walk.error}"
        walk = _FullDecode(path, threads, consumer, strict=False)
        if not walk.error and not walk.corrupt:
            walk.errors.append(stumble)
    return walk.index()


class _FullDecode:
    """One decode from the start, and what follows from it."""

    def __init__(self, path: str, threads: int, consumer: Callable[[int, Any], None] | None, strict: bool) -> None:
        self.path = path
        container, stream = open_stream(path, threads)
        if strict:
            be_strict(stream)
        self.facts, self.context = Facts(path, container, stream), stream.codec_context
        self.codec, self.base, self.aspect = self.context.name, float(stream.time_base), pixel_aspect(stream)
        self.header_rate, self.stated = float(stream.average_rate or 0), stated_rate(stream)
        self.layered = self.fields = False
        self.corrupt = self.corrupt_hidden = 0
        self.hidden: set[int] = set()  # packets whose frames an edit list hides
        self.pts: list[int] = []
        self.order: list[int] = []
        self.first: tuple[int, int, Orientation] | None = None
        self.error = ""
        try:
            for frame in self._frames():
                if self.first is None:
                    self.first = frame.height, frame.width, orientation_of(frame)
                if consumer is not None:
                    consumer(len(self.order), frame)
                self.order.append(-1 if frame.pts is None else frame.pts)
                self.corrupt += frame.is_corrupt
                self.fields |= frame.interlaced_frame
            self.errors = [f"decoding fails after {len(self.order)} frames: {self.error}"] if self.error else []
            self.errors = self.errors or self.facts.errors()
            if self.corrupt_hidden:
                self.errors.append(f"{self.corrupt_hidden} frames that an edit list hides are marked corrupt")
            self.declared = self.facts.declared()
        finally:
            container.close()

    def _frames(self) -> Iterator[Any]:
        """Yield every frame up to the first error, which is kept in ``error``; a frame's pts is its packet's number."""
        unit = bitstream.nal_length_size("hevc", self.context.extradata or b"") if self.codec == "hevc" else 0
        try:
            for packet in _then_none(self.facts.watch()):
                if packet is not None:
                    self.pts.append(NO_PTS if packet.pts is None else packet.pts)
                    if packet.is_discard and self.codec in KEEP_TIMES:
                        self.hidden.add(len(self.pts) - 1)
                        packet = shown(packet)
                    packet.pts = len(self.pts) - 1
                    if self.codec == "hevc":
                        self.layered |= bitstream.hevc_facts(self.facts.data, unit)[1]
                for frame in self.context.decode(packet):
                    if frame.pts in self.hidden:
                        self.corrupt_hidden += frame.is_corrupt
                    else:
                        yield frame
        except read_errors() as error:
            self.error = words(error)

    def index(self) -> VideoIndex:
        if self.first is None:
            raise VideoError(self.path, "no frame can be decoded" + (f": {self.errors[0]}" if self.errors else ""))
        count, silent = len(self.order), self.facts.empty + (self.facts.tiny if self.codec == "mpeg4" else 0)
        if self.declared - silent > count * (2 if self.fields else 1) and not self.errors:
            self.errors.append(f"only {count} of {self.declared} declared frames can be decoded")
        order, pts = np.array(self.order, np.int32), np.array(self.pts, np.int64)
        named = bool((order >= 0).all() and len(np.unique(order)) == count and order.max() < len(pts))
        broadcast = "mpeg" in self.facts.format
        seconds = frame_times(pts, order if named else None, count, self.base, self.stated, splices=broadcast)
        rate = rate_of(seconds, self.stated, self.base)
        remarks = disagreement(count, rate, self.header_rate)
        report = VideoReport(self.errors, int(self.corrupt), self.declared, count, remarks=remarks)
        height, width, orientation = self.first
        return VideoIndex(
            mode="start" if named and not report.damaged else "count",
            codec=self.codec,
            height=width if orientation.transpose else height,
            width=height if orientation.transpose else width,
            fps=rate,
            pixel_aspect=self.aspect,
            orientation=orientation,
            skip_nonref=self.codec in NONREF_CODECS and not self.layered and not self.fields,
            prime=False,
            closed=True,
            packet_pts=pts,
            order=order,
            frame_pts=seconds,
            entries=np.zeros(0, np.int32),
            disposable=np.zeros(len(pts), bool),
            report=report,
        )


def agree(quick: VideoIndex, full: VideoIndex) -> VideoIndex:
    """Return the index to keep after a full decode: the quick one if the decode confirmed it."""
    same = len(quick.order) == len(full.order) and bool((quick.order == full.order).all())
    if same and full.mode == "start" and quick.orientation == full.orientation:
        return replace(quick, report=full.report)
    return full


def _then_none(items: Iterator[Any]) -> Iterator[Any]:
    yield from items
    yield None
