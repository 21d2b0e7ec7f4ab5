"""Classification losses over logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationLoss(nn.Module):
    """Cross-entropy with hard or soft targets, or binary cross-entropy for multi-label targets.

    Args:
        kind: ``cross_entropy`` | ``soft_cross_entropy`` (the same; the targets' form decides) | ``bce_logit``.
        class_weights: one factor per class, or empty. A class's factor multiplies its term.
        label_smoothing: 0..1, the share of a hard target that is spread over all classes. Soft targets of mixing
            are smoothed where they are made, so it does not apply to them.
    """

    class_weights: Tensor | None

    def __init__(self, kind: str, *, class_weights: Sequence[float] = (), label_smoothing: float = 0.0) -> None:
        super().__init__()
        if kind not in ("cross_entropy", "soft_cross_entropy", "bce_logit"):
            raise ValueError(f"loss {kind!r}: choose cross_entropy, soft_cross_entropy or bce_logit")
        self.kind = kind
        self.label_smoothing = label_smoothing
        weights = torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of (B, K) logits against (B,) class numbers or (B, K) targets in 0..1, as float32."""
        logits = logits.float()
        if self.kind == "bce_logit":
            return F.binary_cross_entropy_with_logits(logits, target.float(), weight=self.class_weights)
        smoothing = self.label_smoothing if target.ndim == 1 else 0.0
        return F.cross_entropy(logits, target, weight=self.class_weights, label_smoothing=smoothing)


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """``N / (K * n_k)``, scikit-learn's "balanced" rule; a class without samples gets 0."""
    total, present = sum(counts), sum(1 for count in counts if count)
    return [total / (present * count) if count else 0.0 for count in counts]
