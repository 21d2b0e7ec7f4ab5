"""When the frames of a file are shown, and how many a second that makes: by the file's own times, not by its header."""

from typing import Any

import numpy as np

NO_PTS = int(np.iinfo(np.int64).min)
DEFAULT_RATE = 25.0  # frames per second, where neither times nor a header tell
_DISAGREEMENT = 0.02  # a header's rate that differs from the times' by more than this share is told
_SPLICE_S = 10.0  # broadcasting formats join streams whose clocks differ; FFmpeg takes such a step in them for a splice
_PLAUSIBLE = 480.0  # frames per second; above it, and without times, a "rate" is the tick of the file's clock


def frame_times(
    pts: np.ndarray, order: np.ndarray | None, count: int, base: float, rate: float, *, splices: bool = False
) -> np.ndarray:
    """Return (count,) seconds of each frame, rising; by the stated ``rate`` where the file has no usable times.

    With ``splices`` (broadcasting formats), where the clock falls back or leaps ahead, the frames behind keep the
    usual step. Elsewhere times that fall are those of decoding (AVI), and sorting brings them right.

    Args:
        pts: (packets,) ticks of ``base`` seconds in file order, NO_PTS where missing.
        order: (count,) the packet of each frame; None where that is not known.
    """
    known = pts[order] if order is not None else pts
    if len(known) < count or (known == NO_PTS).any():
        start = float(known[known != NO_PTS].min() * base) if (known != NO_PTS).any() else 0.0
        return start + np.arange(count) / (rate or DEFAULT_RATE)
    steps = np.diff(known)
    odd = (steps <= 0) | (steps * base > _SPLICE_S)
    if order is None or not splices or not odd.any() or odd.all():
        return np.sort(known)[:count] * base
    steps[odd] = max(1, int(np.median(steps[~odd])))
    return np.concatenate([known[:1], known[0] + np.cumsum(steps)]) * base


def rate_of(seconds: np.ndarray, stated: float, tick: float) -> float:
    """Return the mean rate of frames by their times, frames per second.

    The stated rate is taken exactly where the times confirm it to the tick.

    Args:
        seconds: (N,) of the frames, rising.
        stated: by the header, 0 = unknown. It is the answer where there is one time only.
        tick: seconds, the times' resolution.
    """
    count, span = len(seconds) - 1, float(seconds[-1] - seconds[0])
    if span <= 0:
        return stated or DEFAULT_RATE
    if stated and abs(count - span * stated) <= 2 * tick * stated:
        return stated
    return count / span


def stated_rate(stream: Any) -> float:
    """Return the frames per second by the header, or by FFmpeg's guess where it says nothing credible; 0 where neither
    does."""
    rates = (float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))
    return next((rate for rate in rates if 0 < rate <= _PLAUSIBLE), 0.0)


def disagreement(count: int, rate: float, header: float) -> list[str]:
    """Return a remark where the header states another rate (0 = none) than the times of ``count`` frames give."""
    if count < 2 or not header or abs(header - rate) <= _DISAGREEMENT * rate:
        return []
    return [f"its header says {header:g} frames per second, the times of its frames {rate:.5g}: these are believed"]
