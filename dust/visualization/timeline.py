"""What a model says along a recording: a strip of colours over time, and how sure it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.visualization.plots import new_figure, plain_words

NAMED = 20  # as many classes as there are colours get a name


def timeline_figure(
    predicted: np.ndarray,
    probability: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    fps: float = 0.0,
) -> Any:
    """Draw strips of the labels and the predictions above a curve of the predictions' probability.

    Args:
        predicted, labels: (T,) class numbers; -1 where there is none, left white. Without any label there is no strip.
        probability: (T,) in 0..1.
        fps: frames per second, for a time axis in seconds; 0: in frames.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = new_figure(12, 3.2)
    strips, curve = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    rows = {"label": labels, "prediction": predicted} if (labels >= 0).any() else {"prediction": predicted}
    palette = [colormaps["tab20"](index % NAMED) for index in range(len(class_names))]
    end = len(predicted) / fps if fps else len(predicted)
    image = np.ma.masked_less(np.stack(list(rows.values())), 0)
    strips.imshow(
        image,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(palette),
        vmin=-0.5,
        vmax=len(class_names) - 0.5,
        extent=(0, end, len(rows), 0),
    )
    strips.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
    times = (np.arange(len(predicted)) + 0.5) * end / max(len(predicted), 1)
    curve.plot(times, np.where(predicted >= 0, probability, np.nan), linewidth=1)
    curve.set(ylim=(0, 1.02), ylabel="probability", xlabel="seconds" if fps else "frame")
    used = [index for index in range(len(class_names)) if any((row == index).any() for row in rows.values())]
    handles = [Patch(color=palette[index], label=class_names[index]) for index in used[:NAMED]]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return plain_words(figure)
