"""RandAugment for clips: the operations are drawn once per clip and applied alike to every frame.

Cubuk et al., https://arxiv.org/abs/1909.13719, as timm's configuration strings and operations define it (Apache-2.0,
https://github.com/huggingface/pytorch-image-models). timm draws from Python's and NumPy's global streams, and again
for each picture; here every draw comes from the caller's generator.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.utils.errors import ConfigError, DataError

FULL_MAGNITUDE = 10.0  # magnitudes are tenths of an operation's range
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "random")

_Level = Callable[[float, Callable[[], float]], tuple]

#: Operation -> its argument, from the magnitude as a fraction (0..1, or more with mmax) and a random sign.
_COMMON: dict[str, _Level] = {
    "AutoContrast": lambda level, sign: (),
    "Equalize": lambda level, sign: (),
    "Invert": lambda level, sign: (),
    "Rotate": lambda level, sign: (30.0 * level * sign(),),  # degrees
    "SolarizeAdd": lambda level, sign: (min(128, int(level * 110)),),  # added to the dark half
    "ShearX": lambda level, sign: (0.3 * level * sign(),),
    "ShearY": lambda level, sign: (0.3 * level * sign(),),
    "TranslateXRel": lambda level, sign: (0.45 * level * sign(),),  # of the width
    "TranslateYRel": lambda level, sign: (0.45 * level * sign(),),
}


def _factor(level: float, sign: Callable[[], float]) -> tuple:
    return (0.1 + 1.8 * level,)


def _increasing_factor(level: float, sign: Callable[[], float]) -> tuple:
    return (max(0.1, 1.0 + 0.9 * level * sign()),)  # 1 changes nothing


#: inc0: a few operations get weaker as the magnitude grows.
PLAIN: dict[str, _Level] = {
    **_COMMON,
    "Posterize": lambda level, sign: (int(level * 4),),  # bits kept
    "Solarize": lambda level, sign: (min(256, int(level * 256)),),  # inverted from this value on
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _factor),
}

#: inc1: all operations get stronger with the magnitude.
INCREASING: dict[str, _Level] = {
    **_COMMON,
    "PosterizeIncreasing": lambda level, sign: (4 - int(level * 4),),
    "SolarizeIncreasing": lambda level, sign: (256 - min(256, int(level * 256)),),
    **dict.fromkeys(
        ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"), _increasing_factor
    ),
}


@dataclass(frozen=True)
class Policy:
    """What a string like ``rand-m7-n4-mstd0.5-inc1`` asks for.

    Attributes:
        magnitude: 0..max_magnitude, mean strength (``m``, 10).
        num_ops: operations per clip, drawn with replacement (``n``, 2).
        magnitude_std: standard deviation of the strength; above 100 it is uniform in 0..magnitude (``mstd``, 0).
        max_magnitude: strengths are clipped here (``mmax``, 10).
        prob: probability with which each drawn operation is applied (``p``, 0.5).
        increasing: the set whose every operation grows with the strength (``inc``, 0).
    """

    magnitude: float = FULL_MAGNITUDE
    num_ops: int = 2
    magnitude_std: float = 0.0
    max_magnitude: float = FULL_MAGNITUDE
    prob: float = 0.5
    increasing: bool = False


_KEYS: dict[str, tuple[str, type, float, float]] = {  # in the order of trial: mstd before m
    "mstd": ("magnitude_std", float, 0.0, math.inf),
    "mmax": ("max_magnitude", float, 1.0, math.inf),
    "inc": ("increasing", int, 0, 1),
    "m": ("magnitude", float, 0.0, math.inf),
    "n": ("num_ops", int, 1, math.inf),
    "p": ("prob", float, 0.0, 1.0),
}


def parse_policy(text: str) -> Policy:
    """Parse a timm RandAugment string: ``rand`` and then, in any order, m, n, mstd, mmax, p, inc, joined by dashes.

    Raises:
        ConfigError: for every piece that is unknown or out of range; timm's operation sets (``t``, ``w``) are.
    """
    kind, *pieces = text.strip().split("-")
    problems, values = [], {}
    if kind != "rand":
        problems.append(f"it begins with {kind!r}, only 'rand' is known")
    for piece in pieces:
        key = next((key for key in _KEYS if piece.startswith(key) and _is_number(piece[len(key) :])), None)
        if key is None:
            problems.append(f"{piece!r} is none of m, n, mstd, mmax, p, inc followed by a number")
            continue
        name, kind_of, low, high = _KEYS[key]
        value = float(piece[len(key) :])
        if not low <= value <= high or (kind_of is int and value != int(value)):
            what = "a whole number" if kind_of is int else "a number"
            problems.append(f"{piece!r} is not {what} in {low:g}..{high:g}")
        elif name in values:
            problems.append(f"{piece!r} comes after another value for {key}")
        else:
            values[name] = kind_of(value)
    if problems:
        raise ConfigError(f"RandAugment string {text!r}: {'; '.join(problems)}. Write it like rand-m7-n4-mstd0.5-inc1")
    if "increasing" in values:
        values["increasing"] = bool(values["increasing"])
    return Policy(**values)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) or text == "inf"
    except ValueError:
        return False


def posterize(picture: Any, bits: int, **_: Any) -> Any:
    """Keep the highest ``bits``, 0..8, of every value of a PIL picture.

    The published strengths reach 0, a black picture. Pillow refuses that since version 13.
    """
    mask = 0xFF & ~(0xFF >> bits)
    return picture.point([value & mask for value in range(256)] * len(picture.getbands()))


class ClipRandAugment:
    """RandAugment of a whole clip.

    Args:
        policy: see :func:`parse_policy`.
        interpolation: of rotation, shear and shift: nearest | bilinear | bicubic | random (bilinear or bicubic).
        fill: uint8 value, 0..255, of what comes in from outside the picture.
    """

    def __init__(self, policy: str, *, interpolation: str = "bicubic", fill: int = 128) -> None:
        # imported when built, so in the main process, before workers start: it takes seconds
        from timm.data.auto_augment import NAME_TO_OP

        if interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation {interpolation!r}: choose one of {', '.join(INTERPOLATIONS)}")
        self.policy = parse_policy(policy)
        self.interpolation = interpolation
        self.fill = fill
        self._levels = INCREASING if self.policy.increasing else PLAIN
        operations: dict[str, Any] = NAME_TO_OP
        self._functions: dict[str, Callable] = {name: operations[name] for name in self._levels}
        self._functions |= {name: posterize for name in self._levels if name.startswith("Posterize")}

    def draw(self, rng: np.random.RandomState) -> list[tuple[str, tuple, str]]:
        """Return the operations of one clip: (name, arguments, interpolation)."""
        policy, names = self.policy, list(self._levels)
        drawn = []
        for _ in range(policy.num_ops):
            # every operation takes the same draws, applied or not: the stream does not depend on the outcome
            name = names[int(rng.randint(0, len(names)))]
            applied = rng.uniform() < policy.prob
            noise, uniform, sign, smooth = rng.normal(), rng.uniform(), rng.uniform(), rng.uniform()
            if policy.magnitude_std > 100:
                magnitude = policy.magnitude * uniform
            else:
                magnitude = policy.magnitude + policy.magnitude_std * noise
            magnitude = min(max(magnitude, 0.0), policy.max_magnitude)
            flip = -1.0 if sign < 0.5 else 1.0
            arguments = self._levels[name](magnitude / FULL_MAGNITUDE, lambda flip=flip: flip)  # type: ignore[misc]
            interpolation = self.interpolation
            if interpolation == "random":
                interpolation = "bilinear" if smooth < 0.5 else "bicubic"
            if applied:
                drawn.append((name, arguments, interpolation))
        return drawn

    def __call__(self, clip: Tensor, rng: np.random.RandomState) -> Tensor:
        """Map (T, C, H, W) uint8 with 1 or 3 channels -> the same; frames keep their order and shape."""
        operations = self.draw(rng)
        return self.apply(clip, operations) if operations else clip

    def apply(self, clip: Tensor, operations: Sequence[tuple[str, tuple, str]]) -> Tensor:
        """Apply drawn operations to every frame of a (T, C, H, W) uint8 clip."""
        from PIL import Image

        channels = clip.shape[1]
        if clip.dtype != torch.uint8 or channels not in (1, 3):
            raise ConfigError(
                f"RandAugment takes uint8 clips of 1 or 3 channels, not {clip.dtype} of {channels}; set AUG.AA_TYPE ''"
            )
        fill: Any = self.fill if channels == 1 else (self.fill,) * 3
        frames = clip.permute(0, 2, 3, 1).contiguous().numpy()  # no copy where the decoder's layout is kept
        result = np.empty_like(frames)
        for frame, out in zip(frames, result, strict=True):
            picture = Image.fromarray(frame[..., 0] if channels == 1 else frame)
            for name, arguments, interpolation in operations:
                resample = getattr(Image.Resampling, interpolation.upper())
                try:
                    picture = self._functions[name](picture, *arguments, fillcolor=fill, resample=resample)
                except (ValueError, TypeError, OSError, ArithmeticError, LookupError) as error:
                    size = f"{picture.width} x {picture.height} pixels"
                    raise DataError(f"RandAugment's {name}{arguments} on a picture of {size}: {error}") from error
            out[:] = np.asarray(picture).reshape(out.shape)
        return torch.from_numpy(result).permute(0, 3, 1, 2)
