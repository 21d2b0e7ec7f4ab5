"""A part of a clip as a clip of its own: the frames whose times lie in [start, end), read at the cost of a clip."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dust.decode.clip import Clip, ClipReader, HasTimes, say_once
from dust.decode.index import VideoReport
from dust.decode.pixels import FrameRequest
from dust.decode.times import rate_of
from dust.utils.errors import VideoError

SECONDS, FRAMES = "seconds", "frames"
_ROUNDING = 1e-7  # seconds: less than a tick of any file, more than what float64 loses of its times
_TICK = 1e-3  # seconds: the coarsest clock of a container in wide use
_ID = re.compile(r"(.+)#([0-9.]+(?:e[+-]\d+)?)-([0-9.]*(?:e[+-]\d+)?)(?:#\d+)?")
_PART = re.compile(r"(seconds|frames) (\S+) to (\S+)")


@dataclass(frozen=True, slots=True)
class Segment:
    """[start, end) of a clip.

    Attributes:
        start, end: seconds from the first frame's time, or frames as they are decoded, from 0; ``end`` None is the end
            of the clip.
        unit: seconds | frames.
    """

    start: float = 0.0
    end: float | None = None
    unit: str = SECONDS

    def __str__(self) -> str:
        """Return ``1.5-3``; ``1.5-`` to the end."""
        return "-".join(self.cells)

    @property
    def cells(self) -> tuple[str, str]:
        """Start and end as a list writes them."""
        return f"{self.start:.12g}", "" if self.end is None else f"{self.end:.12g}"

    @property
    def part(self) -> str:
        """Which part of a file this is, in words that :meth:`of_part` reads."""
        start, end = self.cells
        return f"{self.unit} {start} to {end or 'end'}"

    @classmethod
    def of_part(cls, part: str) -> "Segment | None":
        """Return the segment that these words say; None for others."""
        match = _PART.fullmatch(part)
        return match and cls(float(match[2]), None if match[3] == "end" else float(match[3]), match[1])

    @classmethod
    def of_id(cls, clip_id: str, path: str, unit: str) -> "Segment | None":
        """Return the segment of a clip that is called ``path#start-end``, as lists do; None for one of another name."""
        match = _ID.fullmatch(clip_id)
        if match is None or not path.replace(os.sep, "/").endswith(match[1].lstrip("./")):
            return None
        return cls(float(match[2]), float(match[3]) if match[3] else None, unit)

    def overlaps(self, other: "Segment") -> bool:
        """Tell whether both have a moment in common; False for parts of different units, which nobody can compare."""
        if Segment(unit=self.unit) == self or Segment(unit=other.unit) == other:
            return True
        before = self.end is not None and self.end <= other.start
        behind = other.end is not None and other.end <= self.start
        return self.unit == other.unit and not before and not behind

    def length(self, frames: int, fps: float) -> int:
        """Estimate how many of a clip's ``frames`` lie in it, at a steady rate of ``fps``; 0 where it begins too
        late."""
        rate = 1.0 if self.unit == FRAMES else fps
        end = frames if self.end is None else min(frames, math.ceil(self.end * rate))
        return max(0, end - math.ceil(self.start * rate - _ROUNDING))

    def bounds(self, pts: np.ndarray) -> tuple[int, int]:
        """Return the first frame, and the one behind the last, of a clip whose frames have the times ``pts`` (T,),
        seconds."""
        if self.unit == FRAMES:
            last = len(pts) if self.end is None else min(int(self.end), len(pts))
            return min(int(self.start), len(pts)), last
        times = pts - pts[0] + _ROUNDING
        first = int(np.searchsorted(times, self.start, side="left"))
        return first, len(pts) if self.end is None else int(np.searchsorted(times, self.end, side="left"))


class SegmentReader(Clip):
    """The frames of a segment: frame 0 is its first one.

    ``pts`` are the times in the whole clip; ``fps`` is the rate of these frames; damage is that of the whole file.

    Args:
        reader: of the whole clip, which is closed with this one.

    Raises:
        VideoError: no frame lies in the segment, or the reader knows no times.
    """

    def __init__(self, reader: ClipReader, segment: Segment) -> None:
        self._reader, self._segment = reader, segment
        self.path, self.tells_damage = reader.path, reader.tells_damage
        self.height, self.width, self.report = reader.height, reader.width, reader.report
        whole = self._times()
        self._first, last = segment.bounds(whole)
        step = 1 / (reader.fps or 1.0)
        length = f"{len(whole)} frames, {whole[-1] - whole[0] + step:.6g} s"
        if self._first >= last:
            raise VideoError(self.path, f"no frame lies in {segment.part}; the file has {length}")
        self.pts = whole[self._first : last]
        self.fps = rate_of(self.pts, reader.fps, _TICK)
        shown = len(whole) if segment.unit == FRAMES else whole[-1] - whole[0] + 2 * step
        if segment.end is not None and segment.end > shown:
            say_once("segment", self.path, f"{segment.part} goes beyond its end; the file has {length}")

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        self._numbers(requests)
        found = self._reader.read(self._moved(requests))
        self.report = self._reader.report
        first, last = self._segment.bounds(self._times())
        if last - first != len(self):  # reading has told that the index was wrong
            raise VideoError(self.path, f"{last - first} frames lie in {self._segment.part}, not {len(self)}")
        if first != self._first:
            self._first = first
            found = self._reader.read(self._moved(requests))
        return found

    def _times(self) -> np.ndarray:
        if not isinstance(self._reader, HasTimes):
            kind = type(self._reader).__name__
            raise VideoError(
                self.path, f"{kind} knows no times of frames (pts), so no segment can be read: derive it from Clip"
            )
        return self._reader.pts

    def _moved(self, requests: Sequence[FrameRequest]) -> list[FrameRequest]:
        """Return the same requests by the numbers of the whole clip."""
        return [replace(one, indices=[int(number) + self._first for number in one.indices]) for one in requests]

    def check(self) -> VideoReport:
        """Decode the whole file once and report."""
        self.report = self._reader.check()
        return self.report

    def close(self) -> None:
        self._reader.close()


def part_of(reader: ClipReader, segment: Segment | None) -> ClipReader:
    """Return the reader of a segment of a clip; of the whole for None. VideoError, with the reader closed, if it is
    empty."""
    if segment is None:
        return reader
    try:
        return SegmentReader(reader, segment)
    except VideoError:
        reader.close()
        raise
