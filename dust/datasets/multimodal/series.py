"""One sensor series: reading it from a file, and bringing it to the length that the model takes.

Rules (DATASET.md says them with examples):

* a .npy or .npz array is (channels, length), unless only its last axis is SERIES.NUM_CHANNELS: then (length, channels);
* a .csv (or .parquet) has a row per time point and a column per channel; a header is optional; a column called time, t,
  timestamp or seconds holds the times, in seconds; an .npz may hold such an array; an .edf has its own;
* times must increase; with SERIES.TIMES mend rows are put in the order of their times, and rows of one time become
  their mean, channel by channel, missing values left out; a step of more than five times the median step is a gap;
* a window [start, end) is in seconds of the recording's clock: offset_s + (1 + drift_ppm / 1e6) * the file's time;
* a missing value is NaN, in a csv also an empty cell, NA, N/A, null or None. Resampling is linear between the two
  neighbours, without a low-pass filter, and never across a missing value or a gap: such a point is missing, too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.datasets.arrays import ArrayFiles, split_reference
from dust.datasets.multimodal.series_files import GAP, ON_POINT, SUFFIXES, read_npz, read_table_of, resample
from dust.utils.arrays import StoredArray, read_npy
from dust.utils.errors import SampleError

MOST_BETWEEN = 10.0  # points that SERIES.RATE may make of one step of a file; more, and its times are of another unit
_YEAR_5000 = 9.56e10  # seconds since 1970
_MOST_POINTS = 1 << 28  # of one series at SERIES.RATE, which a single wrong time could ask for


@dataclass(slots=True)
class Series:
    """``values``: (C, L) float32, NaN where missing. ``times``: (L,) float64 seconds, increasing; None without any."""

    values: np.ndarray
    times: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a recording is meant, and how the series' own clock goes.

    Attributes:
        start, end: seconds on the recording's clock, half-open; None is its beginning, or its end.
        offset_s: what that clock shows at the file's time 0.
        drift_ppm: by how many millionths it is faster than the file's.
    """

    start: float | None = None
    end: float | None = None
    offset_s: float = 0.0
    drift_ppm: float = 0.0

    def cut(self, series: "Series", path: str, pad: bool) -> "Series":
        """Return the values of the window, with times on the recording's clock.

        Args:
            pad: where the series does not cover the window, put a missing value at its edge; else that is an error.

        Raises:
            SampleError: no times; nothing, or more than a gap, of the window is outside of the series.
        """
        if series.times is None:
            reason = "no times, which a window (start, end) needs: add a column called time, in seconds"
            raise SampleError(path, reason, str(self))
        times = self.offset_s + series.times * (1 + self.drift_ppm * 1e-6)
        start = times[0] if self.start is None else self.start
        end = np.inf if self.end is None else self.end
        inside = (times >= start) & (times < end)
        covered = f"{self}, the series goes from {times[0]:g} to {times[-1]:g} s"
        if not inside.any():
            raise SampleError(path, "no value in the window: correct start, end or offset_s", covered)
        values, kept = series.values[:, inside], times[inside]
        slack = GAP * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        early, late = kept[0] - start > slack, np.isfinite(end) and end - kept[-1] > slack
        if (early or late) and not pad:
            reason = "covers a part of the window only: correct it, or set SERIES.MISSING mask (or mask_channels)"
            raise SampleError(path, reason, covered)
        if early:
            values, kept = np.pad(values, ((0, 0), (1, 0)), constant_values=np.nan), np.append(start, kept)
        if late:
            values, kept = np.pad(values, ((0, 0), (0, 1)), constant_values=np.nan), np.append(kept, end)
        return Series(values, kept)

    def __str__(self) -> str:
        """Return ``seconds 1.5 to 3``, in which form other lists say a part of a file too."""
        return f"seconds {self.start or 0.0:.12g} to {'end' if self.end is None else f'{self.end:.12g}'}"


# --- reading ------------------------------------------------------------------------------------------------------


def read_series(reference: str, num_channels: int, files: ArrayFiles | None = None, *, mend: bool = False) -> Series:
    """Return one series of ``file.npy``, ``file.npy#row`` (a row of a stacked array), ``file.npz``, ``file.npz#name``,
    ``file.csv``, ``file.parquet``, ``file.edf``, ``file.parquet#a,b`` (the columns, or signals, a and b).

    Args:
        mend: put rows in the order of their times, and average those of one time; else such times are an error.

    Raises:
        SampleError: a file that is missing, damaged or no series of ``num_channels`` channels; infinite values or
            values beyond float32; times that are missing, repeat or go backwards.
    """
    path, key = split_reference(reference)
    table, times = read_table_of(path, key, num_channels), None
    if table is not None:
        values, times = table
    elif path.lower().endswith(".npz"):
        values, times = read_npz(path, key)
    elif path.lower().endswith(".npy"):
        values = (files or ArrayFiles()).row(path, int(key)) if key else read_npy(path)
    else:
        raise SampleError(path, f"not a series: {', '.join(SUFFIXES)} are read")
    axis = -2 if table is not None else channel_axis(values.shape, num_channels, path)
    series = to_float(channels_first(values, axis), path)
    if times is not None:
        times = _checked_times(times, series.shape[1], path)
        if mend:
            series, times = _mended(series, times)
        _check_increasing(times, path)
    return Series(series, times)


def count_channels(reference: str) -> int:
    """Return how many channels a series seems to have: the columns of a table but its times, the first axis of an
    array.

    Raises:
        SampleError: as :func:`read_series`.
    """
    path, key = split_reference(reference)
    table = read_table_of(path, key, None)
    if table is not None:
        shape = table[0].shape
    elif path.lower().endswith(".npz"):
        shape = read_npz(path, key)[0].shape
    else:
        shape = ArrayFiles().row(path, int(key)).shape if key else StoredArray(path).shape
    return int(shape[0]) if len(shape) > 1 else 1


def channel_axis(shape: tuple[int, ...], num_channels: int, path: str) -> int | None:
    """Return which axis of one series' array is the channels': -2 or -1, or None for (L,) of one channel.

    Raises:
        SampleError: neither has ``num_channels``, or the array holds several series.
    """
    if len(shape) > 2:
        raise SampleError(path, "several series in one array: name one of them, as file.npy#row", f"shape {shape}")
    if len(shape) == 1 and num_channels == 1:
        return None
    if len(shape) < 2 or num_channels not in shape:
        reason = f"another number of channels than SERIES.NUM_CHANNELS {num_channels}: correct the file or the key"
        raise SampleError(path, reason, f"shape {shape}")
    return -2 if shape[0] == num_channels else -1


def channels_first(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Return (..., C, L) of an array whose channels are on ``axis``."""
    if axis is None:
        return array[..., None, :]
    return array if axis == -2 else array.swapaxes(-1, -2)


def to_float(values: np.ndarray, path: str) -> np.ndarray:
    """Return a float32 copy of real numbers of any kind; what float32 cannot hold becomes infinite. SampleError for the
    rest."""
    if values.dtype.kind not in "fiub":
        raise SampleError(path, "not an array of real numbers", f"dtype {values.dtype}")
    if not values.shape[-1]:
        raise SampleError(path, "a series without values: remove the sample", f"shape {values.shape}")
    with np.errstate(over="ignore"):
        return np.array(values, np.float32)


def _checked_times(times: np.ndarray, length: int, path: str) -> np.ndarray:
    if times.shape != (length,) or times.dtype.kind not in "fiu":
        raise SampleError(path, "not one time for each value", f"times {times.shape} {times.dtype}, {length} values")
    times = times.astype(np.float64)
    if not np.isfinite(times).all():
        raise SampleError(path, "times that are missing or infinite", f"row {np.flatnonzero(~np.isfinite(times))[0]}")
    return times


def _mended(values: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (C, L) in the order of their times, each time once: rows of one time become their mean, NaN left out."""
    order = np.argsort(times, kind="stable")
    values, times = values[:, order], times[order]
    first = np.flatnonzero(np.append(True, np.diff(times) > 0))
    if len(first) == len(times):
        return values, times
    there = ~np.isnan(values)
    count = np.add.reduceat(there, first, axis=1, dtype=np.int64)
    total = np.add.reduceat(np.where(there, values, 0), first, axis=1, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean.astype(np.float32), times[first]


def _check_increasing(times: np.ndarray, path: str) -> None:
    steps = np.diff(times)
    if (steps <= 0).any():
        at = int(np.flatnonzero(steps <= 0)[0]) + 1
        word = "repeat" if steps[at - 1] == 0 else "go backwards"
        reason = f"times that {word}: set SERIES.TIMES mend, or sort the rows and remove double ones"
        raise SampleError(path, reason, f"row {at}: {times[at]:g} s after {times[at - 1]:g} s")


# --- to the model's length ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeriesRules:
    """What SERIES.* says of a series.

    Args:
        num_channels: C.
        length: time points; 0 = as they are, and all alike.
        fit: error | resample (evenly over the series' duration) | crop (random in training, else the centre) | windows
            (:meth:`prepare` gives the whole series, of at least ``length`` points).
        rate: Hz; above 0, a series is first laid on an even time axis from its first time on.
        missing: error | mask | mask_channels.
        times: error | mend, see :func:`read_series`.
        stride: points from one window to the next; 0 = half a window, at least 1.
    """

    num_channels: int
    length: int = 0
    fit: str = "error"
    rate: float = 0.0
    missing: str = "error"
    times: str = "error"
    stride: int = 0

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        names = ("NUM_CHANNELS", "LENGTH", "FIT", "RATE", "MISSING", "TIMES", "STRIDE")
        return {name.lower(): cfg.SERIES[name] for name in names}

    def read(self, reference: str, files: ArrayFiles | None = None) -> Series:
        """Return a series as it is stored, by these rules. SampleError as :func:`read_series`."""
        return read_series(reference, self.num_channels, files, mend=self.times == "mend")

    def check_values(self, values: np.ndarray, path: str) -> None:
        """Raise SampleError for infinite values in (C, L), and for missing ones where SERIES.MISSING is error."""
        infinite = np.isinf(values)
        if infinite.any():
            raise SampleError(path, "infinite values: correct them, or make them NaN (missing)", _places(infinite))
        missing = np.isnan(values)
        if self.missing == "error" and missing.any():
            raise SampleError(path, "missing values: set SERIES.MISSING mask or mask_channels", _places(missing))

    def prepare(self, series: Series, path: str, rng: np.random.RandomState | None = None) -> np.ndarray:
        """Return (C, length) float32, NaN where missing; with ``fit`` windows (C, length or more).

        Args:
            rng: draws the place of a crop; None takes the centre.

        Raises:
            SampleError: another length that may not be changed, a gap, a rate without times.
        """
        values, times = series.values, series.times
        longest_step = np.inf if times is None else self._longest_step(times, path)
        if self.rate:
            if times is None:
                raise SampleError(path, "no time column: add one called time, in seconds, or set SERIES.RATE 0")
            if len(times) > 1:
                self._check_unit(times, path)
                steps = int(np.floor((times[-1] - times[0]) * self.rate + ON_POINT))
                at = np.minimum(times[0] + np.arange(steps + 1) / self.rate, times[-1])
                values = resample(values, times, at, longest_step)
            times, longest_step = None, np.inf  # from here on evenly in time
        own = values.shape[1]
        if self.fit == "windows" and own >= self.length:
            return values
        if not self.length or (own == self.length and (times is None or self.fit != "resample")):
            return values
        if self.fit == "resample" and own > 1:
            times = np.arange(own, dtype=np.float64) if times is None else times
            return resample(values, times, np.linspace(times[0], times[-1], self.length), longest_step)
        if self.fit == "crop" and own > self.length:
            start = (own - self.length) // 2 if rng is None else rng.randint(0, own - self.length + 1)
            return values[:, start : start + self.length]
        raise SampleError(path, self._other_length(), f"{own} points")

    def _check_unit(self, times: np.ndarray, path: str) -> None:
        """Raise SampleError for times that cannot be seconds: next to SERIES.RATE their steps are too long."""
        step, span = float(np.median(np.diff(times))), float(times[-1] - times[0])
        points = step * self.rate
        if points <= MOST_BETWEEN and times[-1] < _YEAR_5000 and span * self.rate < _MOST_POINTS:
            return
        units = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
        fitting = [name for name, factor in units.items() if 1 / MOST_BETWEEN < points / factor < MOST_BETWEEN]
        guess = f"they look like {fitting[0]}: " if fitting else ""
        raise SampleError(
            path,
            f"times that do not go with SERIES.RATE {self.rate:g} as seconds: {guess}write them in seconds, or correct "
            "the rate",
            f"median step {step:g}, a rate of {self.rate:g} per second steps by {1 / self.rate:g}; {times[0]:g} to "
            f"{times[-1]:g}",
        )

    def _other_length(self) -> str:
        wanted = f"not the {self.length} time points of SERIES.LENGTH (or, where that is 0, of the first series)"
        if self.fit in ("crop", "windows"):
            return f"shorter, {wanted}: set a smaller SERIES.LENGTH, or SERIES.FIT resample"
        if self.fit == "resample":
            return f"a single point, {wanted}: remove the sample"
        return f"{wanted}: set SERIES.FIT resample or crop, or correct SERIES.LENGTH"

    def _longest_step(self, times: np.ndarray, path: str) -> float:
        """Return the step above which neighbours are not interpolated. SampleError for gaps that cannot be masked."""
        if len(times) < 3:
            return np.inf
        steps = np.diff(times)
        longest = GAP * float(np.median(steps))
        resampled = self.rate > 0 or (self.fit == "resample" and self.length > 0)
        if steps.max() > longest and not (resampled and self.missing != "error"):
            reason = (
                f"a gap of more than {GAP:g} median steps: fill or cut the series, or set SERIES.MISSING mask (or "
                "mask_channels) with SERIES.RATE or SERIES.FIT resample, which leaves the gap's points out"
            )
            at = int(steps.argmax())
            raise SampleError(path, reason, f"{steps[at]:g} s behind {times[at]:g} s, median {longest / GAP:g} s")
        return longest


def _places(wrong: np.ndarray) -> str:
    """Return how many of (C, L) are meant, and where the first one is."""
    channel, point = np.argwhere(wrong)[0]
    return f"{wrong.sum()} of {wrong.size} values, the first in channel {channel} at point {point}"
