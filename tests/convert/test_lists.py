"""What ``dust check`` finds in lists of other kinds than clips: fusion, tracks, procedures, verbs and nouns."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dust.cli import check as command
from dust.convert.check import check_data
from dust.convert.fixes import write_clean
from dust.convert.lists import ListOptions, find_kind
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.tracks.manifest import read_track_manifest
from dust.utils.errors import DataError
from tests.convert.test_check import clip, corrected, found, write
from tests.datasets.keystep.test_files import industreal
from tests.helpers import csv_dicts, csv_lists


def test_fusion_with_series(tmp_path):
    for seed, name in enumerate("abcg"):
        clip(tmp_path / f"{name}.mp4", seed)
        np.savetxt(tmp_path / f"{name}.csv", np.random.RandomState(seed).rand(20, 2), delimiter=";")
    (tmp_path / "d.csv").write_text("0,5;1,5\nx;2\n")
    shutil.copy(tmp_path / "a.csv", tmp_path / "e.csv")
    head = "id;label;video;series;group\n"
    write(
        tmp_path,
        train=head + "1;x;a.mp4;a.csv;\n2;y;b.mp4;d.csv;\n3;y;c.mp4;c.csv;\n6;x;g.mp4;g.csv;\n",
        val=head + "4;x;b.mp4;b.csv;\n",
        test=head + "5;x;c.mp4;e.csv;\n",
    )
    assert find_kind(str(tmp_path)) == "fusion"
    report = check_data(str(tmp_path))
    assert found(report, "bad") == {("error", "bad", "train", "2", "drop")}
    assert {one[3] for one in found(report, "leak")} == {"1", "2", "3"}  # 1 by its series, the others by their videos
    assert not corrected(tmp_path, report).errors
    stack = np.random.RandomState(0).rand(3, 3, 4, 32, 32).astype(np.float32)
    stack[2] = stack[0]
    stack[1, 0, 0, 0, 0] = np.nan
    np.save(tmp_path / "stack.npy", stack)
    head = "id,label,video\n"
    write(tmp_path, train=head + "1,x,stack.npy#0\n2,y,stack.npy#1\n", val=head + "4,x,stack.npy#2\n")
    os.remove(tmp_path / "test.csv")
    report = check_data(str(tmp_path))
    assert found(report, "bad", "leak") == {
        ("error", "bad", "train", "2", "drop"),
        ("error", "leak", "train", "1", "drop"),
    }


def test_series_within_archives(tmp_path):
    rng = np.random.RandomState(0)
    one, other = rng.rand(2, 20), rng.rand(2, 20)
    np.savez(tmp_path / "all.npz", a=one, b=other, c=one, time=np.arange(20.0))
    np.savez(tmp_path / "bad.npz", d=np.full((2, 20), np.inf))
    head = "id,label,series\n"
    write(
        tmp_path,
        train=head + "1,x,all.npz#a\n2,y,all.npz#b\n3,y,bad.npz#d\n4,x,all.npz#gone\n",
        val=head + "5,x,all.npz#c\n",
    )
    report = check_data(str(tmp_path))
    assert found(report, "bad", "leak") == {
        ("error", "bad", "train", "3", "drop"),
        ("error", "bad", "train", "4", "drop"),
        ("error", "leak", "train", "1", "drop"),
    }
    write_clean(report, tmp_path / "clean")
    read = read_fused_manifest(root=str(tmp_path / "clean"), split="train", modalities=["series"])
    assert [one.series for one in read.clips] == [str(tmp_path / "all.npz") + "#b"]


def test_clean_lists_of_fusion(tmp_path):
    for seed, name in enumerate("abc"):
        clip(tmp_path / f"{name}.mp4", seed)
    rows = "1,x,a.mp4,train\n2,x,b.mp4,train\n3,y,c.mp4,train\n4,x,b.mp4,test\n"
    (tmp_path / "manifest.csv").write_text("id,label,video,split\n" + rows)
    write_clean(check_data(str(tmp_path)), tmp_path / "clean")
    for split, ids in {"train": ["1", "3"], "test": ["4"]}.items():
        read = read_fused_manifest(root=str(tmp_path / "clean"), split=split, modalities=["video"])
        assert [one.id for one in read.clips] == ids and read.class_names == ["x", "y"]


def test_fusion_with_a_separator_of_its_own(tmp_path, capsys):
    for seed, name in enumerate("ab"):
        np.savetxt(tmp_path / f"{name}.csv", np.random.RandomState(seed).rand(20, 2), delimiter=";")
    write(tmp_path, train="id|label|series\n1|x|a.csv\n2|y|b.csv\n")
    assert command.main([str(tmp_path), "--workers", "0", "--separator", "|"]) == 0
    assert "2 x series" in capsys.readouterr().out
    write(tmp_path, train="id|label|series\n1|x|\n2|y|\n")  # nothing to read at all
    assert command.main([str(tmp_path), "--workers", "0", "--separator", "|"]) == 2
    assert "no series" in capsys.readouterr().err


def test_tracks(tmp_path):
    rng = np.random.RandomState(0)
    for name in "abcd":
        tracks = {"tracks": rng.rand(6, 4, 2) * 30, "visibility": np.ones((6, 4), bool), "size": [32, 32], "fps": 10}
        if name == "c":
            tracks["tracks"][2, 1] = np.nan
        np.savez(tmp_path / f"{name}.npz", **tracks)
    rows = "1,0,x,a.npz,s1,train\n2,0,y,b.npz,s2,train\n3,0,y,c.npz,s3,train\n4,0,x,d.npz,s2,val\n4,0,x,d.npz,s2,test\n"
    (tmp_path / "tracks.csv").write_text(
        "sample,view,label,file,sequence,split\n" + rows.replace("4,0,x,d.npz,s2,test\n", "")
    )
    with pytest.raises(DataError, match="a sequence of train in another split"):
        read_track_manifest(root=str(tmp_path), split="train")
    report = check_data(str(tmp_path))
    assert found(report, "bad", "group", "leak") == {
        ("error", "bad", "train", "3", "drop"),
        ("error", "group", "train", "2", "drop"),
    }
    assert not corrected(tmp_path, report).errors
    write_clean(report, tmp_path / "clean")
    read = read_track_manifest(root=str(tmp_path / "clean"), split="train")
    assert [(one.id, one.sequence, one.group) for one in read.clips] == [("1", "s1", "s1")]
    (tmp_path / "a.npz").unlink()
    assert ("error", "bad", "train", "1", "drop") in found(check_data(str(tmp_path)), "bad")
    # val and test may share sequences
    head = "sample,view,label,file,sequence\n"
    write(tmp_path / "clean", val=head + "4,0,x,../d.npz,s2\n", test=head + "4,0,x,../d.npz,s2\n")
    assert {one.detail for one in check_data(str(tmp_path / "clean")).errors} == {"missing"}  # a.npz


def test_sequences_of_the_published_layout_without_tracks(tmp_path):
    head = "sequence_number,view,action_label,start frame,end frame\n"
    (tmp_path / "action_labels.csv").write_text(head + "".join(f"seq_{n},1,x,0,4\n" for n in range(3)))
    report = check_data(str(tmp_path))
    assert {(one.id, one.detail) for one in report.findings if one.kind == "bad"} == {
        (f"seq_{n}_0_4", "missing") for n in range(3)
    }


def test_recordings_of_a_procedure(tmp_path):
    document = {
        "components": ["lid"],
        "start_states": {"assy": "0"},
        "steps": [
            {"id": i, "description": f"{verb} lid", "install": i < 2, "state_idx": 0, "expected_in_assy": i == 0}
            for i, verb in enumerate(("Install", "Wrongly install", "Remove"))
        ],
    }
    (tmp_path / "procedure.json").write_text(json.dumps(document))
    for seed, name in enumerate("abcd"):
        clip(tmp_path / f"{name}.mp4", seed, frames=8)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "e.mp4")
    recordings = (
        "id,split,path,person\na,train,a.mp4,p\nb,train,b.mp4,q\nd,train,d.mp4,t\nc,val,c.mp4,q\ne,test,e.mp4,r\n"
    )
    write(
        tmp_path,
        recordings=recordings,
        states="recording,frame,lid\n" + "".join(f"{x},0,0\n{x},4,1\n" for x in "abcde"),
    )
    assert find_kind(str(tmp_path)) == "keystep"
    report = check_data(str(tmp_path), ListOptions(group_column="person"))
    assert found(report, "leak", "group") == {
        ("error", "leak", "train", "a", "drop"),
        ("error", "group", "train", "b", "drop"),
    }
    assert not corrected(tmp_path, report, group_column="person").errors
    write_clean(report, tmp_path / "clean")
    kept = csv_dicts(tmp_path / "clean" / "recordings.csv")
    assert [(row["id"], row["group"]) for row in kept] == [("d", "t"), ("c", "q"), ("e", "r")]
    (tmp_path / "d.mp4").unlink()
    report = check_data(str(tmp_path), ListOptions(group_column="person"))
    assert found(report, "bad") == {("error", "bad", "train", "d", "drop")}


def test_recordings_of_the_published_layouts_without_frames(tmp_path):
    home = industreal(tmp_path)
    shutil.rmtree(home / "rgb")
    report = check_data(str(tmp_path))
    assert {(one.id, one.detail) for one in report.errors} == {(home.name, "missing")}


def test_epic(tmp_path):
    for seed, name in enumerate("abc"):
        clip(tmp_path / f"{name}.mp4", seed)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "d.MP4")
    write(tmp_path, train="clip_id,verb,noun,group\na,1,2,k\nb,3,4,k\n", val="clip_id,verb,noun,group\nd,1,3,m\n")
    assert find_kind(str(tmp_path)) == "epic"
    report = check_data(str(tmp_path))
    assert found(report, "leak") == {("error", "leak", "train", "a", "drop")}
    assert {one[3] for one in found(report, "labels")} == {"a", "d"}
    (tmp_path / "fix.csv").write_text('id,action,label,split\na,drop,,train\nd,relabel,"3,4",val\n')
    again = check_data(str(tmp_path), ListOptions(corrections=str(tmp_path / "fix.csv")))
    assert [one.label for one in again.lists.clips["val"]] == [(3, 97 + 4)] and not again.errors
    (tmp_path / "val.csv").write_text("clip_id,verb,noun\nc,1,3\n")
    write_clean(check_data(str(tmp_path)), tmp_path / "clean")
    assert csv_lists(tmp_path / "clean" / "train.csv") == [
        ["clip_id", "verb", "noun", "group"],
        ["a", "1", "2", "k"],
        ["b", "3", "4", "k"],
    ]


def test_folders_of_classes_with_frames_beside_videos(tmp_path):
    for split, seed in {"train": 0, "val": 5}.items():
        clip(tmp_path / split / "wave" / "1.mp4", seed)
        frames = tmp_path / split / "push" / "2"
        frames.mkdir(parents=True)
        for number in range(3):
            noise = np.random.RandomState(seed + number).randint(0, 255, (32, 32, 3))
            Image.fromarray(noise.astype(np.uint8)).save(frames / f"{number}.jpg")
            (frames / f"._{number}.jpg").write_bytes(b"x")
    report = check_data(str(tmp_path))
    assert (report.files, report.findings) == (4, [])
    (tmp_path / "val" / "push" / "2" / "1.jpg").write_bytes(b"broken")
    assert found(check_data(str(tmp_path)), "bad") == {("error", "bad", "val", "val/push/2", "drop")}


def test_windows_of_a_series_on_another_clock_are_no_damage(tmp_path):
    """Seconds of the recording, whose clock shows 100 where the file's shows 0."""
    rows = "".join(f"{t / 20},{t % 7}\n" for t in range(200))
    (tmp_path / "a.csv").write_text("time,x\n" + rows)
    lines = "id,label,series,start,end,offset_s\ns1,x,a.csv,100,104,100\ns2,y,a.csv,104,108,100\n"
    (tmp_path / "train.csv").write_text(lines)
    assert not [one for one in check_data(str(tmp_path)).findings if one.kind == "bad"]


def test_series_that_a_configuration_cannot_bring_to_its_rate_are_said(tmp_path):
    """A gap, and milliseconds that are called seconds; not without a configuration, nor of windows beside the gap."""

    def bad(**options):
        findings = check_data(str(tmp_path), ListOptions(**options)).findings
        return {one.id: one.detail for one in findings if one.kind == "bad"}

    for name, times in (("a", [0, 1, 2, 3]), ("gap", [0, 1, 2, 30]), ("ms", [0, 1000, 2000, 3000])):
        rows = "".join(f"{time},{number}\n" for number, time in enumerate(times))
        (tmp_path / f"{name}.csv").write_text(f"time,x\n{rows}")
    write(tmp_path, train="id,label,series\n1,x,a.csv\n2,y,gap.csv\n3,y,ms.csv\n")
    rules = SeriesRules(num_channels=1, rate=1.0)
    said = bad(rules=rules)
    assert said.keys() == {"2", "3"} and "a gap" in said["2"] and "milliseconds" in said["3"]
    assert not bad()
    write(tmp_path, train="id,label,series,start,end\n1,x,gap.csv,0,2\n2,y,a.csv,0,2\n")
    assert not bad(rules=rules)
