"""Figures of merit: pure functions of arrays, in percent unless said otherwise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.utils.errors import ArgumentError, ConfigError, DataError
from dust.utils.numbers import as_classes, as_numbers, whole
from dust.utils.ranks import Ranks, ranks_of
from dust.utils.registry import Registry

#: Metrics that TEST.METRICS may name: functions (scores (N, K), labels) -> float, as the task's own figures get them.
METRIC_REGISTRY = Registry("metric")


def topk_correct(scores: Any, labels: Any, ks: Sequence[int]) -> list[Tensor]:
    """Tell for each k whether the label is among the k highest of ``scores`` (N, K): (N,) bools.

    Of equal scores the first class is the higher one, as for ``argmax``, so that top-1 is what predictions say. NaN
    is higher than everything, and a label whose own score is NaN, or that is below 0, is never a hit.

    Tensors stay on their device; lists and arrays are taken too. Raises DataError for other shapes and, on a CPU (a
    device would have to be waited for), for a label that is none of the K classes; elsewhere that is no hit.
    """
    scores, labels = _as_tensor("scores", scores), _as_tensor("labels", labels)
    ks = [whole("k", k) for k in as_numbers("ks", ks, ndim=1)]
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.shape[1]:
        raise DataError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)}: it takes (N, K) and (N,)")
    known = labels < scores.shape[1]
    if labels.device.type == "cpu" and not (bool(known.all()) and bool((labels == labels.long()).all())):
        raise DataError(f"label {labels.max().item()} is none of the {scores.shape[1]} classes that have scores")
    own = scores.gather(1, labels[:, None].long().clamp(min=0, max=scores.shape[1] - 1))
    index = torch.arange(scores.shape[1], device=scores.device)
    behind = (scores < own) | ((scores == own) & (index >= labels[:, None]))
    rank = (~behind).sum(dim=1)
    return [(rank < k) & (labels >= 0) & known for k in ks]


def _as_tensor(name: str, values: Any) -> Tensor:
    """Return a dense tensor of real numbers, on its device; others are made one as :func:`as_numbers` takes them."""
    if isinstance(values, Tensor) and values.layout == torch.strided and not values.is_complex():
        return values.float() if values.is_floating_point() and values.element_size() < 2 else values
    return torch.from_numpy(as_numbers(name, values))


def percent_wrong(hits: Tensor) -> Tensor:
    """Return how many of (N,) bools are False, in percent: (), float64, on their device."""
    return 100.0 * (1.0 - hits.float().mean().double())


def ensemble_views(outputs: Any, method: str) -> Tensor:
    """Return one (K,) score from the (V, K) scores of a video's views: their ``sum`` or their element-wise ``max``.

    The maximum starts at minus infinity: negative logits count (SlowFast starts at 0 and clips them). A NaN stays one.
    Raises ArgumentError for another method, DataError without any view.
    """
    outputs = _as_tensor("outputs", outputs)
    if outputs.ndim != 2 or not len(outputs):
        raise DataError(f"outputs of a video's views are {tuple(outputs.shape)}: it takes (V, K), V at least 1")
    if method == "sum":
        return outputs.sum(dim=0)
    if method == "max":
        return outputs.amax(dim=0)
    raise ArgumentError(f"ensemble method {method!r}: choose sum or max")


def classification_metrics(scores: Any, labels: Any) -> dict[str, float]:
    """Return accuracy figures of single-label classification, percent.

    Args:
        scores: (N, K) any scores whose order ranks the classes; a list, an array or a tensor, as ``labels``.
        labels: (N,) class numbers.

    Returns:
        ``top1_acc``; ``top5_acc`` where K >= 5; ``mean_class_acc``, the mean recall over the classes that occur in
        ``labels``; ``macro_f1`` and ``weighted_f1``, see :func:`f1_scores`.

    Raises:
        DataError: nothing to measure, other shapes, NaN, labels that are none of the K classes.
    """
    scores = _scores(scores, labels)
    return ranked_metrics(ranks_of(scores, as_classes("label", labels, scores.shape[1])))


def ranked_metrics(ranks: Ranks) -> dict[str, float]:
    """Return the figures of :func:`classification_metrics`, of what was kept of the scores. Raises DataError
    likewise."""
    from sklearn.metrics import recall_score

    bad = int((ranks.ahead < 0).sum())
    if bad:
        raise DataError(_nan_scores(bad, len(ranks)))
    as_classes("label", ranks.labels, ranks.classes)
    hits = {k: torch.from_numpy(ranks.hits(k)) for k in ranks.ks}
    metrics = {f"top{k}_acc": 100.0 * float(hit.float().mean()) for k, hit in hits.items()}
    labels, predicted, counts = ranks.counts()
    recalls = recall_score(
        labels, predicted, labels=np.unique(labels), average=None, zero_division=0, sample_weight=counts
    )
    metrics["mean_class_acc"] = 100.0 * float(recalls.mean())
    return metrics | f1_scores(predicted, labels, counts)


def named_metrics(names: Sequence[str], scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Ask registered metrics.

    Args:
        names: of ``METRIC_REGISTRY``.
        scores: (N, K), any scores whose order ranks the classes.
        labels: (N,) class numbers, or (N, K) zeros and ones for multi-label.

    Raises:
        ConfigError: a name that nobody registered, or a metric that returns no number.
    """
    figures: dict[str, float] = {}
    for name in names:
        value = METRIC_REGISTRY.get(name)(scores, labels)
        try:
            figures[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"TEST.METRICS {name}: it returned {value!r}, not a number") from error
    return figures


def f1_scores(predicted: Any, labels: Any, counts: np.ndarray | None = None) -> dict[str, float]:
    """Return scikit-learn's F1 over the classes that occur in labels or predictions, percent: their mean, ``macro_f1``,
    and that weighted by how often a class is the label, ``weighted_f1``. Both are (N,) class numbers; -1 may be
    predicted, for "none". ``counts`` (N,) says how many samples each of them stands for; None: one. NaN without any
    sample. Raises DataError for other numbers, or different lengths."""
    from sklearn.metrics import f1_score

    predicted = as_classes("prediction", as_numbers("predictions", predicted) + 1) - 1
    labels = as_classes("label", labels)
    if len(labels) != len(predicted):
        raise DataError(f"{len(predicted)} predictions for {len(labels)} labels")
    if not len(labels):
        return {"macro_f1": float("nan"), "weighted_f1": float("nan")}
    return {
        f"{average}_f1": 100.0
        * float(f1_score(labels, predicted, average=average, zero_division=0, sample_weight=counts))
        for average in ("macro", "weighted")
    }


def multilabel_metrics(scores: Any, labels: Any) -> dict[str, float]:
    """Return ``map``: mean average precision over the classes that have at least one positive, percent; NaN where none
    has.

    Args:
        scores: (N, K) scores. labels: (N, K) zeros and ones. Lists, arrays or tensors.

    Raises:
        DataError: nothing to measure, other shapes, NaN, labels that are neither 0 nor 1.
    """
    each = average_precisions(scores, labels)
    return {"map": 100.0 * float(np.mean(each)) if len(each) else float("nan")}


def average_precisions(scores: Any, labels: Any) -> np.ndarray:
    """Return the average precision (0..1) of each class that has a positive, in their order; see
    :func:`multilabel_metrics`."""
    from sklearn.metrics import average_precision_score

    scores = _scores(scores, labels)
    labels = _zeros_and_ones("labels", labels, scores.shape[1])
    present = labels.any(axis=0)
    if not present.any():
        return np.empty(0)
    return np.atleast_1d(average_precision_score(labels[:, present], scores[:, present], average=None))


def per_class_report(
    predicted: Any, labels: Any, num_classes: int, counts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return ``precision``, ``recall``, ``f1`` (0..1) and ``support`` (clips) of every class; 0 where undefined.
    ``counts`` as in :func:`f1_scores`.

    Both are (N,) class numbers, or (N, K) zeros and ones for multi-label; lists, arrays or tensors. Raises DataError
    for different lengths, and numbers that are none of the classes.
    """
    from sklearn.metrics import precision_recall_fscore_support

    predicted, labels = as_numbers("predictions", predicted), as_numbers("labels", labels)
    num_classes = whole("num_classes", num_classes, low=1)
    if labels.ndim == 2:
        labels = _zeros_and_ones("labels", labels, num_classes)
        predicted = _zeros_and_ones("predictions", predicted, num_classes)
    else:
        labels = as_classes("label", labels, num_classes)
        predicted = as_classes("prediction", predicted, num_classes)
    if len(labels) != len(predicted):
        raise DataError(f"{len(predicted)} predictions for {len(labels)} labels")
    if not len(labels):
        return {name: np.zeros(num_classes) for name in ("precision", "recall", "f1", "support")}

    names = ("precision", "recall", "f1", "support")
    if labels.ndim == 2 and num_classes == 1:  # scikit-learn takes one column for two classes, absent and present
        *values, _ = precision_recall_fscore_support(labels[:, 0], predicted[:, 0], average="binary", zero_division=0)
        return {name: np.array([value]) for name, value in zip(names, [*values, labels.sum()], strict=True)}
    values = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), average=None, zero_division=0, sample_weight=counts
    )
    return dict(zip(names, values, strict=True))


def _scores(scores: Any, labels: Any) -> np.ndarray:
    """Return (N, K). DataError where no figure can be right: nothing to measure, another number of labels, NaN."""
    scores, shape = as_numbers("scores", scores), as_numbers("labels", labels).shape
    if scores.ndim != 2 or not len(scores) or shape[:1] != scores.shape[:1]:
        raise DataError(
            f"scores of shape {scores.shape} and labels of shape {shape}: it takes (N, K) scores and N labels, "
            "N at least 1"
        )
    bad = int(np.isnan(scores).any(axis=1).sum())
    if bad:
        raise DataError(_nan_scores(bad, len(scores)))
    return scores


def _nan_scores(bad: int, count: int) -> str:
    return f"{bad} of {count} samples have NaN scores, so no accuracy can be given"


def _zeros_and_ones(name: str, values: Any, num_classes: int) -> np.ndarray:
    array = as_numbers(name, values)
    if array.ndim != 2 or array.shape[1] != num_classes or not np.isin(array, (0, 1)).all():
        raise DataError(f"{name} of shape {array.shape}: it takes (N, {num_classes}) zeros and ones")
    return array.astype(np.int64)
