"""The timeline of a procedure's steps."""

import numpy as np

from dust.visualization.steps import steps_figure


def test_steps_stand_where_they_happened(tmp_path):
    last = np.arange(8, 60, 2)
    probabilities = np.random.default_rng(0).uniform(size=(len(last), 2))
    gt, pred = [(15, 0), (40, 3), (50, 5)], [(18, 0), (20, 3), (44, 4)]
    options = {"num_frames": 60, "fps": 10.0, "title": "rec"}
    figure = steps_figure(
        gt, pred, [True, False, False], ["base", "lid"], last=last, probabilities=probabilities, **options
    )
    marks, curves = figure.axes
    points = [
        (float(line.get_xdata()[0]), line.get_ydata()[0], line.get_marker(), line.get_markerfacecolor() == "white")
        for line in marks.lines
        if line.get_marker() not in ("None", "")
    ]
    assert points == [
        (1.8, 0, "^", False),
        (2.0, 0, "^", True),  # wrong: hollow
        (4.4, 0, "x", False),  # a cross has no inside
        (1.5, 1, "^", False),
        (4.0, 1, "^", False),
        (5.0, 1, "v", False),
    ]
    assert len(curves.lines) == 2 and np.allclose(curves.lines[1].get_ydata(), probabilities[:, 1])
    assert marks.get_xlim() == (0, 6)
    figure.savefig(tmp_path / "timeline.png")
    empty = steps_figure([], [], [], ["base"], last=np.empty(0, int), probabilities=np.empty((0, 1)), **options)
    assert not empty.axes[1].lines
