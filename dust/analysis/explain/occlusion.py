"""What an answer loses where a part of the input is taken away: frames, channels and stretches of a series, cameras.

Nothing is estimated: the model runs on the clip without the part. Taken one after the other, from the first to the
last, the losses sum to the whole change of the answer, from the clip to nothing of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Input -> what it can lose, and along which axis of (B, ...).
PARTS = {
    "video": {"frames": 2},
    "series": {"channels": 1, "stretches": 2},
    "tracks": {"cameras": 1, "stretches": 2},
}
#: A longer axis is cut into so many parts.
MOST = 32
#: Inputs that are nowhere visible when they are taken away, where this mask stands beside them.
MASKS = {"tracks": "visible"}


@dataclass(frozen=True)
class Occlusion:
    """Of N parts of one axis.

    Attributes:
        name: ``video.frames``, ``series.channels``...
        edges: (N + 1,) where the parts begin along the axis, and where the last ends.
        alone: (N,) what the answer's logit loses where this part alone is taken away.
        share: (N,) what it loses where this part is taken away after those before it (and, the mean of both, after
            those behind it). They sum to ``whole - nothing``.
        whole, nothing: the logit of the clip, and of a clip without all parts.
    """

    name: str
    edges: np.ndarray
    alone: np.ndarray
    share: np.ndarray
    whole: float
    nothing: float


def occlude(inputs: dict[str, Tensor], score: Callable[[dict[str, Tensor]], float]) -> list[Occlusion]:
    """Take the parts of every input away.

    Args:
        inputs: (V, ...) each, as the model takes them: 0 is the mean colour, or a channel's mean.
        score: the logit that is explained, of inputs.
    """
    found = []
    for name, axes in PARTS.items():
        if name in inputs:
            found += [_along(inputs, name, f"{name}.{what}", axis, score) for what, axis in axes.items()]
    return found


def _along(
    inputs: dict[str, Tensor], name: str, title: str, axis: int, score: Callable[[dict[str, Tensor]], float]
) -> Occlusion:
    length = inputs[name].shape[axis]
    edges = np.linspace(0, length, min(length, MOST) + 1).round().astype(int)
    count = len(edges) - 1

    def without(first: int, end: int) -> float:
        return score(_without(inputs, name, axis, int(edges[first]), int(edges[end])))

    whole, nothing = without(0, 0), without(0, count)
    alone = np.array([whole - without(part, part + 1) for part in range(count)])
    inner = range(1, count)
    forth = np.array([whole, *(without(0, end) for end in inner), nothing])
    back = np.array([nothing, *(without(first, count) for first in inner), whole])
    share = (forth[:-1] - forth[1:] + back[1:] - back[:-1]) / 2
    return Occlusion(title, edges, alone, share, whole, nothing)


def _without(inputs: dict[str, Tensor], name: str, axis: int, first: int, end: int) -> dict[str, Tensor]:
    if first == end:
        return inputs
    target = MASKS.get(name, name)
    target = target if target in inputs else name
    changed = inputs[target].clone()
    part = [slice(None)] * changed.ndim
    part[axis] = slice(first, end)
    changed[tuple(part)] = torch.zeros((), dtype=changed.dtype)
    return {**inputs, target: changed}
