import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from dust.utils.metrics import (
    classification_metrics,
    ensemble_views,
    multilabel_metrics,
    per_class_report,
    topk_correct,
)
from tests.helpers import golden_json


@pytest.mark.parametrize("method", ["sum", "max"])
def test_views_are_put_together_as_slowfast_does(method):
    golden = golden_json("pysf_test_meter")
    views = torch.tensor(golden["preds"]).view(golden["num_videos"], golden["num_clips"], -1)
    ours = torch.stack([ensemble_views(video, method) for video in views])
    if method == "max":
        ours = ours.clamp(min=0)  # SlowFast's maximum starts at 0
    theirs = torch.tensor(golden["result"][method]["video_preds"])
    torch.testing.assert_close(ours, theirs)


def test_top_k_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    top1, top2, top9 = topk_correct(scores, torch.tensor([1, 1, 0]), (1, 2, 9))
    assert top1.tolist() == [True, False, False]
    assert top2.tolist() == [True, True, False]
    assert top9.all()


def test_classification_metrics_against_a_slow_count():
    rng = np.random.RandomState(0)
    scores, labels = rng.randn(200, 7).astype(np.float32), rng.choice([0, 1, 2, 5, 6], 200)
    metrics = classification_metrics(scores, labels)
    predicted = scores.argmax(1)
    top5 = np.mean([label in np.argsort(-row)[:5] for row, label in zip(scores, labels, strict=True)])
    recalls = [np.mean(predicted[labels == c] == c) for c in np.unique(labels)]
    assert metrics["top1_acc"] == pytest.approx(100 * np.mean(predicted == labels))
    assert metrics["top5_acc"] == pytest.approx(100 * top5)
    assert metrics["mean_class_acc"] == pytest.approx(100 * np.mean(recalls))
    for average in ("macro", "weighted"):
        expected = 100 * f1_score(labels, predicted, average=average, zero_division=0)
        assert metrics[f"{average}_f1"] == pytest.approx(expected)


def test_top5_is_left_out_below_five_classes():
    metrics = classification_metrics(np.eye(4, dtype=np.float32), np.arange(4))
    assert set(metrics) == {"top1_acc", "mean_class_acc", "macro_f1", "weighted_f1"}
    assert metrics["top1_acc"] == 100.0


def test_map_leaves_out_classes_without_positives():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.7, 0.3, 0.5]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    expected = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in (0, 1)])
    assert multilabel_metrics(scores, labels)["map"] == pytest.approx(100 * expected)


def test_per_class_report_covers_classes_that_do_not_occur():
    report = per_class_report(np.array([0, 0, 1]), np.array([0, 1, 1]), 4)
    assert report["precision"].tolist() == [0.5, 1.0, 0.0, 0.0]
    assert report["recall"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert report["support"].tolist() == [1, 2, 0, 0]
