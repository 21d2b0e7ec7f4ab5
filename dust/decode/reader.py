"""Frames of a clip by number, exact and fast.

    with VideoReader("clip.mp4") as reader:
        len(reader), reader.fps, reader.pts, reader.height, reader.width
        frames = reader.frames([0, 8, 16])  # uint8 (3, H, W, 3) RGB

Frame ``i`` is the i-th frame that decoding the file from its start yields, rotation applied. Reading seeks and skips
only where the index (``index``) proves that this changes no pixel; the moment a read contradicts the index, the
file is decoded from the start instead, and what was found stands in ``reader.report``.
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dust.decode import torchcodec_reader  # noqa: F401 - registers itself
from dust.decode.cache import get_index, put_index
from dust.decode.clip import (
    DECODER_REGISTRY,
    Clip,
    ClipReader,
    Sink,
    check_aspect,
    check_resize,
    deal,
    reader_class,
    say_once,
)
from dust.decode.container import read_errors
from dust.decode.deadline import check_time
from dust.decode.folders import picture_kinds, scan_pictures
from dust.decode.index import VideoIndex, VideoReport, agree, full_scan
from dust.decode.pictures import read_picture
from dust.decode.pixels import ConversionError, FrameConverter, FrameRequest, shown_size, tell_sizes
from dust.decode.session import Contradiction, DecodeSession
from dust.utils.errors import DustError, VideoError

__all__ = ["ArrayReader", "ClipReader", "FrameFolderReader", "FrameRequest", "VideoReader", "VideoReport", "open_clip"]

logger = logging.getLogger(__name__)

_ROUND = 0.02  # a pixel aspect ratio this near to 1 is not worth a word


@DECODER_REGISTRY.register()
class VideoReader(Clip):
    """Reads one video file. Open it in the process that uses it.

    Args:
        path: the file.
        threads: decoder threads; 1 is right where workers run side by side.
        resize: "swscale", or "torch" for the published protocols' plain bilinear (see ``pixels``).
        index_cache: a folder that keeps indexes between runs; None = this process's memory only.
        aspect: "stored", pixels as the file stores them, which is what published protocols read; or "displayed", wider
            or narrower by the file's pixel aspect ratio, so that a circle is round.

    Attributes: ``height``, ``width`` as displayed; ``fps`` average rate by the frames' times; ``pts`` float64 seconds
    of every frame; ``duration`` seconds; ``pixel_aspect`` width over height of a stored pixel; ``report`` what is known
    of damage so far, and remarks. A read may learn of damage: ``report``, ``len`` and ``pts`` then follow.

    Raises VideoError for a file that cannot be opened, has no video stream or holds no frame.
    """

    pixel_aspect: float

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threads: int = 1,
        resize: str = "swscale",
        index_cache: str | None = None,
        aspect: str = "stored",
    ) -> None:
        self.path, self.resize, self.aspect = os.fspath(path), check_resize(resize), check_aspect(aspect)
        self._threads, self._cache = threads, index_cache
        self._session: DecodeSession | None = None
        opened: list[Any] = []
        self._index = get_index(self.path, threads, index_cache, opened)
        self._follow()
        for remark in [] if self.report.damaged else self.report.remarks:
            say_once("rate", self.path, remark)
        if self.aspect == "stored" and abs(self.pixel_aspect - 1) > _ROUND:
            remark = f"its pixels are {self.pixel_aspect:.4g} times as wide as high, and read as they are stored"
            say_once("aspect", self.path, f"{remark}; DATA.PIXEL_ASPECT displayed reads them as they are shown", most=1)
        if opened:
            self._session = DecodeSession(self.path, self._index, threads, opened[0])

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        """See ``Clip.read``. Where the quick way meets a contradiction, the file is decoded from the start."""
        try:
            return self._read(requests)
        except ConversionError as error:
            self.close()
            raise VideoError(self.path, f"a frame cannot be converted to RGB: {error}") from error

    def _read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        wanted = self._numbers(requests)
        sinks = self._sinks(requests)
        if not wanted:
            return [consumer.result() for consumer in sinks]
        try:
            self._open().read(wanted, deal(sinks))
        except (Contradiction, *read_errors()) as error:
            self.close()
            if self._index.mode == "count":  # known to be damaged, and now it does not even give what it gave before
                raise VideoError(self.path, self.report.reason or str(error)) from error
            logger.debug("%s: read from the start, because %s", self.path, error)
            sinks = self._from_the_start(requests, wanted)
        except BaseException:
            self.close()  # stopped in the middle: what the decoder still holds is of no use
            raise
        for consumer in sinks:
            _say(self.path, consumer.converter.remarks)
        return [consumer.result() for consumer in sinks]

    def check(self) -> VideoReport:
        """Decode everything once, from the start, and report; what is learnt is kept. VideoError if nothing comes, or
        something that cannot be converted to RGB."""
        self.close()
        kinds: dict[tuple, None] = {}

        def try_to_convert(_: int, frame: Any) -> None:
            kind = frame.height, frame.width, frame.format.name, frame.colorspace, frame.color_range
            if kind not in kinds:
                kinds[kind] = None
                converter = FrameConverter(FrameRequest([0]), frame.height, frame.width)
                converter(frame)
                _say(self.path, converter.remarks)

        try:
            self._learn(agree(self._index, full_scan(self.path, self._threads, try_to_convert)))
        except ConversionError as error:
            raise VideoError(self.path, f"a frame cannot be converted to RGB: {error}") from error
        _say(self.path, {"sizes": tell_sizes((height, width) for height, width, *_ in kinds)})
        return self.report

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _follow(self) -> None:
        index = self._index
        self._stretch = index.pixel_aspect if self.aspect == "displayed" else 1.0
        self.height, self.width = shown_size(index.height, index.width, self._stretch, index.orientation)
        self.fps, self.pts, self.report = index.fps, index.frame_pts, index.report
        self.pixel_aspect = index.pixel_aspect

    def _learn(self, index: VideoIndex) -> None:
        self._index = index
        put_index(self.path, index, self._cache)
        self._follow()

    def _sinks(self, requests: Sequence[FrameRequest]) -> list[Sink]:
        facts = self.height, self.width, self._index.orientation, self.resize, self._stretch
        return [Sink(request, FrameConverter(request, *facts)) for request in requests]

    def _open(self) -> DecodeSession:
        if self._session is not None and self._session.owner != os.getpid():
            self._session = None  # the parent process's file: its place would be shared
        if self._session is None:
            self._session = DecodeSession(self.path, self._index, self._threads)
        return self._session

    def _from_the_start(self, requests: Sequence[FrameRequest], wanted: list[int]) -> list[Sink]:
        """Decode the whole file, serve the requests on the way, and keep the index that this gives."""
        self.close()
        sinks, believed = self._sinks(requests), self._index.orientation
        self._learn(full_scan(self.path, self._threads, deal(sinks)))
        if self._index.orientation != believed:  # the headers told another one than the frames
            try:
                sinks = self._sinks(requests)
            except DustError as error:
                raise VideoError(self.path, f"its frames are turned as its headers do not say; {error}") from error
            full_scan(self.path, self._threads, deal(sinks))
        if wanted[-1] >= len(self):
            reason = self.report.reason or "the file's times promise more frames than it holds"
            raise VideoError(self.path, f"frame {wanted[-1]} cannot be read, only the first {len(self)} can: {reason}")
        return sinks


class FrameFolderReader(Clip):
    """A folder of pictures as a clip: the same face as VideoReader.

    Args:
        path: the folder. Its pictures are ordered by name, numbers in names by value.
        pattern: which pictures, see :func:`dust.decode.folders.scan_pictures`; "" takes all, if they are of one kind.
        fps: frames per second to assume.
        resize: as for VideoReader.

    Raises VideoError where no picture matches, or where there are pictures of several kinds and no pattern says which;
    a picture that cannot be read raises it when it is wanted, and stands in ``report``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        pattern: str = "",
        fps: float = 30.0,
        *,
        resize: str = "swscale",
    ) -> None:
        self.path, self.resize, self.fps = os.fspath(path), check_resize(resize), float(fps)
        try:
            scan = scan_pictures(self.path, pattern)
        except OSError as error:
            raise VideoError(self.path, f"cannot be opened: {error.strerror}") from error
        self.names = scan.found
        if not self.names:
            kind = f" that matches {pattern!r}" if pattern else ""
            there = f"; there are {scan.summary()}" if scan.left_out else ""
            raise VideoError(self.path, f"holds no picture{kind}{there}")
        kinds = {} if pattern else picture_kinds(self.names)
        if len(kinds) > 1:
            listed = ", ".join(f"{kind} ({count})" for kind, count in list(kinds.items())[:10])
            way_out = "say which are its frames with DATA.FRAME_PATTERN, for example 'img_*.jpg'"
            raise VideoError(self.path, f"holds pictures of several kinds: {listed}: {way_out}")
        self.pts = np.arange(len(self.names)) / self.fps
        self.report = VideoReport(declared=len(self.names), decoded=len(self.names))
        self.height, self.width = self._picture(0).shape[:2]

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        import av

        wanted = self._numbers(requests)
        sinks = [Sink(one, FrameConverter(one, self.height, self.width, resize=self.resize)) for one in requests]
        take = deal(sinks)
        for number in wanted:
            take(number, av.VideoFrame.from_ndarray(self._picture(number), format="rgb24"))
        for consumer in sinks:
            _say(self.path, consumer.converter.remarks)
        return [consumer.result() for consumer in sinks]

    def check(self) -> VideoReport:
        """Open every picture, and report those that cannot be read."""
        sizes: dict[tuple[int, int], None] = {}
        for number in range(len(self)):
            with contextlib.suppress(VideoError):
                height, width, _ = self._picture(number).shape
                sizes[height, width] = None
        _say(self.path, {"sizes": tell_sizes(sizes)})
        return self.report

    def _picture(self, number: int) -> np.ndarray:
        """Return (H, W, 3) uint8."""
        check_time()
        try:
            return read_picture(os.path.join(self.path, self.names[number]))
        except VideoError as error:
            if error.reason not in self.report.errors:
                errors = [*self.report.errors, error.reason]
                self.report = replace(self.report, errors=errors, decoded=len(self) - len(errors))
            raise VideoError(self.path, error.reason) from error


class ArrayReader(Clip):
    """Frames that are in memory already as a clip: the same face as VideoReader.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        path: a name for messages.
        fps: frames per second; 0 is not known, and they then count as those of DATA.TARGET_FPS.
        resize: as for VideoReader.

    Raises VideoError for an array of another shape or type.
    """

    def __init__(self, frames: np.ndarray, path: str = "array", fps: float = 0.0, *, resize: str = "swscale") -> None:
        self.path, self.resize, self.fps = path, check_resize(resize), float(fps)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise VideoError(
                path, f"is {frames.dtype} {frames.shape}: frames are uint8 (T, H, W, 3), RGB, at least one"
            )
        self._frames = frames
        self.height, self.width = frames.shape[1:3]
        self.pts = np.arange(len(frames)) / (self.fps or 1.0)
        self.report = VideoReport(declared=len(frames), decoded=len(frames))

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        import av

        wanted = self._numbers(requests)
        sinks = [Sink(one, FrameConverter(one, self.height, self.width, resize=self.resize)) for one in requests]
        take = deal(sinks)
        for number in wanted:
            picture = np.ascontiguousarray(self._frames[number])
            take(number, av.VideoFrame.from_ndarray(picture, format="rgb24"))
        return [consumer.result() for consumer in sinks]

    def check(self) -> VideoReport:
        return self.report


def _say(path: str, remarks: Mapping[str, str]) -> None:
    """Warn once of each thing that the frames of a clip showed besides their pixels."""
    for kind, remark in remarks.items():
        if remark:
            say_once(kind, path, remark)


def open_clip(path: str | os.PathLike, *, decoder: str = "pyav", **options: Any) -> ClipReader:
    """Return a reader for a video file or for a folder of pictures.

    Args:
        decoder: what reads video files: pyav | torchcodec | one that is registered, see :mod:`dust.decode.clip`.
        options: VideoReader's or FrameFolderReader's; those that only the other one has are left aside.
    """
    folder = os.path.isdir(path)
    foreign = ("threads", "index_cache", "aspect") if folder else ("pattern", "fps")
    options = {name: value for name, value in options.items() if name not in foreign}
    if options.get("aspect") == "stored":  # what a reader that knows of no other does
        del options["aspect"]
    return FrameFolderReader(path, **options) if folder else reader_class(decoder)(path, **options)
