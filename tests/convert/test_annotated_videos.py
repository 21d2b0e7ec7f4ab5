"""Which video an annotation is of: folders, uploads, several files, exports that are packed."""

import re
import zipfile

import pytest
from PIL import Image

from dust.convert.annotations import convert_annotations
from dust.datasets.manifest.annotation import video_place
from dust.utils.errors import DataError
from tests.convert.test_annotations import CVAT, read, written
from tests.convert.test_annotators import said_by
from tests.convert.test_health import clip
from tests.helpers import csv_dicts


def test_several_files_of_one_video_are_said(tmp_path):
    clip(tmp_path / "abc.mp4", 1)
    (tmp_path / "said").mkdir()
    for name in ("anna", "bob"):
        segments = [{"segment": [0, len(name) / 10], "label": name}]
        written(tmp_path / "said" / f"{name}.json", {"results": {"abc": segments}})
    result = convert_annotations("activitynet", tmp_path / "said", tmp_path / "out", videos=str(tmp_path))
    assert result.notes == ["1 video is in several files, whose stretches are all taken (abc: anna.json, bob.json)"]
    assert [row["label"] for row in csv_dicts(tmp_path / "out" / "data.csv")] == ["anna", "bob"]


def test_timelines_of_a_folder_of_which_one_is_empty(tmp_path):
    """Also a row that a person added, without a confidence; and the same name for two columns."""
    clip(tmp_path / "a.mp4", 1)
    (tmp_path / "out").mkdir()
    lines = {"a": "0,0.4,cut,0.9\n0.4,0.8,stir,\n", "b": "0,1,none of these,0.5\n", "c": ""}
    for name, rows in lines.items():
        written(tmp_path / "out" / f"{name}.segments.csv", f"start,end,label,confidence\n{rows}")
    convert_annotations("segments", tmp_path / "out", tmp_path / "list", videos=str(tmp_path))
    assert [row["label"] for row in csv_dicts(tmp_path / "list" / "data.csv")] == ["cut", "stir"]
    for name in "bc":
        with pytest.raises(DataError, match="holds no stretch with a label"):
            convert_annotations("segments", tmp_path / "out" / f"{name}.segments.csv", tmp_path / "none")
    with pytest.raises(DataError, match="a column twice"):
        read("segments", written(tmp_path / "twice.csv", "path,start,end,label,label\na.mp4,0,1,cut,stir\n"))


def test_videos_of_several_folders_that_have_become_one_are_said(tmp_path):
    """Two people who worked on copies of one video, or two cameras of which one is missing: only the user knows."""
    clip(tmp_path / "a.mp4", 1)
    named = {f"/home/{who}/a.mp4": [{"segment": [0, len(who) / 10], "label": who}] for who in ("anna", "bob")}
    written(tmp_path / "said.json", {"results": named})
    result = convert_annotations("activitynet", tmp_path / "said.json", tmp_path / "out")
    assert len(result.notes) == 1 and "the same video? (a.mp4: /home/anna, /home/bob)" in result.notes[0]
    (tmp_path / "said").mkdir()
    for where, segments in named.items():
        written(tmp_path / "said" / f"{segments[0]['label']}.json", {"results": {where: segments}})
    result = convert_annotations("activitynet", tmp_path / "said", tmp_path / "out2", videos=str(tmp_path))
    assert ["several files" in note for note in result.notes] == [True, False]


def test_numbers_of_many_digits_and_addresses_that_are_none_are_said(tmp_path):
    text = re.sub(r'frame="\d+"', f'frame="{"9" * 5000}"', CVAT, count=1).replace("<size>", f"<size>{'9' * 400}")
    with pytest.raises(DataError, match="(?s)has a frame that is no number:.*track 0: 9999"):
        read("cvat", written(tmp_path / "a.xml", text))
    assert video_place("http://[x/a%20b.mp4") == ("[x", "a b.mp4")


def test_uploads_lose_blanks_and_signs(tmp_path):
    """As Label Studio stores them; a file that has that name already is the one that is meant."""
    clip(tmp_path / "my (first) take.mp4", 1)
    said = said_by([(0, 0.5, "cut")])
    said[0]["data"] = {"video": "/data/upload/3/0a1b2c3d-my_first_take.mp4"}
    source = written(tmp_path / "a.json", said)
    convert_annotations("label-studio", source, tmp_path / "out")
    assert csv_dicts(tmp_path / "out" / "data.csv")[0]["path"] == str(tmp_path / "my (first) take.mp4")
    clip(tmp_path / "my_first_take.mp4", 2)
    convert_annotations("label-studio", source, tmp_path / "out", force=True)
    assert csv_dicts(tmp_path / "out" / "data.csv")[0]["path"] == str(tmp_path / "my_first_take.mp4")


def test_tasks_of_several_videos_and_what_was_cancelled_are_said(tmp_path):
    said = said_by([(0, 0.5, "cut")], [(0, 0.5, "stir")])
    said[0]["data"]["left"] = "https://x.y/def.mp4"
    said[0]["annotations"][1]["was_cancelled"] = True
    notes = read("label-studio", written(tmp_path / "a.json", said)).notes
    assert notes == [
        "left out: 1 annotations that were cancelled",
        "1 task shows several videos, of which the first is taken",
    ]


def test_skeletons_have_left_with_all_their_points(tmp_path):
    def skeleton(frame, *outside):
        points = "".join(f'<points label="{n}" outside="{one}" points="1,2"/>' for n, one in enumerate(outside))
        return f'<skeleton frame="{frame}" keyframe="1">{points}</skeleton>'

    track = f'<track label="wave">{skeleton(3, 0, 1)}{skeleton(9, 1, 1)}</track>'
    text = f"<annotations><meta><task><name>abc</name></task></meta>{track}</annotations>"
    found = read("cvat", written(tmp_path / "a.xml", text))
    assert [(one.start, one.end) for one in found.items] == [(3, 9)]


def test_videos_of_one_name_are_told_apart_by_their_folders(tmp_path):
    """By a timeline of dust's, and by tasks of Label Studio, which are no annotators of one video."""
    for day in ("day1", "day2"):
        (tmp_path / "v" / day).mkdir(parents=True)
    paths = [clip(tmp_path / "v" / day / "my cam.mp4", number) for number, day in enumerate(("day1", "day2"))]
    results = {f"v/{day}/my cam.mp4": [{"segment": [0, 0.5], "label": day}] for day in ("day1", "day2")}
    tasks = [task for day in ("day1", "day2") for task in said_by([(0, 0.5, day)])]
    for number, day in enumerate(("day1", "day2")):
        tasks[number] |= {"id": number, "data": {"video": f"/data/local-files/?d=v%5C{day}%5Cmy%20cam.mp4"}}
        tasks[number]["annotations"][0]["completed_by"] = number
    for form, document in (("activitynet", {"results": results}), ("label-studio", tasks)):
        source = written(tmp_path / "a.json", document)
        result = convert_annotations(form, source, tmp_path / form, videos=str(tmp_path / "v"))
        rows = csv_dicts(tmp_path / form / "data.csv")
        assert [(row["path"], row["label"]) for row in rows] == [(paths[0], "day1"), (paths[1], "day2")]
        assert not result.notes
    source = written(tmp_path / "b.json", {"results": {"else/my cam.mp4": results["v/day1/my cam.mp4"]}})
    with pytest.raises(DataError, match="several videos have the name"):
        convert_annotations("activitynet", source, tmp_path / "none", videos=str(tmp_path / "v"))


def test_pictures_of_folders_count_from_each_folder(tmp_path):
    """A task of CVAT over two folders: its numbers go through both, and each is a clip of its own."""
    for take in ("take_1", "take_2"):
        (tmp_path / "v" / take).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (32, 32)).save(tmp_path / "v" / take / f"{number + 1:04d}.jpg")
    tagged = "".join(
        f'<image id="{number}" name="cam/take_{1 + number // 8}/{number % 8 + 1:04d}.jpg"><tag label="cut"/></image>'
        for number in (5, 6, 7, 8, 9)
    )
    meta = "<meta><job><id>3</id><size>16</size></job></meta>"
    source = written(tmp_path / "a.xml", f"<annotations>{meta}{tagged}</annotations>")
    convert_annotations("cvat", source, tmp_path / "out", videos=str(tmp_path / "v"))
    rows = [(row["path"], row["start"], row["end"]) for row in csv_dicts(tmp_path / "out" / "data.csv")]
    takes = [str(tmp_path / "v" / f"take_{number}") for number in (1, 2)]  # 30 pictures a second
    assert rows == [(takes[0], "0.15", "0.266667"), (takes[1], "0", "0.05")]
    (tmp_path / "v" / "take_1" / "0006.jpg").unlink()
    with pytest.raises(DataError, match="(?s)the picture is not there.*take_1: 0006.jpg"):
        convert_annotations("cvat", source, tmp_path / "none", videos=str(tmp_path / "v"))


def test_packed_exports_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as file:
        file.writestr("annotations.xml", CVAT)
    with pytest.raises(DataError, match="task.zip: a zip file or a spreadsheet: unpack it, or export it as .xml"):
        convert_annotations("cvat", tmp_path / "task.zip", tmp_path / "out")
