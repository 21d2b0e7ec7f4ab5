"""From windows to segments: merged, with hysteresis, without what is too short; and the files that say so."""

import json

import numpy as np
import pytest

from dust.deploy.prediction import Prediction
from dust.deploy.timeline import MergeRule, Segment, Timeline, stems, write_activitynet, write_timeline
from tests.helpers import csv_dicts


def timeline(rows, step=1.0, window=2.0, duration=0.0):
    found = Timeline("a/long video.mp4", ["cut", "stir"], duration)
    for number, value in enumerate(rows):
        probabilities = {"cut": value, "stir": 1 - value}
        found.add(Prediction("a", "a", probabilities=probabilities, start=number * step, end=number * step + window))
    return found


def labels(found, **rule):
    return [(one.label, round(one.start, 2), round(one.end, 2)) for one in found.segments(MergeRule(**rule))]


def test_neighbours_that_agree_are_one_segment():
    found = timeline([0.9, 0.8, 0.2, 0.1], duration=6.0)
    first, second = found.segments(MergeRule())
    # windows 0-2, 1-3, 2-4, 3-5: each answers up to the middle of what it shares with the next
    assert (first.label, first.start, first.end) == ("cut", 0.0, 2.5)
    assert (second.label, second.start, second.end) == ("stir", 2.5, 6.0)
    assert first.confidence == pytest.approx((0.9 * 1.5 + 0.8 * 1.0) / 2.5)
    assert found.at([first, second], 2.4) == 0 and found.at([first, second], 99.0) == 1
    assert timeline([]).segments(MergeRule()) == []


def test_hysteresis_keeps_a_label_until_another_is_clearly_likelier():
    rows = [0.9, 0.48, 0.52, 0.45, 0.1]
    assert [one[0] for one in labels(timeline(rows))] == ["cut", "stir", "cut", "stir"]
    assert [one[0] for one in labels(timeline(rows), hysteresis=0.2)] == ["cut", "stir"]
    assert labels(timeline(rows), hysteresis=0.2)[1][1] == 4.5, "from 0.55 to 0.45 is not enough"


def test_below_the_threshold_it_is_none_of_these():
    found = timeline([0.95, 0.55, 0.9])
    assert [one[0] for one in labels(found, threshold=0.8)] == ["cut", "none of these", "cut"]
    assert [one[0] for one in labels(found, threshold=0.8, hysteresis=0.5)] == ["cut", "none of these", "cut"]


def test_what_is_too_short_goes_to_the_likelier_neighbour():
    found = timeline([0.9, 0.9, 0.4, 0.9, 0.9, 0.1, 0.1, 0.1])
    assert [one[0] for one in labels(found)] == ["cut", "stir", "cut", "stir"]
    assert [one[0] for one in labels(found, min_length=1.5)] == ["cut", "stir"]
    assert len(labels(found, min_length=100)) == 1
    whole = labels(found, min_length=1.5)
    assert whole[0][1] == 0 and whole[0][2] == whole[1][1] and whole[1][2] == 9.0


def test_names_of_files():
    assert stems(["a/x.mp4", "b/x.avi", "rtsp://host/live"]) == ["x", "x_2", "live"]
    assert stems(["a b/c:d?.mp4"]) == ["c_d"]


def test_files(tmp_path):
    found = timeline([0.9, 0.2], duration=4.0)
    segments = found.segments(MergeRule())
    written = write_timeline(tmp_path, "long", found, segments)
    assert [path.name for path in written] == ["long.windows.csv", "long.segments.csv", "long.png"]
    rows = csv_dicts(tmp_path / "long.windows.csv")
    assert rows[0] == {"start": "0.000", "end": "2.000", "prediction": "cut", "prob_cut": "0.9", "prob_stir": "0.1"}
    rows = csv_dicts(tmp_path / "long.segments.csv")
    assert [row["label"] for row in rows] == ["cut", "stir"] and rows[1]["end"] == "4.000"
    assert (tmp_path / "long.png").read_bytes()[:4] == b"\x89PNG"
    write_activitynet(tmp_path / "t.json", [("long", found, [*segments, Segment(4, 5, "none of these", 0.9)])], {})
    document = json.loads((tmp_path / "t.json").read_text())
    assert set(document) == {"version", "results", "external_data"}
    assert [one["label"] for one in document["results"]["long"]] == ["cut", "stir"]
    assert document["results"]["long"][0]["segment"] == [0.0, 1.5]


def test_many_classes_and_one_window(tmp_path):
    names = [f"class {number}" for number in range(400)]
    found = Timeline("x.mp4", names)
    row = dict(zip(names, np.full(400, 1 / 400), strict=True))
    found.add(Prediction("a", "a", probabilities=row, start=0.0, end=1.0))
    assert len(write_timeline(tmp_path, "x", found, found.segments(MergeRule(threshold=0.5)))) == 3
