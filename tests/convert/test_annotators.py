"""What several people said of one video, and what BORIS' observations say."""

import pytest

from dust.cli.main import main
from dust.convert.annotations import READERS, convert_annotations
from dust.datasets.manifest.manifest import read_manifest
from dust.utils.errors import ConfigError, DataError
from tests.convert.test_annotations import read, written
from tests.convert.test_health import clip
from tests.helpers import csv_dicts


def said_by(*people):
    """A task of Label Studio's; of each person (start, end, label) in seconds."""
    made = [
        {"completed_by": number, "result": [{"value": {"start": a, "end": b, "labels": [name]}} for a, b, name in said]}
        for number, said in enumerate(people)
    ]
    return [{"data": {"video": "abc.mp4"}, "annotations": made}]


def test_shares_of_several_annotators(tmp_path, capsys):
    """Pieces between all ends, each with its count; the expected ones by hand."""
    clip(tmp_path / "abc.mp4", 1)
    said = said_by([(0, 0.2, "cut"), (0.2, 0.4, "stir")], [(0, 0.3, "cut"), (0.3, 0.4, "stir")], [(0, 0.2, "cut")])
    source = written(tmp_path / "a.json", said)
    ask = ["convert-data", "label-studio", str(source), "--out", str(tmp_path / "out")]
    assert main(ask) == 0
    note = "1 video has several annotators, who disagree in 1 of them, the same in 50.0 % of the time"
    said = capsys.readouterr().out
    assert f"{note} that any of them labelled: at each time the first one's stretches are taken" in said
    rows = [(row["start"], row["end"], row["label"]) for row in csv_dicts(tmp_path / "out" / "data.csv")]
    assert rows == [("0", "0.2", "cut"), ("0.2", "0.4", "stir")]
    assert main([*ask, "--force", "--soft-labels"]) == 0
    said_then = capsys.readouterr().out
    assert "2 classes" in said_then and "--stratify --soft-labels" in said_then
    rows = [(row["start"], row["end"], row["label"]) for row in csv_dicts(tmp_path / "out" / "data.csv")]
    assert rows == [("0", "0.2", "cut:3"), ("0.2", "0.3", "stir:1|cut:1"), ("0.3", "0.4", "stir:2")]
    found = read_manifest(root=str(tmp_path / "out" / "data.csv"), split="train", soft_labels=True)
    assert found.votes[found.clips[1].id] == ((0, 1), (1, 1))
    with pytest.raises(ConfigError, match="elan does not say what several people said"):
        convert_annotations("elan", source, tmp_path / "x", soft_labels=True)
    with pytest.raises(DataError, match="cannot stand among shares"):
        source = written(tmp_path / "b.json", said_by([(0, 1, "a|b")], [(0, 1, "c")]))
        convert_annotations("label-studio", source, tmp_path / "x", soft_labels=True)


def test_tasks_of_one_video_are_annotators_or_parts_of_the_work(tmp_path):
    """Tasks that overlap say what one task with the same annotations says; others are all taken."""
    people = [(0, 0.2, "cut"), (0.2, 0.4, "stir")], [(0, 0.3, "cut")], [(0.35, 0.5, "cut")]
    (whole,) = said_by(*people)
    tasks = [{"id": n, "data": whole["data"], "annotations": [one]} for n, one in enumerate(whole["annotations"])]
    tasks[1]["data"] = {"video": "/data/upload/1/0a1b2c3d-abc.mp4"}
    for soft in (False, True):
        one, many = (READERS["label-studio"].read(written(tmp_path / "a.json", form), soft_labels=soft)
                     for form in ([whole], tasks))  # fmt: skip
        assert one.items == many.items and one.notes == many.notes and len(one.notes) == 1
    assert len(many.items) == 5 and "the first one's" not in many.notes[0]
    assert "and 2 of the others are left out" in read("label-studio", tmp_path / "a.json").notes[0]
    longer = said_by([], [], [(0.35, 0.5, "cut"), (0.6, 0.8, "stir")])[0]  # by one who goes on where the other ends
    longer |= {"id": 2, "annotations": longer["annotations"][2:]}
    later = read("label-studio", written(tmp_path / "a.json", [tasks[0], longer]))
    assert [(item.start, item.label) for item in later.items] == [(0, "cut"), (0.2, "stir"), (0.6, "stir")]
    assert "at each time the first one's stretches are taken, and 1 of the others are left out" in later.notes[0]
    apart = read("label-studio", written(tmp_path / "b.json", tasks[1:]))
    assert [item.label for item in apart.items] == ["cut", "cut"] and not apart.notes
    tasks[1]["annotations"][0]["completed_by"] = 0  # nobody differs from himself
    alone = read("label-studio", written(tmp_path / "c.json", tasks[:2]))
    assert len(alone.items) == 3 and not alone.notes
    tasks[2]["annotations"][0]["ground_truth"] = True
    truth = read("label-studio", written(tmp_path / "d.json", [tasks[0], tasks[2]]))
    assert [(item.start, item.end) for item in truth.items] == [(0.35, 0.5), (0, 0.2)]  # not 0.2 to 0.4, which meets it


def test_several_labels_of_one_stretch(tmp_path, capsys):
    """Two people in one second of AVA; the list that is written is read as several classes of one clip."""
    clip(tmp_path / "abc.mp4", 1)
    source = written(tmp_path / "a.csv", "abc,1,walk\nabc,1,talk\nabc,2,walk\n")
    ask = ["convert-data", "ava", str(source), "--out", str(tmp_path / "out")]
    assert main(ask) == 0
    assert "1 stretch has several labels, which stand in a row each (abc 0.5-1.5)" in capsys.readouterr().out
    assert [row["label"] for row in csv_dicts(tmp_path / "out" / "data.csv")] == ["walk", "talk", "walk"]
    assert main([*ask, "--force", "--multi-label"]) == 0
    said = capsys.readouterr().out
    assert "several labels" not in said and "2 classes" in said and "--stratify --multi-label" in said
    rows = csv_dicts(tmp_path / "out" / "data.csv")
    assert [(row["start"], row["label"]) for row in rows] == [("0.5", "walk,talk"), ("1.5", "walk")]
    found = read_manifest(root=str(tmp_path / "out" / "data.csv"), split="train", multi_label=True)
    assert [one.label for one in found.clips] == [(0, 1), (1,)]
    written(tmp_path / "a.csv", 'abc,1,walk\nabc,1,"bend, bow"\n')
    assert main([*ask, "--force", "--multi-label"]) == 2
    assert "a comma is between two labels, so rename bend, bow" in capsys.readouterr().err


def test_letters_of_a_text_are_no_seconds(tmp_path):
    (task,) = said_by([(0, 1, "cut")])
    task["annotations"][0]["result"].append({"value": {"start": 3, "end": 9, "text": "pepper", "labels": ["food"]}})
    found = read("label-studio", written(tmp_path / "a.json", [task]))
    assert [item.label for item in found.items] == ["cut"] and "1 results without a label" in found.notes[0]


def test_shares_keep_labels_with_colons_and_cut_no_empty_piece(tmp_path):
    """A label of one annotator is not read as a count, and ends that a list writes alike are one."""
    alone, both = said_by([(0, 1, "step:2")]), said_by([(0, 1, "cut")], [(0, 1.0000001, "stir")])
    alone[0]["data"]["video"] = "def.mp4"
    found = READERS["label-studio"].read(written(tmp_path / "a.json", [*alone, *both]), soft_labels=True)
    assert [(one.start, one.end, one.label) for one in found.items] == [(0, 1, "step:2:1"), (0, 1, "cut:1|stir:1")]
    with pytest.raises(DataError, match="cannot stand among shares"):
        READERS["label-studio"].read(written(tmp_path / "b.json", said_by([(0, 1, "a|b")])), soft_labels=True)


def test_boris_says_what_it_does_not_heed(tmp_path):
    """Modifiers in columns of their own, and players that show several videos at once."""
    table = "Time,Media file path,Subject,Behavior,Modifier #1,Status\n"
    media = "player #1:/v/abc.mp4;player #2:/v/def.mp4"
    rows = "".join(f"{time},{media},anna,cut,left,{status}\n" for time, status in ((0.5, "START"), (2, "STOP")))
    found = read("boris", written(tmp_path / "a.csv", table + rows))
    assert [one.video for one in found.items] == ["abc.mp4"]
    assert any("2 events have modifier #1, which are no part" in note for note in found.notes)
    assert any("2 events have several videos at once, of which the first is taken" in note for note in found.notes)


def test_observations_of_boris_are_kept_apart(tmp_path):
    """Two people's observations of one video overlap; one that plays two videos in a row has no times of the second."""

    def table(*events):
        rows = (f"{name},{time},{video},anna,cut,{kind}\n" for name, video, time, kind in events)
        return "Observation id,Time,Media file name,Subject,Behavior,Behavior type\n" + "".join(rows)

    both = [(name, "abc.mp4", time + shift, kind) for name, shift in (("o1", 0), ("o2", 0.5))
            for time, kind in ((1, "START"), (2, "STOP"))]  # fmt: skip
    found = read("boris", written(tmp_path / "a.csv", table(*both)))
    assert [(one.start, one.end) for one in found.items] == [(1, 2), (1.5, 2.5)]
    assert found.notes == ["1 video is in several observations, whose stretches are all taken (abc.mp4: o1, o2)"]
    queue = [("o1", video, time, kind) for video, time in (("abc.mp4", 1), ("def.mp4", 181))
             for time, kind in ((time, "START"), (time + 1, "STOP"))]  # fmt: skip
    with pytest.raises(DataError, match="one video behind the other(.|\\n)*observation o1: abc.mp4, def.mp4"):
        read("boris", written(tmp_path / "b.csv", table(*queue)))
    without = "\n".join(line.partition(",")[2] for line in table(*queue).splitlines())  # which one it is of
    assert len(read("boris", written(tmp_path / "c.csv", without)).items) == 2
    with pytest.raises(DataError, match="observation #1: abc.mp4, def.mp4"):
        read("boris", written(tmp_path / "d.csv", f"Observation id,#1,,,\n,,,,\n{without}"))


def test_annotators_who_agree_ground_truth_and_json_min(tmp_path):
    same = said_by([(0, 1, "cut")], [(0, 1, "cut")])
    assert (
        "who disagree in 0 of them, the same in 100.0 %" in read("label-studio", written(tmp_path / "a", same)).notes[0]
    )
    truth = said_by([(0, 1, "cut")], [(0, 1, "stir")])
    truth[0]["annotations"][1]["ground_truth"] = True
    assert [one.label for one in read("label-studio", written(tmp_path / "b", truth)).items] == ["stir"]
    rows = [
        {
            "video": "abc.mp4",
            "id": 1,
            "annotator": who,
            "annotation_id": who,
            "l": [{"start": 0, "end": 1, "labels": [name]}],
        }
        for who, name in ((1, "cut"), (2, "stir"))
    ]
    found = read("label-studio", written(tmp_path / "c", rows))
    assert [one.label for one in found.items] == ["cut"] and "disagree in 1" in found.notes[0]
