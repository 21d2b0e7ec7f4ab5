"""Figures of timelines against other people's evaluations, run on random timelines, and on published predictions."""

import json
import math

import numpy as np
import pytest
import torch

from dust.utils.errors import DataError
from dust.utils.segment_metrics import (
    Segment,
    detection_map,
    edit_score,
    f1_at_overlaps,
    frame_accuracy,
    segments_of_frames,
)
from tests.helpers import ROOT

GOLDEN = json.loads((ROOT / "tests" / "data" / "segment_metrics.json").read_text())
#: Timelines that temporal convolutional networks predicted, with the frame accuracy of each set.
PUBLISHED = {"50Salads/eval": 73.4, "50Salads/mid": 64.7, "GTEA": 63.7}


@pytest.mark.parametrize("case", GOLDEN["timelines"])
def test_edit_and_f1_are_those_of_another_evaluation(case):
    f1 = f1_at_overlaps(case["recordings"], background=[0])
    assert list(f1) == ["f1@10", "f1@25", "f1@50"] and list(f1.values()) == pytest.approx(case["f1"])
    edits = [edit_score(*recording, background=[0]) for recording in case["recordings"]]
    assert edits == pytest.approx(case["edit"])


def by_video(rows):
    videos = {}
    for video, start, end, label, *confidence in rows:
        videos.setdefault(video, []).append(Segment(start, end, label, *confidence))
    return videos


@pytest.mark.parametrize("case", GOLDEN["detection"])
def test_average_precision_is_that_of_another_evaluation(case):
    found = detection_map(by_video(case["predicted"]), by_video(case["true"]))
    assert found.pop("map") == pytest.approx(np.mean(case["map"]))
    assert list(found.values()) == pytest.approx(case["map"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_timelines_have_their_published_accuracy(name):
    folder = ROOT.parent / "shared" / "realdata" / "segmentation" / name
    files = sorted(folder.glob("*/*.mat")) or pytest.skip(f"{folder} is not there")
    from scipy.io import loadmat

    figures = []
    for file in files:
        split = loadmat(file)
        pairs = [(p.ravel().tolist(), y.ravel().tolist()) for p, y in zip(split["P"][0], split["Y"][0], strict=True)]
        figures.append(np.mean([frame_accuracy(*pair) for pair in pairs]))
    assert np.mean(figures) == pytest.approx(PUBLISHED[name], abs=0.5)


def test_laws():
    labels = [0, 0, 1, 1, 1, 2, 0, 0]
    assert frame_accuracy(labels, labels) == edit_score(labels, labels) == 100
    assert set(f1_at_overlaps([(labels, labels)]).values()) == {100.0}
    assert f1_at_overlaps([([0] * 4, [0] * 4)], background=[0])["f1@50"] == 100, "nothing to find, nothing found"
    stretched = [label for label in labels for _ in range(3)]
    assert edit_score(stretched[:8], labels) == edit_score(stretched[:8][::-1], labels[::-1])
    assert [(s.start, s.end, s.label) for s in segments_of_frames(labels)] == [
        (0, 2, 0),
        (2, 5, 1),
        (5, 6, 2),
        (6, 8, 0),
    ]
    assert frame_accuracy([1, 1, 0], [1, 0, 0], background=[0]) == 100


def test_one_true_segment_is_found_once():
    true = {"v": [Segment(0, 10, "a")]}
    twice = {"v": [Segment(0, 10, "a", 0.9), Segment(0, 10, "a", 0.8)]}
    assert detection_map(twice, true)["map"] == 100
    assert detection_map({"v": twice["v"][1:], "w": twice["v"][:1]}, true)["map"] == 50
    assert detection_map({}, true)["map"] == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: frame_accuracy([1], [1, 2]), "1 predicted frames for 2"),
        (lambda: frame_accuracy([], []), "no frame counts"),
        (lambda: f1_at_overlaps([([1], [])]), "1 predicted frames for 0"),
        (lambda: detection_map({}, {}), "no true segment"),
        (lambda: Segment(3, 3, "a"), "from 3 to 3"),
        (lambda: Segment(0, float("nan"), "a"), "nan"),
        (lambda: Segment(0, 1, "a", float("inf")), "no number"),
    ],
)
def test_wrong_input_is_said(call, says):
    with pytest.raises(DataError, match=says):
        call()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda labels: [torch.tensor(label) for label in labels]])
def test_timelines_of_every_kind_know_their_background(kind):
    """Tensors were never found among the labels of the background, so that it counted, in silence."""
    labels, predicted = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    given = kind(predicted), kind(labels)
    assert segments_of_frames(kind(labels)) == segments_of_frames(labels)
    for background in ([0], np.array([0]), 0):
        assert (
            frame_accuracy(*given, background=background) == frame_accuracy(predicted, labels, background=[0]) == 75.0
        )
        assert edit_score(*given, background=background) == edit_score(predicted, labels, background=[0])
        assert f1_at_overlaps([given], background=background) == f1_at_overlaps([(predicted, labels)], background=[0])
    words = ["idle", "cut"]
    assert frame_accuracy(["cut", "cut"], words, background="idle") == 100.0  # a text is one label


@pytest.mark.parametrize("timeline", [None, 3, np.zeros((2, 2)), [[1], [2]], [math.nan, 1.0], torch.tensor(1)])
def test_what_is_no_timeline_is_refused(timeline):
    for function in (frame_accuracy, edit_score, lambda *pair: f1_at_overlaps([pair])):
        with pytest.raises(DataError, match="a timeline"):
            function(timeline, timeline)


@pytest.mark.parametrize("overlaps", [(), (1.5,), (-0.1,), (math.nan,), 0.5, "a"])
def test_overlaps_are_shares(overlaps):
    with pytest.raises(DataError, match="overlaps"):
        f1_at_overlaps([([1], [1])], overlaps=overlaps)
    with pytest.raises(DataError, match="overlaps"):
        detection_map({}, {"a": [Segment(0, 1, "x")]}, overlaps=overlaps)
