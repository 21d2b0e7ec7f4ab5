"""Labels, class names and class lists: what a list says, and what it cannot say."""

import logging
import os

import pytest

from dust.datasets.manifest.labels import read_class_list, write_class_list
from dust.datasets.manifest.manifest import read_manifest
from dust.utils.errors import DataError
from tests.datasets.manifest.test_manifest import csv, pairs, problem, touch

pytestmark = pytest.mark.usefixtures("long")


# --- csv: labels ------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_integers_stay(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 push\nc.mp4 wave\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["push", "wave"], [1, 0, 1])
    manifest = csv(tmp_path, "a.mp4 10\nb.mp4 2\nc.mp4 2\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == ([str(i) for i in range(11)], [10, 2, 2])
    assert "set MODEL.NUM_CLASSES 2, or" in problem(tmp_path, "a.mp4 1\n", num_classes=12)
    assert len(csv(tmp_path, "a.mp4 11\n", num_classes=12).class_names) == 12
    every = [str(number) for number in range(12)]
    assert csv(tmp_path, "a.mp4 1\n", num_classes=12, class_names=every).class_names == every


def test_names_mixed_with_integers_are_names(tmp_path, caplog):
    touch(tmp_path, "a.mp4", "b.mp4")
    with caplog.at_level(logging.WARNING):
        manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 7\n")
    assert manifest.class_names == ["7", "wave"]
    assert "both names and integers" in caplog.text


def test_val_has_the_classes_of_train(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    csv(tmp_path, "a.mp4 push\nb.mp4 wave\n")
    manifest = csv(tmp_path, "b.mp4 wave\n", "val")
    assert (manifest.class_names, manifest.clips[0].label) == (["push", "wave"], 1)
    (tmp_path / "train.csv").write_text("a.mp4 4\n")
    assert len(csv(tmp_path, "b.mp4 1\n", "val").class_names) == 5


def test_given_class_names_decide(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    names = ["wave", "push"]
    assert [c.label for c in csv(tmp_path, "a.mp4 wave\nb.mp4 push\n", class_names=names).clips] == [0, 1]
    assert [c.label for c in csv(tmp_path, "a.mp4 0\nb.mp4 1\n", class_names=names).clips] == [0, 1]  # positions
    assert [c.label for c in csv(tmp_path, "a.mp4 9\nb.mp4 07\n", class_names=["7", "9"]).clips] == [1, 0]
    message = problem(tmp_path, "a.mp4 wawe\nb.mp4 pusch\n", class_names=names)
    assert "line 1: 'wawe'; did you mean 'wave'" in message
    assert "line 2: 'pusch'; did you mean 'push'" in message
    assert "out of range 0..1" in problem(tmp_path, "a.mp4 2\n", class_names=names)
    assert "none of the 2 classes" in problem(tmp_path, "a.mp4 wave\nb.mp4 1\n", class_names=names)


def test_class_list_beside_the_csv_gives_the_order(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    write_class_list(tmp_path / "classes.txt", ["wave", "push", "never seen"])
    manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 push\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["wave", "push", "never seen"], [0, 1])
    assert [c.label for c in csv(tmp_path, "a.mp4 0\nb.mp4 2\n").clips] == [0, 2]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a.mp4 0,5,17\nb.mp4 3\n", ""),
        ("a.mp4 17,0,5,5\nb.mp4 3,3\n", ""),
        ('a.mp4,"0,5,17"\nb.mp4,3\n', ""),
        ('path,labels\na.mp4,"0, 5, 17"\nb.mp4,3\n', ""),
        ("a.mp4\t0,5,17\nb.mp4\t3\n", ""),
        ("a.mp4;0,5,17\nb.mp4;3\n", ";"),
    ],
)
def test_several_labels(tmp_path, text, separator):
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest = csv(tmp_path, text, multi_label=True, separator=separator, num_classes=18)
    assert pairs(manifest) == [("a.mp4", (0, 5, 17)), ("b.mp4", (3,))]
    assert manifest.multi_label


def test_a_path_may_be_the_address_of_a_file(tmp_path):
    touch(tmp_path, "a b#1.mp4")
    address = (tmp_path / "a b#1.mp4").as_uri()
    for text in (f"path,label\n{address},1\n", f"{address} 1\n"):
        assert pairs(csv(tmp_path, text)) == [(str(tmp_path / "a b#1.mp4"), 1)]
    assert "of the machine 'host'" in problem(tmp_path, "path,label\nfile://host/a.mp4,1\n")


def test_several_names_and_none(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = csv(tmp_path, "a.mp4\tsit,talk\nb.mp4\ttalk\nc.mp4\t\n", multi_label=True)
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["sit", "talk"], [(0, 1), (1,), ()])
    assert "an empty label among" in problem(tmp_path, "a.mp4\tsit,,talk\n", multi_label=True)
    assert "MULTI_LABEL" in problem(tmp_path, "a.mp4 0,5\n")
    assert "decimal comma" in problem(tmp_path, "a.mp4;0,0\nb.mp4;1,0\n", separator=";")
    assert "name it once" in (said := problem(tmp_path, "a.mp4 2,2\n")) and "MULTI_LABEL" not in said


@pytest.mark.parametrize("text", ["a b.mp4\nc.mp4\n", "path\na b.mp4\nc.mp4\n", '"a b.mp4"\nc.mp4\n'])
def test_a_test_split_without_labels(tmp_path, text):
    touch(tmp_path, "a b.mp4", "c.mp4")
    manifest = csv(tmp_path, text, "test", num_classes=3)
    assert pairs(manifest) == [("a b.mp4", None), ("c.mp4", None)]
    assert manifest.class_names == ["0", "1", "2"]
    (tmp_path / "train.csv").write_text('"a b.mp4",wave\nc.mp4,push\n')
    assert csv(tmp_path, text, "test").class_names == ["push", "wave"]
    with pytest.raises(DataError):
        csv(tmp_path, text, "val")


def test_number_of_classes_must_be_the_models(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert "set MODEL.NUM_CLASSES 2" in problem(tmp_path, "a.mp4 wave\nb.mp4 push\n", num_classes=400)
    assert "set MODEL.NUM_CLASSES 3" in problem(tmp_path, "a.mp4 0\nb.mp4 2\n", num_classes=2)
    assert "subtract 1" in problem(tmp_path, "a.mp4 1\nb.mp4 2\n", num_classes=2)


# --- class lists ------------------------------------------------------------------------------------------------


def test_class_lists(tmp_path):
    path = tmp_path / "classes.txt"
    names = ["wave", "push, left", 'a "b"', "épée"]
    write_class_list(path, names)
    assert path.read_text(encoding="utf-8").splitlines() == names
    assert read_class_list(path) == names
    assert os.listdir(tmp_path) == ["classes.txt"]
    with pytest.raises(DataError, match="single lines"):
        write_class_list(path, ["two\nlines"])
    path.write_text("wave\n\nwave\n")
    with pytest.raises(DataError, match=r"empty line.*\n.*line 2\n.*twice.*\n.*line 3"):
        read_class_list(path)
    path.write_text("")
    with pytest.raises(DataError, match="no class in it"):
        read_class_list(path)


def clip_list(tmp_path, labels, classes=None):
    (tmp_path / "train.csv").write_text("".join(f"clip{n}.mp4,{label}\n" for n, label in enumerate(labels)))
    if classes is not None:
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return str(tmp_path)


@pytest.mark.parametrize("label", ["9999999999999", "9" * 5000, "1000000", "9999999999999.0"])
def test_an_absurd_label_makes_no_classes(tmp_path, label):
    root = clip_list(tmp_path, ["0", "1", label])
    with pytest.raises(DataError, match="a label that would make more than 1,000,000 classes.*\n.*line 3"):
        read_manifest(root=root, split="train", check_files=False)
    with pytest.raises(DataError, match=r"a label out of range 0..2"):
        read_manifest(root=root, split="train", check_files=False, num_classes=3)
    with pytest.raises(DataError, match="at most 1,000,000 classes"):
        read_manifest(root=root, split="train", check_files=False, num_classes=10**13)


def test_thousands_of_unknown_labels_are_looked_up_ten_times(tmp_path, monkeypatch, long):
    asked = []
    monkeypatch.setattr(
        "dust.datasets.manifest.labels.near_names", lambda word, names: asked.append(word) or ["wave"][: word == "n0"]
    )
    root = clip_list(tmp_path, [f"n{n}" for n in range(20_000)], ["wave", "jump"])
    with pytest.raises(DataError, match="(?s)20000 cases.*'n0'; did you mean 'wave'"):
        read_manifest(root=root, split="train", check_files=False)
    assert len(asked) == (20 if long else 10)  # what was kept is left aside, and the rows are read
