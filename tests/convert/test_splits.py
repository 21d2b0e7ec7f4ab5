"""From public layouts to csv files, and everything that must not pass in silence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dust.cli import convert_data
from dust.convert.splits import read_public, write_splits
from dust.datasets.manifest.manifest import read_manifest
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError
from tests.helpers import csv_lists

TRAIN = [("b", "1"), ("b", "2"), ("a", "1")]
TEST = [("b", "8"), ("a", "9")]


def clip(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.random.RandomState(seed).randint(0, 255, (4, 16, 16, 3), np.uint8))


@pytest.fixture
def ucf(tmp_path) -> Path:
    """UCF101 with two classes, b before a."""
    root = tmp_path / "UCF101"
    for number, (name, clip_name) in enumerate(TRAIN + TEST):
        clip(root / "UCF-101" / name / f"{clip_name}.avi", number)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 b\n2 a\n")
    (lists / "trainlist01.txt").write_text("".join(f"{n}/{c}.avi {1 if n == 'b' else 2}\n" for n, c in TRAIN))
    (lists / "testlist01.txt").write_text("".join(f"{n}/{c}.avi\n" for n, c in TEST))
    return root


def test_ucf101_keeps_the_official_class_order(ucf, tmp_path):
    out = tmp_path / "out"
    result = write_splits(read_public(str(ucf), "ucf101"), out)
    assert result.counts == {"train": 3, "val": 2, "test": 2}
    assert csv_lists(out / "train.csv")[:2] == [["path", "label"], [str(ucf / "UCF-101" / "b" / "1.avi"), "b"]]
    assert (out / "classes.txt").read_text() == "b\na\n"
    official = read_manifest(root=str(ucf), split="train")
    written = read_manifest(root=str(out), split="train", num_classes=2)
    assert written.class_names == official.class_names == ["b", "a"]
    assert [(c.path, c.label) for c in written.clips] == [(c.path, c.label) for c in official.clips]
    assert csv_lists(out / "val.csv") == csv_lists(out / "test.csv")
    assert sorted(path.name for path in out.iterdir()) == ["classes.txt", "test.csv", "train.csv", "val.csv"]


def test_paths_relative_to_a_prefix_and_below_out(ucf, tmp_path):
    write_splits(read_public(str(ucf), "ucf101"), tmp_path / "out", relative_to=str(ucf / "UCF-101"))
    assert csv_lists(tmp_path / "out" / "train.csv")[1] == ["b/1.avi", "b"]
    prefixed = read_manifest(root=str(tmp_path / "out"), split="test", path_prefix=str(ucf / "UCF-101"))
    assert Path(prefixed.clips[0].path).is_file()
    write_splits(read_public(str(ucf), "ucf101"), tmp_path)
    assert csv_lists(tmp_path / "train.csv")[1] == ["UCF101/UCF-101/b/1.avi", "b"]
    with pytest.raises(DataError, match="not below"):
        write_splits(read_public(str(ucf), "ucf101"), tmp_path / "third", relative_to=str(tmp_path / "out"))


def test_nothing_is_overwritten_without_force(ucf, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "val.csv").write_text("mine")
    with pytest.raises(DataError, match=r"already holds val.csv"):
        write_splits(read_public(str(ucf), "ucf101"), out)
    assert [path.name for path in out.iterdir()] == ["val.csv"]
    write_splits(read_public(str(ucf), "ucf101"), out, force=True)
    assert (out / "val.csv").read_text() != "mine"


def test_a_clip_in_train_and_test(ucf, tmp_path):
    out = tmp_path / "out"
    shutil.copy(ucf / "UCF-101" / "b" / "8.avi", ucf / "UCF-101" / "b" / "2.avi")
    with pytest.raises(DataError, match=r"1 clip is in train and in val or test.*\n.*b/2.avi; test: .*b/8.avi"):
        write_splits(read_public(str(ucf), "ucf101"), out)
    assert not out.exists()
    result = write_splits(read_public(str(ucf), "ucf101"), out, drop_leaks=True)
    assert (result.counts["train"], result.counts["test"], result.dropped) == (2, 2, 1)
    assert not any(row[0].endswith("b/2.avi") for row in csv_lists(out / "train.csv"))


def test_a_clip_twice_in_train_is_said(ucf, tmp_path):
    shutil.copy(ucf / "UCF-101" / "b" / "1.avi", ucf / "UCF-101" / "b" / "2.avi")
    result = write_splits(read_public(str(ucf), "ucf101"), tmp_path / "out")
    assert any("in train more than once" in note and "b/1.avi" in note for note in result.notes)


def test_a_clip_that_does_not_open(ucf, tmp_path):
    out = tmp_path / "out"
    (ucf / "UCF-101" / "b" / "2.avi").write_text("text")
    with pytest.raises(DataError, match=r"1 clip cannot be read.*--skip-bad.*\n.*b/2.avi"):
        write_splits(read_public(str(ucf), "ucf101"), out)
    assert not (out / "train.csv").exists()
    assert csv_lists(out / "bad_clips.csv")[1][:3] == ["train", "b/2.avi", str(ucf / "UCF-101" / "b" / "2.avi")]
    result = write_splits(read_public(str(ucf), "ucf101"), out, skip_bad=True, force=True)
    assert (result.counts["train"], result.dropped) == (2, 1)


def test_a_class_that_train_lacks(ucf, tmp_path):
    (ucf / "ucfTrainTestlist" / "trainlist01.txt").write_text("b/1.avi 1\n")
    with pytest.raises(
        DataError, match=r"1 classes of test have no clip in train|1 classes of val have no clip in train"
    ):
        write_splits(read_public(str(ucf), "ucf101"), tmp_path / "out")


def test_hmdb51(tmp_path):
    for number, name in enumerate("abcd"):
        clip(tmp_path / "wave" / f"{name}.avi", number)
        clip(tmp_path / "hug" / f"{name}.avi", 10 + number)
    for name in ("wave", "hug"):
        (tmp_path / f"{name}_test_split1.txt").write_text("a.avi 1\nb.avi 2\nc.avi 0\nd.avi 1\n")
    result = write_splits(read_public(str(tmp_path), "hmdb51"), tmp_path / "out")
    assert result.counts == {"train": 4, "val": 2, "test": 2}


def test_ssv2_without_test_labels_copies_val(tmp_path):
    for number in range(4):
        clip(tmp_path / "videos" / f"{number}.mp4", number)
    lists = {
        "train": [{"id": "0", "template": "Closing [something]"}, {"id": "1", "template": "Turning [something], fast"}],
        "validation": [{"id": "2", "template": "Turning [something], fast"}],
        "test": [{"id": "3"}],
        "labels": {"Turning something, fast": "0", "Closing something": "1"},
    }
    for name, content in lists.items():
        (tmp_path / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    result = write_splits(read_public(str(tmp_path), "ssv2"), tmp_path / "out")
    assert result.counts == {"train": 2, "val": 1, "test": 1}
    assert any("test.csv is a copy of val.csv" in note for note in result.notes)
    train = read_manifest(root=str(tmp_path / "out"), split="train")
    assert [clip.label for clip in train.clips] == [1, 0]
    assert train.class_names[0] == "Turning something, fast"


def test_folder(tmp_path):
    for number in range(5):
        clip(tmp_path / "in" / "wave" / f"{number}.mp4", number)
    result = write_splits(read_public(str(tmp_path / "in"), "folder"), tmp_path / "out")
    assert result.counts == {"train": 3, "val": 1, "test": 1}


# --- the command line --------------------------------------------------------------------------------


def test_command_line(ucf, tmp_path, capsys):
    arguments = ["ucf101", "--root", str(ucf), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert convert_data.main(arguments) == 0
    assert "train.csv (3 clips), val.csv (2 clips), test.csv (2 clips)" in capsys.readouterr().out
    assert convert_data.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert convert_data.main([*arguments, "--force"]) == 0
    assert convert_data.main(["check", "--root", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert convert_data.main(["hmdb51", "--root", str(ucf), "--out", str(tmp_path / "h")]) == 2
    assert "test_split1" in capsys.readouterr().err
