"""Bar charts of one figure of merit over named cases."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.visualization.plots import new_figure


def bar_figure(names: Sequence[str], values: Sequence[float], groups: Sequence[int], xlabel: str) -> Any:
    """One horizontal bar for each case, from the top, coloured by group.

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
    return figure
