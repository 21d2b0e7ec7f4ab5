"""How far a sensor's clock is from a video's: where motion in the picture and motion of the sensor agree best.

Both become a curve at an even rate: the mean change of the picture from frame to frame, and the change of the
sensor's values, each channel's over its deviation. The offset is the lag at which the two correlate most (Pearson, over
what both cover: five seconds at least, and half of the shorter one, since short stretches correlate by chance). A clock
that runs fast or slow blurs this, so the sensor's times are tried stretched and shrunk as well. Both are estimates to
be looked at, and nothing applies them: write them into a list's columns offset_s and drift_ppm.
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
_MOST_PPM = 50_000  # more is no drift
SEEN_S, SEEN_GAIN = 0.2, 0.02  # a drift is seen if it moves both ends apart by so much, and correlates by so much more


@dataclass(frozen=True, slots=True)
class Offset:
    """Attributes:
    offset_s: what the video's clock shows at the sensor's time 0, seconds.
    correlation: at that lag, -1 to 1.
    next_offset_s, next_correlation: the best one that is more than a second away; NaN where there is none.
    chance: probability that two curves as slow as these, which have nothing to do with each other, correlate as much
        at one of the lags that were tried.
    drift_ppm: by how many millionths the video's clock is faster than the sensor's; 0 where none is seen.
    least_ppm: so much, or more, would have been seen; 0 where none was tried.
    """

    offset_s: float
    correlation: float
    next_offset_s: float
    next_correlation: float
    chance: float
    drift_ppm: int = 0
    least_ppm: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether it is above 0.5, the next one at least a third below it, and chance gives as much once in 100."""
        return self.correlation > 0.5 and not self.next_correlation > 2 / 3 * self.correlation and self.chance < 0.01


def motion_of_video(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Return (times (T - 1,) seconds from the first frame, mean absolute change of grey values from one frame to the
    next).

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
    """Return (times (L - 1,) seconds, speed of the values: root mean square over the channels, each over its
    deviation).

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
    video: tuple[np.ndarray, np.ndarray],
    sensor: tuple[np.ndarray, np.ndarray],
    most: float = 60.0,
    drift: float = 300.0,
) -> Offset:
    """Return the lag between two curves (times, values), and how much faster one clock is.

    The video shows ``offset_s + (1 + drift_ppm / 1e6) * time`` where the sensor says ``time``.

    Args:
        most: seconds; offsets from -most to most are tried.
        drift: millionths; drifts from -drift to drift are tried, in steps that move the ends of what both cover by a
            point of the curves. 0 tries none.

    Raises:
        ConfigError: ``most`` is not above 0, or ``drift`` below 0 or so large that it is no drift (above 50,000).
        DataError: at no lag both cover LEAST_S seconds and half of the shorter one.
    """
    if not most > 0:
        raise ConfigError(f"--most {most:g}: seconds above 0")
    if not 0 <= drift <= _MOST_PPM:
        raise ConfigError(f"--drift {drift:g}: millionths from 0 to {_MOST_PPM:,}")
    span = min(video[0][-1] - video[0][0], sensor[0][-1] - sensor[0][0])
    step = math.ceil(2e6 / (RATE * max(span, 1.0)))  # whole numbers, which a list can say
    steps = [sign * ppm for ppm in range(step, int(drift) + 1, step) for sign in (1, -1)]
    curve = _even(*video)
    still = best = _lags(curve, sensor, most, 0)
    for ppm in steps:
        best = max(best, _lags(curve, sensor, most, ppm), key=lambda one: one.best)
    if best.ppm and (abs(best.ppm) * span < SEEN_S * 1e6 or best.best - still.best < SEEN_GAIN):
        best = still
    return _told(best, 1 + len(steps), 2 * SEEN_S * 1e6 / span if steps else 0.0)


@dataclass(frozen=True)
class _Lags:
    """Correlations at all lags (NaN where too little is common) of a sensor whose clock was changed by ``ppm`` around
    its time ``middle``."""

    ppm: int
    middle: float
    a: np.ndarray
    b: np.ndarray
    lags: np.ndarray
    offsets: np.ndarray
    found: np.ndarray

    @property
    def best(self) -> float:
        return float(np.nanmax(self.found))


def _lags(video: tuple[float, np.ndarray], sensor: tuple[np.ndarray, np.ndarray], most: float, ppm: int) -> _Lags:
    """Correlate at every lag. ``video``: as :func:`_even` gives it."""
    (start, a), (times, values) = video, sensor
    middle = float(times[0] + times[-1]) / 2
    own_start, b = _even(middle + (times - middle) * (1 + ppm * 1e-6), values)
    shift = own_start - start  # seconds that the first values are apart, at offset 0
    low, high = np.ceil((-most + shift) * RATE), np.floor((most + shift) * RATE)
    lags = np.arange(max(low, -len(b)), min(high, len(a)) + 1, dtype=int)  # beyond, nothing is in common
    least = max(LEAST_S * RATE, min(len(a), len(b)) / 2)
    found = _correlations(a, b, lags, least)
    if np.isnan(found).all():
        raise DataError(f"video and sensor have no {least / RATE:g} seconds in common at any offset up to {most:g} s")
    return _Lags(ppm, middle, a, b, lags, lags / RATE - shift, found)


def _told(one: _Lags, drifts: int, least_ppm: float) -> Offset:
    """Return the best lag of one drift, of so many that were tried."""
    best = int(np.nanargmax(one.found))
    others = np.where(np.abs(one.lags - one.lags[best]) > APART_S * RATE, one.found, np.nan)
    tried = int(np.isfinite(one.found).sum()) * drifts
    chance = _chance(one.a, one.b, int(one.lags[best]), float(one.found[best]), tried)
    offsets = one.offsets - one.middle * one.ppm * 1e-6  # at the sensor's time 0
    second = None if np.isnan(others).all() else int(np.nanargmax(others))
    next_best = (math.nan, math.nan) if second is None else (float(offsets[second]), float(one.found[second]))
    return Offset(float(offsets[best]), float(one.found[best]), *next_best, chance, one.ppm, least_ppm)


def _even(times: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the first time, and the curve at RATE from there on, smoothed: means of what falls near each point."""
    axis = np.arange(times[0], times[-1], 1 / RATE)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low, high = (np.searchsorted(times, axis + side * SMOOTH_S / 2) for side in (-1, 1))
    mean = (total[high] - total[low]) / np.maximum(high - low, 1)
    return float(times[0]), np.where(high > low, mean, np.interp(axis, times, values))


def _common(a: np.ndarray, b: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``a[n + lag]`` and ``b[n]`` where both are."""
    a, b = a[max(lag, 0) :], b[max(-lag, 0) :]
    count = min(len(a), len(b))
    return a[:count], b[:count]


def _chance(a: np.ndarray, b: np.ndarray, lag: int, correlation: float, tried: int) -> float:
    """Return the probability that curves as slow as these correlate by chance at one of ``tried`` lags.

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
    """Return Pearson's correlation of a curve with itself at every lag from 0 to where it first falls below 0; 0 from
    there on."""
    values = values - values.mean()
    found = np.fft.irfft(np.abs(np.fft.rfft(values, 2 * len(values))) ** 2)[: len(values)] / (values @ values)
    below = np.flatnonzero(found < 0)
    return np.where(np.arange(len(found)) < (below[0] if len(below) else len(found)), found, 0.0)


def _correlations(a: np.ndarray, b: np.ndarray, lags: np.ndarray, least: float) -> np.ndarray:
    """Return Pearson's correlation of ``a[n + lag]`` and ``b[n]`` at each lag; NaN for fewer than ``least`` points in
    common or a flat curve. The sums of products of all lags at once, by Fourier's transform."""
    a, b = a - a.mean(), b - b.mean()
    size = 1 << (len(a) + len(b) - 1).bit_length()  # of other lengths the transform may take minutes
    products = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)[lags % size]
    begin_a, begin_b = np.maximum(lags, 0), np.maximum(-lags, 0)
    count = np.minimum(len(a) - begin_a, len(b) - begin_b)
    sums = []
    for curve, begin in ((a, begin_a), (b, begin_b)):
        for values in (curve, curve * curve):
            total = np.concatenate([[0.0], np.cumsum(values)])
            sums.append(total[begin + count] - total[begin])
    sum_a, squares_a, sum_b, squares_b = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (squares_a - sum_a**2 / count) * (squares_b - sum_b**2 / count)
        found = (products - sum_a * sum_b / count) / np.sqrt(spread)
    flat = spread <= 1e-18 * max(1e-300, float(a @ a) * float(b @ b))
    return np.where((count >= max(least, 1)) & ~flat, found, np.nan)
