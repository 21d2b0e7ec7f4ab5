"""The series of one split: looked through once, normalised by what the training split taught, given out in batches."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.datasets.arrays import ArrayFiles, StackedRows, is_row
from dust.datasets.multimodal.series import Series, SeriesRules, Window, channel_axis, channels_first, to_float
from dust.datasets.multimodal.series_transforms import SeriesShaping, window_starts
from dust.utils.errors import ConfigError, DataError, NotFitted, Problems, SampleError
from dust.utils.rng import numpy_rng

logger = logging.getLogger(__name__)

_BLOCK = 1 << 23  # bytes of a stacked array that are looked at together


class Moments:
    """Mean and variance of every channel in one pass: blocks are merged pairwise (Chan, Golub and LeVeque 1979), in
    float64. NaN is left out."""

    def __init__(self, num_channels: int) -> None:
        self.count = np.zeros(num_channels, np.int64)
        self.mean = np.zeros(num_channels)
        self.square = np.zeros(num_channels)  # sum of squared distances from the mean
        self.low = np.full(num_channels, np.inf)
        self.high = np.full(num_channels, -np.inf)

    def update(self, values: np.ndarray) -> None:
        """Add (n, C, L) values."""
        there = ~np.isnan(values)
        count = there.sum(axis=(0, 2))
        clean = np.where(there, values, 0.0).astype(np.float64)
        mean = clean.sum(axis=(0, 2)) / np.maximum(count, 1)
        square = (np.where(there, clean - mean[:, None], 0.0) ** 2).sum(axis=(0, 2))
        total = self.count + count
        delta = mean - self.mean
        share = count / np.maximum(total, 1)
        self.square += square + delta**2 * self.count * share
        self.mean += delta * share
        self.count = total
        self.low = np.minimum(self.low, np.where(there, values, np.inf).min(axis=(0, 2)))
        self.high = np.maximum(self.high, np.where(there, values, -np.inf).max(axis=(0, 2)))

    def statistics(self) -> dict[str, list[float]]:
        """Return ``mean`` and ``std`` (of the population) per channel; 1 for a channel that never changes, with a
        warning.

        Raises:
            DataError: a channel without a single value.
        """
        unseen = np.flatnonzero(self.count == 0).tolist()
        if unseen:
            raise DataError(
                f"series channels {unseen} (from 0) have no value in the whole training split: remove them from the "
                "files and from SERIES.NUM_CHANNELS"
            )
        std = np.sqrt(self.square / self.count)
        constant = self.low == self.high
        if constant.any():
            where = ", ".join(f"{channel} (always {self.low[channel]:g})" for channel in np.flatnonzero(constant))
            logger.warning("series channels that never change in the training split: %s; they become 0", where)
        return {"mean": self.mean.tolist(), "std": np.where(constant | (std == 0), 1.0, std).tolist()}


class SplitSeries:
    """The series of a split's samples as tensors (C', length): C' = D = C * (1 + derivatives), or D + C with
    ``missing`` mask_channels, where channel D + c is 1 where channel c was measured and 0 where it is missing.

    With ``normalize`` each channel is (value - mean) / std of the training split: of the values as they are stored, or
    where ``shaping`` changes them, of what it makes of whole series. A missing value becomes the channel's mean.

    With ``rules.fit`` windows a sample of training is a random window of its series, and :meth:`windows` gives all.
    Windows are cut out of the whole series that ``shaping`` made.

    Args:
        ids, references: of the samples; see :func:`dust.datasets.multimodal.series.read_series`.
        rules: SERIES.NUM_CHANNELS, LENGTH, FIT, RATE, MISSING, STRIDE.
        shaping: SERIES.AUGMENT, PER_RECORDING, DERIVATIVES.
        split: for messages.
        normalize: see above.
        cuts: of each sample, the window of the recording that it is, None for all of it; () for none.
        noise: Gaussian, in standard deviations of a channel, on the values measured; in training only.
        seed: the run's seed, from which noise and crops are drawn.
        training: draw them.
        statistics: what the training split's object has under this name; None fits them here, if ``split`` is train.
        check: read every series once now, and count missing values; it is done anyway where statistics are fitted.

    Raises:
        DataError: with all series that cannot be used; or statistics are needed and there are none.
    """

    def __init__(
        self,
        *,
        ids: Sequence[str],
        references: Sequence[str],
        rules: SeriesRules,
        split: str,
        cuts: Sequence[Window | None] = (),
        shaping: SeriesShaping | None = None,
        normalize: bool = True,
        noise: float = 0.0,
        seed: int = 0,
        training: bool = False,
        statistics: Mapping[str, Any] | None = None,
        check: bool = True,
    ) -> None:
        self.ids, self.references, self.rules, self.split = list(ids), list(references), rules, split
        self.normalize, self.noise, self.seed, self.training = normalize, noise if training else 0.0, seed, training
        self.cuts = list(cuts) if any(cuts) else []
        self._long = ("", Series(np.zeros((rules.num_channels, 0), np.float32)))
        self.shaping = shaping or SeriesShaping()
        self.num_channels = rules.num_channels * (1 + self.shaping.derivatives)
        self.files = ArrayFiles()
        stacked = all(map(is_row, references)) and not self.cuts
        self.rows = StackedRows(references, self.files) if stacked else None
        self.axes: list[int | None] = []  # of each stacked file: which axis the channels are on
        self.stacked_alike = False  # whether all are rows of stacked files, of one shape
        self.missing_values = self.missing_samples = 0
        needed = normalize or noise > 0 or rules.missing != "error"
        fit = needed and statistics is None
        if fit and split != "train":
            raise NotFitted(
                f"the {split} split's series need the mean and deviation that training fitted, and there are none: "
                "test with a checkpoint of this system, or set SERIES.NORMALIZE False and SERIES.MISSING error for a "
                "model that was trained so"
            )
        if statistics is not None and not rules.length:
            self.rules = replace(rules, length=int(statistics.get("length", 0)))
        moments = Moments(self.num_channels) if fit else None
        if check or fit:
            self._look_through(moments)
        elif self.rows is not None:
            self._find_axes(Problems())
        if not self.rules.length:
            self._take_length(self.rules.prepare(self._read(0), self.references[0]))
        found = moments.statistics() if moments is not None else dict(statistics or {})
        #: plain values: ``length``, and ``mean`` and ``std`` where they are needed
        self.statistics: dict[str, Any] = {**found, "length": self.rules.length}
        self._mean = self._std = np.zeros((self.num_channels, 1), np.float32)
        if needed:
            self._take_statistics(self.statistics)

    def _take_statistics(self, statistics: Mapping[str, Any]) -> None:
        mean, std = (np.array(statistics.get(name, []), np.float32)[:, None] for name in ("mean", "std"))
        if len(mean) != self.num_channels or len(std) != self.num_channels:
            raise ConfigError(
                f"SERIES.NUM_CHANNELS {self.rules.num_channels}: the training fitted the normalisation of {len(mean)} "
                f"channels, not of {self.num_channels} (with SERIES.DERIVATIVES {self.shaping.derivatives}); use the "
                "configuration of that training"
            )
        self._mean, self._std = mean, std

    def _take_length(self, values: np.ndarray) -> None:
        self.rules = replace(self.rules, length=values.shape[1])

    # ----------------------------------------------------------------------------------------------- the first look

    def _look_through(self, moments: Moments | None) -> None:
        """Read all series once: every problem in one error, missing values counted, ``moments`` filled."""
        problems = Problems()
        total = 0
        for indices, block, prepared in self._blocks(problems):  # (n, C, L)
            broken = np.flatnonzero(~np.isfinite(block).all(axis=(1, 2)))
            for place in broken:
                index = int(indices[place])
                try:
                    self.rules.check_values(block[place], self.references[index])
                except SampleError as error:
                    problems.add(error.reason, f"{self.ids[index]}: {error.path} ({error.detail})")
            if len(broken):
                self.missing_values += int(np.isnan(block).sum())
                self.missing_samples += int(np.isnan(block).any(axis=(1, 2)).sum())
            total += block.size
            if moments is not None and not problems.kinds:
                changed = [self.shaping(one)[None] for one in prepared] if self.shaping.changes_values else [block]
                for values in changed:
                    moments.update(values)
        problems.raise_if_any(f"the series of the {self.split} split")
        if self.missing_values:
            logger.warning(
                "%s series: %d of %d values are missing, in %d of %d samples",
                self.split, self.missing_values, total, self.missing_samples, len(self.ids),
            )  # fmt: skip

    def _blocks(self, problems: Problems) -> Iterator[tuple[np.ndarray, np.ndarray, Iterator[np.ndarray]]]:
        """Yield (indices, their values (n, C, L), the same at the model's rate and length), all samples once; those of
        a file that cannot be used are left out."""
        if self.rows is None:
            for index, path in enumerate(self.references):
                try:
                    series = self._read(index)
                    prepared = self.rules.prepare(series, path)
                except SampleError as error:
                    problems.add(error.reason, f"{self.ids[index]}: {error.path} ({error.detail})")
                    continue
                if not self.rules.length:
                    self._take_length(prepared)
                yield np.array([index]), series.values[None], iter([prepared])
            return
        usable = self._find_axes(problems)
        order = np.lexsort((self.rows.row, self.rows.file))  # along the disk
        for number in usable:
            of_file = order[self.rows.file[order] == number]
            shape = self.files.open(self.rows.paths[number]).shape
            row_bytes = math.prod(shape[1:]) * 4
            step = max(1, _BLOCK // max(1, row_bytes))
            for start in range(0, len(of_file), step):
                indices = of_file[start : start + step]
                block = self._stacked(indices)
                path = self.rows.paths[number]
                yield indices, block, (self.rules.prepare(Series(values), path) for values in block)

    def _find_axes(self, problems: Problems) -> list[int]:
        """Find each stacked file's channel axis and whether its rows have the right length; returns usable files."""
        assert self.rows is not None
        usable, shapes = [], set()
        for number, path in enumerate(self.rows.paths):
            self.axes.append(None)
            first = int(np.flatnonzero(self.rows.file == number)[0])
            try:
                row = self.files.open(path)
                self.axes[number] = channel_axis(row.shape[1:], self.rules.num_channels, path)
                last = int(self.rows.row[self.rows.file == number].max())
                self.files.row(path, last)
                block = to_float(channels_first(row[:1], self.axes[number]), path)
                prepared = self.rules.prepare(Series(np.zeros_like(block[0])), path)
            except SampleError as error:
                problems.add(error.reason, f"{self.ids[first]} and others: {error.path} ({error.detail})")
                continue
            if not self.rules.length:
                self._take_length(prepared)
            usable.append(number)
            shapes.add(row.shape[1:])
        self.stacked_alike = len(usable) == len(self.rows.paths) and len(shapes) == 1
        return usable

    # -------------------------------------------------------------------------------------------------------- giving

    def _read(self, index: int) -> Series:
        window, path = self.cuts[index] if self.cuts else None, self.references[index]
        if window is None:
            return self.rules.read(path, self.files)
        if self._long[0] != path:  # the next window is often of the same recording
            self._long = (path, self.rules.read(path, self.files))
        return window.cut(self._long[1], path, pad=self.rules.missing != "error")

    def _stacked(self, indices: np.ndarray) -> np.ndarray:
        """Return (n, C, L) float32 of stacked files whose rows have one shape."""
        assert self.rows is not None
        axis = self.axes[self.rows.file[indices[0]]]
        return to_float(channels_first(self.rows.block(indices), axis), self.rows.paths[0])

    def batch(self, indices: Sequence[int], epochs: Sequence[int | None], view: int = 0) -> Tensor:
        """Return (len(indices), C', length) float32, in one read where the files allow it.

        Args:
            epochs: of each; in ``training``, what is drawn (augmentation, crop or window, noise) is that epoch's. None
                for the fixed centre crop.
            view: which of several draws of each in one epoch.

        Raises:
            SampleError: one of them cannot be used.
        """
        made = []
        for index, epoch, series in zip(indices, epochs, self._checked(indices), strict=True):
            rng = self._rng(index, epoch, view)
            values = self.shaping(self.rules.prepare(series, self.references[index], rng), rng)
            if self.rules.fit == "windows":
                slack = values.shape[1] - self.rules.length
                start = slack // 2 if rng is None else int(rng.randint(0, slack + 1))
                values = values[:, start : start + self.rules.length]
            if self.noise and rng is not None:
                values = values + self._std * np.float32(self.noise) * rng.standard_normal(values.shape).astype(
                    np.float32
                )
            made.append(values)
        return torch.from_numpy(self._finish(np.stack(made)))

    def windows(self, index: int) -> Tensor:
        """Return (W, C', length) float32: all windows of one sample's series, ``rules.stride`` apart.

        Raises:
            SampleError: it cannot be used.
        """
        (series,) = self._checked([index])
        whole = self._finish(self.shaping(self.rules.prepare(series, self.references[index])))
        length = self.rules.length
        starts = window_starts(whole.shape[1], length, self.rules.stride or max(length // 2, 1))
        return torch.from_numpy(np.stack([whole[:, start : start + length] for start in starts]))

    def _checked(self, indices: Sequence[int]) -> list[Series]:
        """Return the series as stored. SampleError for one whose values cannot be used."""
        if self.stacked_alike:
            block = self._stacked(np.asarray(indices))
            series = [Series(values) for values in block]
            broken = np.flatnonzero(~np.isfinite(block).all(axis=(1, 2))).tolist()
        else:
            series = [self._read(index) for index in indices]
            broken = list(range(len(series)))
        for place in broken:
            self.rules.check_values(series[place].values, self.references[indices[place]])
        return series

    def _rng(self, index: int, epoch: int | None, view: int) -> np.random.RandomState | None:
        """Return the stream of one view of a sample in one epoch; None where nothing is drawn."""
        drawn = self.noise or self.shaping.augmentations or self.rules.fit in ("crop", "windows")
        if not self.training or epoch is None or not drawn:
            return None
        return numpy_rng(self.seed, "augment", epoch, index, "series", *([view] if view else []))

    def _finish(self, values: np.ndarray) -> np.ndarray:
        """Normalise (..., C, length) and put something where values are missing."""
        missing = np.isnan(values) if self.rules.missing != "error" else None
        measured = self.rules.num_channels
        if self.normalize:
            values = (values - self._mean) / self._std
        if missing is not None:
            values = np.where(missing, np.float32(0) if self.normalize else self._mean, values)
            if self.rules.missing == "mask_channels":
                there = ~missing[..., :measured, :]
                values = np.concatenate([values, there.astype(np.float32)], axis=-2)
        return np.ascontiguousarray(values)
