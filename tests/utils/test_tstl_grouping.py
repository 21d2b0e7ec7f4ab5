"""Groupings: TSTL's file, all that can be wrong with it, and groups that are found again."""

import json

import numpy as np
import pytest

from dust.utils.errors import DataError
from dust.utils.tstl_grouping import Grouping, group_by_confusion, group_by_text, read_grouping, write_grouping
from tests.helpers import ROOT, tool

FIVE = Grouping(((3, 0), (1, 2, 4)), ("a", "b", "c", "d", "e"))


def test_tstls_own_grouping_of_ssv2():
    grouping = read_grouping(ROOT / "configs" / "TSTL" / "ssv2_class_grouping.json")
    assert (grouping.num_groups, grouping.num_classes) == (15, 174)
    assert sorted(len(group) for group in grouping.groups) == [11] * 6 + [12] * 9
    assert grouping.groups[1] == (13, 14, 15, 16, 17, 18, 19, 20, 21, 0, 46, 173)
    assert grouping.group_of[0] == grouping.group_of[173] == 1 and grouping.group_of[162] == 14


def test_round_trip_in_tstls_layout(tmp_path):
    write_grouping(tmp_path / "g.json", FIVE)
    assert read_grouping(tmp_path / "g.json") == FIVE
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["class_to_head"] == {"0": 0, "1": 1, "2": 1, "3": 0, "4": 1}
    assert content["head_to_local"] == {"0": {"3": 0, "0": 1}, "1": {"1": 0, "2": 1, "4": 2}}
    assert (content["num_heads"], content["num_classes"]) == (2, 5)
    (tmp_path / "short.json").write_text('{"head_to_classes": [[3, 0], [1, 2, 4]]}')
    assert read_grouping(tmp_path / "short.json").groups == FIVE.groups
    assert FIVE.group_names == ["group_0", "group_1"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"head_to_classes": {"0": [0, 1], "1": [1, 3]}}, r"classes in no group: 2; classes in more than one place: 1"),
        ({"head_to_classes": {"0": [0, 1], "1": [2]}, "num_classes": 5}, "classes in no group: 3, 4"),
        ({"head_to_classes": {"0": [0, 9], "1": [1]}, "num_classes": 2}, r"out of range 0..1: 9"),
        (
            {"head_to_classes": {"0": [0, 2], "1": []}, "class_names": ["x", "y", "z"]},
            r"groups without a class: 1; classes in no group: 1 \(y\)",
        ),
        (
            {"head_to_classes": {"0": [0], "1": [1]}, "class_to_head": {"0": 0, "1": 0}},
            "class_to_head.*at class 1",
        ),
        ({"head_to_classes": {"0": [1, 0], "1": [2]}, "head_to_local": {"0": {"0": 0, "1": 1}}}, "head_to_local.*0, 1"),
        ({"head_to_classes": {"0": [0], "1": [1]}, "num_heads": 3}, "num_heads is 3"),
        ({"head_to_classes": {"0": [0], "2": [1]}}, r"numbered \[0, 2\]"),
        ({"head_to_classes": {"0": [0.5], "1": [1]}}, "list of class numbers"),
        ({"head_to_classes": {"0": [0, 1]}}, "1 groups, at least 2"),
        ({}, "no head_to_classes"),
        ([1], "no head_to_classes"),
    ],
)
def test_what_is_wrong_is_named(content, words, tmp_path):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=words) as error:
        read_grouping(path)
    assert str(path) in str(error.value)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_grouping(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_grouping(tmp_path / "bad.json")
    with pytest.raises(DataError, match="not written.*in no group: 1"):
        write_grouping(tmp_path / "no.json", Grouping(((0,), (2,))))
    assert not (tmp_path / "no.json").exists()


def blocks_of(sizes, rng, *, inside=0.6, noise=0.02):
    """A confusion matrix whose blocks are scattered over the classes, and the blocks."""
    order = rng.permutation(sum(sizes))
    blocks = np.split(order, np.cumsum(sizes)[:-1])
    matrix = noise * rng.uniform(size=(len(order), len(order)))
    for block in blocks:
        matrix[np.ix_(block, block)] += inside * rng.uniform(0.3, 1.0, size=(len(block), len(block)))
    matrix += np.diag(rng.uniform(5, 50, len(order)))  # most predictions are right, and classes differ in frequency
    return matrix * rng.uniform(1, 20, (len(order), 1)), {frozenset(block.tolist()) for block in blocks}


@pytest.mark.parametrize(
    "sizes", [[3, 3, 3, 3], [2, 2], [11, 12, 11, 12, 12], [5] * 20, [6, 7, 7, 7, 7, 7, 6], [12] * 9 + [11] * 6]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scattered_blocks_are_found_again(sizes, seed):
    matrix, blocks = blocks_of(sizes, np.random.RandomState(seed))
    found = group_by_confusion(matrix, len(sizes))
    assert {frozenset(group) for group in found.groups} == blocks


def test_sizes_differ_by_at_most_one_whatever_the_matrix_says():
    rng = np.random.RandomState(0)
    for count, groups in ((101, 10), (7, 3), (12, 6), (9, 4)):
        for matrix in (rng.uniform(size=(count, count)), np.zeros((count, count)), np.ones((count, count))):
            sizes = [len(group) for group in group_by_confusion(matrix, groups).groups]
            assert max(sizes) - min(sizes) <= 1 and sum(sizes) == count
    first, again = (group_by_confusion(np.random.RandomState(3).uniform(size=(30, 30)), 4) for _ in range(2))
    assert first == again


def test_only_the_best_grouping_is_as_good_as_trying_all():
    from itertools import combinations

    rng = np.random.RandomState(5)
    for _ in range(10):
        matrix = rng.uniform(size=(6, 6))
        shares = matrix / matrix.sum(1, keepdims=True)

        def inside(group, shares=shares):
            return sum(shares[i, j] for i in group for j in group if i != j)

        best = max(
            inside(half) + inside(set(range(6)) - set(half)) for half in (set(c) for c in combinations(range(6), 3))
        )
        found = group_by_confusion(matrix, 2)
        assert sum(inside(set(group)) for group in found.groups) == pytest.approx(best)


def test_groups_by_names():
    names = [f"{verb} something {where}" for verb in ("Pushing", "Pulling", "Folding") for where in ("up", "off", "in")]
    shuffled = [names[index] for index in np.random.RandomState(0).permutation(9)]
    grouping = group_by_text(shuffled, 3)
    assert {frozenset(shuffled[n].split()[0] for n in group) for group in grouping.groups} == {
        frozenset([verb]) for verb in ("Pushing", "Pulling", "Folding")
    }
    assert grouping.class_names == tuple(shuffled)
    camel = group_by_text(["ApplyEyeMakeup", "RockClimbingIndoor", "ApplyLipstick", "Rope_Climbing_indoor"], 2)
    assert camel.groups == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("matrix", "groups", "words"),
    [
        (np.ones((4, 3)), 2, r"shape \(4, 3\)"),
        (-np.ones((4, 4)), 2, "negative"),
        (np.full((4, 4), np.nan), 2, "not finite"),
        (np.ones((4, 4)), 3, "3 groups of 4 classes: choose 2 to 2"),
        (np.ones((4, 4)), 1, "1 groups of 4 classes"),
    ],
)
def test_impossible_matrices(matrix, groups, words):
    with pytest.raises(DataError, match=words):
        group_by_confusion(matrix, groups)
    with pytest.raises(DataError, match="3 class names for a matrix of 4"):
        group_by_confusion(np.ones((4, 4)), 2, ["a", "b", "c"])


def test_the_tool_reads_what_a_test_wrote(tmp_path):
    names, pairs = ["w", "x", "y", "z"], {"w": "y", "x": "z", "y": "w", "z": "x"}
    rows = ["id,path,label,prediction," + ",".join(f"prob_{name}" for name in names)]
    rows += [f"{i},p,{name},{pairs[name]},0,0,0,0" for i, name in enumerate(names)]
    (tmp_path / "predictions.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "g.json"
    done = tool("group_classes", "--predictions", tmp_path / "predictions.csv", "--groups", 2, "--out", out)
    assert done.returncode == 0 and "MODEL.NUM_CLASSES 2" in done.stdout, done.stderr
    assert read_grouping(out) == Grouping(((0, 2), (1, 3)), tuple(names))
    np.save(tmp_path / "m.npy", np.array([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]))
    assert tool("group_classes", "--confusion", tmp_path / "m.npy", "--groups", 2, "--out", out).returncode == 0
    assert read_grouping(out).groups == ((0, 2), (1, 3))
    wrong = tool("group_classes", "--confusion", tmp_path / "predictions.csv", "--groups", 2, "--out", out)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "no matrix of numbers" in wrong.stderr
