import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from dust.utils.errors import DataError
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


def test_ties_go_to_the_first_class_everywhere():
    """topk leaves the order of equal scores open; argmax and predictions.csv take the first."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (500, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 500)
    order = np.argsort(-scores, axis=1, kind="stable")  # the obvious slow version
    for k in (1, 2, 5, 9):
        (hits,) = topk_correct(torch.from_numpy(scores), torch.from_numpy(labels), (k,))
        np.testing.assert_array_equal(hits.numpy(), (order[:, :k] == labels[:, None]).any(axis=1))
    metrics = classification_metrics(scores, labels)
    assert metrics["top1_acc"] == pytest.approx(100 * (scores.argmax(axis=1) == labels).mean())
    constant = classification_metrics(np.zeros((4, 3), np.float32), np.zeros(4, dtype=int))
    assert constant["top1_acc"] == constant["mean_class_acc"] == 100.0


def test_scores_that_bfloat16_made_equal():
    """0.9935 of them: the first of two classes that were rounded to one value is right."""
    scores = torch.tensor([[2.001, 2.0, 0.0], [0.0, 1.001, 1.0]]).bfloat16().float()
    assert classification_metrics(scores.numpy(), np.array([0, 1]))["top1_acc"] == 100.0


def test_nan_is_never_a_hit_and_never_an_accuracy():
    scores = torch.tensor([[0.0, float("nan"), 1.0], [float("nan"), 0.0, 1.0]])
    assert [hit.tolist() for hit in topk_correct(scores, torch.tensor([1, 2]), (1, 2))] == [
        [False, False],
        [False, True],
    ]
    with pytest.raises(DataError, match="2 of 2 samples have NaN scores"):
        classification_metrics(scores.numpy(), np.array([1, 2]))
    with pytest.raises(DataError, match="label 3 is none of the 3 classes"):
        classification_metrics(np.zeros((1, 3)), np.array([3]))
    with pytest.raises(DataError, match=r"N at least 1"):
        classification_metrics(np.zeros((0, 3)), np.zeros(0, dtype=int))
    with pytest.raises(DataError, match="NaN"):
        multilabel_metrics(scores.numpy(), np.zeros((2, 3)))


def test_multi_label_with_one_class_measures_the_present():
    labels, predicted = np.array([[1], [0], [1], [0], [1], [0]]), np.array([[1], [0], [0], [0], [0], [0]])
    report = per_class_report(predicted, labels, 1)
    assert [float(report[key][0]) for key in ("precision", "recall", "f1", "support")] == pytest.approx(
        [1, 1 / 3, 0.5, 3]
    )
