"""Counts of labels and predictions give the figures that scikit-learn and torch give of the samples themselves."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_fscore_support, recall_score

from dust.utils.errors import DataError
from dust.utils.metrics import classification_metrics, per_class_report, ranked_metrics, topk_correct
from dust.utils.ranks import joined_ranks, ranks_of


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (50, 3), (400, 7), (999, 60)])
def test_figures_of_counts_are_those_of_samples(count, classes):
    rng = np.random.default_rng(classes)
    scores = rng.integers(0, 9, (count, classes)).astype(np.float32)  # many are equal
    labels = rng.integers(0, max(classes - 1, 1), count)
    ranks = joined_ranks(
        ranks_of(scores[part], labels[part]) for part in (slice(0, count // 3 + 1), slice(count // 3 + 1, None))
    )
    hits = topk_correct(scores, labels, ranks.ks)
    for k, hit in zip(ranks.ks, hits, strict=True):
        np.testing.assert_array_equal(ranks.hits(k), hit.numpy())
    predicted = scores.argmax(axis=1)
    found = ranked_metrics(ranks)
    assert found == classification_metrics(scores, labels)
    assert found["top1_acc"] == 100.0 * float(torch.from_numpy(predicted == labels).float().mean())
    recalls = recall_score(labels, predicted, labels=np.unique(labels), average=None, zero_division=0)
    assert found["mean_class_acc"] == 100.0 * float(recalls.mean())
    for average in ("macro", "weighted"):
        wanted = 100.0 * f1_score(labels, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == wanted, "to the last bit"
    pairs = ranks.counts()
    report = per_class_report(pairs[1], pairs[0], classes, pairs[2])
    wanted = precision_recall_fscore_support(labels, predicted, labels=np.arange(classes), zero_division=0)
    for one, two in zip(report.values(), wanted, strict=True):
        np.testing.assert_array_equal(one, two)


def test_nan_and_labels_that_are_none_are_refused():
    scores = np.array([[0.0, 1.0], [np.nan, 2.0], [3.0, 0.0]], np.float32)
    with pytest.raises(DataError, match="1 of 3 samples have NaN scores"):
        ranked_metrics(ranks_of(scores, np.array([0, 1, 0])))
    with pytest.raises(DataError, match="label 2 is none of the 2 classes"):
        ranked_metrics(ranks_of(np.nan_to_num(scores), np.array([0, 2, 0])))
