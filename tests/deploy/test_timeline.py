"""From windows to segments: merged, with hysteresis, without what is too short; and the files that say so."""

import json

import numpy as np
import pytest

from dust.datasets.manifest.manifest import Clip
from dust.deploy.jobs import WindowLog, file_names, video_names
from dust.deploy.prediction import Prediction
from dust.deploy.timeline import MergeRule, Moments, Segment, Timeline, write_activitynet, write_timeline
from dust.utils.errors import DustError
from tests.helpers import csv_dicts


def timeline(rows, step=1.0, window=2.0, duration=0.0):
    found = Timeline("a/long video.mp4", ["cut", "stir"], duration)
    for number, value in enumerate(rows):
        probabilities = {"cut": value, "stir": 1 - value}
        when = {"start": number * step, "end": number * step + window}
        found.add(Prediction("a", "a", max(probabilities, key=probabilities.get), probabilities, **when))
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
    moments = Moments([first, second])
    assert [moments.at(seconds) for seconds in (0.0, 2.4, 2.5, 99.0)] == [(0,), (0,), (1,), (1,)]
    assert timeline([]).segments(MergeRule()) == []


def test_nothing_is_said_of_a_gap_in_a_live_source():
    found = Timeline("camera:0", ["cut", "stir"], gap=1.0)
    for start in (0.0, 1.0, 30.0, 31.0):
        found.add(Prediction("a", "a", "cut", {"cut": 0.9, "stir": 0.1}, start=start, end=start + 2.0))
    assert labels(found) == [("cut", 0, 3), ("cut", 30, 33)]
    found.gap = 0.0
    assert labels(found) == [("cut", 0, 33)]


def test_hysteresis_keeps_a_label_until_another_is_clearly_likelier():
    rows = [0.9, 0.48, 0.52, 0.45, 0.1]
    assert [one[0] for one in labels(timeline(rows))] == ["cut", "stir", "cut", "stir"]
    assert [one[0] for one in labels(timeline(rows), hysteresis=0.2)] == ["cut", "stir"]
    assert labels(timeline(rows), hysteresis=0.2)[1][1] == 4.5, "from 0.55 to 0.45 is not enough"


def test_below_the_threshold_it_is_none_of_these():
    found = timeline([0.95, 0.55, 0.9])
    assert [one[0] for one in labels(found, threshold=0.8)] == ["cut", "none of these", "cut"]
    assert [one[0] for one in labels(found, threshold=0.8, hysteresis=0.5)] == ["cut", "none of these", "cut"]


def several(rows, questions, duration=0.0):
    """A timeline of several questions."""
    names = [name for names in questions for name in names]
    found = Timeline("x.mp4", names, duration, questions)
    for number, row in enumerate(rows):
        probabilities = dict(zip(names, row, strict=True))
        found.add(Prediction("a", "a", "said", probabilities, start=float(number), end=number + 1.0))
    return found


def test_each_question_has_segments_of_its_own():
    found = several(
        [(0.9, 0.1, 0.2, 0.8), (0.8, 0.2, 0.9, 0.1), (0.1, 0.9, 0.7, 0.3)],
        [["verb:cut", "verb:stir"], ["noun:leek", "noun:pot"]],
    )
    rows = [(one.row, one.label, one.start, one.end) for one in found.segments(MergeRule())]
    assert rows == [
        (0, "verb:cut", 0, 2), (1, "noun:pot", 0, 1), (1, "noun:leek", 1, 3), (0, "verb:stir", 2, 3)
    ]  # fmt: skip
    sure = found.segments(MergeRule(threshold=0.85))
    assert [(one.row, one.start, one.end) for one in sure] == [(0, 0, 1), (1, 1, 2), (0, 2, 3)]
    assert sure[0].confidence == pytest.approx(0.9)
    moments = Moments(found.segments(MergeRule()))
    labels = [{found.segments(MergeRule())[n].label for n in moments.at(seconds)} for seconds in (0.5, 1.5, 9)]
    assert labels == [{"verb:cut", "noun:pot"}, {"verb:cut", "noun:leek"}, {"verb:stir", "noun:leek"}]


def test_a_class_of_several_is_there_or_not():
    found = several([(0.9, 0.6), (0.45, 0.2), (0.55, 0.1), (0.1, 0.7)], [["talk"], ["walk"]])
    rows = [(one.label, one.start, one.end) for one in found.segments(MergeRule())]
    assert rows == [("talk", 0, 1), ("walk", 0, 1), ("talk", 2, 3), ("walk", 3, 4)]
    kept = found.segments(MergeRule(hysteresis=0.1, min_length=2.0))
    assert [(one.label, one.start, one.end) for one in kept] == [("talk", 0, 3)]
    assert kept[0].confidence == pytest.approx((0.9 + 0.45 + 0.55) / 3)
    moments = Moments(found.segments(MergeRule()))
    assert [moments.at(seconds) for seconds in (0.5, 1.5, 2.5, 7.0)] == [(0, 1), (), (2,), (3,)]


def test_steps_are_the_segments_of_a_procedure(tmp_path):
    found = Timeline("x.mp4", ["wheel", "bar"], 9.0, ())
    step = {"step": 3, "component": "bar", "description": "Install bar"}
    other = {"step": 0, "component": "wheel", "description": "Install wheel"}
    for end, row, steps in (
        (1.0, {"wheel": 0.2, "bar": 0.7}, []),
        (2.0, {"wheel": 0.4, "bar": 0.6}, [step]),
        (3.0, {"wheel": 0.0, "bar": 0.0}, []),  # a frame without a window
        (4.0, {"wheel": 0.3, "bar": 0.1}, [other, step]),
    ):
        windows = int(any(row.values()))
        label = ", ".join(one["description"] for one in steps)
        facts = {"steps": steps}
        found.add(Prediction("a", "a", label, row, views=windows, start=end - 1, end=end, facts=facts))
    segments = found.segments(MergeRule())
    assert [(one.label, one.start, one.end, round(one.confidence, 2)) for one in segments] == [
        ("Install bar", 0, 2, 0.7), ("Install wheel", 2, 4, 0.4), ("Install bar", 2, 4, 0.1)
    ]  # fmt: skip
    assert len(found.rows) == 3 and Moments(segments).at(2.5) == (1, 2)
    write_timeline(tmp_path, "x", found, segments)
    rows = csv_dicts(tmp_path / "x.windows.csv")
    assert [row["prediction"] for row in rows] == ["", "Install bar", "Install wheel, Install bar"]


def test_pictures_of_several_questions_and_of_names_with_dollars(tmp_path):
    names = [[f"$class_{number}$"] for number in range(20)]
    found = several(np.random.RandomState(0).rand(8, 20), names)
    assert len(write_timeline(tmp_path, "x", found, found.segments(MergeRule()))) == 3
    found = several([(0.9, 0.1, 0.2, 0.8)] * 3, [["$a", "b"], ["$\\frac$", "d"]])
    assert len(write_timeline(tmp_path, "y", found, found.segments(MergeRule()))) == 3


def test_what_is_too_short_goes_to_the_likelier_neighbour():
    found = timeline([0.9, 0.9, 0.4, 0.9, 0.9, 0.1, 0.1, 0.1])
    assert [one[0] for one in labels(found)] == ["cut", "stir", "cut", "stir"]
    assert [one[0] for one in labels(found, min_length=1.5)] == ["cut", "stir"]
    assert len(labels(found, min_length=100)) == 1
    whole = labels(found, min_length=1.5)
    assert whole[0][1] == 0 and whole[0][2] == whole[1][1] and whole[1][2] == 9.0


def test_names_of_files():
    assert file_names(["a/x.mp4", "b/x.avi", "c/y.mp4"]) == ["a_x.mp4", "b_x.avi", "y"]
    assert video_names(["my take.mp4", "a/x.mp4", "b/x.avi"]) == ["my take", "a/x.mp4", "b/x.avi"], "as it is on disk"
    assert file_names(["a b/c:d?.mp4", "X.mp4", "x.mp4"]) == ["c_d_", *file_names(["X.mp4", "x.mp4"])]
    assert len({name.casefold() for name in file_names(["X.mp4", "x.mp4"])}) == 2
    parts = [Clip(f"a.mp4#{begin}-{begin + 1}", "/data/a.mp4", None) for begin in range(3)]
    assert file_names(parts) == ["a.mp4_0-1", "a.mp4_1-2", "a.mp4_2-3"] and file_names([]) == []
    both = [Clip("walk", "/data/a.mp4", None), Clip("walk", "/more/b.mp4", None)]
    assert file_names(both) == ["_data_a.mp4", "_more_b.mp4"], "of two lists"
    assert file_names([Clip("walk", "/data/a.mp4", None), Clip("run", "/data/a.mp4", None)]) == ["walk", "run"]


def test_files(tmp_path):
    found = timeline([0.9, 0.2], duration=4.0)
    segments = found.segments(MergeRule())
    written = write_timeline(tmp_path, "long", found, segments)
    assert [path.name for path in written] == ["long.windows.csv", "long.segments.csv", "long.png"]
    rows = csv_dicts(tmp_path / "long.windows.csv")
    assert rows[0] == {"start": "0.000", "end": "2.000", "prediction": "cut", "prob_cut": "0.9", "prob_stir": "0.1"}
    rows = csv_dicts(tmp_path / "long.segments.csv")
    assert [row["label"] for row in rows] == ["cut", "stir"] and rows[1]["end"] == "4.000"
    assert {row["path"] for row in rows} == {found.path}
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


def test_windows_of_a_live_source_are_not_written_through_a_link(tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DustError, match="a.csv: cannot be written: .* is a link to .*elsewhere"):
        WindowLog(tmp_path / "a.csv", Timeline("a", ["x"]))
    assert not (tmp_path / "elsewhere").exists()
