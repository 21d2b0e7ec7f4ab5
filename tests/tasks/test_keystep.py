"""The task of changed components: its loss and its figures against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from dust.tasks.keystep import KeyStep, KeyStepEvaluation
from tests.helpers import csv_dicts

NAMES = ["base", "lid", "wheel"]


def record(name, labels, logits):
    labels = torch.tensor(labels, dtype=torch.float32)
    return {"id": name, "path": "", "label": labels, "last": torch.arange(len(labels)) + 5, "outputs": logits}


def test_loss_and_wrong_digits():
    logits, label = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 1.0, 0.0]])
    task = KeyStep(class_names=NAMES)
    expected = -np.mean([np.log(1 / (1 + np.exp(-2))), np.log(1 / (1 + np.exp(1))), np.log(1 / (1 + np.exp(0.5)))])
    assert task.losses(logits, {"label": label})["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert task.losses({"logits": logits}, {"label": label})["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert task.stats(logits, {"label": label})["digit_err"] == pytest.approx(200 / 3)


def test_metrics_are_over_all_windows_and_the_components_that_occur():
    rng = np.random.RandomState(0)
    labels, logits = rng.randint(0, 2, (12, 3)), rng.randn(12, 3).astype(np.float32)
    labels[:, 0], logits[:, 0] = 0, -3.0  # the base never changes, nor is it said to
    evaluation = KeyStep(class_names=NAMES).evaluation("val")
    assert evaluation.metrics() == {}
    for name, part in (("a", slice(0, 5)), ("b", slice(5, 12))):
        evaluation.update(record(name, labels[part], torch.tensor(logits[part])))
    metrics = evaluation.metrics()
    assert metrics["macro_f1"] == pytest.approx(100 * f1_score(labels[:, 1:], logits[:, 1:] > 0, average="macro"))
    assert metrics["window_acc"] == pytest.approx(100 * ((logits > 0) == labels).all(1).mean())
    assert KeyStep.best_metric in metrics and 0 < metrics["map"] < 100
    again = KeyStep(class_names=NAMES).evaluation("val")
    again.replace_records(evaluation.records())
    assert again.metrics() == metrics


def test_nothing_changes_and_nothing_is_said_to():
    evaluation = KeyStep(class_names=NAMES).evaluation("val")
    evaluation.update(record("a", [[0, 0, 0]], torch.full((1, 3), -2.0)))
    assert np.isnan(evaluation.metrics()["macro_f1"]) and evaluation.metrics()["window_acc"] == 100


def test_files(tmp_path):
    evaluation = KeyStep(class_names=NAMES).evaluation("test")
    evaluation.update(record("rec", [[0, 1, 0], [0, 1, 1]], torch.tensor([[-9.0, 9.0, 0.0], [9.0, 9.0, -9.0]])))
    windows, components = evaluation.write(tmp_path)
    rows = csv_dicts(windows)
    assert [(row["id"], row["last_frame"], row["label"], row["prediction"]) for row in rows] == [
        ("rec", "5", "010", "010"),
        ("rec", "6", "011", "110"),
    ]
    assert float(rows[0]["prob_wheel"]) == 0.5
    assert {row["component"]: (row["f1"], row["support"]) for row in csv_dicts(components)} == {
        "base": ("0.0000", "0"),
        "lid": ("1.0000", "2"),
        "wheel": ("0.0000", "1"),
    }


@pytest.mark.parametrize(("sure", "verdict"), [(3.0, "can"), (-3.0, "cannot (yet)")])
def test_the_verdict_of_a_sanity_check(caplog, sure, verdict):
    """All windows with all digits right, or not."""
    labels = [[1, 0, 1], [0, 1, 0]]
    evaluation = KeyStepEvaluation(NAMES, sanity=True)
    evaluation.update(record("a", labels, sure * (2 * torch.tensor(labels).float() - 1)))
    with caplog.at_level("INFO", logger="dust"):
        evaluation.metrics()
    assert f"SANITY_CHECK: the model {verdict} learn its 2 windows by heart" in caplog.text
