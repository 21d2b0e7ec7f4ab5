"""Annotations of procedures with mistakes: a small file of each form as its authors describe it, and what becomes of it
by hand."""

import csv
import json

import numpy as np
import pytest

from dust.convert.mistakes import READERS, convert_mistakes
from dust.datasets.keystep.layouts import read_procedures
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError
from tests.helpers import tool

# 30 frames a second: attached, put on wrongly, taken off (needlessly), put on again, and one too early
ASSEMBLY = """30,60,attach,wheel,chassis,correct,
60,90,attach,cabin,interior,mistake,wrong position
90,120,detach,wheel,chassis,mistake,shouldn't have happened
120,150,attach,wheel,chassis,correction
150,180,attach,roof,cabin,mistake,wrong order
"""
SEQUENCE = "nusar-2021_action_both_9033-c02a_9033_user_id_2021-02-04_140532"
EGOPER = {
    "tea": {
        "action2idx": {"BG": 0, "boil water": 1, "add honey": 2, "stir": 3},
        "actiontype2idx": {"Normal": 0, "Error_Modification": 1, "Error_Correction": 3, "Error_Addition": 4},
        "segments": [
            {
                "video_id": "tea_u1",
                "labels": {
                    "time_stamp": [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]],
                    "action": [0, 1, 2, 2, 9],
                    "action_type": [0, 0, 1, 3, 4],
                    "error_description": ["", "", "salt instead", "", ""],
                },
            }
        ],
    }
}
COOK = [
    {
        "recording_id": "1_7",
        "activity_id": 1,
        "is_error": True,
        "step_annotations": [
            {"step_id": 1, "description": "Pour-Pour 1 egg, beaten", "start_time": 0.0, "end_time": 1.0},
            {"step_id": 2, "description": "Stir-Stir it", "start_time": -1.0, "end_time": -1.0,
             "errors": [{"tag": "Missing Step", "description": ""}]},
            {"step_id": 3, "description": "Top-Top it", "start_time": 1.0, "end_time": 2.0,
             "errors": [{"tag": "Order Error", "description": ""}, {"tag": "Technique Error", "description": ""}]},
        ],
    }
]  # fmt: skip
GRAPH = {
    "steps": {"0": "START", "1": "Pour-Pour 1 egg, beaten", "2": "Stir-Stir it", "3": "Top-Top it", "4": "END"},
    "edges": [[0, 1], [1, 2], [2, 3], [3, 4]],
}


def film(folder, name, frames=70, fps=10):
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{name}.mp4", np.zeros((frames, 16, 16, 3), np.uint8), fps)


def table(path):
    return [row[1:] for row in csv.reader(path.open())]


def test_assembly101(tmp_path):
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text(ASSEMBLY)
    film(tmp_path / "videos" / SEQUENCE, "C10095_rgb")
    film(tmp_path / "videos" / SEQUENCE, "C10115_rgb")
    with pytest.raises(DataError, match="not one video of its name"):
        convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out", videos=str(tmp_path / "videos"))
    options = {"videos": str(tmp_path / "videos"), "view": "C10095_rgb", "procedure": "c02a"}
    found = convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out", **options)
    assert found.counts == {"train": 1} and found.components == 3
    assert table(tmp_path / "out" / "states.csv") == [
        ["frame", "wheel - chassis", "cabin - interior", "roof - cabin"],
        ["0", "0", "0", "0"],
        ["20", "1", "0", "0"],
        ["30", "1", "-1", "0"],
        ["40", "0", "-1", "0"],
        ["50", "1", "-1", "0"],
        ["60", "1", "-1", "1"],
    ]
    assert [row[:2] for row in table(tmp_path / "out" / "steps.csv")[1:]] == [
        ["20", "0"], ["40", "2"], ["50", "0"], ["60", "6"],
    ]  # fmt: skip
    assert table(tmp_path / "out" / "mistakes.csv")[1:] == [
        ["30", "wrong", "4", "Wrongly: cabin - interior"],
        ["40", "order", "2", "Undo: wheel - chassis"],
        ["60", "order", "6", "roof - cabin"],
    ]
    (one,) = read_procedures(tmp_path / "out", "train").recordings
    assert one.procedure == "c02a" and one.group == "9033" and one.mistakes[0] == (30, "wrong", 4)


def test_egoper(tmp_path):
    (tmp_path / "annotation.json").write_text(json.dumps(EGOPER))
    (tmp_path / "tea").mkdir()
    (tmp_path / "tea" / "test.txt").write_text("tea_u1\n")
    film(tmp_path / "videos", "tea_u1")
    found = convert_mistakes("egoper", tmp_path, tmp_path / "out", videos=str(tmp_path / "videos"))
    assert (
        found.counts == {"test": 1} and "left out: 1 additions: actions that are no step of their task" in found.notes
    )
    assert table(tmp_path / "out" / "states.csv")[1:] == [
        ["0", "0", "0", "0"], ["20", "1", "0", "0"], ["30", "1", "-1", "0"], ["40", "1", "1", "0"],
    ]  # fmt: skip
    assert table(tmp_path / "out" / "mistakes.csv")[1:] == [
        ["30", "wrong", "4", "Wrongly: add honey"],
        ["40", "omitted", "6", "stir"],
    ]


def test_captaincook4d(tmp_path):
    for name, value in {
        "annotation_json/error_annotations.json": COOK,
        "annotation_json/complete_step_annotations.json": {"1_7": {"activity_name": "Egg Cup", "person_id": 3}},
        "task_graphs/eggcup.json": GRAPH,
        "data_splits/recordings_data_split_combined.json": {"train": [], "val": ["1_7"], "test": []},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))
    film(tmp_path / "videos", "1_7")
    found = convert_mistakes("captaincook4d", tmp_path, tmp_path / "out", videos=str(tmp_path / "videos"))
    assert found.counts == {"val": 1} and "1 mistakes of the kind omitted" in found.notes
    assert table(tmp_path / "out" / "mistakes.csv")[1:] == [
        ["20", "omitted", "3", "Stir-Stir it"],
        ["20", "order", "6", "Top-Top it"],
        ["20", "wrong", "7", "Wrongly: Top-Top it"],
    ]
    data = read_procedures(tmp_path / "out", "val")
    assert data.recordings[0].group == "3"
    names = data.components
    assert names == ["Pour-Pour 1 egg beaten", "Stir-Stir it", "Top-Top it"]
    assert [[names[node.step // 3] for node in layer] for layer in data.graph("Egg Cup").layers()] == [
        [n] for n in names
    ]


def test_ata(tmp_path):
    (tmp_path / "groundTruth").mkdir()
    (tmp_path / "splits").mkdir()
    labels = [*["background"] * 5, *["head"] * 10, *["body"] * 10, *["background"] * 5]
    (tmp_path / "groundTruth" / "airplane_1.txt").write_text("\n".join(labels) + "\n")
    (tmp_path / "groundTruth" / "airplane_2.txt").write_text("\n".join(labels[:15]) + "\n")
    (tmp_path / "splits" / "train.split1.bundle").write_text("airplane_1.txt\n")
    (tmp_path / "splits" / "test.split1.bundle").write_text("airplane_2.txt\n")
    for name in ("airplane_1", "airplane_2"):
        film(tmp_path / "videos", name, frames=30)
    convert_mistakes("ata", tmp_path, tmp_path / "out", videos=str(tmp_path / "videos"))
    assert [row[:2] for row in table(tmp_path / "out" / "steps.csv")[1:]] == [["14", "0"], ["24", "3"], ["14", "0"]]
    assert table(tmp_path / "out" / "mistakes.csv")[1:] == [["14", "omitted", "3", "body"]]
    (tmp_path / "groundTruth" / "airplane_2.txt").write_text("head\n\nhead\n")  # whose frames would be counted wrongly
    with pytest.raises(DataError, match="an empty line among the labels.*\\n.*airplane_2.txt: line 2"):
        convert_mistakes("ata", tmp_path, tmp_path / "more", videos=str(tmp_path / "videos"))


def test_what_cannot_be_read(tmp_path):
    assert set(READERS) == {"assembly101", "ata", "captaincook4d", "egoper"}
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text("30,60,attach,wheel,chassis,fine\n")
    with pytest.raises(DataError, match="label \\(correct, mistake, correction\\)"):
        convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out")
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text("30,6000,attach,wheel,chassis,correct\n")
    film(tmp_path / "annots", SEQUENCE)
    with pytest.raises(DataError, match="annotations that end behind their video"):
        convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out")
    with pytest.raises(DataError, match="has none of this name; there are c02a"):
        convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out", procedure="z9")
    (tmp_path / "annotation.json").write_text(json.dumps({"tea": {"segments": []}}))
    with pytest.raises(DataError, match="no segments, action2idx"):
        convert_mistakes("egoper", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(tmp_path):
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text(ASSEMBLY)
    film(tmp_path / "annots", SEQUENCE)
    said = tool("convert_data", "assembly101", "--root", tmp_path / "annots", "--out", tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert "1 train; 70 frames, 3 components" in said.stdout and "2 mistakes of the kind order" in said.stdout


def test_steps_that_overlap_are_done_in_the_order_of_their_ends(tmp_path):
    rows = "30,120,attach,wheel,chassis,correct,\n40,60,attach,cabin,interior,correct,\n"
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text(rows)
    film(tmp_path / "videos", SEQUENCE)
    convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "out", videos=str(tmp_path / "videos"))
    assert table(tmp_path / "out" / "states.csv")[1:] == [["0", "0", "0"], ["20", "0", "1"], ["40", "1", "1"]]
    (tmp_path / "annots" / f"{SEQUENCE}.csv").write_text(rows.replace("30,120", "-30,-12"))
    with pytest.raises(DataError, match="end before their video begins"):
        convert_mistakes("assembly101", tmp_path / "annots", tmp_path / "no", videos=str(tmp_path / "videos"))


@pytest.mark.parametrize(("name", "value"), [("action", "boil"), ("action_type", None), ("time_stamp", [1])])
def test_labels_of_another_kind_are_said(tmp_path, name, value):
    document = json.loads(json.dumps(EGOPER))
    document["tea"]["segments"][0]["labels"][name][1] = value
    (tmp_path / "annotation.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="a segment has video_id and labels"):
        convert_mistakes("egoper", tmp_path, tmp_path / "out")


def test_a_file_of_frames_without_labels(tmp_path):
    (tmp_path / "x_1.txt").write_text("")
    with pytest.raises(DataError, match=r"a file without labels:\s+x_1.txt"):
        convert_mistakes("ata", tmp_path, tmp_path / "out")
