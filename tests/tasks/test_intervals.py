"""What a test says of its figures: intervals by group, calibration, what sure answers would give."""

import numpy as np
import pytest
import torch

from dust.tasks.classification import ClassificationEvaluation
from dust.tasks.verb_noun import VerbNounEvaluation
from dust.utils.statistics import classification_intervals, measure_calibration


def evaluation_of(count=60, classes=4, multi_label=False):
    names = [f"c{number}" for number in range(classes)]
    evaluation = ClassificationEvaluation(class_names=names, multi_label=multi_label, method="sum", space="logits")
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        logits = torch.randn(2, classes, generator=generator)
        label = [number % 2, *[1] * (classes - 1)] if multi_label else number % classes
        evaluation.update({"id": str(number), "path": f"v{number // 3}", "label": label, "outputs": logits})
    return evaluation


def test_groups_of_the_list_win_over_files():
    evaluation = evaluation_of()
    scores = np.stack([record["scores"] for record in evaluation.records()])
    labels = np.arange(60) % 4
    by_file = evaluation.intervals({})
    assert by_file == classification_intervals(scores, labels, [f"v{number // 3}" for number in range(60)])
    persons = {str(number): f"p{number % 12}" for number in range(60)}
    assert evaluation.intervals(persons) == classification_intervals(scores, labels, [n % 12 for n in range(60)])
    metrics = evaluation.metrics()
    assert by_file.keys() == metrics.keys()
    assert all(found.low <= metrics[name] <= found.high for name, found in by_file.items())


def test_calibration_and_confidence():
    evaluation = evaluation_of()
    probabilities = np.stack([record["probabilities"] for record in evaluation.records()])
    report = evaluation.report()
    assert report["calibration"]["nll"] == measure_calibration(probabilities, np.arange(60) % 4).nll
    assert report["confidence"][0]["answered"] == int((probabilities.max(axis=1) >= 0.5).sum())


def test_several_labels_each():
    evaluation = evaluation_of(multi_label=True)
    assert set(evaluation.intervals({})) == {"map"} and "confidence" not in evaluation.report()


def test_without_labels_nothing_is_said():
    evaluation = evaluation_of(1)
    evaluation.records()[0]["label"] = None
    assert evaluation.intervals({}) == {} and evaluation.report() == {}


def test_verbs_nouns_and_both():
    names = {"verb": ["a", "b"], "noun": ["x", "y", "z"]}
    evaluation = VerbNounEvaluation(names, "sum", "logits")
    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        outputs = {kind: torch.randn(1, len(names[kind]), generator=generator) for kind in names}
        label = {"verb": number % 2, "noun": number % 3}
        evaluation.update({"id": str(number), "path": str(number), "label": label, "outputs": outputs})
    metrics, found = evaluation.metrics(), evaluation.intervals({})
    assert found.keys() == metrics.keys()
    assert all(one.low - 1e-9 <= metrics[name] <= one.high + 1e-9 for name, one in found.items())
    assert found["verb_top5_acc"].high == 100 and found["verb_top5_acc"].low == pytest.approx(88.6, abs=0.1)
