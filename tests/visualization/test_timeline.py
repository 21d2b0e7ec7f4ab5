"""Timelines and bar charts show what they are given."""

import numpy as np

from dust.visualization.plots import bar_figure
from dust.visualization.timeline import timeline_figure

NAMES = ["left", "right", "line"]


def test_timeline(tmp_path):
    predicted, labels = np.array([0, 0, 1, -1]), np.array([0, 1, 1, -1])
    figure = timeline_figure(predicted, np.array([0.9, 0.8, 0.7, 0.0]), labels, NAMES, fps=2.0)
    strips, curve = figure.axes
    assert [text.get_text() for text in strips.get_yticklabels()] == ["label", "prediction"]
    image = strips.images[0].get_array()
    assert image.filled(-1).tolist() == [[0, 1, 1, -1], [0, 0, 1, -1]]
    x, y = curve.lines[0].get_data()
    assert x.tolist() == [0.25, 0.75, 1.25, 1.75] and y[:3].tolist() == [0.9, 0.8, 0.7] and np.isnan(y[3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right"]
    figure.savefig(tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").stat().st_size > 1000


def test_timeline_without_labels():
    figure = timeline_figure(np.array([2, 2]), np.ones(2), np.array([-1, -1]), NAMES)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["prediction"]
    assert figure.axes[1].get_xlabel() == "frame"


def test_bars():
    figure = bar_figure(["0", "1", "0 1"], [40.0, 30.0, 98.5], [1, 1, 2], "top1_acc, %")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [40.0, 30.0, 98.5]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]
    assert {text.get_text() for text in axes.texts} == {"40.0", "30.0", "98.5"}
