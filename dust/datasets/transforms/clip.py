"""What part of a frame is seen, at which size, and how its colours are changed: uint8 in, uint8 out, in the worker.

Geometry is chosen before decoding, so that the decoder converts only the pixels that are wanted; flip and colour
augmentation follow on the decoded clip, alike for all its frames. Sizes are (height, width) in pixels, boxes
(y, x, height, width). Rules are SlowFast's unless said otherwise; its published numbers are in ``tests/data``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dust.datasets.transforms.augment import Augmentation, ColorJitter, Grayscale, augment_clip
from dust.datasets.transforms.randaugment import INTERPOLATIONS, ClipRandAugment
from dust.utils.errors import ConfigError

Box = tuple[int, int, int, int]

#: torchvision's ranges of a random-resized crop, where only one of the two is configured.
DEFAULT_AREA = (0.08, 1.0)
DEFAULT_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Geometry:
    """One way of looking at a frame: cut ``box`` out of the source, scale it to ``size``, cut ``crops`` out of that.

    Attributes:
        box: (y, x, h, w) of the source picture, floats in its pixels.
        size: (H, W) that the box is scaled to.
        crops: (y, x, h, w) boxes within ``size``, one or more, all equally large.
        flip: mirror the clip left to right afterwards.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    crops: tuple[Box, ...]
    flip: bool = False


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Return (H, W) whose short side is ``short``; the long side keeps the ratio, rounded down."""
    if height <= width:
        return short, width * short // height
    return height * short // width, short


def jitter_short_side(low: float, high: float, rng: np.random.RandomState, *, inv_uniform: bool = False) -> int:
    """Return a random short side in low..high, rounded: uniform, or with a uniform reciprocal (more often small)."""
    if inv_uniform:
        return round(1.0 / rng.uniform(1.0 / high, 1.0 / low))
    return round(rng.uniform(low, high))


def random_crop(height: int, width: int, crop: int, rng: np.random.RandomState) -> Box:
    """Return a square of side ``crop``, anywhere within (height, width) with equal probability."""
    return int(rng.randint(0, height - crop + 1)), int(rng.randint(0, width - crop + 1)), crop, crop


def test_crops(
    height: int, width: int, short: int, crop: int, num_crops: int
) -> tuple[tuple[int, int], tuple[Box, ...]]:
    """Return the scaled (H, W) and ``num_crops`` squares of side ``crop`` for testing.

    The source is scaled to the short side ``short``, or ``crop`` where that is larger. One crop is the centre.
    Several lie evenly along the long side from end to end (three: left, centre, right, or top, centre, bottom of
    an upright picture) and in the middle of the short one. A middle that falls between pixels is rounded up.
    """
    size = short_side_size(height, width, max(short, crop))
    slack_y, slack_x = size[0] - crop, size[1] - crop
    along_y = height > width
    boxes = []
    for i in range(num_crops):
        part = (i, num_crops - 1) if num_crops > 1 else (1, 2)
        y = _share(slack_y, *(part if along_y else (1, 2)))
        x = _share(slack_x, *((1, 2) if along_y else part))
        boxes.append((y, x, crop, crop))
    return size, tuple(boxes)


test_crops.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest reads into the name


def _share(slack: int, part: int, of: int) -> int:
    return -(-slack * part // of)


def random_resized_crop(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.RandomState,
) -> Box:
    """Return a box of the source whose share of its area and whose width : height lie in the given ranges.

    The area is uniform, the logarithm of the aspect ratio is uniform (Inception's crop, as in torchvision and
    SlowFast). Where ten draws do not fit, the largest central box whose aspect ratio is in range.
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.randint(0, height - h + 1)), int(rng.randint(0, width - w + 1)), h, w
    w, h = width, height
    if width / height < aspect[0]:
        h = max(1, min(height, round(width / aspect[0])))
    elif width / height > aspect[1]:
        w = max(1, min(width, round(height * aspect[1])))
    return (height - h) // 2, (width - w) // 2, h, w


class TrainTransform:
    """Random geometry and colours of training clips.

    With ``scales_relative`` or ``aspect_relative`` a random-resized crop; else the short side is scaled to a random
    length and a square is cut out. A short side below ``crop_size`` is raised to it.

    Args:
        crop_size: side of the square that results, pixels.
        jitter_scales: (low, high) of the random short side, pixels.
        inv_uniform: draw the short side's reciprocal uniformly.
        scales_relative: (low, high) share of the area, 0..1, or empty.
        aspect_relative: (low, high) of width / height, or empty.
        random_flip: mirror half of the clips. Off where left and right are classes.
        auto_augment: a RandAugment string like ``rand-m7-n4-mstd0.5-inc1``, or empty.
        color_jitter: brightness, contrast and saturation are multiplied by a factor of 1 -+ this, in random order.
        grayscale_prob: probability of losing the colours, 0..1.
        interpolation: of RandAugment's rotations and shifts: nearest | bilinear | bicubic | random.
        augmentations: what happens to the decoded clip, after it was mirrored, in this order; None: RandAugment, colour
            jitter and grayscale, those that are on.

    Raises:
        ConfigError: for every value that is out of range.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        jitter_scales: Sequence[float] = (256, 320),
        inv_uniform: bool = False,
        scales_relative: Sequence[float] = (),
        aspect_relative: Sequence[float] = (),
        random_flip: bool = True,
        auto_augment: str = "",
        color_jitter: float = 0.0,
        grayscale_prob: float = 0.0,
        interpolation: str = "bicubic",
        augmentations: Sequence[Augmentation] | None = None,
    ) -> None:
        problems = []
        relative = bool(scales_relative or aspect_relative)
        if crop_size < 1:
            problems.append(f"crop size {crop_size}: must be at least 1")
        if not relative or jitter_scales:
            problems += _range_problems("jitter scales", jitter_scales, math.inf)
        if scales_relative:
            problems += _range_problems("relative scales", scales_relative, 1.0)
        if aspect_relative:
            problems += _range_problems("relative aspect ratios", aspect_relative, math.inf)
        if color_jitter < 0:
            problems.append(f"colour jitter {color_jitter}: must not be negative")
        if not 0 <= grayscale_prob <= 1:
            problems.append(f"grayscale probability {grayscale_prob}: must be in 0..1")
        if interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation {interpolation!r}: choose one of {', '.join(INTERPOLATIONS)}")
        if problems:
            raise ConfigError("; ".join(problems))
        self.crop_size = crop_size
        self.jitter_scales = tuple(jitter_scales)
        self.inv_uniform = inv_uniform
        self.area = _pair(scales_relative or DEFAULT_AREA) if relative else None
        self.aspect = _pair(aspect_relative or DEFAULT_ASPECT)
        self.random_flip = random_flip
        if augmentations is None:
            augmentations = [
                *([ClipRandAugment(auto_augment, interpolation=interpolation)] if auto_augment else []),
                *([ColorJitter(color_jitter)] if color_jitter else []),
                *([Grayscale(grayscale_prob)] if grayscale_prob else []),
            ]
        self.augmentations = list(augmentations)

    def geometry(self, height: int, width: int, rng: np.random.RandomState) -> Geometry:
        """Return where to look in a source of (height, width) pixels; one crop."""
        crop = self.crop_size
        if self.area is not None:
            y, x, h, w = random_resized_crop(height, width, self.area, self.aspect, rng)
            box, size, cut = (float(y), float(x), float(h), float(w)), (crop, crop), (0, 0, crop, crop)
        else:
            low, high = self.jitter_scales
            short = max(jitter_short_side(low, high, rng, inv_uniform=self.inv_uniform), crop)
            size = short_side_size(height, width, short)
            box, cut = (0.0, 0.0, float(height), float(width)), random_crop(*size, crop, rng)
        flip = self.random_flip and bool(rng.uniform() < 0.5)
        return Geometry(box=box, size=size, crops=(cut,), flip=flip)

    def __call__(self, clip: Tensor, geometry: Geometry, rng: np.random.RandomState) -> Tensor:
        """Flip and recolour a decoded (T, C, H, W) uint8 clip; the same for all frames. The input is not changed."""
        if geometry.flip:
            clip = clip.flip(-1)
        return augment_clip(clip, self.augmentations, rng)


class EvalTransform:
    """Fixed crops of validation and test clips.

    Args:
        crop_size: side of the square crops, pixels.
        short_side: what the source's short side is scaled to; raised to ``crop_size`` if smaller.
        num_crops: crops of each frame; see :func:`test_crops`.
    """

    def __init__(self, *, crop_size: int, short_side: int, num_crops: int = 1) -> None:
        values = {"crop size": crop_size, "short side": short_side, "number of crops": num_crops}
        problems = [f"{name} {value}: must be at least 1" for name, value in values.items() if value < 1]
        if problems:
            raise ConfigError("; ".join(problems))
        self.crop_size = crop_size
        self.short_side = short_side
        self.num_crops = num_crops

    def geometry(self, height: int, width: int) -> Geometry:
        """Return where to look in a source of (height, width) pixels; ``num_crops`` crops, no flip."""
        size, crops = test_crops(height, width, self.short_side, self.crop_size, self.num_crops)
        return Geometry(box=(0.0, 0.0, float(height), float(width)), size=size, crops=crops)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _range_problems(name: str, values: Sequence[float], limit: float) -> list[str]:
    if len(values) == 2 and 0 < values[0] <= values[1] <= limit:
        return []
    up_to = "" if math.isinf(limit) else f" and at most {limit:g}"
    return [f"{name} {list(values)}: must be two numbers, low and high, above 0{up_to}"]
