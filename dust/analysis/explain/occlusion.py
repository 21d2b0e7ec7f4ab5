"""What an answer loses where a part of the input is taken away: frames, channels and stretches of a series,
cameras, stretches and points of tracks.

Nothing is estimated: the model runs on the clip without the part. Taken one after the other, the losses sum to the
whole change of the answer, from the clip to nothing of it, in whichever order. What comes last is all that is left, so
times are taken from both ends, and what has no order (channels, cameras, points) in several orders by chance.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

#: Input -> what it can lose, and along which axis of (B, ...).
PARTS = {
    "video": {"frames": 2},
    "series": {"channels": 1, "stretches": 2},
    "tracks": {"cameras": 1, "stretches": 2, "points": 3},
}
#: Parts of no order are taken in so many orders by chance, and in the reverse of each.
ORDERS = 4
UNORDERED = ("channels", "cameras", "points")
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
        share: (N,) what it loses where this part is taken away after those before it: the mean of the orders in which
            the parts are taken. They sum to ``whole - nothing``.
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
            for what, axis in axes.items():
                found.append(_along(inputs, name, f"{name}.{what}", axis, score, ordered=what not in UNORDERED))
    return found


def _along(
    inputs: dict[str, Tensor],
    name: str,
    title: str,
    axis: int,
    score: Callable[[dict[str, Tensor]], float],
    *,
    ordered: bool,
) -> Occlusion:
    length = inputs[name].shape[axis]
    edges = np.linspace(0, length, min(length, MOST) + 1).round().astype(int)
    count = len(edges) - 1
    known: dict[frozenset[int], float] = {}

    def without(parts: Iterable[int]) -> float:
        gone = frozenset(parts)
        if gone not in known:
            known[gone] = score(_without(inputs, name, axis, [(edges[one], edges[one + 1]) for one in gone]))
        return known[gone]

    whole, nothing = without(()), without(range(count))
    alone = np.array([whole - without([part]) for part in range(count)])
    rng = np.random.default_rng(0)
    orders = [np.arange(count)] if ordered else [rng.permutation(count) for _ in range(ORDERS)]
    share = np.zeros(count)
    for order in [one[::step] for one in orders for step in (1, -1)]:
        left = np.array([without(order[:gone].tolist()) for gone in range(count + 1)])
        share[order] += (left[:-1] - left[1:]) / (2 * len(orders))
    return Occlusion(title, edges, alone, share, whole, nothing)


def _without(inputs: dict[str, Tensor], name: str, axis: int, parts: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    if not parts:
        return inputs
    target = MASKS.get(name, name)
    target = target if target in inputs else name
    changed = inputs[target].clone()
    for first, end in parts:
        changed.narrow(axis, int(first), int(end - first)).zero_()
    return {**inputs, target: changed}
