"""RandAugment of whole clips as tensors, on the device that they are on: the operations of
:mod:`dust.datasets.transforms.randaugment`, drawn by the same ``draw``, computed without PIL.

Pillow's arithmetic, as its documentation and its results show it: lookup tables, ITU-R 601-2 luma in 16 bits, blends
that are cut off and not rounded, affine transforms from pixel centres with a cubic of a = -1. Point operations give
Pillow's bytes; rotated, sheared and moved pixels may differ by 1 where a sum lies next to a whole number (and be the
neighbour's for ``nearest``, where a place lies between two). Nothing here waits for the device. A clip is (C, T, H, W)
uint8.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dust.datasets.transforms.randaugment import ClipRandAugment
from dust.utils.errors import ConfigError
from dust.utils.rng import numpy_rng


class DeviceRandAugment:
    """RandAugment of a batch, one set of operations for each clip.

    Args:
        policy, interpolation, fill: see :class:`dust.datasets.transforms.randaugment.ClipRandAugment`.
    """

    def __init__(self, policy: str, *, interpolation: str = "bicubic", fill: int = 128) -> None:
        self.draw = ClipRandAugment(policy, interpolation=interpolation, fill=fill).draw
        self.fill = fill

    def __call__(self, video: Tensor, words: tuple[int | str, ...]) -> Tensor:
        """Map (B, C, T, H, W) uint8 -> another; clip i draws from (words, i)."""
        if video.shape[1] not in (1, 3):
            raise ConfigError(
                f"RandAugment takes clips of 1 or 3 channels, not of {video.shape[1]}; set AUG.AA_TYPE ''"
            )
        out = torch.empty_like(video)
        for i, clip in enumerate(video):
            out[i] = self.apply(clip, self.draw(numpy_rng(*words, "randaugment", i)))
        return out

    def apply(self, clip: Tensor, operations: Sequence[tuple[str, tuple, str]]) -> Tensor:
        """Apply drawn operations to all frames of a clip."""
        for name, arguments, interpolation in operations:
            if name in _GEOMETRY:
                height, width = clip.shape[-2:]
                clip = _affine(clip, _GEOMETRY[name](*arguments, height, width), interpolation, self.fill)
            else:
                clip = _POINTWISE[name.removesuffix("Increasing")](clip, *arguments)
        return clip


# ------------------------------------------------------------------------------------------------ point operations


def _auto_contrast(clip: Tensor) -> Tensor:
    """Stretch each channel of each frame from its lowest and highest value to 0..255."""
    low, high = (extreme.to(torch.float64) for extreme in clip.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1)  # 255.0 / x would be rounded twice
    table = torch.arange(256, device=clip.device) * scale[..., None] + (-low * scale)[..., None]
    same = torch.arange(256, device=clip.device, dtype=table.dtype)
    return _look_up(clip, torch.where((high > low)[..., None], table, same))


def _equalize(clip: Tensor) -> Tensor:
    """Return each channel of each frame with as many pixels of each value as can be."""
    planes = clip.flatten(0, 1).flatten(1)
    rows = torch.arange(len(planes), device=clip.device)[:, None] * 256
    places = (planes + rows).flatten()  # in one dimension, which has a deterministic form on CUDA
    histogram = torch.zeros(256 * len(planes), dtype=torch.int64, device=clip.device)
    histogram = histogram.scatter_add_(0, places, torch.ones_like(places)).view(-1, 256)
    values = torch.arange(256, device=clip.device)
    last = torch.where(histogram > 0, values, 0).amax(dim=1, keepdim=True)  # the highest value that there is
    step = (planes.shape[1] - histogram.gather(1, last)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = (step // 2 + below) // step.clamp(min=1)
    return _look_up(clip, torch.where(step > 0, table, values).view(*clip.shape[:2], 256))


def _look_up(clip: Tensor, table: Tensor) -> Tensor:
    """Return ``table`` (C, T, 256) of each pixel's value, cut off to 0..255."""
    table = table.clamp(0, 255).to(torch.uint8)
    return table.gather(2, clip.flatten(2).long()).view(clip.shape)


def _solarize_add(clip: Tensor, add: int) -> Tensor:
    return torch.where(clip < 128, (clip.int() + add).clamp(max=255).to(torch.uint8), clip)


def _blend(degenerate: Tensor, clip: Tensor, factor: float) -> Tensor:
    """Blend two clips: ``factor`` 0 gives the first, 1 the second, more than 1 goes beyond it."""
    first = degenerate.float()
    return (first + (clip.float() - first) * factor).clamp(0, 255).to(torch.uint8)


def _luma(clip: Tensor) -> Tensor:
    """Return (1, T, H, W) int32, 0..255."""
    if len(clip) == 1:
        return clip.int()
    red, green, blue = clip.int().split(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _contrast(clip: Tensor, factor: float) -> Tensor:
    """Change the contrast about the mean of each frame's luma."""
    mean = _luma(clip).sum(dim=(2, 3), keepdim=True).double() / (clip.shape[2] * clip.shape[3])
    return _blend((mean + 0.5).floor(), clip, factor)


def _sharpness(clip: Tensor, factor: float) -> Tensor:
    """Sharpen against the mean of 3 x 3 pixels, in which the middle one counts five times; the border stays."""
    smooth = clip.int()
    if min(clip.shape[-2:]) > 2:
        rows = smooth[..., :-2, :] + smooth[..., 1:-1, :] + smooth[..., 2:, :]
        total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[..., 1:-1, 1:-1]
        smooth = smooth.clone()
        smooth[..., 1:-1, 1:-1] = (2 * total + 13) // 26  # a 13th of it, rounded
    return _blend(smooth, clip, factor)


_POINTWISE: dict[str, Callable[..., Tensor]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": lambda clip: 255 - clip,
    "Posterize": lambda clip, bits: clip & (0xFF & ~(0xFF >> bits)),
    "Solarize": lambda clip, threshold: torch.where(clip.int() < threshold, clip, 255 - clip),
    "SolarizeAdd": _solarize_add,
    "Color": lambda clip, factor: _blend(_luma(clip), clip, factor),
    "Contrast": _contrast,
    "Brightness": lambda clip, factor: _blend(torch.zeros_like(clip), clip, factor),
    "Sharpness": _sharpness,
}


# ------------------------------------------------------------------------------------------------ geometry

Matrix = tuple[float, float, float, float, float, float]  # (x, y) of the result -> a x + b y + c, d x + e y + f


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    """Return the matrix that turns against the clock about the middle."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


_GEOMETRY: dict[str, Callable[..., Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, height, width: (1.0, factor, 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda factor, height, width: (1.0, 0.0, 0.0, factor, 1.0, 0.0),
    "TranslateXRel": lambda share, height, width: (1.0, 0.0, share * width, 0.0, 1.0, 0.0),
    "TranslateYRel": lambda share, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, share * height),
}


def _affine(clip: Tensor, matrix: Matrix, interpolation: str, fill: int) -> Tensor:
    """Take each pixel from where ``matrix`` sends its middle; ``fill`` where that is outside. One map for all
    frames."""
    height, width = clip.shape[-2:]
    a, b, c, d, e, f = matrix
    down = torch.arange(height, device=clip.device, dtype=torch.float64)[:, None] + 0.5
    right = torch.arange(width, device=clip.device, dtype=torch.float64) + 0.5
    x, y = a * right + b * down + c, d * right + e * down + f  # (H, W)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # along an axis that stays as it is, the pixel itself is what any interpolation gives
    columns, across = _taps(x, width, "nearest" if matrix[:3] == (1.0, 0.0, 0.0) else interpolation)
    rows, along = _taps(y, height, "nearest" if matrix[3:] == (0.0, 1.0, 0.0) else interpolation)
    planes = clip.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return planes[..., (row * width + column).flatten()].view(clip.shape).float()

    lines = [_between([at(row, column) for column in columns], across) for row in rows]
    result = _between(lines, along).clamp(0, 255).to(torch.uint8)
    return torch.where(inside, result, fill)


def _taps(places: Tensor, size: int, interpolation: str) -> tuple[list[Tensor], Tensor]:
    """Return the pixels along one axis that places (H, W) lie between, and how far behind the middle one."""
    if interpolation == "nearest":
        return [places.floor().long().clamp(0, size - 1)], places.new_zeros(())
    begin = (places - 0.5).floor()
    offsets = (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)
    return [(begin.long() + i).clamp(0, size - 1) for i in offsets], (places - 0.5 - begin).float()


def _between(values: list[Tensor], t: Tensor) -> Tensor:
    """Mix one, two or four pixels, at ``t`` of the way; pixels that are alike give just their value."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return values[0] + (values[1] - values[0]) * t
    v1, v2, v3, v4 = values
    return v2 + t * (v3 - v1 + t * (2 * (v1 - v2) + v3 - v4 + t * (v2 - v1 + v4 - v3)))
