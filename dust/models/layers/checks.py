"""What a video transformer looks at before it is built, and before it takes a video."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from dust.utils.errors import ConfigError, DustError

Multiple = tuple[str, int, str, int]  # name, value, name of the divisor, divisor


def clip_multiples(height: int, width: int, patch_size: int, frames: int, tubelet_size: int) -> list[Multiple]:
    """Return what a clip must be a multiple of, for :func:`check_arguments`."""
    return [
        ("image height", height, "patch_size", patch_size),
        ("image width", width, "patch_size", patch_size),
        ("number of frames", frames, "tubelet_size", tubelet_size),
    ]


def check_arguments(
    model: str,
    *,
    above_zero: Mapping[str, float],
    from_zero: Mapping[str, float] = MappingProxyType({}),
    rates: Mapping[str, float] = MappingProxyType({}),
    choices: Mapping[str, tuple[str, Sequence[str]]] = MappingProxyType({}),
    multiples: Sequence[Multiple] = (),
    more: Sequence[str] = (),
) -> None:
    """Raise one ConfigError that names every argument that cannot be: ``rates`` must be in [0, 1), ``choices`` are a
    value and what it may be, and both numbers of ``multiples`` must be above 0. ``more`` are problems that the caller
    found itself."""
    above_zero = {**above_zero, **{name: value for m in multiples for name, value in (m[:2], m[2:])}}
    problems = [f"{name} is {value}, it must be above 0" for name, value in above_zero.items() if value <= 0]
    problems += [
        f"{name} is {value}, it must be {'0 (no head)' if name == 'num_classes' else '0'} or more"
        for name, value in from_zero.items()
        if value < 0
    ]
    problems += [f"{name} is {value}, it must be in [0, 1)" for name, value in rates.items() if not 0 <= value < 1]
    problems += [
        f"{name} is {value!r}, it must be one of {', '.join(known)}"
        for name, (value, known) in choices.items()
        if value not in known
    ]
    problems += [
        f"{name} {value} is not a multiple of {of} {divisor}"
        for name, value, of, divisor in multiples
        if divisor > 0 and value % divisor
    ]
    if problems or more:
        raise ConfigError(f"{model}: " + "; ".join([*problems, *more]))


def check_video(model: str, video: torch.Tensor, *, in_chans: int, patch_size: int, tubelet_size: int = 1) -> None:
    """Raise DustError unless ``video`` is a float (B, C, T, H, W) that divides into tubelets and patches."""
    what = f"{model} got video of {video.dtype} and shape {tuple(video.shape)}; "
    if video.ndim != 5:
        raise DustError(what + "it takes five dimensions (B, C, T, H, W)")
    if not video.is_floating_point():
        raise DustError(what + "it takes floating-point numbers: scale and normalise the video first")
    if video.shape[1] != in_chans:
        raise DustError(what + f"it was built for in_chans={in_chans} in (B, C, T, H, W)")
    if video.shape[3] % patch_size or video.shape[4] % patch_size or 0 in video.shape[1:]:
        raise DustError(what + f"height and width must be multiples of patch_size={patch_size}: crop or resize")
    if video.shape[2] % tubelet_size:
        raise DustError(what + f"the number of frames must be a multiple of tubelet_size={tubelet_size}")
