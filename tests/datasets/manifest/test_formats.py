"""Folders of classes and the lists of public data sets, as people write them, and which of them a folder holds."""

import json
import logging
import os
from pathlib import Path

import pytest

from dust.datasets.manifest.manifest import detect_format, read_manifest
from dust.utils.errors import DataError
from tests.datasets.manifest.test_manifest import pairs, read, touch

pytestmark = pytest.mark.usefixtures("long")


# --- class folders ----------------------------------------------------------------------------------------------


def test_split_folders_of_class_folders(tmp_path):
    touch(
        tmp_path, "train/wave/1.mp4", "train/push/deep/2.AVI", "train/push/notes.txt", "val/wave/3.mp4", "val/.x/4.mp4"
    )
    train, val = read(tmp_path), read(tmp_path, "val")
    assert pairs(train) == [("train/push/deep/2.AVI", 0), ("train/wave/1.mp4", 1)]
    assert (pairs(val), val.class_names) == ([("val/wave/3.mp4", 1)], ["push", "wave"])
    with pytest.raises(DataError, match=r"no folder for the test split .*found train, val"):
        read(tmp_path, "test")
    touch(tmp_path, "train/loose.mp4", "validation/wave/5.mp4")
    with pytest.raises(DataError, match="both val/ and validation/"):
        read(tmp_path)


def test_classes_of_val_are_those_of_train(tmp_path):
    touch(tmp_path, "train/wave/1.mp4", "train/push/2.mp4", "val/Wave/3.mp4")
    with pytest.raises(DataError, match=r"none of the 2 classes \(push, wave\):\n.*'Wave'; did you mean 'wave'\?"):
        read(tmp_path, "val")


def test_what_class_folders_leave_out_is_said(tmp_path, caplog):
    touch(
        tmp_path,
        "train/wave/1.mp4",
        "train/wave/2.asf",
        "train/wave/._1.mp4",
        "train/wave/4/1.jpg",
        "train/wave/4/2.jpg",
    )
    caplog.set_level("WARNING")
    assert len(read(tmp_path).clips) == 3 and not caplog.text  # a hidden file is no news
    touch(tmp_path, "train/wave/5.xyz", "train/wave/6.jpg")
    assert len(read(tmp_path).clips) == 3
    assert "1 x .xyz, which is not read as video (5.xyz)" in caplog.text
    assert "1 x a picture that is not in a folder of frames (6.jpg)" in caplog.text


def test_splits_below_classes_are_not_mixed_anew(tmp_path):
    touch(
        tmp_path, *(f"{kind}/{split}/{n}.mp4" for kind in ("wave", "push") for split in ("train", "Test") for n in "12")
    )
    with pytest.raises(
        DataError, match=r"push/ holds split folders \(Test, train\).*above the classes \(train/push/\)"
    ):
        read(tmp_path)
    touch(tmp_path / "more", *(f"a/{name}" for name in ("1.mp4", "2.mp4", "test/3.mp4")))
    assert read(tmp_path / "more").class_names == ["a"]  # one such name says nothing


@pytest.mark.parametrize("name", ["TRAIN.CSV", "kinetics_val_list.txt", "test.tsv", "train-split.xlsx"])
def test_a_list_beside_class_folders_that_is_not_read_is_named(tmp_path, caplog, name):
    touch(tmp_path, *(f"wave/{n}.mp4" for n in "123"), "readme.txt", "constraints.txt")
    read(tmp_path)
    assert "not read" not in caplog.text
    touch(tmp_path, name)
    read(tmp_path)
    assert f"val.csv and test.csv: {name} (" in caplog.text


def test_a_clip_outside_the_class_folders(tmp_path):
    touch(tmp_path, "train/wave/1.mp4", "train/push/2.mp4")
    touch(tmp_path, "test/wave/1.mp4")
    (tmp_path / "train" / "push" / "sub").mkdir()
    assert len(read(tmp_path).clips) == 2
    touch(tmp_path, "bus/1.mp4")
    with pytest.raises(DataError, match="other folders with videos"):
        read(tmp_path)


def test_class_folders_alone_are_split_once_and_for_all(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in ("train", "bus") for i in range(20)))  # a class may be called train
    splits = {split: read(tmp_path, split) for split in ("train", "val", "test")}
    ids = {split: {clip.id for clip in manifest.clips} for split, manifest in splits.items()}
    assert [len(ids[split]) for split in ("train", "val", "test")] == [32, 4, 4]
    assert len(set.union(*ids.values())) == 40
    for manifest in splits.values():
        assert manifest.class_names == ["bus", "train"]
        assert {clip.label for clip in manifest.clips} == {0, 1}
    before = ids["train"] & {f"bus/{i}.mp4" for i in range(20)}
    touch(tmp_path, *(f"car/{i}.mp4" for i in range(3)))
    assert before == {clip.id for clip in read(tmp_path).clips if clip.id.startswith("bus")}
    touch(tmp_path, "rare/1.mp4")
    with pytest.raises(DataError, match="too few clips"):
        read(tmp_path)


# --- SSv2 -------------------------------------------------------------------------------------------------------


def ssv2(root: Path, prefix: str = "something-something-v2-", folder: str = "") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    train = [
        {"id": "78687", "label": "holding potato next to vicks", "template": "Holding [something] next to [something]"},
        {"id": 42, "label": "Closing [something]"},
    ]
    labels = {"Holding something next to something": "0", "Closing something": "1"}
    lists = {"train": train, "validation": train[1:], "test": [{"id": "7"}], "labels": labels}
    for name, content in lists.items():
        (root / folder / f"{prefix}{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("prefix", "folder"), [("something-something-v2-", ""), ("", "labels"), ("", "")])
def test_ssv2_lists(tmp_path, prefix, folder):
    ssv2(tmp_path, prefix, folder)
    touch(tmp_path, "20bn-something-something-v2/78687.webm", "videos/42.mp4", "frames/7/0001.jpg")
    manifest = read(tmp_path)
    assert pairs(manifest) == [("78687", 0), ("42", 1)]
    assert manifest.class_names == ["Holding something next to something", "Closing something"]
    assert manifest.clips[0].path == str(tmp_path / "20bn-something-something-v2" / "78687.webm")
    assert pairs(read(tmp_path, "val")) == [("42", 1)]
    test = read(tmp_path, "test")
    assert pairs(test) == [("7", None)]
    assert test.clips[0].path == str(tmp_path / "frames" / "7")


def test_ssv2_errors(tmp_path):
    ssv2(tmp_path)
    with pytest.raises(DataError, match=r"no video.*\n.*entry 1: 78687\n.*entry 2: 42"):
        read(tmp_path)
    entries = [{"template": "x"}, {"id": "1"}, {"id": "2", "template": "Closing [somthing]"}]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(entries))
    with pytest.raises(DataError) as caught:
        read(tmp_path, check_files=False)
    for said in ("without an id", "entry 1", "without template", "id 1", "did you mean 'Closing something'"):
        assert said in str(caught.value)
    (tmp_path / "something-something-v2-labels.json").write_text('{"a": "0", "b": "2"}')
    with pytest.raises(DataError, match="must be 0 to 1"):
        read(tmp_path, check_files=False)
    (tmp_path / "something-something-v2-train.json").write_text("[{]")
    with pytest.raises(DataError, match="not JSON"):
        read(tmp_path)


# --- UCF101 and HMDB51 ------------------------------------------------------------------------------------------


def ucf101(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 HandstandPushups\r\n")
    (lists / "trainlist01.txt").write_bytes(b"Archery/v_a_g08_c01.avi 1\r\nHandstandPushups/v_h_g08_c01.avi 2\r\n")
    (lists / "testlist01.txt").write_bytes(b"HandStandPushups/v_h_g01_c01.avi\r\n")
    (lists / "trainlist02.txt").write_bytes(b"HandstandPushups/v_h_g08_c01.avi 2\r\n")
    touch(root, "UCF-101/Archery/v_a_g08_c01.avi", "UCF-101/HandstandPushups/v_h_g08_c01.avi")
    touch(root, "UCF-101/HandStandPushups/v_h_g01_c01.avi")


def test_ucf101(tmp_path, caplog):
    ucf101(tmp_path)
    train = read(tmp_path)
    assert pairs(train) == [("Archery/v_a_g08_c01.avi", 0), ("HandstandPushups/v_h_g08_c01.avi", 1)]
    assert train.class_names == ["Archery", "HandstandPushups"]
    assert pairs(read(tmp_path, "test")) == [("HandStandPushups/v_h_g01_c01.avi", 1)]  # UCF101 itself has both cases
    with caplog.at_level(logging.INFO):
        assert pairs(read(tmp_path, "val")) == pairs(read(tmp_path, "test"))
    assert "val is the test list" in caplog.text
    assert pairs(read(tmp_path, split_number=2)) == [("HandstandPushups/v_h_g08_c01.avi", 1)]
    with pytest.raises(DataError, match=r"testlist02\.txt"):
        read(tmp_path, "test", split_number=2)


def test_ucf101_errors(tmp_path):
    ucf101(tmp_path)
    path = tmp_path / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text("Archery/a.avi 2\nArchery/a.avi 0\nBowling/b.avi 1\nArchery/a.avi\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path, check_files=False)
    for said in ("disagree", "line 1", "range 1..2", "line 2", "no class", "line 3", "one column", "line 4"):
        assert said in str(caught.value)
    path.with_name("classInd.txt").write_text("1 Archery\n3 Bowling\n")
    with pytest.raises(DataError, match="without a gap"):
        read(tmp_path)


def test_hmdb51(tmp_path):
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "wave_test_split1.txt").write_text("a&b;[1].avi 1 \nc.avi 2 \nd.avi 0 \n")
    (lists / "brush_hair_test_split1.txt").write_text("x.avi 2 \ny.avi 1 \n")
    (lists / "wave_test_split2.txt").write_text("c.avi 1 \n")
    touch(tmp_path, "wave/a&b;[1].avi", "wave/c.avi", "brush_hair/x.avi", "brush_hair/y.avi")
    train = read(tmp_path)
    assert (pairs(train), train.class_names) == (
        [("brush_hair/y.avi", 0), ("wave/a&b;[1].avi", 1)],
        ["brush_hair", "wave"],
    )
    assert pairs(read(tmp_path, "val")) == pairs(read(tmp_path, "test")) == [("brush_hair/x.avi", 0), ("wave/c.avi", 1)]
    assert pairs(read(tmp_path, split_number=2)) == [("wave/c.avi", 0)]
    with pytest.raises(DataError, match="test_split3"):
        read(tmp_path, split_number=3, format="hmdb51")
    (lists / "wave_test_split1.txt").write_text("c.avi 3\n")
    with pytest.raises(DataError, match=r"wave_test_split1.txt line 1: c.avi 3"):
        read(tmp_path)


# --- which format -----------------------------------------------------------------------------------------------


def test_detection(tmp_path):
    with pytest.raises(DataError, match=r"no clips in a known layout.*Found: an empty folder"):
        detect_format(str(tmp_path))
    touch(tmp_path, "wave/1.mp4", "README")
    assert detect_format(str(tmp_path)) == "folder"
    touch(tmp_path, "val.csv")
    assert detect_format(str(tmp_path)) == "csv"  # a list describes the folders
    with pytest.raises(DataError, match=r"no train.csv .*found val.csv"):
        read(tmp_path)
    touch(tmp_path, "trainlist01.txt")
    with pytest.raises(DataError, match=r"several formats \(csv: val.csv; ucf101: trainlist01.txt\): set DATA.FORMAT"):
        detect_format(str(tmp_path))
    touch(tmp_path / "two", "notes.txt")
    with pytest.raises(DataError, match=r"Found: notes.txt"):
        read(tmp_path / "two")


def test_class_folders_that_are_no_utf8(tmp_path):
    for number in range(20):
        path = os.fsencode(tmp_path) + b"/class\xff/clip%d\xfe.mp4" % number
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    found = read_manifest(root=str(tmp_path), split="train")
    assert found.class_names == ["class\\udcff"] and os.path.exists(found.clips[0].path)
    assert found.clips[0].id.isprintable()


def test_a_link_to_itself_beside_the_class_folders_is_none_of_them(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / f"{split}.mp4").write_text("")
    os.symlink("self", tmp_path / "self")
    os.symlink("self", tmp_path / "train" / "self")
    assert detect_format(str(tmp_path)) == "folder"
    assert read_manifest(root=str(tmp_path), split="train").class_names == ["a", "b"]
