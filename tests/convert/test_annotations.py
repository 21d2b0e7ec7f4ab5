"""Annotations of other tools, each by a small file written by hand, and what becomes of them."""

import json
import re

import pytest

from dust.cli.main import main
from dust.convert.annotations import READERS, convert_annotations
from dust.datasets.manifest.annotation import video_name
from dust.decode.reader import open_clip
from dust.utils.errors import ConfigError, DataError
from tests.convert.test_health import clip
from tests.helpers import ROOT, csv_dicts

ACTIVITYNET = {
    "database": {
        "abc": {"subset": "training", "annotations": [{"segment": [0.5, 2], "label": "cut"}]},
        "def": {"subset": "validation", "annotations": [{"segment": ["00:01.5", 3.25], "label": "stir, slowly"}]},
        "none": {"subset": "testing", "annotations": []},
    }
}
TIMELINE = {"version": "VERSION 1.3", "results": {"abc": [{"label": "cut", "score": 0.9, "segment": [0.5, 2.0]}]}}
STUDIO = [
    {
        "data": {"video": "/data/local-files/?d=videos%2Fabc.mp4"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "result": [
                    {
                        "type": "timelinelabels",
                        "value": {"ranges": [{"start": 1, "end": 5}], "timelinelabels": ["cut"]},
                    },
                    {"type": "choices", "value": {"choices": ["good"]}},
                ]
            },
            {"result": [{"value": {"ranges": [{"start": 2, "end": 3}], "timelinelabels": ["other"]}}]},
        ],
    }
]
STUDIO_MIN = [{"video": "https://x.y/v/abc.mp4?t=1", "sounds": [{"start": 0.5, "end": 2, "labels": ["cut"]}]}]
VIA = {
    "project": {"pname": "x"},
    "attribute": {"1": {"aname": "activity", "options": {"a": "cut", "b": "stir"}}, "2": {"aname": "note"}},
    "file": {"1": {"fname": "abc.mp4"}, "2": {"src": "file:///home/me/def.mp4"}},
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
    "metadata": {
        "1_x": {"vid": "1", "z": [0.5, 2], "xy": [], "av": {"1": "a"}},
        "2_y": {"vid": "2", "z": [1.5, 3.25], "xy": [], "av": {"1": "b"}},
        "2_z": {"vid": "2", "z": [1.5], "xy": [2, 1, 1, 5, 5], "av": {"1": "b"}},
    },
}
CVAT = """<annotations><version>1.1</version><meta><task><id>7</id><name>abc.mp4</name><size>100</size>
<source>abc.mp4</source></task></meta>
<track id="0" label="cut"><box frame="0" outside="0"><attribute name="hand">left</attribute></box>
<box frame="4" outside="0"><attribute name="hand">right</attribute></box>
<box frame="7" outside="1"><attribute name="hand">right</attribute></box>
<box frame="9" outside="0"><attribute name="hand">left</attribute></box></track></annotations>"""
CVAT_TAGS = """<annotations><meta><task><name>abc</name></task></meta>
<image id="0"><tag label="cut"/></image><image id="1"><tag label="cut"/></image>
<image id="4"><tag label="cut"/><tag label="hot"/></image></annotations>"""
ELAN = """<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/my%20videos/abc.mp4" TIME_ORIGIN="500"/></HEADER><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="1000"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2500"/>
<TIME_SLOT TIME_SLOT_ID="ts3"/></TIME_ORDER>
<TIER TIER_ID="activity" PARTICIPANT="anna"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE> cut </ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3"><ANNOTATION_VALUE>x</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="words"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>hello</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
KINETICS = "label,youtube_id,time_start,time_end,split\ncut,abc,0,2,train\n,def,1,3,test\nstir,def,1,3,validate\n"
AVA = "abc,902,0.1,0.2,0.3,0.4,cut,1\nabc,0902,0.5,0.6,0.7,0.8,cut,2\nabc,903,stir\n"
EPIC = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,noun\n"
    "P01_0,P01,abc,00:00:00.50,00:00:02.00,cut,red onion\nP02_0,P02,def,00:00:01.5,01:00:03.25,stir,pot\n"
)
BORIS = (
    "Observation id,Media file,Total length,FPS,Subject,Behavior,Behavior type,Start (s),Stop (s)\n"
    "o1,videos/abc.mp4,10,25,No focal subject,cut,STATE,0.5,2\no1,videos/abc.mp4,10,25,anna,look,POINT,1,1\n"
    "o1,videos/abc.mp4,10,25,anna,stir,STATE,1.5,3.25\n"
)
BORIS_EVENTS = (
    "Observation id;o1;;;\n\nTime;Media file path;Subject;Behavior;Status\n0.5;/v/abc.mp4;anna;cut;START\n"
    "1;/v/abc.mp4;anna;look;POINT\n2;/v/abc.mp4;anna;cut;STOP\n"
)
BORIS_8 = (
    "Observation id,Time offset (s),Source,Subject,Behavior,Behavior type,Start (s),Stop (s),"
    "Media file name at start,Media file name at stop\n"
    'o1,5,player #1:/v/abc.mp4,anna,cut,STATE,"0,5",2,/v/abc.mp4,/v/abc.mp4\n'
)
BORIS_BY_SUBJECT = (
    "Time,Source,Subject,Behavior,Behavior type\n"
    "2,player #1:/v/abc.mp4,a,cut,STOP\n0.5,player #1:/v/abc.mp4,a,cut,START\n"
)
CVAT_PROJECT = """<annotations><meta><project><tasks>
<task><id>7</id><source>abc.mp4</source><stop_frame>29</stop_frame><size>20</size></task>
<task><id>8</id><source>def.mp4</source><frame_filter>step=5</frame_filter></task></tasks></project></meta>
<track task_id="7" label="cut"><box frame="10" outside="0"/></track>
<image id="0" task_id="8"><tag label="stir"/></image>
<image id="5" task_id="8"><tag label="stir"/></image></annotations>"""
ELAN_REF = """<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="file:///x/abc.wav"/>
<MEDIA_DESCRIPTOR MEDIA_URL="file:///x/abc.mp4"/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="1500"/><TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="3000"/></TIME_ORDER>
<TIER TIER_ID="activity"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b">
<ANNOTATION_VALUE>cut</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER><TIER TIER_ID="tool">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b1" ANNOTATION_REF="a1"><ANNOTATION_VALUE>knife</ANNOTATION_VALUE>
</REF_ANNOTATION></ANNOTATION><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b2" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>spoon</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
SEGMENTS = (
    "path,start,end,label,confidence\r\nday/abc.mp4,0.000,2.500,cut,0.93\r\n"
    "day/abc.mp4,2.500,4.000,none of these,0.61\r\nday/abc.mp4,4.000,5.000,stir,0.5\r\n"
)
STUDIO_OLD = [{"data": {"clip": "/data/upload/abc.mp4"}, "completions": STUDIO[0]["annotations"][1:2]}]
#: form, file, its text, the label option -> (video, start, end, label, split, group, in frames) of each.
CASES = [
    ("activitynet", "a.json", ACTIVITYNET, "", [
        ("abc", 0.5, 2, "cut", "train", "", False), ("def", 1.5, 3.25, "stir, slowly", "val", "", False)]),
    ("activitynet", "a.json", TIMELINE, "", [("abc", 0.5, 2, "cut", "", "", False)]),
    ("label-studio", "a.json", STUDIO, "", [("abc.mp4", 0, 5, "cut", "", "", True)]),
    ("label-studio", "a.json", STUDIO_MIN, "", [("abc.mp4", 0.5, 2, "cut", "", "", False)]),
    ("via", "a.json", VIA, "activity", [
        ("abc.mp4", 0.5, 2, "cut", "", "", False), ("def.mp4", 1.5, 3.25, "stir", "", "", False)]),
    ("cvat", "a.xml", CVAT, "", [("abc.mp4", 0, 7, "cut", "", "", True), ("abc.mp4", 9, 100, "cut", "", "", True)]),
    ("cvat", "a.xml", CVAT, "hand", [
        ("abc.mp4", 0, 4, "left", "", "", True), ("abc.mp4", 4, 7, "right", "", "", True),
        ("abc.mp4", 9, 100, "left", "", "", True)]),
    ("cvat", "a.xml", CVAT_TAGS, "", [
        ("abc", 0, 2, "cut", "", "", True), ("abc", 4, 5, "cut", "", "", True), ("abc", 4, 5, "hot", "", "", True)]),
    ("elan", "a.eaf", ELAN, "activity", [("abc.mp4", 1.5, 3, "cut", "", "anna", False)]),
    ("kinetics", "a.csv", KINETICS, "", [
        ("abc", 0, 2, "cut", "train", "", False), ("def", 1, 3, "stir", "val", "", False)]),
    ("ava", "a.csv", AVA, "", [
        ("abc", 901.5, 902.5, "cut", "", "", False), ("abc", 902.5, 903.5, "stir", "", "", False)]),
    ("epic", "EPIC_100_train.csv", EPIC, "", [
        ("abc", 0.5, 2, "cut red onion", "train", "P01", False),
        ("def", 1.5, 3603.25, "stir pot", "train", "P02", False)]),
    ("epic", "x.csv", EPIC, "noun", [
        ("abc", 0.5, 2, "red onion", "", "P01", False), ("def", 1.5, 3603.25, "pot", "", "P02", False)]),
    ("boris", "a.csv", BORIS, "", [
        ("abc.mp4", 0.5, 2, "cut", "", "", False), ("abc.mp4", 1.5, 3.25, "stir", "", "anna", False)]),
    ("boris", "a.csv", BORIS_EVENTS, "", [("abc.mp4", 0.5, 2, "cut", "", "anna", False)]),
    ("boris", "a.csv", BORIS_8, "", [("abc.mp4", 0.5, 2, "cut", "", "anna", False)]),
    ("boris", "a.csv", BORIS_BY_SUBJECT, "", [("abc.mp4", 0.5, 2, "cut", "", "a", False)]),
    ("cvat", "a.xml", CVAT_PROJECT, "", [
        ("abc.mp4", 10, 30, "cut", "", "", True), ("def.mp4", 0, 10, "stir", "", "", True)]),
    ("elan", "a.eaf", ELAN_REF, "tool", [
        ("abc.mp4", 1.5, 2.25, "knife", "", "", False), ("abc.mp4", 2.25, 3, "spoon", "", "", False)]),
    ("label-studio", "a.json", STUDIO_OLD, "", [("abc.mp4", 0, 5, "cut", "", "", True)]),
    ("kinetics", "a.csv", "label;youtube_id;time_start;time_end;split\n stir ; abc ;1,5;00:02,5;val\n", "", [
        ("abc", 1.5, 2.5, "stir", "val", "", False)]),
    ("segments", "long cam.segments.csv", SEGMENTS, "", [
        ("abc.mp4", 0, 2.5, "cut", "", "", False), ("abc.mp4", 4, 5, "stir", "", "", False)]),
    ("segments", "abc.segments.csv", "start,end,label,split,group\n0,2.5,cut,validation,ann\n", "", [
        ("abc", 0, 2.5, "cut", "val", "ann", False)]),
    ("ava", "a.csv", "abc,902,cut\nabc,903,,,,,,\n", "", [("abc", 901.5, 902.5, "cut", "", "", False)]),
]  # fmt: skip


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(form, path, label=""):
    reader = READERS[form]
    return reader.read(path, label) if reader.chooses else reader.read(path)


@pytest.mark.parametrize(("form", "name", "content", "label", "expected"), CASES)
def test_every_form_as_it_was_written_by_hand(tmp_path, form, name, content, label, expected):
    found = read(form, written(tmp_path / name, content), label)
    assert [
        (one.video, one.start, one.end, one.label, one.split, one.group, one.in_frames) for one in found.items
    ] == expected


def test_times_of_four_hundred_digits_are_no_times(tmp_path):
    for form, content, label in (
        ("activitynet", ACTIVITYNET, ""),
        ("label-studio", STUDIO_MIN, ""),
        ("via", VIA, "activity"),
    ):
        text = re.sub(r"(?<=[\[ ])2(?=[,\]])", "9" * 400, json.dumps(content))
        assert "999" in text
        with pytest.raises(DataError, match="is no time|a whole number of 400 digits"):
            read(form, written(tmp_path / "a.json", text), label)


def test_what_was_typed_and_options_that_are_not_there(tmp_path):
    typed = json.loads(json.dumps(VIA))
    typed["attribute"]["1"] |= {"type": 1, "options": {}}
    typed["metadata"]["1_x"]["av"]["1"], typed["metadata"]["2_y"]["av"]["1"] = "cut, slowly", ""
    found = read("via", written(tmp_path / "a.json", typed), "activity")
    assert [one.label for one in found.items] == ["cut, slowly"]
    chosen = json.loads(json.dumps(VIA))
    chosen["view"]["1"]["fid_list"] = ["1", "2"]
    notes = read("via", written(tmp_path / "a.json", chosen), "activity").notes
    assert notes[-1] == "1 segment is of several videos at once, of which the first is taken"
    chosen["metadata"]["1_x"]["av"]["1"] = "a,c"
    with pytest.raises(DataError, match="option that the attribute does not have .it has a cut, b stir.*\n.*'c'"):
        read("via", written(tmp_path / "a.json", chosen), "activity")


def test_uploaded_videos_are_found_and_late_ends_are_said(tmp_path):
    clip(tmp_path / "abc.mp4", 1)
    text = json.dumps(STUDIO).replace("videos%2Fabc.mp4", "0a1b2c3d-abc.mp4").replace('"end": 5', '"end": 500')
    result = convert_annotations("label-studio", written(tmp_path / "a.json", text), tmp_path / "out")
    assert any("1 stretches end behind the last frame" in note for note in result.notes)
    assert csv_dicts(tmp_path / "out" / "data.csv")[0]["path"] == str(tmp_path / "abc.mp4")


def test_seconds_behind_the_end_are_said(tmp_path):
    """Milliseconds that are taken for seconds; what ends in time is not counted, nor what has no header to believe."""
    clip(tmp_path / "abc.mp4", 1)
    (tmp_path / "def.mp4").write_text("no video")
    with open_clip(tmp_path / "abc.mp4") as reader:
        length = reader.duration
    pieces = [{"segment": ends, "label": "cut"} for ends in ([0, length], [length / 2, 1500], [1500, 2000])]
    source = written(tmp_path / "a.json", {"results": {"abc": pieces, "def": pieces}})
    (note,) = convert_annotations("activitynet", source, tmp_path / "out").notes
    assert note.startswith("2 stretches end behind the end of the video, and 1 begin there (abc ")
    assert len(csv_dicts(tmp_path / "out" / "data.csv")) == 6


@pytest.mark.parametrize(
    ("frames", "task", "end"),
    [
        ("0k 5k 9k", "", 10),  # nobody knows how long the task is
        ("0k 5k 9k", "<size>40</size>", 40),
        ("0k 5k 9k", "<size>40</size><start_frame>10</start_frame><frame_filter>step=2</frame_filter>", 89),
        ("0k 1 2 3k", "<size>40</size>", 4),  # every frame is there: so CVAT says where it ends
        ("0k 1 4 5k", "<size>40</size>", 6),  # as well, and frames 2 and 3 were deleted
        ("0k 5x 9k", "<size>40</size>", 40),
        ("0k 5k 9x", "<size>40</size>", 9),
        ("39k", "<size>40</size>", 40),
    ],
)
def test_tracks_of_keyframes_alone(tmp_path, frames, task, end):
    """k is a keyframe, x one where the track has left the screen."""
    boxes = "".join(
        f'<box frame="{one.rstrip("kx")}" outside="{int("x" in one)}" keyframe="{int(not one.isdecimal())}"/>'
        for one in frames.split()
    )
    text = (
        f'<annotations><meta><task><name>abc</name>{task}</task></meta><track label="cut">{boxes}</track></annotations>'
    )
    found = read("cvat", written(tmp_path / "a.xml", text))
    assert found.items[-1].end == end
    assert any("keyframes alone" in note for note in found.notes) == (not frames.endswith("x") and "1" not in frames)


def test_elan_shares_out_ends_that_are_not_set_and_is_read_in_any_encoding(tmp_path):
    """Four neighbours between 1 and 3 s have half a second each; the one behind has no end."""
    times = ['TIME_VALUE="1000"', "", "", "", 'TIME_VALUE="3000"', ""]
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="t{n}" {time}/>' for n, time in enumerate(times))
    words = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="t{n}" TIME_SLOT_REF2="t{n + 1}">'
        f"<ANNOTATION_VALUE>wörd{n}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for n in range(5)
    )
    head = '<?xml version="1.0" encoding="UTF-16"?><ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="abc.mp4"/>'
    text = f'{head}</HEADER><TIME_ORDER>{slots}</TIME_ORDER><TIER TIER_ID="a">{words}</TIER></ANNOTATION_DOCUMENT>'
    (tmp_path / "a.eaf").write_bytes(text.encode("utf-16"))
    found = read("elan", tmp_path / "a.eaf")
    assert [(one.start, one.end, one.label) for one in found.items] == [
        (1 + n / 2, 1.5 + n / 2, f"wörd{n}") for n in range(4)
    ]
    assert found.notes == ["left out: 1 annotations whose times are not set (align them in ELAN)"]


def test_two_shapes_of_one_frame(tmp_path):
    text = CVAT.replace('<box frame="4"', '<box frame="0" outside="0"/><box frame="4"')
    assert len(read("cvat", written(tmp_path / "a.xml", text)).items) == 2


def test_every_form_has_a_case():
    assert {case[0] for case in CASES} == READERS.keys()


@pytest.mark.parametrize(
    ("form", "name", "content", "says"),
    [
        ("activitynet", "a.json", {"videos": {}}, "not ActivityNet's form"),
        (
            "activitynet",
            "a.json",
            {"database": {"a": {"annotations": [{"segment": [2, 1], "label": "x"}]}}},
            "ends before",
        ),
        ("activitynet", "a.json", {"database": {"a": {"annotations": [{"segment": [2], "label": "x"}]}}}, "start, end"),
        ("activitynet", "a.json", {"database": {"a": {"annotations": [{"segment": [0, 1]}]}}}, "has no label"),
        ("activitynet", "a.json", {"database": {"a": {"annotations": []}}}, "1 videos without annotations"),
        ("label-studio", "a.json", {}, "list of tasks"),
        ("via", "a.json", VIA, "activity, note: say which one holds the label"),
        ("cvat", "a.xml", "<x/>", "its root is x"),
        ("cvat", "a.xml", "<annotations>", "is not XML"),
        ("elan", "a.eaf", '<!DOCTYPE x [<!ENTITY a "b">]><ANNOTATION_DOCUMENT/>', "declares entities"),
        ("elan", "a.eaf", ELAN, "activity, words: say which one"),
        ("kinetics", "a.csv", "label,id\n", "no column youtube_id"),
        ("kinetics", "a.csv", "label,youtube_id,time_start,time_end\nx,y,1,soon\n", "'soon' is no time"),
        ("kinetics", "a.csv", "label,youtube_id,time_start,time_end\nx, y,abc,1,2\n", "need quotes"),
        ("ava", "a.csv", "abc,1\n", "3 columns"),
        ("ava", "a.csv", "abc,0.5,2,cut\n", "with a person's number"),
        ("boris", "a.csv", "a,b\n1,2\n", "not BORIS' events"),
        ("boris", "a.csv", BORIS_EVENTS.rpartition("2;")[0], "starts and does not stop"),
        (
            "boris",
            "a.csv",
            BORIS_EVENTS.replace("POINT", "START").replace("look", "cut"),
            "starts twice before it stops",
        ),
        ("boris", "a.csv", BORIS_8.replace("p4\n", "p3\n"), "begins in one file and ends in another"),
        ("boris", "a.csv", "{}", "is JSON, where a csv is read"),
        ("cvat", "a.xml", CVAT_PROJECT.replace(' task_id="7"', ""), "none of the tasks 7, 8.*\\n.*none is said"),
        ("via", "a.json", {"_via_img_metadata": {}}, "a project of VIA 2"),
        (
            "activitynet",
            "a.json",
            {"database": {"a": {"annotations": [{"segment": [0, 1], "label": None}]}}},
            "has no label",
        ),
        ("kinetics", "a.csv", "label,youtube_id,time_start,time_end\nx,y,1,\n", "row 2: time_end"),
        ("kinetics", "a.csv", "label,youtube_id,time_start,time_end\nx,y,1,00:61:00\n", "'00:61:00' is no time"),
        ("epic", "a.csv", EPIC.replace("red onion", ""), "has no label"),
        ("label-studio", "a.json", json.loads(json.dumps(STUDIO).replace('"start": 1', '"start": 0')), "count from 1"),
    ],
)
def test_what_is_damaged_or_of_another_form(tmp_path, form, name, content, says):
    source = written(tmp_path / name, content)
    with pytest.raises(DataError, match=says):
        convert_annotations(form, source, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("file:///C:/my%20videos/a.mp4", "a.mp4"), (r"C:\videos\a b.mp4", "a b.mp4"),
        ("https://x.y/z/a.mp4?q=1", "a.mp4"),
        ("/data/local-files/?d=deep/er/a.mp4", "a.mp4"), ("abc", "abc"),
        ("file:///C:/take%20%231.mp4", "take #1.mp4"), ("/data/local-files/?d=a%5Cb%26c.mp4", "b&c.mp4"),
        ("s3://bucket/d/%C3%BC.mp4", "ü.mp4"), ("./take #1.mp4", "take #1.mp4"),
    ],
)  # fmt: skip
def test_names_of_videos_without_folders_and_addresses(text, name):
    assert video_name(text) == name


def test_lists_are_written_and_read_again(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for name in ("abc.mp4", "v_def.mp4"):
        clip(tmp_path / "videos" / name, 1)
    source = written(tmp_path / "a.json", ACTIVITYNET)
    words = [
        "convert-data",
        "activitynet",
        str(source),
        "--videos",
        str(tmp_path / "videos"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "train.csv (1 segment), val.csv (1 segment), 2 classes" in said and "1 videos without annotations" in said
    (row,) = csv_dicts(tmp_path / "out" / "val.csv")
    assert (row["path"], row["start"], row["end"]) == (str(tmp_path / "videos" / "v_def.mp4"), "1.5", "3.25")
    assert main(words) == 2 and "--force" in capsys.readouterr().err
    (tmp_path / "videos" / "v_def.mp4").unlink()
    assert main([*words, "--force"]) == 2 and "the video is not there" in capsys.readouterr().err
    assert main([*words, "--force", "--skip-missing"]) == 0
    assert "left out: 1 that the video is not there" in capsys.readouterr().out


def test_frames_are_cut_between_their_times(tmp_path):
    """A segment of frames 0 to 4 holds exactly these by the video's own times."""
    path = clip(tmp_path / "abc.mp4", 1)
    result = convert_annotations("label-studio", written(tmp_path / "a.json", STUDIO), tmp_path / "out")
    assert result.counts == {"data": 1} and any("1 video has several annotators" in note for note in result.notes)
    (row,) = csv_dicts(tmp_path / "out" / "data.csv")
    with open_clip(path) as reader:
        times = reader.pts - reader.pts[0]
    inside = [number for number, time in enumerate(times) if float(row["start"]) <= time < float(row["end"])]
    assert inside == [0, 1, 2, 3, 4]
    late = json.loads(json.dumps(STUDIO).replace('"start": 1', '"start": 10001').replace('"end": 5', '"end": 10005'))
    with pytest.raises(DataError, match="behind the last frame"):
        convert_annotations("label-studio", written(tmp_path / "b.json", late), tmp_path / "late")


def test_clips_that_were_cut_already_and_names_that_stand_twice(tmp_path):
    (tmp_path / "videos" / "more").mkdir(parents=True)
    clip(tmp_path / "videos" / "abc_000000_000002.mp4", 1)
    clip(tmp_path / "videos" / "def.mp4", 2)
    source = written(tmp_path / "a.csv", KINETICS)
    convert_annotations("kinetics", source, tmp_path / "out", videos=str(tmp_path / "videos"))
    assert set(csv_dicts(tmp_path / "out" / "train.csv")[0]) == {"path", "label"}
    assert csv_dicts(tmp_path / "out" / "val.csv")[0]["start"] == "1"
    clip(tmp_path / "videos" / "more" / "def.mp4", 3)
    with pytest.raises(DataError, match="several videos have the name"):
        convert_annotations("kinetics", source, tmp_path / "again", videos=str(tmp_path / "videos"))
    with pytest.raises(ConfigError, match="nothing to choose"):
        convert_annotations("kinetics", source, tmp_path / "again", label="x")


def test_the_examples_of_the_page_are_read(tmp_path):
    """Every example of docs/ANNOTATIONS.md by one form at least, and every form has one."""
    blocks = re.findall(r"```(json|text|xml)\n(.*?)```", (ROOT / "docs" / "ANNOTATIONS.md").read_text(), re.DOTALL)
    endings = {"json": (".json",), "text": (".csv", ".segments.csv"), "xml": (".xml", ".eaf")}
    used = set()
    for number, (kind, text) in enumerate(blocks):
        read_by = set()
        for form, facts in READERS.items():
            if facts.endings[0] in endings[kind]:
                try:
                    read_by |= (
                        {form} if read(form, written(tmp_path / f"{number}{facts.endings[0]}", text)).items else set()
                    )
                except DataError:
                    continue
        assert read_by, text
        used |= read_by
    assert used == READERS.keys()
