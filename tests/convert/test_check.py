"""What ``dust check`` finds in lists of every kind, and what becomes of it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dust.cli import check as command
from dust.cli import convert_data
from dust.convert.check import check_data, near_pairs, same_words
from dust.convert.fixes import folder_of_findings, write_clean, write_corrections
from dust.convert.lists import ListOptions, find_kind
from dust.datasets.manifest import read_manifest
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.tracks.manifest import read_track_manifest
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError
from tests.datasets.keystep.test_files import industreal
from tests.helpers import csv_dicts, csv_lists


def clip(path: Path, seed: int, frames: int = 4, size: int = 32) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.random.RandomState(seed).randint(0, 255, (frames, size, size, 3), np.uint8))
    return path.name


def write(root: Path, **lists: str) -> Path:
    for name, text in lists.items():
        (root / f"{name}.csv").write_text(text)
    return root


def found(report, *kinds):
    return {(one.level, one.kind, one.split, one.id, one.action) for one in report.findings if one.kind in kinds}


def corrected(root, report, **options):
    """A second check, with the corrections that the first proposes."""
    path = root / "corrections.csv"
    write_corrections(report, path, force=True)
    return check_data(str(root), ListOptions(corrections=str(path), **options))


@pytest.fixture
def clips(tmp_path) -> Path:
    """Every fault of a list once; a to h are clips of their own."""
    for seed, name in enumerate("abcdefgh"):
        clip(tmp_path / f"{name}.mp4", seed)
    shutil.copy(tmp_path / "a.mp4", tmp_path / "copy of a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    train = (
        "path,label,group\na.mp4,wave,p1\nb.mp4,wave,p1\nb.mp4,wave,p1\nc.mp4,push,p2\nc.mp4,wave,p2\n"
        "d.mp4,Wave,p3\ng.mp4,push,p4\nh.mp4,push,p9\ntext.mp4,push,p2\ngone.mp4,push,p2\n"
    )
    val = "path,label,group\ncopy of a.mp4,wave,p7\ne.mp4,push,p8\n"
    return write(tmp_path, train=train, val=val, test="path,label,group\ne.mp4,push,p8\nf.mp4,wave,p4\n")


def test_every_fault_of_clips_is_found(clips):
    report = check_data(str(clips))
    assert report.files == 11
    assert found(report, "bad") == {
        ("error", "bad", "train", "text.mp4", "drop"),
        ("error", "bad", "train", "gone.mp4", "drop"),
    }
    assert found(report, "leak", "group") == {
        ("error", "leak", "train", "a.mp4", "drop"),
        ("error", "group", "train", "g.mp4", "drop"),
    }
    assert found(report, "labels") == {
        ("error", "labels", "train", "c.mp4", "drop"),
        ("error", "labels", "train", "c.mp4#2", "drop"),
    }
    assert found(report, "duplicate") == {
        ("warning", "duplicate", "train", "b.mp4", "keep"),
        ("warning", "duplicate", "train", "b.mp4#2", "drop"),
    }
    assert {one[3] for one in found(report, "shared")} == {"e.mp4"}
    assert found(report, "names") == {("warning", "names", "train", "d.mp4", "relabel")}
    assert any(
        line.startswith("train: 10 samples of 3 classes: push 5, wave 4, Wave 1; 5 groups") for line in report.facts
    )


def test_clean_lists_have_nothing_to_find(clips, tmp_path):
    out = clips / "clean"
    counts = write_clean(check_data(str(clips)), out)
    assert counts == {"train": 3, "val": 2, "test": 2}
    assert csv_lists(out / "train.csv") == [
        ["id", "path", "label", "group"],
        ["b.mp4", str(clips / "b.mp4"), "wave", "p1"],
        ["d.mp4", str(clips / "d.mp4"), "wave", "p3"],
        ["h.mp4", str(clips / "h.mp4"), "push", "p9"],
    ]
    report = check_data(str(out))
    assert not report.errors and not found(report, "duplicate", "names", "bad")
    with pytest.raises(DataError, match="--force"):
        write_clean(report, out)


def test_corrections_do_the_same_to_the_lists(clips):
    path = clips / "fix.csv"
    counts = write_corrections(check_data(str(clips)), path)
    assert counts == {"keep": 3, "relabel": 1, "drop": 7}
    manifest = read_manifest(root=str(clips), split="train", corrections=path, check_files=False)
    kept = {one.id: manifest.class_names[one.label] for one in manifest.clips}
    assert kept == {"b.mp4": "wave", "d.mp4": "wave", "h.mp4": "push"}
    again = check_data(str(clips), ListOptions(corrections=str(path)))
    assert not again.errors


def test_val_and_test_may_be_one_list(tmp_path):
    for seed, name in enumerate("ab"):
        clip(tmp_path / f"{name}.mp4", seed)
    write(tmp_path, train="a.mp4,0\n", val="b.mp4,0\n", test="b.mp4,0\n")
    report = check_data(str(tmp_path))
    (shared,) = (one for one in report.findings if one.kind == "shared")
    assert shared.level == "warning" and shared.detail == "val and test are one list of 1 samples"
    assert not report.errors and any("nothing can be learnt" in one.detail for one in report.findings)


def test_a_class_that_train_lacks_is_an_error(tmp_path):
    for seed, name in enumerate("abc"):
        clip(tmp_path / f"{name}.mp4", seed)
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    write(tmp_path, train="a.mp4,x\nb.mp4,x\n", val="c.mp4,y\n")
    details = {one.detail: one.level for one in check_data(str(tmp_path)).findings}
    assert details["class 'y' has no clip in train"] == "error"
    assert details["class 'z' has no clip in any split"] == "warning"


def test_segments_of_one_video(tmp_path):
    for seed, name in enumerate("abc"):
        clip(tmp_path / f"{name}.mp4", seed, frames=75)  # at 30 frames per second
    shutil.copy(tmp_path / "c.mp4", tmp_path / "copy.mp4")
    head = "path,label,start,end\n"
    write(
        tmp_path,
        train=head + "a.mp4,x,0,1\na.mp4,y,0.9,2\nb.mp4,x,0,1\nc.mp4,y,0,1\nb.mp4,x,1,1.03\nb.mp4,y,3,4\na.mp4,x,0,1\n"
        "c.mp4,y,0,0.4\nc.mp4,x,0.41,0.42\n",
        val=head + "a.mp4,x,1.5,2.5\nb.mp4,y,1.03,2\n",
        test=head + "copy.mp4,y,0.5,3\na.mp4,x,2,3\n",
    )
    report = check_data(str(tmp_path), ListOptions(span=0.7))
    assert report.files == 4
    assert found(report, "leak") == {
        ("error", "leak", "train", "a.mp4#0.9-2", "drop"),
        ("error", "leak", "train", "c.mp4#0-1", "drop"),  # by its content
    }
    assert {one[3] for one in found(report, "shared")} == {"a.mp4#1.5-2.5", "a.mp4#2-3"}
    assert not found(report, "labels", "group")
    assert found(report, "bad") == {("error", "bad", "train", "b.mp4#3-4", "drop")}
    assert found(report, "duplicate") == {
        ("warning", "duplicate", "train", "a.mp4#0-1", "keep"),
        ("warning", "duplicate", "train", "a.mp4#0-1#2", "drop"),
    }
    assert {(one.id, one.detail) for one in report.findings if one.kind == "size"} == {
        ("b.mp4#1-1.03", "one frame"),
        ("c.mp4#0.41-0.42", "no time for a frame at a steady rate"),
        ("copy.mp4#0.5-3", "seconds 0.5 to 3 goes beyond its end; the file has 75 frames, 2.5 s"),
        ("a.mp4#2-3", "seconds 2 to 3 goes beyond its end; the file has 75 frames, 2.5 s"),
    }
    assert command.main([str(tmp_path), "--workers", "0"]) == 1
    assert not corrected(tmp_path, report).errors
    assert write_clean(report, tmp_path / "clean") == {"train": 5, "val": 2, "test": 2}
    kept = read_manifest(root=str(tmp_path / "clean"), split="train")
    assert [(one.id, one.segment.part) for one in kept.clips] == [
        ("a.mp4#0-1", "seconds 0 to 1"),
        ("b.mp4#0-1", "seconds 0 to 1"),
        ("b.mp4#1-1.03", "seconds 1 to 1.03"),
        ("c.mp4#0-0.4", "seconds 0 to 0.4"),
        ("c.mp4#0.41-0.42", "seconds 0.41 to 0.42"),
    ]
    write(tmp_path, train=head + "a.mp4,x,0,70\n", val=head + "a.mp4,x,70,75\n", test=head + "a.mp4,x,,\n")
    assert not check_data(str(tmp_path), ListOptions(segment_unit="frames")).lists.clips["test"][0].segment
    assert command.main([str(tmp_path), "--workers", "0", "--segment-unit", "frames"]) == 1  # the whole video in test
    (tmp_path / "test.csv").unlink()
    assert command.main([str(tmp_path), "--workers", "0", "--segment-unit", "frames"]) == 0


def test_short_and_small_clips(tmp_path):
    clip(tmp_path / "long.mp4", 0, frames=60)
    clip(tmp_path / "short.mp4", 1, frames=12)
    for name, size in (("one", (32, 32)), ("tiny", (1, 1))):
        (tmp_path / name).mkdir()
        for number in range(1 if name == "one" else 60):
            Image.fromarray(np.full((*size, 3), number, np.uint8)).save(tmp_path / name / f"{number}.png")
    write(tmp_path, train="long.mp4,0\nshort.mp4,0\none,0\ntiny,0\n")
    report = check_data(str(tmp_path), ListOptions(span=2.0))
    sizes = {one.id: one.detail for one in report.findings if one.kind == "size"}
    assert sizes == {
        "short.mp4": "0.40 s, where the configuration takes 2.00 s",
        "one": "one frame",
        "tiny": "1x1 pixels",
    }
    assert not report.errors


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["wave", "Wave", "push"], {("wave", "Wave")}),
        (["open door", "open_door"], {("open door", "open_door")}),
        (["throwing", "trowing", "thowring"], {("throwing", "trowing"), ("throwing", "thowring")}),
        (["cutting", "cuttingg"], {("cutting", "cuttingg")}),
        (["class1", "class2", "class11"], set()),
        (["push", "pull", "bush"], set()),
    ],
)
def test_class_names_that_are_nearly_alike(names, pairs):
    assert set(near_pairs(names)) == pairs


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Open door", "open_door", True),
        ("open-door", "OPEN  DOOR", True),
        ("open - door", "open door", True),
        ("cafe\u0301", "caf\u00e9", True),  # one text, written in two ways
        ("C", "C++", False),
        ("C++ -O", "C++ O", False),
        ("left", "left-", False),
        ("left", "left_", False),
        ("temp -1", "temp 1", False),
        ("1-2", "1 2", False),
        ("cafe", "caf\u00e9", False),
        ("opendoor", "open door", False),
        ("Masse", "Ma\u00dfe", False),
        ("\u0915\u093f", "\u0915\u0940", False),  # Hindi ki and kii: vowel marks
        ("\u0e01\u0e48\u0e32", "\u0e01\u0e32", False),  # a Thai tone mark
    ],
)
def test_what_cannot_tell_two_classes_apart(tmp_path, one, other, same):
    assert (same_words(one) == same_words(other)) is same
    for seed, name in enumerate("abcd"):
        clip(tmp_path / f"{name}.mp4", seed)
    write(
        tmp_path,
        train=f'path,label\na.mp4,"{one}"\nb.mp4,"{one}"\nc.mp4,"{other}"\n',
        val=f'path,label\nd.mp4,"{one}"\n',
    )
    report = check_data(str(tmp_path))
    write_corrections(report, tmp_path / "fix.csv")
    rows = csv_dicts(tmp_path / "fix.csv")
    assert [(row["id"], row["action"], row["label"]) for row in rows] == ([("c.mp4", "relabel", one)] if same else [])
    write_clean(report, tmp_path / "clean")
    assert len((tmp_path / "clean" / "classes.txt").read_text().splitlines()) == 2 - same


def test_every_spelling_becomes_the_most_frequent_one(tmp_path):
    spellings = ["open door", "open_door", "Open door", "open-door"]
    counts = {"open door": 2, "open_door": 3, "Open door": 1, "open-door": 3}
    for order in (spellings, spellings[::-1]):
        rows = [(f"{name}{number}.mp4", name) for name in order for number in range(counts[name])]
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in order))
        write(tmp_path, train="path,label\n" + "".join(f"{path},{name}\n" for path, name in rows))
        relabels = {one.id: one.label for one in check_data(str(tmp_path)).findings if one.kind == "names"}
        assert relabels == {path: "open_door" for path, name in rows if name != "open_door"}


def test_ten_thousand_class_names_take_no_time():
    names = [f"{word} action number {number}" for number in range(5000) for word in ("left", "right")]
    assert near_pairs(names) == []


# --- other kinds of lists -----------------------------------------------------------------------------------------


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


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_can_be_run_again(clips, capsys):
    for _ in range(2):
        assert command.main([str(clips), "--workers", "0"]) == 1
    out = capsys.readouterr().out
    assert "error: cannot be read: 2\n" in out and "train: gone.mp4: missing" in out
    rows = csv_dicts(clips / "bad_clips.csv")
    assert [(row["split"], row["id"], row["reason"] == "missing") for row in rows] == [
        ("train", "text.mp4", False),
        ("train", "gone.mp4", True),
    ]
    assert convert_data.main(["check", "--root", str(clips), "--workers", "0"]) == 1  # the older form
    assert command.main([str(clips), "--workers", "0", "--fix", str(clips / "clean")]) == 1
    assert command.main([str(clips / "clean"), "--workers", "0"]) == 0
    (clips / "check.csv").write_text("mine\n")
    assert command.main([str(clips), "--workers", "0"]) == 2
    assert "check.csv" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("dust.convert.fixes.os.access", lambda path, mode: Path(path) != data)
    assert folder_of_findings(str(data)) == here / "check_data"
    assert folder_of_findings(str(data), str(here)) == here


def test_a_configuration_says_the_span(tmp_path, capsys):
    clip(tmp_path / "a.mp4", 0, frames=12)
    write(tmp_path, train="a.mp4,0\n", val="a.mp4,0\n")
    (tmp_path / "my.yaml").write_text(
        f"DATA: {{PATH_TO_DATA_DIR: {tmp_path}, NUM_FRAMES: 8, SAMPLING_RATE: 8}}\nMODEL: {{NUM_CLASSES: 1}}\n"
    )
    assert command.main(["--cfg", str(tmp_path / "my.yaml"), "--workers", "0"]) == 1
    assert "0.40 s, where the configuration takes 2.13 s" in capsys.readouterr().out
    keys = ["DATA.SAMPLING_RATE", "2"]
    command.main(["--cfg", str(tmp_path / "my.yaml"), *keys, "--workers", "0"])
    assert "where the configuration takes" not in capsys.readouterr().out
    command.main([str(tmp_path), "--workers", "0", "--cfg", str(tmp_path / "my.yaml"), *keys])
    assert "where the configuration takes" not in capsys.readouterr().out
    assert command.main([str(tmp_path), "--workers", "0", *keys]) == 2
    assert command.main(["--workers", "0"]) == 2


def test_windows_of_a_series_on_another_clock_are_no_damage(tmp_path):
    """Seconds of the recording, whose clock shows 100 where the file's shows 0."""
    rows = "".join(f"{t / 20},{t % 7}\n" for t in range(200))
    (tmp_path / "a.csv").write_text("time,x\n" + rows)
    lines = "id,label,series,start,end,offset_s\ns1,x,a.csv,100,104,100\ns2,y,a.csv,104,108,100\n"
    (tmp_path / "train.csv").write_text(lines)
    assert not [one for one in check_data(str(tmp_path)).findings if one.kind == "bad"]


def test_a_segment_that_ends_behind_its_file_is_said(tmp_path):
    """24 frames at 30 a second: 0.8 s. Up to a frame behind the end nothing is said."""
    clip(tmp_path / "a.mp4", 0, frames=24)
    rows = "a.mp4,0,0.8,x\na.mp4,0,0.83,x\na.mp4,0.5,9,y\na.mp4,0.5,,y\n"
    (tmp_path / "train.csv").write_text("path,start,end,label\n" + rows)
    found = [one for one in check_data(str(tmp_path)).findings if "beyond" in one.detail]
    assert [(one.level, one.id) for one in found] == [("warning", "a.mp4#0.5-9")]
    assert "the file has 24 frames, 0.8 s" in found[0].detail
