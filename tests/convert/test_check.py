"""What ``dust check`` finds in lists of clips, what becomes of it, and the command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dust.cli import check as command
from dust.cli import convert_data
from dust.config import load_config
from dust.convert.check import check_data, near_pairs, same_words
from dust.convert.fixes import folder_of_findings, write_clean, write_corrections
from dust.convert.lists import ListOptions
from dust.datasets.manifest import read_manifest
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError
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


def test_a_segment_that_ends_behind_its_file_is_said(tmp_path):
    """24 frames at 30 a second: 0.8 s. Up to a frame behind the end nothing is said."""
    clip(tmp_path / "a.mp4", 0, frames=24)
    rows = "a.mp4,0,0.8,x\na.mp4,0,0.83,x\na.mp4,0.5,9,y\na.mp4,0.5,,y\n"
    (tmp_path / "train.csv").write_text("path,start,end,label\n" + rows)
    found = [one for one in check_data(str(tmp_path)).findings if "beyond" in one.detail]
    assert [(one.level, one.id) for one in found] == [("warning", "a.mp4#0.5-9")]
    assert "the file has 24 frames, 0.8 s" in found[0].detail


def test_a_taken_place_is_refused_before_anything_is_decoded(clips, capsys):
    for name in ("clean", "fixes.csv"):
        arguments = [str(clips), "--workers", "0", "--fix", str(clips / name)]
        assert command.main(arguments) == 1
        (clips / "check.csv").unlink()
        assert command.main(arguments) == 2
        assert "already holds" in capsys.readouterr().err and not (clips / "check.csv").exists()
        assert command.main([*arguments, "--force"]) == 1


def test_videos_are_not_too_short_for_what_reads_none():
    span = command.build_options(load_config("configs/quickstart/dust_stage2.yaml"))["span"]
    assert span == 0 < command.build_options(load_config("configs/quickstart/dust_stage1.yaml"))["span"]


def test_clean_lists_come_with_the_keys_that_they_are_read_by(tmp_path, capsys, monkeypatch):
    """Frames that are read as seconds are other parts of long videos. A ~ behind = is the home folder, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    clip(tmp_path / "a.mp4", 0)
    write(tmp_path, train='path,start,end,label\na.mp4,0,2,"x,y"\na.mp4,2,4,y\n')
    options = ["--workers", "0", "--segment-unit", "frames", "--multi-label", "--fix=~/clean"]
    assert command.main([str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    assert f"PATH_TO_DATA_DIR {tmp_path / 'clean'} DATA.SEGMENT_UNIT frames DATA.MULTI_LABEL True" in said
    lists = ListOptions(segment_unit="frames", multi_label=True)
    assert not check_data(str(tmp_path / "clean"), lists).errors
