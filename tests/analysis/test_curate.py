"""Curating by features: planted copies and flipped labels are found, and nothing else is."""

import json

import numpy as np
import pytest

from dust.analysis.curate import (
    families,
    label_issues,
    label_next,
    least_sure,
    near_duplicates,
    normalised,
    out_of_fold,
    outliers,
)
from dust.analysis.curation import curate
from dust.cli.main import main
from dust.datasets.manifest.corrections import read_corrections
from dust.utils.errors import DataError
from dust.utils.features import FeatureWriter
from tests.analysis.test_compare import run


def clusters(rng, count=400, classes=4, width=32, spread=0.6):
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    return centres[labels] + spread * rng.normal(size=(count, width)) + 5.0, labels


def test_copies_are_found_by_a_slow_loop_too():
    rng = np.random.default_rng(0)
    features, _ = clusters(rng, 60)
    features[10] = features[3] + 0.05 * rng.normal(size=32)
    features[11] = features[10] + 0.05 * rng.normal(size=32)
    rows = normalised(features)
    found = near_duplicates(rows, threshold=0.98)
    slow = {(i, j) for i in range(60) for j in range(i + 1, 60) if rows[i] @ rows[j] >= 0.98}
    assert {pair[:2] for pair in found} == slow >= {(3, 10), (10, 11)}
    assert [3, 10, 11] in families(found, 60)
    assert [pair[2] for pair in found] == sorted((pair[2] for pair in found), reverse=True)


@pytest.mark.parametrize(("seed", "classes"), [(0, 4), (1, 4), (2, 4), (3, 10)])
def test_flipped_labels_are_found(seed, classes):
    """Of 5 % flipped labels at least nine in ten are found, and at least eight in ten findings are flipped. With ten
    classes hardly two labels are flipped in the same way, and each of them counts."""
    rng = np.random.default_rng(seed)
    features, labels = clusters(rng, classes=classes)
    flipped = rng.choice(400, 20, replace=False)
    given = labels.copy()
    given[flipped] = (labels[flipped] + rng.integers(1, classes, 20)) % classes
    issues = label_issues(out_of_fold(features, given), given)
    hits = {issue.index for issue in issues} & set(flipped.tolist())
    assert len(hits) >= 18 and len(hits) >= 0.8 * len(issues)
    assert all(issue.suggested == labels[issue.index] for issue in issues if issue.index in hits)
    assert {issue.index for issue in issues[:10]} <= set(flipped.tolist()), "the surest come first"


def test_clean_labels_give_no_findings():
    rng = np.random.default_rng(3)
    features, labels = clusters(rng, spread=0.3)
    assert not label_issues(out_of_fold(features, labels), labels)


def test_a_class_claims_less_where_classes_overlap():
    """By hand: of three clips of class 1 (0.9, 0.7, 0.51 of it) 0.65 reaches their mean less a deviation, 0.54, and not
    their mean, 0.7. Twelve clips tell which of the two it is: answers that agree with 15 of 16 labels, or 10."""
    ones = [0.9, 0.7, 0.51]
    labels = np.array([0] + [1] * 3 + [0] * 12)

    def found(disagree):
        of_1 = np.array([0.65, *ones, *[0.1] * (12 - disagree), *[0.505] * disagree])
        return [issue.index for issue in label_issues(np.stack([1 - of_1, of_1], axis=1), labels)]

    assert found(0) == [0]
    assert found(5) == []


def test_a_group_is_never_judged_by_itself():
    """Each group has a mark of its own that tells its label: a classifier that saw the group would just remember it."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(40), 5)
    labels = rng.integers(0, 2, 40)[groups]
    features = np.eye(40)[groups] + 0.01 * rng.normal(size=(200, 40))
    apart = out_of_fold(features, labels, groups)
    together = out_of_fold(features, labels)
    right = [(one.argmax(axis=1) == labels).mean() for one in (apart, together)]
    assert right[0] < 0.7 < 0.95 < right[1]


def test_outliers_and_what_to_label_next():
    rng = np.random.default_rng(5)
    features, labels = clusters(rng, 100, spread=0.2)
    features[7] = -features[7]
    rows = normalised(features)
    assert outliers(rows).argmax() == 7
    known = labels == 0
    chosen = label_next(rows, known, count=4)
    assert len(set(chosen)) == 4 and not known[chosen].any()
    assert {1, 2, 3} <= {int(labels[index]) for index in chosen}, "each class that nobody labelled is asked for"
    assert label_next(rows, np.zeros(100, bool), count=0) == []
    assert len(label_next(rows, np.zeros(100, bool), count=500)) == 100


def test_the_least_sure_come_first():
    order = least_sure(np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.5, 0.5, 0.0]]))
    assert order.tolist() == [2, 1, 0]
    assert least_sure(np.ones((3, 1))).tolist() == [0, 1, 2]


def test_too_little_to_judge_by():
    with pytest.raises(DataError, match="one class only"):
        out_of_fold(np.eye(4), np.zeros(4, int))
    with pytest.raises(DataError, match="one group"):
        out_of_fold(np.eye(4), np.array([0, 1, 0, 1]), ["a"] * 4)
    assert outliers(np.ones((1, 3))).tolist() == [0.0] and near_duplicates(np.empty((0, 3))) == []


# ------------------------------------------------------------------------------------------- a data folder


@pytest.fixture
def kitchen(tmp_path):
    """Lists of 90 training and 30 test clips, their features, 6 flipped labels and a copy across the splits."""
    rng = np.random.default_rng(6)
    features, labels = clusters(rng, 120, classes=3)
    given = labels.copy()
    given[:6] = (labels[:6] + 1) % 3
    features[100], given[100] = features[50] + 0.01 * rng.normal(size=32), given[50]
    names = ["cut", "pour", "stir"]
    for split, rows in (("train", range(90)), ("test", range(90, 120))):
        lines = [f"c{i}.mp4,{names[given[i]]}" for i in rows]
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        ids = [f"c{i}.mp4" for i in rows]
        writer = FeatureWriter(tmp_path / "features", split, ids, (32,), "float32", {"checkpoint_sha256": "x"})
        writer.write(0, features[list(rows)].astype(np.float32))
        writer.finish()
    return tmp_path, labels


def test_a_data_folder_is_curated_and_its_corrections_are_read(kitchen, capsys):
    folder, labels = kitchen
    assert (
        main(["curate", str(folder / "features"), str(folder), "-o", str(folder / "out"), "--threshold", "0.99"]) == 0
    )
    said = capsys.readouterr().out
    assert "120 clips" in said and "1 families of copies, 1 of them across splits" in said
    issues = (folder / "out" / "label_issues.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in issues[:5]} <= {f"c{i}.mp4" for i in range(6)}
    rows = {one.id: one for one in read_corrections(folder / "out" / "corrections.csv")}
    assert rows["c50.mp4"].action == "drop" and rows["c50.mp4"].split == "train" and "c100.mp4" not in rows
    names = ["cut", "pour", "stir"]
    mended = [i for i in range(6) if f"c{i}.mp4" in rows and rows[f"c{i}.mp4"].label == names[labels[i]]]
    assert len(mended) >= 5


def test_shares_of_several_people_are_judged_by_the_largest(kitchen, capsys):
    folder, _ = kitchen
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text.replace(",pour", ",pour:2|cut:1"))
    ask = ["curate", str(folder / "features"), str(folder), "-o", str(folder / "out"), "--threshold", "0.99"]
    assert main(ask) == 2
    assert "--soft-labels" in capsys.readouterr().err
    assert main([*ask, "--soft-labels"]) == 0
    issues = (folder / "out" / "label_issues.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in issues[:5]} <= {f"c{i}.mp4" for i in range(6)}


def test_a_folder_without_features_says_how_to_get_some(kitchen, capsys):
    folder, _ = kitchen
    assert main(["curate", str(folder / "none"), str(folder)]) == 2
    assert "FEATURES.ENABLE True" in capsys.readouterr().err


def test_answers_judge_labels_alone(tmp_path, capsys):
    run(tmp_path / "run", np.arange(60) % 3, np.arange(60) > 1)
    assert main(["curate", str(tmp_path / "run"), "no lists are read", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "copies and outliers were not looked for" in said and "families" not in said
    assert "2 labels that look wrong" in said
    run(tmp_path / "one", np.zeros(9, int), np.arange(9) > 1)
    assert main(["curate", str(tmp_path / "one"), "no lists are read"]) == 2
    assert "one: labels of one class only" in capsys.readouterr().err


def test_answers_that_do_not_know_the_classes_are_told(kitchen, capsys):
    """Of noise most findings are right labels."""
    folder, _ = kitchen
    ask = ["curate", str(folder / "features"), str(folder), "-o", str(folder / "out"), "--no-pictures"]
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert "agree with 9" in said and "may be right labels" not in said
    ids = [f"c{i}.mp4" for i in range(90)]
    writer = FeatureWriter(folder / "noise" / "features", "train", ids, (32,), "float32", {"checkpoint_sha256": "x"})
    writer.write(0, np.random.default_rng(7).normal(size=(90, 32)).astype(np.float32))
    writer.finish()
    found = curate(folder / "noise", str(folder), pictures=False)
    assert found.agreement < 0.6 and len(found.issues) > 20
    ask[1] = str(folder / "noise")
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert (
        f"agree with {100 * found.agreement:.1f} % of the labels" in said
        and "Most of these findings may be right" in said
    )


def test_features_of_a_model_that_learnt_the_labels_are_told(kitchen, capsys):
    folder, _ = kitchen

    def said(**config):
        (folder / "config.yaml").write_text(json.dumps({"DATA": {"PATH_TO_DATA_DIR": str(folder)}, **config}))
        assert main(["curate", str(folder), str(folder), "-o", str(folder / "out"), "--no-pictures"]) == 0
        return "had learnt these labels" in capsys.readouterr().out

    assert not said(), "published weights"
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch_1.pyth").touch()
    assert said() and said(TASK="Classification")
    assert not said(TASK="Masked") and not said(DATA={"PATH_TO_DATA_DIR": "elsewhere"})
