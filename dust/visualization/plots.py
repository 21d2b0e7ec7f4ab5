"""Figures for result folders and TensorBoard. Drawn without a display."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def confusion_matrix_figure(counts: np.ndarray, class_names: Sequence[str]) -> Any:
    """Rows are labels, columns predictions, colour the share of the row. Up to 30 classes are named and numbered."""
    size = len(class_names)
    side = float(np.clip(2.5 + 0.4 * size, 4, 16))
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's clips", shrink=0.8)
    axes.set(xlabel="prediction", ylabel="label")
    if size <= 30:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in class_names]
        axes.set_xticks(range(size), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(size), names)
        for row, column in np.ndindex(size, size):
            if counts[row, column]:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure
