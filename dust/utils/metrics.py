"""Figures of merit: pure functions of arrays, in percent unless said otherwise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def topk_correct(scores: Tensor, labels: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """For each k, the (N,) bools that the label is among the k highest of ``scores`` (N, K); k is clipped to K."""
    order = scores.topk(min(max(ks), scores.shape[1]), dim=1).indices
    hits = order == labels[:, None]
    return [hits[:, :k].any(dim=1) for k in ks]


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

    num_classes = scores.shape[1]
    ks = (1, 5) if num_classes >= 5 else (1,)
    hits = topk_correct(torch.from_numpy(scores), torch.from_numpy(labels), ks)
    predicted = scores.argmax(axis=1)
    metrics = {f"top{k}_acc": 100.0 * float(hit.float().mean()) for k, hit in zip(ks, hits, strict=True)}
    recalls = recall_score(labels, predicted, labels=np.unique(labels), average=None, zero_division=0)
    metrics["mean_class_acc"] = 100.0 * float(recalls.mean())
    return metrics | f1_scores(predicted, labels)


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

    values = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(num_classes), average=None, zero_division=0
    )
    return dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
