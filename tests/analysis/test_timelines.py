"""Figures of timelines: what is perfect is 100, what is known by hand is as known, files meet by their names."""

import json

import pytest

from dust.analysis.timelines import score_timelines
from dust.cli.main import main
from dust.cli.score_timeline import by_video
from dust.utils.errors import DataError
from dust.utils.segment_metrics import Segment

TRUE = {"a": [Segment(0, 2, "cut"), Segment(2, 4, "stir")], "b": [Segment(1, 3, "cut")]}


@pytest.mark.parametrize("ignored", [True, False])
def test_what_is_right_is_100(ignored):
    figures, notes = score_timelines(TRUE, TRUE, ignore_background=ignored)
    assert set(figures) >= {"map", "map@0.1", "map@0.7", "frame_acc", "edit", "f1@10", "f1@25", "f1@50"} and not notes
    assert all(value == pytest.approx(100) for value in figures.values())


def test_by_hand():
    """Of 6 annotated seconds 4.5 are right; of 2 predicted cuts and 1 stir, all overlap by 0.5 and more."""
    predicted = {"a": [Segment(0, 1.5, "cut", 0.9), Segment(1.5, 4, "stir", 0.8)], "b": [Segment(2, 3, "cut", 0.7)]}
    figures, _ = score_timelines(predicted, TRUE)
    assert figures["frame_acc"] == pytest.approx(100 * 4.5 / 6)
    assert figures["edit"] == figures["f1@50"] == 100
    assert figures["map@0.5"] == pytest.approx(100) and figures["map@0.7"] == pytest.approx((50 + 100) / 2)
    # what nobody annotated as a class of its own: the first second of b is right, the next one wrong
    assert score_timelines(predicted, TRUE, ignore_background=False)[0]["frame_acc"] == pytest.approx(100 * 5.5 / 7)


def test_what_is_missing_or_cannot_be_measured():
    figures, notes = score_timelines({"a": TRUE["a"], "x": TRUE["b"]}, TRUE)
    assert figures["frame_acc"] == pytest.approx(100 * 4 / 6) and figures["edit"] == 50
    assert "1 annotated videos have no prediction, b" in notes[0] and "nobody annotated, x" in notes[1]
    figures, notes = score_timelines(TRUE, {"a": [Segment(0, 2, "cut"), Segment(1, 3, "stir")]})
    assert "frame_acc" not in figures and "overlap" in notes[-1]
    for predicted, true, says in (
        ({"c": []}, TRUE, "'c' is predicted, 'a' is annotated"),
        (TRUE, {"a": []}, "nothing is"),
    ):
        with pytest.raises(DataError, match=says):
            score_timelines(predicted, true)


def test_the_sub_command(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    results = {"videos/a.mp4": [{"label": "cut", "score": 0.9, "segment": [0, 2]}]}
    (tmp_path / "out" / "timeline.json").write_text(json.dumps({"results": results}))
    (tmp_path / "test.csv").write_text("path,start,end,label\n/else/where/a.mp4,0,2,cut\n")
    words = ["score-timeline", str(tmp_path / "out"), str(tmp_path / "test.csv")]
    assert main([*words, "--json", str(tmp_path / "figures.json")]) == 0
    assert "frame_acc  100.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())["map"] == 100
    assert main([*words, "--rate", "0"]) == 2 and "--rate 0" in capsys.readouterr().err
    assert main([*words[:2], str(tmp_path / "none.csv")]) == 2 and "none.csv" in capsys.readouterr().err
    (tmp_path / "test.csv").write_text("path,label\na.mp4,cut\n")
    assert main(words) == 2 and "no column start, end" in capsys.readouterr().err


def test_a_class_of_background_is_what_nobody_annotated(tmp_path):
    """A model that was taught a class none (DATA.BACKGROUND) says it where the list says nothing."""
    results = {"a": [{"label": "cut", "segment": [0, 2]}, {"label": "none", "segment": [2, 3]}]}
    results["a"].append({"label": "stir", "segment": [3, 4]})
    (tmp_path / "timeline.json").write_text(json.dumps({"results": results}))
    (tmp_path / "test.csv").write_text("path,start,end,label\na.mp4,0,2,cut\na.mp4,3,4,stir\n")
    figures = {}
    for words in ((), ("--background",), ("--background", "none")):
        argv = ["score-timeline", str(tmp_path), str(tmp_path / "test.csv"), *words, "--json", str(tmp_path / "out")]
        assert main(argv) == 0
        figures[words] = json.loads((tmp_path / "out").read_text())["frame_acc"]
    assert figures == {(): 100, ("--background",): 75, ("--background", "none"): 100}


def test_videos_of_one_name_meet_by_their_folders(tmp_path):
    """Three cameras' files of one name, of which the predictions know two, in another place and order."""
    label = {"day1": "cut", "day2": "stir", "day3": "pour"}
    results = {f"v/{day}/cam.mp4": [{"label": label[day], "segment": [0, 2]}] for day in ("day2", "day1")}
    (tmp_path / "timeline.json").write_text(json.dumps({"results": results}))
    rows = [f"/data/v/{day}/cam.mp4,0,2,{name}\n" for day, name in label.items()]
    (tmp_path / "test.csv").write_text("path,start,end,label\n" + "".join(rows))
    words = ["score-timeline", str(tmp_path), str(tmp_path / "test.csv"), "--json", str(tmp_path / "out")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out").read_text())["frame_acc"] == pytest.approx(100 * 2 / 3)
    (tmp_path / "test.csv").write_text("path,start,end,label\n" + rows[0])  # the other one is annotated by nobody
    assert main(words) == 0
    assert json.loads((tmp_path / "out").read_text())["frame_acc"] == 100


@pytest.mark.parametrize(
    ("predicted", "true", "pairs"),
    [
        (["cam"], ["day1/cam"], {"cam": "cam"}),  # one of each: whatever their folders
        (["cam", "a/cam"], ["cam", "a/cam"], {"/cam": "/cam", "a/cam": "a/cam"}),
        (["v/d1/cam", "cam"], ["v/d1/cam"], {"v/d1/cam": "cam"}),
        (["x/d1/cam", "x/d2/cam"], ["d1/cam", "d2/cam"], {"x/d1/cam": "d1/cam", "x/d2/cam": "d2/cam"}),
        (["day2/video/cam"], ["day2/film/cam", "day3/video/cam", "video/cam"], {}),  # as near to two
        (["cam"], ["d1/cam", "d2/cam"], {}),
    ],
)
def test_videos_of_one_name_are_told_apart_by_their_folders_or_not_at_all(predicted, true, pairs):
    key = {name: ("/".join(name.split("/")[:-1]), name.split("/")[-1]) for name in predicted + true}
    ours, theirs = by_video({key[name]: [name] for name in predicted}, {key[name]: [name] for name in true})
    assert sorted(one for names in ours.values() for one in names) == sorted(predicted), "nothing is lost"
    assert len(theirs) == len(true)
    met = {"/".join(key[ours[name][0]]): name for name in ours if name in theirs}
    assert met == {("/".join(key[one.lstrip("/")])): other for one, other in pairs.items()}


def test_a_timeline_in_which_nothing_was_found_misses_all(tmp_path):
    """As json and as csv; a truth without a stretch is no truth."""
    (tmp_path / "true.json").write_text('{"results": {"a": [{"segment": [0, 2], "label": "cut"}], "b": []}}')
    (tmp_path / "none.json").write_text('{"results": {"a": [], "c": []}}')
    (tmp_path / "none.csv").write_text("path,start,end,label\na.mp4,0,2,none of these\n")
    for name in ("none.json", "none.csv"):
        words = ["score-timeline", str(tmp_path / name), str(tmp_path / "true.json"), "--json", str(tmp_path / "out")]
        assert main(words) == 0
        figures = json.loads((tmp_path / "out").read_text())
        assert len(figures) == 13 and set(figures.values()) == {0.0}
    assert main(["score-timeline", str(tmp_path / "true.json"), str(tmp_path / "none.json")]) == 2
