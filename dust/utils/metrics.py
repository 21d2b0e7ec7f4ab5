"""Figures of merit: pure functions of arrays, in percent unless said otherwise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dust.utils.errors import ConfigError, DataError
from dust.utils.registry import Registry

#: Metrics that TEST.METRICS may name: functions (scores (N, K), labels) -> float, as the task's own figures get them.
METRIC_REGISTRY = Registry("metric")


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """Tell for each k whether the label is among the k highest of ``scores`` (N, K): (N,) bools.

    Of equal scores the first class is the higher one, as for ``argmax``, so that top-1 is what predictions say. NaN
    is higher than everything, and a label whose own score is NaN, or that is below 0, is never a hit.
    """
    own = scores.gather(1, labels[:, None].long().clamp(min=0))
    index = torch.arange(scores.shape[1], device=scores.device)
    behind = (scores < own) | ((scores == own) & (index >= labels[:, None]))
    rank = (~behind).sum(dim=1)
    return [(rank < k) & (labels >= 0) for k in ks]


def ensemble_views(outputs: Tensor, method: str) -> Tensor:
    """One (K,) score from the (V, K) scores of a video's views: their ``sum`` or their element-wise ``max``.

    The maximum starts at minus infinity: negative logits count (SlowFast starts at 0 and clips them).
    """
    if method == "sum":
        return outputs.sum(dim=0)
    if method == "max":
        return outputs.amax(dim=0)
    raise ValueError(f"ensemble method {method!r}: choose sum or max")


def classification_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy figures of single-label classification, percent.

    Args:
        scores: (N, K) any scores whose order ranks the classes.
        labels: (N,) class numbers.

    Returns:
        ``top1_acc``; ``top5_acc`` where K >= 5; ``mean_class_acc``, the mean recall over the classes that occur in
        ``labels``; ``macro_f1`` and ``weighted_f1``, see :func:`f1_scores`.
    """
    from sklearn.metrics import recall_score

    _check_scores(scores, labels)
    num_classes = scores.shape[1]
    ks = (1, 5) if num_classes >= 5 else (1,)
    hits = topk_correct(torch.from_numpy(scores), torch.from_numpy(labels), ks)
    predicted = scores.argmax(axis=1)
    metrics = {f"top{k}_acc": 100.0 * float(hit.float().mean()) for k, hit in zip(ks, hits, strict=True)}
    recalls = recall_score(labels, predicted, labels=np.unique(labels), average=None, zero_division=0)
    metrics["mean_class_acc"] = 100.0 * float(recalls.mean())
    return metrics | f1_scores(predicted, labels)


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


def f1_scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """scikit-learn's F1 over the classes that occur in labels or predictions, percent: their mean, ``macro_f1``, and
    that weighted by how often a class is the label, ``weighted_f1``. Both arrays are (N,) class numbers."""
    from sklearn.metrics import f1_score

    return {
        f"{average}_f1": 100.0 * float(f1_score(labels, predicted, average=average, zero_division=0))
        for average in ("macro", "weighted")
    }


def multilabel_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``map``: mean average precision over the classes that have at least one positive, percent.

    Args:
        scores: (N, K) scores. labels: (N, K) zeros and ones.
    """
    from sklearn.metrics import average_precision_score

    _check_scores(scores, labels)
    present = labels.any(axis=0)
    if not present.any():
        return {"map": float("nan")}
    per_class = average_precision_score(labels[:, present], scores[:, present], average=None)
    return {"map": 100.0 * float(np.mean(per_class))}


def per_class_report(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """``precision``, ``recall``, ``f1`` (0..1) and ``support`` (clips) of every class; 0 where undefined.

    Both arrays are (N,) class numbers, or (N, K) zeros and ones for multi-label.
    """
    from sklearn.metrics import precision_recall_fscore_support

    names = ("precision", "recall", "f1", "support")
    if labels.ndim == 2 and num_classes == 1:  # scikit-learn takes one column for two classes, absent and present
        *values, _ = precision_recall_fscore_support(labels[:, 0], predicted[:, 0], average="binary", zero_division=0)
        return {name: np.array([value]) for name, value in zip(names, [*values, labels.sum()], strict=True)}
    values = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), average=None, zero_division=0
    )
    return dict(zip(names, values, strict=True))


def _check_scores(scores: np.ndarray, labels: np.ndarray) -> None:
    """Raise DataError where no figure can be right: nothing to measure, NaN, or labels that are no classes."""
    if scores.ndim != 2 or not len(scores) or len(scores) != len(labels):
        raise DataError(
            f"scores of shape {scores.shape} and labels of shape {labels.shape}: it takes (N, K) scores and N labels, "
            "N at least 1"
        )
    bad = int(np.isnan(scores).any(axis=1).sum())
    if bad:
        raise DataError(f"{bad} of {len(scores)} samples have NaN scores, so no accuracy can be given")
    if labels.ndim == 1 and not ((labels >= 0) & (labels < scores.shape[1])).all():
        wrong = labels[(labels < 0) | (labels >= scores.shape[1])]
        raise DataError(f"label {wrong[0]} is none of the {scores.shape[1]} classes that have scores")
