"""How far a sensor's clock is from a video's: where motion in the picture and motion of the sensor agree best.

Both become a curve at an even rate: the mean change of the picture from frame to frame, and the change of the
sensor's values, each channel's over its deviation. The offset is the lag at which the two correlate most (Pearson, over
what both cover: five seconds at least, and half of the shorter one, since short stretches correlate by chance). It is
an estimate to be looked at, and nothing applies it: write it into a list's column offset_s.
"""

import math
import os
from dataclasses import dataclass

import numpy as np

from dust.datasets.multimodal.series import Series
from dust.decode.reader import VideoReader
from dust.utils.errors import ConfigError, DataError

RATE = 20.0  # Hz of the curves: offsets are multiples of 50 ms
SMOOTH_S = 0.25
LEAST_S = 5.0  # seconds that both must cover
APART_S = 1.0  # seconds between the best lag and another one that counts as another answer
SHORT_SIDE = 64
AT_ONCE = 64  # frames that are decoded together


@dataclass(frozen=True, slots=True)
class Offset:
    """Attributes:
    offset_s: what the video's clock shows at the sensor's time 0, seconds.
    correlation: at that lag, -1 to 1.
    next_offset_s, next_correlation: the best one that is more than a second away; NaN where there is none.
    chance: probability that two curves as slow as these, which have nothing to do with each other, correlate as much
        at one of the lags that were tried.
    """

    offset_s: float
    correlation: float
    next_offset_s: float
    next_correlation: float
    chance: float

    @property
    def is_clear(self) -> bool:
        """Whether it is above 0.5, the next one at least a third below it, and chance gives as much once in 100."""
        return self.correlation > 0.5 and not self.next_correlation > 2 / 3 * self.correlation and self.chance < 0.01


def motion_of_video(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """(times (T - 1,) seconds from the first frame, mean absolute change of grey values from one frame to the next).

    Raises:
        VideoError: it cannot be read.
        DataError: fewer than two frames.
    """
    changes: list[np.ndarray] = []
    last: np.ndarray | None = None
    with VideoReader(path) as reader:
        scale = min(1.0, SHORT_SIDE / min(reader.height, reader.width))
        size = max(1, round(reader.height * scale)), max(1, round(reader.width * scale))
        times = np.asarray(reader.pts, np.float64) - reader.pts[0]
        for at in range(0, len(reader), AT_ONCE):
            frames = reader.frames(range(at, min(at + AT_ONCE, len(reader))), size=size)
            grey = frames.mean(axis=-1, dtype=np.float32)
            grey = grey if last is None else np.concatenate([last[None], grey])
            changes.append(np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)))
            last = grey[-1]
    change = np.concatenate(changes)
    if not len(change):
        raise DataError(f"{path}: a single frame, which shows no motion")
    return (times[1:] + times[:-1]) / 2, change


def motion_of_series(series: Series, path: str) -> tuple[np.ndarray, np.ndarray]:
    """(times (L - 1,) seconds, speed of the values: root mean square over the channels, each over its deviation).

    Raises:
        DataError: no times, or nothing that changes.
    """
    if series.times is None or len(series.times) < 3:
        raise DataError(f"{path}: no times, or fewer than three: a column called time, in seconds, is needed")
    values = series.values.astype(np.float64)
    spread = np.nanstd(values, axis=1, keepdims=True)
    moving = spread[:, 0] > 0
    if not moving.any():
        raise DataError(f"{path}: no channel changes, so that nothing can be compared")
    speed = np.diff(values[moving] / spread[moving], axis=1) / np.diff(series.times)
    speed = np.sqrt(np.nanmean(np.square(np.nan_to_num(speed)), axis=0))
    return (series.times[1:] + series.times[:-1]) / 2, speed


def estimate_offset(
    video: tuple[np.ndarray, np.ndarray], sensor: tuple[np.ndarray, np.ndarray], most: float = 60.0
) -> Offset:
    """Return the lag between two curves (times, values).

    Args:
        most: seconds; offsets from -most to most are tried.

    Raises:
        ConfigError: ``most`` is not above 0.
        DataError: at no lag both cover LEAST_S seconds and half of the shorter one.
    """
    if not most > 0:
        raise ConfigError(f"--most {most:g}: seconds above 0")
    (start, a), (own_start, b) = _even(*video), _even(*sensor)
    shift = own_start - start  # seconds that the first values are apart, at offset 0
    first, last = int(np.ceil((-most + shift) * RATE)), int(np.floor((most + shift) * RATE))
    lags = np.arange(first, last + 1)
    least = max(LEAST_S * RATE, min(len(a), len(b)) / 2)
    found = np.array([_correlation(a, b, int(lag), least) for lag in lags])
    if np.isnan(found).all():
        raise DataError(f"video and sensor have no {least / RATE:g} seconds in common at any offset up to {most:g} s")
    best = int(np.nanargmax(found))
    others = np.where(np.abs(lags - lags[best]) > APART_S * RATE, found, np.nan)
    offsets = lags / RATE - shift
    chance = _chance(a, b, int(lags[best]), float(found[best]), int(np.isfinite(found).sum()))
    if np.isnan(others).all():
        return Offset(float(offsets[best]), float(found[best]), float("nan"), float("nan"), chance)
    second = int(np.nanargmax(others))
    return Offset(float(offsets[best]), float(found[best]), float(offsets[second]), float(found[second]), chance)


def _even(times: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """The first time, and the curve at RATE from there on, smoothed: means of what falls near each point."""
    axis = np.arange(times[0], times[-1], 1 / RATE)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low, high = (np.searchsorted(times, axis + side * SMOOTH_S / 2) for side in (-1, 1))
    mean = (total[high] - total[low]) / np.maximum(high - low, 1)
    return float(times[0]), np.where(high > low, mean, np.interp(axis, times, values))


def _common(a: np.ndarray, b: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """``a[n + lag]`` and ``b[n]`` where both are."""
    a, b = a[max(lag, 0) :], b[max(-lag, 0) :]
    count = min(len(a), len(b))
    return a[:count], b[:count]


def _chance(a: np.ndarray, b: np.ndarray, lag: int, correlation: float, tried: int) -> float:
    """The probability that curves as slow as these correlate by chance at one of ``tried`` lags.

    Neighbouring points of a slow curve say the same: N of them count as N / (1 + 2 sum_k r_a(k) r_b(k)), with r the
    autocorrelations (Bartlett 1935), and as many lags count as one try. Fisher's transform is nearly normal.
    """
    a, b = _common(a, b, lag)
    alike = float(np.sum(_autocorrelation(a) * _autocorrelation(b)))
    points, tries = len(a) / max(1.0, 2 * alike - 1), max(1.0, tried / max(1.0, 2 * alike - 1))
    if points <= 4:
        return 1.0
    once = 0.5 * math.erfc(math.atanh(min(correlation, 1 - 1e-12)) * math.sqrt((points - 3) / 2))
    return -math.expm1(tries * math.log1p(-min(once, 1 - 1e-12)))


def _autocorrelation(values: np.ndarray) -> np.ndarray:
    """Pearson's of a curve with itself at every lag from 0 to where it first falls below 0; 0 from there on."""
    values = values - values.mean()
    found = np.fft.irfft(np.abs(np.fft.rfft(values, 2 * len(values))) ** 2)[: len(values)] / (values @ values)
    below = np.flatnonzero(found < 0)
    return np.where(np.arange(len(found)) < (below[0] if len(below) else len(found)), found, 0.0)


def _correlation(a: np.ndarray, b: np.ndarray, lag: int, least: float) -> float:
    """Pearson's at a lag; NaN for fewer than ``least`` points in common or a flat curve."""
    a, b = _common(a, b, lag)
    if len(a) < least:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")
