"""Augmentations of decoded clips, by name: what AUG.LIST may hold, and where your own is registered.

One is a class, or a function, that takes a clip and a random stream; this is a whole one of your own:

    @AUGMENTATION_REGISTRY.register()
    def darken(clip, rng, *, most=40):
        return (clip.int() - int(rng.randint(0, most + 1))).clamp(0, 255).to(clip.dtype)

and ``AUG.LIST: [darken]``, or ``AUG.LIST: [{darken: {most: 60}}, {ColorJitter: {strength: 0.2}}]``. The stream is
private to (seed, epoch, sample, view), and the augmentations of a list draw from it one after the other: any number of
workers, and a resumed run, give the same clips.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from dust.datasets.transforms.randaugment import ClipRandAugment
from dust.utils.errors import ConfigError
from dust.utils.registry import Registry

AUGMENTATION_REGISTRY = Registry("augmentation", aliases={"RandAugment": "ClipRandAugment"})
AUGMENTATION_REGISTRY.register()(ClipRandAugment)


class Augmentation(Protocol):
    """A random change of a clip."""

    def __call__(self, clip: Tensor, rng: np.random.RandomState, /) -> Tensor:
        """Map (T, C, H, W) uint8 -> another of the same shape; the given one is not changed. All draws come from
        ``rng``, once for all frames."""
        ...


@AUGMENTATION_REGISTRY.register()
class ColorJitter:
    """Brightness, contrast and saturation times a factor in 1 -+ ``strength`` (0 or more) each, in random order."""

    def __init__(self, strength: float = 0.4) -> None:
        if not strength >= 0:
            raise ConfigError(f"colour jitter {strength}: must not be negative")
        self.strength = strength

    def __call__(self, clip: Tensor, rng: np.random.RandomState, /) -> Tensor:
        return jitter_colors(clip, self.strength, rng) if self.strength else clip


@AUGMENTATION_REGISTRY.register()
class Grayscale:
    """Take the colours away from this share of the clips, 0..1."""

    def __init__(self, prob: float = 0.2) -> None:
        if not 0 <= prob <= 1:
            raise ConfigError(f"grayscale probability {prob}: must be in 0..1")
        self.prob = prob

    def __call__(self, clip: Tensor, rng: np.random.RandomState, /) -> Tensor:
        return grayscale(clip) if rng.uniform() < self.prob else clip


def build_augmentations(
    entries: Sequence[Any], key: str = "AUG.LIST", registry: Registry = AUGMENTATION_REGISTRY
) -> list[Any]:
    """Return the augmentations that a list of the configuration names.

    Args:
        entries: names, or ``{name: {argument: value}}``.
        key: the list's, for an error.
        registry: where the names are.

    Raises:
        ConfigError: every entry that is neither, names nothing that is registered, or gives arguments that it does not
            take.
    """
    built: list[Any] = []
    problems = []
    for number, entry in enumerate(entries, 1):
        where = f"{key}, entry {number}"
        pair = _name_and_arguments(entry)
        if pair is None:
            problems.append(f"{where}: {entry!r} is neither a name nor {{name: {{argument: value}}}}")
            continue
        name, arguments = pair
        try:
            built.append(_make(registry.get(name), arguments))
        except ConfigError as error:
            problems.append(f"{where}: {error}")
        except TypeError as error:
            problems.append(f"{where}: {name} cannot be made with {arguments}: {error}")
    if problems:
        raise ConfigError("\n  ".join(problems))
    return built


def _name_and_arguments(entry: Any) -> tuple[str, dict[str, Any]] | None:
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return None
    ((name, arguments),) = entry.items()
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return None
    return name, dict(arguments)


def _make(registered: Callable[..., Any], arguments: dict[str, Any]) -> Augmentation:
    """Make the augmentation. TypeError for arguments that it does not take."""
    given = () if inspect.isclass(registered) else (None, None)  # a function has the clip and the stream first
    inspect.signature(registered).bind(*given, **arguments)
    if inspect.isclass(registered):
        made: Any = registered(**arguments)
        return made
    if arguments:
        return functools.partial(registered, **arguments)
    return registered


def augment_clip(clip: Tensor, augmentations: Sequence[Augmentation], rng: np.random.RandomState) -> Tensor:
    """Apply one after the other. ConfigError names one that gives another shape or type than it got."""
    for augmentation in augmentations:
        out = augmentation(clip, rng)
        if not isinstance(out, Tensor) or out.shape != clip.shape or out.dtype != clip.dtype:
            what = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(
                f"the augmentation {_name_of(augmentation)} made {what} of a clip of {clip.dtype} {tuple(clip.shape)} "
                "(frames, channels, height, width); it must keep shape and type"
            )
        clip = out
    return clip


def _name_of(augmentation: Any) -> str:
    augmentation = augmentation.func if isinstance(augmentation, functools.partial) else augmentation
    return augmentation.__name__ if inspect.isfunction(augmentation) else type(augmentation).__name__


def jitter_colors(clip: Tensor, strength: float, rng: np.random.RandomState) -> Tensor:
    """Multiply brightness, contrast and saturation by a factor in 1 -+ ``strength`` (not below 0) each, in random
    order.

    (T, C, H, W) uint8 -> the same. One order and one set of factors per clip; contrast is about each frame's mean.
    """
    from torchvision.transforms.v2 import functional as F

    operations = [F.adjust_brightness, F.adjust_contrast]
    if clip.shape[1] == 3:
        operations.append(F.adjust_saturation)
    factors = [float(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)) for _ in operations]
    for i in rng.permutation(len(operations)):
        clip = operations[i](clip, factors[i])
    return clip


def grayscale(clip: Tensor) -> Tensor:
    """Map (T, 3, H, W) uint8 -> its luma in all three channels. A clip of one channel is returned as it is."""
    if clip.shape[1] != 3:
        return clip
    from torchvision.transforms.v2 import functional as F

    return F.rgb_to_grayscale(clip, num_output_channels=3)
