"""Figures take names as they are: one that reads like a formula is a name."""

import io

import numpy as np
import pytest

from dust.visualization.plots import bar_figure, confusion_matrix_figure
from dust.visualization.segments import segments_figure
from dust.visualization.steps import steps_figure
from dust.visualization.timeline import timeline_figure

NAMES = [r"$\frac$", "pay $5 or $6", "stir"]
TIMES, HALF = np.arange(3.0), np.full((3, 3), 0.5)
FIGURES = {
    "confusion": lambda: confusion_matrix_figure(np.eye(3, dtype=int), NAMES),
    "bars": lambda: bar_figure(NAMES, [1.0, 2.0, 3.0], [1, 1, 2], NAMES[0]),
    "timeline": lambda: timeline_figure(np.arange(3), np.full(3, 0.5), np.arange(3), NAMES),
    "segments": lambda: segments_figure(
        [(0.0, 3.0, NAMES[0], NAMES[0], 0)], TIMES, HALF, NAMES, length=3.0, title=NAMES[0]
    ),
    "steps": lambda: steps_figure(
        [(1, 0)], [(1, 3)], [True], NAMES, num_frames=9, fps=3.0, last=TIMES, probabilities=HALF, title=NAMES[0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_a_name_is_no_formula(name):
    FIGURES[name]().savefig(io.BytesIO(), format="png", dpi=40)
