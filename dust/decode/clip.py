"""What a reader of clips is, what all readers share, and the registry by which another backend is handed in.

    @DECODER_REGISTRY.register()
    class MyReader(Clip):
        def __init__(self, path, *, threads=1, resize="swscale", index_cache=None, aspect="stored"): ...
        def read(self, requests): ...

and ``DATA.DECODER: MyReader``, with the file that defines it in IMPORTS.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dust.decode.index import VideoReport
from dust.decode.pixels import PIXEL_ASPECTS, RESIZES, FrameConverter, FrameRequest, rescaled
from dust.utils.errors import ConfigError, DustError
from dust.utils.protocols import members, public_names
from dust.utils.registry import Registry, log_once

logger = logging.getLogger(__name__)


class ClipReader(Protocol):
    """What is asked of whatever reads a clip, a video file or a folder of pictures. It closes at the end of a ``with``.

    Attributes:
        path: of the clip.
        height, width: of a frame as it is displayed, pixels.
        fps: frames per second, the average by the frames' times. Whatever counts in seconds reads this.
        report: what is known of damage so far; a read may learn more.
        tells_damage: False where the report cannot know of damage, and says so.
    """

    path: str
    height: int
    width: int
    fps: float
    report: VideoReport
    tells_damage: bool

    def __len__(self) -> int:
        """Return the number of frames that can be asked for."""
        ...

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        """Return the answers to several requests out of one decode: uint8 (T, H, W, 3) RGB each, with crops
        (crops, T, h, w, 3). IndexError for a frame that is not there, VideoError for one that cannot be read."""
        ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return whole frames by number: uint8 (T, H, W, 3) RGB."""
        ...

    def check(self) -> VideoReport:
        """Decode everything once and report."""
        ...

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> "ClipReader": ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class HasTimes(Protocol):
    """A reader that knows when its frames are shown: ``pts`` (T,) float64 seconds, rising. Default: it reads no segment
    of a clip."""

    pts: np.ndarray


#: Readers of video files: classes that take (path, threads=, resize=, index_cache=, aspect=), see ``VideoReader``.
DECODER_REGISTRY = Registry(
    "decoder", aliases={"pyav": "VideoReader", "torchcodec": "TorchCodecReader"}, protocols=(ClipReader,)
)


def reader_class(decoder: str) -> Callable[..., ClipReader]:
    """Return the class that DATA.DECODER names, looked at once.

    Raises:
        ConfigError: there is none of that name, it lacks what a reader has, or what it needs is not installed.
    """
    cls = _checked_class(decoder)
    log_once(logger, logging.INFO, "DATA.DECODER %s: %s reads video files", decoder, cls.__qualname__)
    if not cls.tells_damage:
        message = (
            "DATA.DECODER %s cannot tell damage: a clip counts as bad only where no frame comes at all, and damaged "
            "ones may give wrong pictures; DATA.DECODER pyav checks every clip"
        )
        log_once(logger, logging.WARNING, message, decoder)
    made: Callable[..., ClipReader] = cls
    return made


@functools.cache
def _checked_class(decoder: str) -> Any:
    cls: Any = DECODER_REGISTRY.get(decoder)
    missing = sorted(set(members(ClipReader)) - public_names(cls))
    if missing:
        raise ConfigError(
            f"DATA.DECODER {decoder}: {cls.__name__} has no {', '.join(missing)}; derive it from {Clip.__module__}.Clip"
        )
    if issubclass(cls, Clip):
        cls.require()
    return cls


class Sink:
    """Collects the pictures of one request: (T, H, W, 3), or (crops, T, h, w, 3)."""

    def __init__(self, request: FrameRequest, converter: FrameConverter) -> None:
        self.request, self.converter = request, converter
        self.places: dict[int, list[int]] = {}
        for place, number in enumerate(request.indices):
            self.places.setdefault(int(number), []).append(place)
        self.out: np.ndarray | None = None
        self.odd: dict[int, np.ndarray] = {}

    def take(self, number: int, frame: Any) -> None:
        places = self.places.get(number)
        if places is None:
            return
        pictures = self.converter(frame)
        if self.out is None:
            self.out = np.empty((len(pictures), len(self.request.indices), *pictures[0].shape), np.uint8)
        if pictures[0].shape != self.out.shape[2:]:  # the file changes its picture size, and no size was asked for
            self.odd |= {place: pictures[0].copy() for place in places}
            return
        for crop, picture in enumerate(pictures):
            for place in places:
                self.out[crop, place] = picture

    def result(self) -> np.ndarray:
        if self.out is None:  # no frame was asked for
            return np.empty((0, self.converter.height, self.converter.width, 3), np.uint8)
        out = self.out
        if self.odd:
            out = self._one_size()
        return out if self.request.crops is not None else out[0]

    def _one_size(self) -> np.ndarray:
        assert self.out is not None
        box = self.request.box
        height, width = (round(box[2]), round(box[3])) if box else (self.converter.height, self.converter.width)
        rows = [self.odd.get(place, self.out[0, place]) for place in range(self.out.shape[1])]
        return np.stack([row if row.shape[:2] == (height, width) else rescaled(row, height, width) for row in rows])[
            None
        ]


class Clip:
    """What all readers share; each subclass sets the attributes and says how frames are read."""

    #: False where ``report`` cannot know of damage.
    tells_damage = True

    path: str
    height: int
    width: int
    fps: float
    pts: np.ndarray
    resize: str
    report: VideoReport

    @classmethod
    def require(cls) -> None:
        """Raise ConfigError, with what to install, where a library that this reader needs is absent."""

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.pts[-1] - self.pts[0]) + 1.0 / self.fps

    def frames(
        self,
        indices: Sequence[int],
        box: tuple[float, float, float, float] | None = None,
        size: tuple[int, int] | None = None,
        crops: tuple[tuple[int, int, int, int], ...] | None = None,
    ) -> np.ndarray:
        """Return frames by number, as asked (any order, repeats too): uint8 (T, H, W, 3) RGB; with ``crops``
        (crops, T, h, w, 3). ``box``, ``size`` and ``crops`` as in FrameRequest.

        A file may change its picture size on the way: a request without size gets frames as they are, but where its
        frames differ among themselves, all at ``height`` x ``width``.

        Raises IndexError for a number outside 0..len-1, VideoError where damage hides a frame.
        """
        return self.read([FrameRequest(indices, box, size, crops)])[0]

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        """Return the answers to several requests out of one decode, each as ``frames`` gives it."""
        raise NotImplementedError

    def _numbers(self, requests: Sequence[FrameRequest]) -> list[int]:
        """Return every wanted frame once, in order; IndexError for one that is not there."""
        wanted = sorted({int(number) for request in requests for number in request.indices})
        if wanted and (wanted[0] < 0 or wanted[-1] >= len(self)):
            bad = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise IndexError(f"{self.path}: frame {bad} is asked for, but it has frames 0 to {len(self) - 1}")
        return wanted

    def check(self) -> VideoReport:
        """Decode everything once and report."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def deal(sinks: Sequence[Sink]) -> Callable[[int, Any], None]:
    """Hand a frame to every request."""

    def take(number: int, frame: Any) -> None:
        for consumer in sinks:
            consumer.take(number, frame)

    return take


def check_resize(resize: str) -> str:
    if resize not in RESIZES:
        raise DustError(f"resize is {resize!r}; it must be one of {', '.join(RESIZES)}")
    return resize


def check_aspect(aspect: str) -> str:
    if aspect not in PIXEL_ASPECTS:
        raise DustError(f"aspect is {aspect!r}; it must be one of {', '.join(PIXEL_ASPECTS)}")
    return aspect


_said: dict[str, set[str]] = {}


def say_once(kind: str, path: str, remark: str, most: int = 20) -> None:
    """Warn of what is odd about a file and is no damage: once for each, and for ``most`` files of one kind in this
    process, since a data set may have thousands of them. The log at the level DEBUG has all."""
    paths = _said.setdefault(kind, set())
    if path in paths:
        return
    if len(paths) <= most:  # a process that reads for ever remembers no more
        paths.add(path)
    last = " (more files like this are not named)" if len(paths) == most else ""
    logger.log(logging.WARNING if len(paths) <= most else logging.DEBUG, "%s: %s%s", path, remark, last)
