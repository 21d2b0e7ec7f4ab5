"""Frames one after the other: of a file, decoded once from its start, or of a camera or a network stream as they come.

``camera:0`` is the first V4L2 camera (``camera:/dev/video2`` names one), ``rtsp://...``, ``http://...`` and whatever
else FFmpeg opens by a URL are network streams; anything else is a file or a folder of pictures.
"""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dust.decode.container import Facts, open_stream, read_errors, words
from dust.decode.members import member_of
from dust.decode.pixels import Orientation, orientation_of
from dust.decode.reader import FrameFolderReader, VideoReader
from dust.utils.errors import VideoError

logger = logging.getLogger(__name__)

CAMERA = "camera:"
STREAM_ENDINGS = (".m3u8", ".mpd", ".sdp", ".mjpg", ".mjpeg", ".cgi", ".php")
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each try to connect again; the last one is repeated
STEADY_S = 10.0  # seconds that a connection must have held for the pauses to begin again
TIMEOUTS_S = (10.0, 10.0)  # seconds to open a network stream, and without a packet until it counts as gone
CLOCK_JUMP_S = 0.5  # seconds that times fall back where two streams were joined
QUEUE = 30  # frames that wait for the model; a second at the usual rate


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """One frame. ``time``: seconds since the first one. ``number``: from 0, also counting frames that were dropped.
    ``arrived``: by ``time.monotonic()``; 0 for a file. ``picture``: an ``av.VideoFrame``."""

    number: int
    time: float
    picture: Any
    arrived: float = 0.0


def is_live(source: object) -> bool:
    """Tell whether a source is a camera or a network stream, which must be taken as it comes."""
    if not isinstance(source, str) or source.lower().startswith("file://"):
        return False
    return source.startswith(CAMERA) or ("://" in source and not is_remote_file(source) and member_of(source) is None)


def is_remote_file(source: object) -> bool:
    """Tell whether a source is a file on a web server: http(s), with the ending of a file."""
    if not isinstance(source, str) or not source.lower().startswith(("http://", "https://")):
        return False
    ending = os.path.splitext(urlsplit(source).path)[1].lower()
    return bool(ending) and ending not in STREAM_ENDINGS


class FileFrames:
    """Every frame of a video file or a folder of pictures, decoded once in order.

    Iterating gives :class:`StreamFrame`; numbers are those of :class:`dust.decode.reader.VideoReader`. What breaks off
    in the middle ends there, and ``damage`` says why.

    Args:
        pattern: DATA.FRAME_PATTERN, which pictures of a folder are its frames.

    Attributes:
        fps: the average rate; ``duration`` seconds, 0 where the file does not say. ``height``, ``width`` as displayed.

    Raises VideoError where it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1, *, pattern: str = "") -> None:
        self.path, self.threads = os.fspath(path), threads
        self.damage = ""
        self.orientation = Orientation()
        self._folder = FrameFolderReader(self.path, pattern) if os.path.isdir(self.path) else None
        if self._folder is not None:
            self.fps, self.duration = self._folder.fps, self._folder.duration
            return
        with VideoReader(self.path) as reader:  # by the frames' times, as everywhere
            self.fps, self.duration = reader.fps, reader.duration

    def __iter__(self) -> Iterator[StreamFrame]:
        frames = self._pictures() if self._folder is not None else self._decode()
        for frame in frames:
            if frame.number == 0:
                self.orientation = orientation_of(frame.picture)
            yield frame

    def _pictures(self) -> Iterator[StreamFrame]:
        import av

        assert self._folder is not None
        for number in range(len(self._folder)):
            try:
                picture = self._folder.frames([number])[0]
            except VideoError as error:
                self.damage = error.reason
                return
            yield StreamFrame(number, number / self.fps, av.VideoFrame.from_ndarray(picture, format="rgb24"))

    def _decode(self) -> Iterator[StreamFrame]:
        container, stream = open_stream(self.path, self.threads)
        facts = Facts(self.path, container, stream)
        first: float | None = None
        number, before, shift, corrupt = 0, 0.0, 0.0, 0
        with container:
            try:
                for packet in itertools.chain(facts.watch(), [None]):
                    for picture in stream.codec_context.decode(packet):
                        seconds = None if picture.pts is None else float(picture.pts * stream.time_base)
                        first = seconds if first is None else first
                        now = number / self.fps if seconds is None or first is None else seconds - first + shift
                        if now < before - CLOCK_JUMP_S:  # two streams were joined, and the clock begins again
                            shift, now = shift + before + 1 / self.fps - now, before + 1 / self.fps
                        before = max(now, before)
                        corrupt += picture.is_corrupt
                        yield StreamFrame(number, before, picture)
                        number += 1
                found = facts.errors()
            except read_errors() as error:
                found = [f"decoding fails after {number} frames: {words(error)}"]
            found += [f"{corrupt} of {number} frames are marked corrupt"] if corrupt else []
            self.damage = "; ".join(found)
        if not number:
            raise VideoError(self.path, self.damage or "no frame can be decoded")


class LiveFrames:
    """The frames of a camera or a network stream as they come; use it in a ``with``.

    A thread takes them from the source into a queue; where the model is slower than the source, the oldest are dropped.
    A source that breaks off is opened again after growing pauses. Times are those of the source's clock; after a break
    they continue by this machine's.

    Args:
        source: ``camera:0``, ``rtsp://...``, ``http://...``.
        queue: frames that wait, at most.
        seconds: after so long it ends, also where nothing comes; 0: never.
        retries: how often in a row it is tried to open the source again; None: for ever. A connection that holds for
            10 seconds ends a row. A source that has a length and has ended is not opened again.
        opener: ``opener(source)`` -> (container, stream); for tests.
        sleep: ``sleep(seconds)`` -> whether to stop; for tests.

    Attributes:
        dropped: frames that nobody saw. ``reconnected``: times that the source was opened again. ``error``: why it
            ended for good.

    Raises VideoError where the source cannot be opened at all.
    """

    def __init__(
        self,
        source: str,
        *,
        queue: int = QUEUE,
        retries: int | None = None,
        seconds: float = 0.0,
        opener: Callable[[str], tuple[Any, Any]] | None = None,
        sleep: Callable[[float], bool] | None = None,
    ) -> None:
        self.source, self.size, self.retries, self.seconds = source, queue, retries, seconds
        self.dropped = self.reconnected = 0
        self.error = ""
        self.orientation = Orientation()
        self._opener = opener or open_live
        self._queue: deque[StreamFrame] = deque()
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._ended = False
        self._number = 0
        self._last = 0.0  # time of the newest frame
        self._begin = self._connected = 0.0
        self._tries = 0
        self._container, self._stream = self._opener(source)
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.duration = 0.0
        self._thread = threading.Thread(target=self._run, name="dust-live", daemon=True)

    def __enter__(self) -> "LiveFrames":
        self._begin = self._connected = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def __iter__(self) -> Iterator[StreamFrame]:
        first = True
        while True:
            with self._news:
                while not self._queue and not self._ended and self._left() > 0:
                    self._news.wait(min(0.5, self._left()))
                if not self._queue or self._left() <= 0:
                    return
                frame = self._queue.popleft()
            if first:
                self.orientation, first = orientation_of(frame.picture), False
            yield frame

    def _left(self) -> float:
        """Return the seconds until it is to end."""
        return self._begin + self.seconds - time.monotonic() if self.seconds else float("inf")

    # ------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                finished = self._receive()
                if self._stop.is_set() or finished or not self._open_again():
                    return
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _receive(self) -> bool:
        """Take frames until the source breaks off; True if it has come to its own end."""
        first: float | None = None
        offset, limited = 0.0, bool(self._container.duration)
        try:
            with self._container:
                for picture in self._container.decode(self._stream):
                    if self._stop.is_set():
                        return True
                    now = time.monotonic()
                    if picture.pts is None:  # RTSP's first frame, or a source without a clock
                        seconds = self._last + 1 / self.fps if first is not None else now - self._begin
                    else:
                        clock = float(picture.pts * self._stream.time_base)
                        if first is None:
                            first, offset = clock, now - self._begin if self._number else 0.0
                        seconds = clock - first + offset
                    self._put(picture, max(seconds, self._last), now)
        except read_errors() as error:
            self.error = words(error)
            return False
        self.error = "the stream ended"
        return limited

    def _put(self, picture: Any, seconds: float, now: float) -> None:
        with self._news:
            if len(self._queue) >= self.size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(StreamFrame(self._number, seconds, picture, now))
            self._number, self._last = self._number + 1, seconds
            self._news.notify_all()

    def _open_again(self) -> bool:
        """Open the source after it broke off; False where it is given up, or nobody wants it any more."""
        if time.monotonic() - self._connected >= STEADY_S:
            self._tries = 0
        while self.retries is None or self._tries < self.retries:
            pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
            logger.warning("%s: %s; it is opened again in %g s", self.source, self.error, pause)
            if self._sleep(pause) or self._stop.is_set():
                return False
            self._tries += 1
            try:
                self._container, self._stream = self._opener(self.source)
            except VideoError as error:
                self.error = error.reason
                continue
            self.reconnected, self._connected = self.reconnected + 1, time.monotonic()
            logger.warning("%s: connected again", self.source)
            return True
        return False


def open_live(source: str) -> tuple[Any, Any]:
    """Return (container, best video stream) of a camera or a URL. VideoError says what is wrong with it."""
    import av

    options: dict[str, Any] = {"timeout": TIMEOUTS_S, "metadata_errors": "ignore"}
    address = source
    if source.startswith(CAMERA):
        name = source.removeprefix(CAMERA)
        address = f"/dev/video{name}" if name.isdigit() else name
        options = {"format": "v4l2"}
    elif source.startswith("rtsp"):
        options["options"] = {"rtsp_transport": "tcp"}
    try:
        container = av.open(address, **options)
    except (*read_errors(), ValueError) as error:
        hint = "; there is no such camera" if source.startswith(CAMERA) and not os.path.exists(address) else ""
        raise VideoError(source, f"cannot be opened: {words(error)}{hint}") from error
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise VideoError(source, "has no video stream")
    return container, stream
