"""Clips that slide over a stream of frames: each frame is decoded and converted once, whatever windows it is in."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.datasets.transforms.clip import EvalTransform
from dust.datasets.transforms.frames import ClipSampler, dense_window
from dust.decode.live import StreamFrame
from dust.decode.pixels import FrameConverter, FrameRequest, Orientation
from dust.utils.errors import ConfigError

FAR = 1 << 40  # frames: an end that no window reaches


@dataclass(frozen=True)
class WindowRule:
    """Which frames make a window.

    Attributes:
        offsets: of each frame of the clip from the window's first one, in positions, rising.
        length: of a window, and ``step`` from one to the next, in positions.
        rate: positions per second.
    """

    offsets: tuple[int, ...]
    length: float
    step: int
    rate: float


def window_rule(sampler: ClipSampler, fps: float, *, window: float = 0.0, stride: float = 0.0) -> WindowRule:
    """Return the windows of a video of ``fps`` frames per second, whose positions are its frames.

    Args:
        sampler: how a clip was sampled in training.
        window: seconds; 0 is the span of a training clip. Within a window of another length a clip is sampled as the
            centre view of a video that long.
        stride: seconds from one window to the next; 0 is half a window.

    Raises:
        ConfigError: the sampling has no length of its own, so ``window`` must be given; or a length that cannot be.
    """
    if window < 0 or stride < 0:
        raise ConfigError(f"window {window:g} s, stride {stride:g} s: they must be above 0, or 0 for the training's")
    frames = sampler.num_frames
    if window:
        length: float = max(round(window * fps), 1)
        offsets = sampler.val(int(length), fps)
    elif sampler.clips_per_view > 1 and sampler.span(fps):
        length = sampler.span(fps)
        offsets = sampler.val(max(round(length), 1), fps)
    elif sampler.mode == "dense":
        length = sampler.span(fps)
        offsets = dense_window(FAR, 0, length, frames)
    elif sampler.mode == "vjepa":
        length = sampler.span(fps)
        offsets = sampler.val(int(length), fps)
    elif sampler.mode == "videomae_dense":
        length = sampler.span(fps)
        offsets = [number * sampler.sampling_rate for number in range(frames)]
    else:
        raise ConfigError(
            f"DATA.SAMPLING {sampler.mode} spreads its frames over a whole video, so a window has no length of its "
            "own: say how many seconds, about as long as a training clip (--window SECONDS)"
        )
    step = max(round(stride * fps if stride else length / 2), 1)
    return WindowRule(tuple(offsets), max(float(length), 1.0), step, fps)


@dataclass(eq=False)
class ClipWindow:
    """A window: ``start`` in positions, and the pictures that it has so far, (crops, h, w, 3) uint8 each. ``begin`` and
    ``end``: seconds of its first frame, and of what follows its last one. ``arrived``: when its last frame did."""

    start: float
    pictures: list[np.ndarray] = field(default_factory=list)
    begin: float = 0.0
    end: float = 0.0
    arrived: float = 0.0

    def video(self) -> Tensor:
        """Return uint8 (crops, C, T, h, w)."""
        return torch.from_numpy(np.stack(self.pictures, axis=1)).permute(0, 4, 1, 2, 3).contiguous()


class SlidingClips:
    """Makes windows of frames that are pushed one by one, in order.

    A window takes for each of its moments the last frame that is not after it. A file's positions are its frame
    numbers, so these are the very frames; a live source's are times, so that a frame more or less does not matter.

    Args:
        rule: which windows.
        convert: makes (crops, h, w, 3) uint8 of a picture; called once for a frame that some window takes.
        gap: positions without a frame after which windows begin again; 0: never.

    Attributes:
        restarts: how often a gap ended all windows.
    """

    def __init__(self, rule: WindowRule, convert: Callable[[Any], np.ndarray], *, gap: float = 0.0) -> None:
        self.rule, self.convert, self.gap = rule, convert, gap
        self.restarts = 0
        self._open: deque[ClipWindow] = deque()
        self._position = 0.0  # of the newest frame
        self._newest: StreamFrame | None = None
        self._next = 0.0  # where the next window begins
        self._made = 0

    def push(self, position: float, frame: StreamFrame) -> Iterator[ClipWindow]:
        """Take the next frame; yield the windows that are full now."""
        if self._newest is None:
            self._next = position
        elif self.gap and position - self._position > self.gap:
            self._open.clear()
            self._next, self.restarts = position, self.restarts + 1
        else:
            yield from self._fill(position)
        self._position, self._newest = position, frame

    def finish(self) -> Iterator[ClipWindow]:
        """End the stream: yield the windows that its last frame fills; if there was none at all, one in which the
        last frame is repeated."""
        if self._newest is None:
            return
        yield from self._fill(self._position + 1)
        if not self._made and self._open:
            first = self._open[0]
            first.pictures += [self._picture()] * (len(self.rule.offsets) - len(first.pictures))
            self._made += 1
            first.end = self._newest.time + 1 / self.rule.rate
            yield first

    def _fill(self, end: float) -> Iterator[ClipWindow]:
        """Give the newest frame to all windows whose moments lie between it and ``end``."""
        assert self._newest is not None
        while self._next < end:
            self._open.append(ClipWindow(self._next))
            self._next += self.rule.step
        picture, offsets, frame = None, self.rule.offsets, self._newest
        rest = (self.rule.length - offsets[-1]) / self.rule.rate
        for window in self._open:
            while len(window.pictures) < len(offsets) and window.start + offsets[len(window.pictures)] < end:
                picture = self._picture() if picture is None else picture
                if not window.pictures:
                    window.begin = max(frame.time - offsets[0] / self.rule.rate, 0.0)
                window.pictures.append(picture)
                window.end, window.arrived = frame.time + rest, frame.arrived
        while self._open and len(self._open[0].pictures) == len(self.rule.offsets):
            self._made += 1
            yield self._open.popleft()

    def _picture(self) -> np.ndarray:
        assert self._newest is not None
        return self.convert(self._newest.picture)


class CropConverter:
    """A frame -> its test crops, (crops, h, w, 3) uint8, as a dataset's reader makes them.

    Args:
        transform: the crops.
        resize: swscale | torch.
        orientation: asked once, at the first frame: how stored pixels become the displayed picture.
    """

    def __init__(self, transform: EvalTransform, resize: str, orientation: Callable[[], Orientation]) -> None:
        self.transform, self.resize, self.orientation = transform, resize, orientation
        self._converter: FrameConverter | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        if self._converter is None:
            turn = self.orientation()
            height, width = (frame.width, frame.height) if turn.transpose else (frame.height, frame.width)
            geometry = self.transform.geometry(height, width)
            request = FrameRequest((), geometry.box, geometry.size, geometry.crops)
            self._converter = FrameConverter(request, height, width, turn, self.resize)
        return np.stack(self._converter(frame))


def extents(starts: Sequence[float], ends: Sequence[float], duration: float) -> list[tuple[float, float]]:
    """Return the part of the time for which each of several overlapping windows answers: up to the middle of what it
    shares with its neighbours; the first begins at 0, and the last ends with the video.

    Args:
        starts, ends: of the windows, seconds, rising.
        duration: of the video; 0: the last window's end.
    """
    cuts = [(before + after) / 2 for before, after in zip(ends, starts[1:], strict=False)]
    if not ends:
        return []
    last = duration if duration > starts[-1] else ends[-1]
    return list(zip([0.0, *cuts], [*cuts, last], strict=True))
