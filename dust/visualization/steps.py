"""Steps of a procedure along a recording: what was completed, what was recognised, and how sure the model was."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.visualization.plots import new_figure, plain_words

Step = tuple[int, int]
MARKS = {0: "^", 1: "x", 2: "v"}  # by step id % 3: install, install wrongly, remove


def steps_figure(
    gt: Sequence[Step],
    pred: Sequence[Step],
    right: Sequence[bool],
    components: Sequence[str],
    *,
    num_frames: int,
    fps: float,
    last: np.ndarray,
    probabilities: np.ndarray,
    title: str = "",
) -> Any:
    """Draw completed steps above recognised ones, a colour per component; below, the confidence that each changed.

    Args:
        gt, pred: (frame, step id), step id = 3 * component + 0 (install), 1 (install wrongly) or 2 (remove).
        right: for each of ``pred``, whether it is a true positive; the others are drawn hollow.
        last: (W,) the frame that each window ends with.
        probabilities: (W, K) in 0..1; none (W = 0) where the steps were not made of windows.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    figure = new_figure(12, 3.0 + 0.16 * len(components))
    marks, curves = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    colours = [colormaps["tab20"](index % 20) for index in range(len(components))]
    solid = [True] * len(gt)
    for row, (steps, filled) in enumerate(((pred, right), (gt, solid))):
        marks.axhline(row, color="0.85", linewidth=1, zorder=0)
        for (frame, step), full in zip(steps, filled, strict=True):
            colour = colours[step // 3]
            face = colour if full or MARKS[step % 3] == "x" else "white"
            marks.plot(frame / fps, row, MARKS[step % 3], color=colour, markerfacecolor=face, markersize=9)
    marks.set_yticks((0, 1), ("prediction", "ground truth"))
    marks.set(ylim=(-0.6, 1.6), title=title)
    for component in range(len(components) if len(last) else 0):
        curves.plot(last / fps, probabilities[:, component], color=colours[component], linewidth=1)
    curves.set(xlim=(0, num_frames / fps), ylim=(-0.02, 1.02), ylabel="confidence", xlabel="seconds")
    handles = [Line2D([], [], color=colour, marker="s", linestyle="") for colour in colours]
    shapes = [Line2D([], [], color="0.4", marker=MARKS[kind], linestyle="") for kind in (0, 2)]
    names = [*components, "install", "remove (hollow: wrong)"]
    figure.legend([*handles, *shapes], names, loc="outside right upper", fontsize=8)
    return plain_words(figure)
