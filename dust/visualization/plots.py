"""Figures for result folders and TensorBoard. Drawn without a display."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_words(figure: Any) -> Any:
    """Return the figure with its texts taken as they are: a name with two dollars is a name, no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def confusion_matrix_figure(counts: np.ndarray, class_names: Sequence[str]) -> Any:
    """Draw the matrix: rows are labels, columns predictions, colour the share of the row. Up to 30 classes are named
    and numbered."""
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
    return plain_words(figure)


def bar_figure(names: Sequence[str], values: Sequence[float], groups: Sequence[int], xlabel: str) -> Any:
    """Return one horizontal bar for each case, from the top, coloured by group.

    Args:
        names, values: the cases; values in percent.
        groups: a number for each case; cases with the same number have the same colour.
        xlabel: what the values are.
    """
    height = float(np.clip(1.0 + 0.28 * len(names), 2.5, 60))
    figure = new_figure(8, height)
    axes = figure.add_subplot()
    places = np.arange(len(names))
    colours = [f"C{(group - 1) % 10}" for group in groups]
    bars = axes.barh(places, values, color=colours)
    axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 108), xlabel=xlabel)
    axes.grid(axis="x", alpha=0.3)
    return plain_words(figure)
