"""Pictures that a client sends one by one, as a live source."""

import contextlib
import io
import queue
import struct
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from dust.deploy.serve.limits import LARGEST, Refused

#: A message: the frame's time in seconds, a little-endian float64, and behind it a JPEG, PNG or WebP.
HEAD = struct.Struct("<d")
FORMS = ("JPEG", "PNG", "WEBP")
CLOCK = 90_000  # ticks of a second, as MPEG has them: the usual frame rates have whole numbers of them
POLL_S = 0.2  # seconds after which one who waits looks whether the other has left
WAITING = 4  # frames between the network and the stream's own queue
SOURCE = "client://frames"  # what such a source is called; an address of no protocol that anything opens


class PushedFrames:
    """A live source into which frames are pushed; ``opener`` is that of :class:`dust.decode.live.LiveFrames`.

    Args:
        fps: how many come in a second, for who counts them instead of reading their times.

    :meth:`parse` and :meth:`push` belong to who receives, the rest to the stream's thread. ``ended``: they have come to
    their own end.
    """

    #: A source with a length is not opened again at its end.
    duration = 1

    def __init__(self, fps: float = 25.0) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(WAITING)
        self._size: tuple[int, int] | None = None
        self._last = -1
        self._closed = self.ended = False
        self._stream = SimpleNamespace(time_base=Fraction(1, CLOCK), average_rate=fps)

    def opener(self, source: str) -> tuple[Any, Any]:
        return self, self._stream

    def __enter__(self) -> "PushedFrames":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, stream: Any) -> Iterator[Any]:
        """Yield the frames that are pushed, until :meth:`end`."""
        while not self._closed:
            with contextlib.suppress(queue.Empty):
                frame = self._queue.get(timeout=POLL_S)
                if frame is None:
                    return
                yield frame

    def parse(self, message: bytes) -> Any:
        """Return the frame of a message. Refused where it is none, or its time or size does not follow those before."""
        from PIL import Image

        if len(message) <= HEAD.size:
            raise Refused(422, "a message is 8 bytes of time (little-endian float64, seconds), then a picture")
        (seconds,) = HEAD.unpack_from(message)
        if not 0 <= seconds < 1e9 or round(seconds * CLOCK) <= self._last:
            raise Refused(422, f"a frame at {seconds:g} s: times are seconds from 0 on, and rise")
        try:
            with Image.open(io.BytesIO(message[HEAD.size :]), formats=FORMS) as image:
                if image.width * image.height > LARGEST:
                    raise Refused(422, f"a picture of {image.width}x{image.height} pixels: far too many")
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Refused(422, f"a frame cannot be read as {', '.join(FORMS)}") from error
        if self._size is not None and pixels.shape[:2] != self._size:
            raise Refused(422, f"frames of {pixels.shape[1]}x{pixels.shape[0]} pixels after others: keep one size")
        self._size, self._last = (pixels.shape[0], pixels.shape[1]), round(seconds * CLOCK)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        return frame

    def push(self, message: bytes) -> None:
        """Parse a message and hand its frame on; wait while the stream has not taken those before."""
        self._put(self.parse(message))

    def end(self) -> None:
        """Note that no more frames come, and that all that came are wanted."""
        self.ended = True
        self._put(None)

    def close(self) -> None:
        """Note that nobody takes frames any more, or nobody sends them: who waits here is let go."""
        self._closed = True

    def _put(self, frame: Any) -> None:
        while not self._closed:
            try:
                self._queue.put(frame, timeout=POLL_S)
                return
            except queue.Full:
                continue
