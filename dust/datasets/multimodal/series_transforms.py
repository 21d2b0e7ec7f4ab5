"""What is made of a whole series before the model gets it or its windows: augmentation in training, a level for each
recording, derivatives as channels of their own.

All take and give (C, L) float32 with NaN where a value is missing. An augmentation is registered by its name, which
SERIES.AUGMENT lists; this is a whole one of your own:

    @SERIES_AUGMENTATION_REGISTRY.register()
    def upside_down(values, rng, *, prob=0.5):
        return -values if rng.uniform() < prob else values

The stream is private to (seed, epoch, sample, view). Jitter, scaling, rotation and time warping are those of Um et al.,
"Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring using CNNs", ICMI 2017,
https://arxiv.org/abs/1706.00527 (jitter is SERIES.NOISE).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.datasets.multimodal.series import resample
from dust.datasets.transforms.augment import build_augmentations
from dust.utils.errors import ConfigError
from dust.utils.registry import Registry

SERIES_AUGMENTATION_REGISTRY = Registry("series augmentation")


@SERIES_AUGMENTATION_REGISTRY.register()
def scale(values: np.ndarray, rng: np.random.RandomState, *, std: float = 0.1) -> np.ndarray:
    """Multiply each channel by a factor of its own, normal about 1."""
    return values * rng.normal(1.0, std, (len(values), 1)).astype(np.float32)


@SERIES_AUGMENTATION_REGISTRY.register()
def time_warp(values: np.ndarray, rng: np.random.RandomState, *, std: float = 0.2, knots: int = 4) -> np.ndarray:
    """Play slower here and faster there: at ``knots`` points, evenly over the series, the speed is exp(normal(0, std)),
    in between it is linear. Beginning and end stay where they are."""
    length = values.shape[1]
    speed = np.exp(rng.normal(0.0, std, max(knots, 2)))
    if length < 3:
        return values
    steps = np.interp(np.linspace(0, len(speed) - 1, length - 1), np.arange(len(speed)), speed)
    at = np.concatenate([[0.0], np.cumsum(steps)])
    return _between(values, at * ((length - 1) / at[-1]))


@SERIES_AUGMENTATION_REGISTRY.register()
def crop(values: np.ndarray, rng: np.random.RandomState, *, least: float = 0.9) -> np.ndarray:
    """Stretch a random part of the series, at least this share of it, to the old length."""
    length, share, place = values.shape[1], rng.uniform(least, 1.0), rng.uniform()
    first = place * (1.0 - share) * (length - 1)
    return _between(values, first + np.linspace(0.0, share * (length - 1), length))


@SERIES_AUGMENTATION_REGISTRY.register()
def rotate(
    values: np.ndarray,
    rng: np.random.RandomState,
    *,
    degrees: float = 15.0,
    axes: Sequence[Sequence[int]] = ((0, 1, 2),),
) -> np.ndarray:
    """Turn the sensor by up to so many degrees about a random axis.

    Args:
        axes: the channels (from 0) of x, y and z, for each sensor of one device: all of them turn together.

    Raises:
        ConfigError: axes that are not three channels of the series each.
    """
    triples = [list(triple) for triple in axes]
    if any(len(set(triple)) != 3 or not all(0 <= c < len(values) for c in triple) for triple in triples):
        raise ConfigError(
            f"rotate: axes {triples} of a series of {len(values)} channels: three channels for each sensor"
        )
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = math.radians(rng.uniform(-degrees, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])  # Rodrigues' formula
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    turned = values.copy()
    for triple in triples:
        turned[triple] = turn.astype(np.float32) @ values[triple]
    return turned


def _between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the values at these points (fractions allowed), linear between neighbours."""
    length = values.shape[1]
    if length < 2:
        return values
    return resample(values, np.arange(length, dtype=np.float64), np.clip(at, 0, length - 1))


def level(values: np.ndarray, how: str) -> np.ndarray:
    """Return each channel less its own mean over the recording (``centre``), and over its deviation (``standardize``;
    one that never changes becomes 0); ``as_is``: nothing."""
    if how == "as_is":
        return values
    there = ~np.isnan(values)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = np.where(there, values, 0).sum(axis=1, keepdims=True, dtype=np.float64) / count
    centred = values - mean
    if how == "standardize":
        std = np.sqrt(np.where(there, centred**2, 0).sum(axis=1, keepdims=True) / count)
        changes = std > 1e-6 * np.abs(mean)  # else what is left of a constant is rounding
        centred = np.where(changes, centred / np.where(changes, std, 1.0), 0.0 * centred)
    return centred.astype(np.float32)


def with_derivatives(values: np.ndarray, orders: int) -> np.ndarray:
    """Map (C, L) -> (C * (1 + orders), L): behind the values their derivatives per point, central differences, order by
    order."""
    parts = [values]
    for _ in range(orders):
        last = parts[-1]
        parts.append(np.gradient(last, axis=1) if last.shape[1] > 1 else np.zeros_like(last))
    return np.concatenate(parts).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class SeriesShaping:
    """What SERIES.AUGMENT, PER_RECORDING and DERIVATIVES make of a series.

    Args:
        per_recording: as_is | centre | standardize, see :func:`level`.
        derivatives: orders, 0 for none.
        augmentations: of training, in their order.
    """

    per_recording: str = "as_is"
    derivatives: int = 0
    augmentations: Sequence[Callable[..., np.ndarray]] = ()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        node = cfg.SERIES
        made = build_augmentations(node.AUGMENT, "SERIES.AUGMENT", SERIES_AUGMENTATION_REGISTRY)
        return {"per_recording": node.PER_RECORDING, "derivatives": node.DERIVATIVES, "augmentations": tuple(made)}

    @property
    def changes_values(self) -> bool:
        """Whether mean and deviation must be those of what is made, not of what is stored."""
        return self.per_recording != "as_is" or self.derivatives > 0

    def __call__(self, values: np.ndarray, rng: np.random.RandomState | None = None) -> np.ndarray:
        """Map (C, L) -> (C * (1 + derivatives), L). ``rng``: of the augmentations; None for none of them.

        Raises:
            ConfigError: an augmentation that gives another shape or type than it got.
        """
        if rng is not None:
            for augmentation in self.augmentations:
                changed = augmentation(values, rng)
                if getattr(changed, "shape", None) != values.shape or changed.dtype != values.dtype:
                    name = getattr(augmentation, "func", augmentation)
                    what = f"{getattr(changed, 'dtype', type(changed).__name__)} {getattr(changed, 'shape', '')}"
                    raise ConfigError(
                        f"SERIES.AUGMENT: {getattr(name, '__name__', type(name).__name__)} made {what} of "
                        f"{values.dtype} {values.shape} (channels, points); it must keep shape and type"
                    )
                values = changed
        return with_derivatives(level(values, self.per_recording), self.derivatives)


def window_starts(points: int, length: int, stride: int) -> range:
    """Return where the windows of a series of ``points`` points begin: 0, ``stride``, 2 ``stride``... as long as they
    fit."""
    return range(0, points - length + 1, stride)
