"""Gestures by people: told from paths, split so that nobody is in two splits."""

import logging

import pytest

from dust.convert.muwiges import read_muwiges, split_people
from dust.utils.errors import DataError
from tests.helpers import touch


def people(manifest):
    return {clip.id.split("/")[0] for clip in manifest.clips}


def test_cross_subject_split(tmp_path):
    touch(tmp_path, *(f"S{s:02d}/G{g}/take.avi" for s in range(1, 51) for g in (1, 12)))
    manifests = read_muwiges(str(tmp_path))
    train, test = people(manifests["train"]), people(manifests["test"])
    assert (len(train), len(test), train & test) == (35, 15, set())
    assert list(manifests) == ["train", "test"]
    assert manifests["train"].class_names == [f"G{g}" for g in range(1, 13)]
    assert {(clip.id.split("/")[1], clip.label) for clip in manifests["test"].clips} == {("G1", 0), ("G12", 11)}
    assert people(read_muwiges(str(tmp_path))["test"]) == test
    assert people(read_muwiges(str(tmp_path), seed=1)["test"]) != test
    three = read_muwiges(str(tmp_path), val_count=5)
    assert people(three["test"]) == test
    assert (len(people(three["val"])), people(three["val"]) & test) == (5, set())
    named = read_muwiges(str(tmp_path), test_subjects=[1, 2], val_subjects=[50])
    assert (people(named["test"]), people(named["val"]), len(people(named["train"]))) == ({"S01", "S02"}, {"S50"}, 47)


@pytest.mark.parametrize(
    "name",
    [
        "G7/subject_12_take3.avi",
        "user12/gesture07/x.AVI",
        "S012_G07_01.avi",
        "p12-g7.avi",
        "train/G7/S12/RGB/scene2/S12_G7_3.avi",
        "Gesture 7/Person 12/x.mp4",
    ],
)
def test_default_patterns(tmp_path, name):
    touch(tmp_path, name, "G1/S1/x.avi")
    manifests = read_muwiges(str(tmp_path), test_subjects=[12])
    assert [(clip.id, clip.label) for clip in manifests["test"].clips] == [(name, 6)]


def test_patterns_of_ones_own(tmp_path):
    touch(tmp_path, "03/action05-9.avi", "04/action05-9.avi")
    manifests = read_muwiges(
        str(tmp_path), class_regex=r"action(\d+)", subject_regex=r"^(\d+)/", test_subjects=[4], test_count=1
    )
    assert [(clip.id, clip.label) for clip in manifests["test"].clips] == [("04/action05-9.avi", 4)]


def test_every_path_that_cannot_be_told_is_named(tmp_path):
    touch(tmp_path, "S1/G1/a.avi", "G1/b.avi", "S2/c.avi", "S1/G13/d.avi", "S1/G1/S2_e.avi", "S1/G0/f.avi")
    with pytest.raises(DataError) as caught:
        read_muwiges(str(tmp_path))
    message = str(caught.value)
    for said in ("no subject", "G1/b.avi", "no class", "S2/c.avi", "S1/G13/d.avi: G13", "several subjects", ": [1, 2]"):
        assert said in message
    assert "S1/G0/f.avi: G0" in message
    assert "a.avi" not in message


@pytest.mark.parametrize(
    ("regex", "said"), [("G(", "no regular expression"), (r"G\d+", "no group"), ("(S)", "not a number")]
)
def test_bad_patterns(tmp_path, regex, said):
    touch(tmp_path, "S1/G1/a.avi")
    with pytest.raises(DataError, match=said):
        read_muwiges(str(tmp_path), class_regex=regex)


def test_lists_of_people(tmp_path, caplog):
    with pytest.raises(DataError, match=r"no clips of the people \[9\]"):
        split_people([1, 2, 3], [9], [], 1, 0, 0)
    with pytest.raises(DataError, match=r"\[2\] are in test and in val"):
        split_people([1, 2, 3], [2], [2], 1, 0, 0)
    with pytest.raises(DataError, match="none is left to train"):
        split_people([1, 2, 3], [], [], 2, 1, 0)
    with pytest.raises(DataError, match="at least 1"):
        split_people([1, 2, 3], [], [], 0, 0, 0)
    assert split_people([1, 2, 3], [3], [1], 15, 0, 0) == {1: "val", 2: "train", 3: "test"}
    with pytest.raises(DataError, match="no folder"):
        read_muwiges(str(tmp_path / "gone"))
    touch(tmp_path, "S1_G1.avi", "S2_G1.avi")
    with caplog.at_level(logging.WARNING):
        read_muwiges(str(tmp_path), test_count=1)
    assert "has 5408 of 50" in caplog.text
