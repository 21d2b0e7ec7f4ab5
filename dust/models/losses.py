"""Classification losses over logits."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dust.utils.errors import ArgumentError, DataError
from dust.utils.numbers import as_numbers

KINDS = ("cross_entropy", "soft_cross_entropy", "bce_logit", "focal", "sigmoid_focal")
BINARY = ("bce_logit", "sigmoid_focal")


class ClassificationLoss(nn.Module):
    """Cross-entropy with hard or soft targets, or binary cross-entropy for multi-label targets; or the focal form of
    either, "Focal Loss for Dense Object Detection", Lin et al., ICCV 2017, https://arxiv.org/abs/1708.02002.

    Args:
        kind: ``cross_entropy`` | ``soft_cross_entropy`` (the same; the targets' form decides) | ``bce_logit`` |
            ``focal``: each class's term of the cross-entropy times (1 - p) ** gamma | ``sigmoid_focal``: the paper's,
            of multi-label targets, the mean over clips and classes.
        gamma: of the focal kinds, 0 or more; at 0 they are the plain ones (``sigmoid_focal`` with alpha -1).
        alpha: of ``sigmoid_focal``: 0..1, weight of ones, 1 - alpha of zeros; -1: both 1.
        class_weights: one factor per class, or empty. A class's factor multiplies its term.
        label_smoothing: 0..1, the share of a hard target that is spread over all classes. Soft targets of mixing
            are smoothed where they are made, so it does not apply to them.
        smooth_shares: smooth soft targets too: those that no mixing has smoothed, as the shares of several annotators.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        kind: str,
        *,
        class_weights: Sequence[float] = (),
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
        alpha: float = 0.25,
        smooth_shares: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ArgumentError(f"loss {kind!r}: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if not 0 <= gamma < math.inf or not (0 <= alpha <= 1 or alpha == -1):
            raise ArgumentError(f"gamma {gamma}, alpha {alpha}: gamma is 0 or more, alpha 0..1, or -1 for none")
        if kind == "focal" and label_smoothing:
            raise ArgumentError(f"label_smoothing {label_smoothing}: the focal loss is for targets as they are; give 0")
        self.kind, self.gamma, self.alpha = kind, gamma, alpha
        self.label_smoothing, self.smooth_shares = label_smoothing, smooth_shares
        weights = torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of (B, K) logits against (B,) class numbers or (B, K) targets in 0..1, as float32.

        NaN logits give a NaN loss. Raises DataError for other shapes, for another number of class weights and, on a
        CPU (a device would have to be waited for), for class numbers that are none of the K.
        """
        self._check(logits, target)
        logits = logits.float()
        if self.kind == "bce_logit":
            return F.binary_cross_entropy_with_logits(logits, target.float(), weight=self.class_weights)
        if self.kind == "sigmoid_focal":
            from torchvision.ops import sigmoid_focal_loss

            each = sigmoid_focal_loss(logits, target.float(), alpha=self.alpha, gamma=self.gamma)
            return (each if self.class_weights is None else each * self.class_weights).mean()
        if self.kind == "focal":
            return self._focal(logits, target)
        smoothing = self.label_smoothing if target.ndim == 1 or self.smooth_shares else 0.0
        return F.cross_entropy(logits, target, weight=self.class_weights, label_smoothing=smoothing)

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=-1)
        share = target if target.ndim == 2 else F.one_hot(target, logits.shape[1]).to(log_p.dtype)
        if self.class_weights is not None:
            share = share * self.class_weights
        # 1 - p; at p = 1 a root has no derivative, so that it is cut off there
        missed = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).eps) ** self.gamma if self.gamma else 1.0
        # as cross-entropy: hard targets are divided by the sum of their weights, soft ones by their number
        total = share.sum() if target.ndim == 1 else float(len(logits))
        return -(share * missed * log_p).sum() / total

    def _check(self, logits: Tensor, target: Tensor) -> None:
        if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
            raise DataError(f"a loss takes tensors, got {type(logits).__name__} and {type(target).__name__}")
        hard = target.ndim == 1 and self.kind not in BINARY
        fits = target.shape == (logits.shape[:1] if hard else logits.shape)
        if logits.ndim != 2 or not fits or not len(logits) or (hard and target.is_floating_point()):
            raise DataError(
                f"{self.kind} got logits {tuple(logits.shape)} and targets {target.dtype} {tuple(target.shape)}; it "
                "takes (B, K) and (B,) class numbers or (B, K) shares, B at least 1"
            )
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise DataError(f"{len(self.class_weights)} class weights for logits of {logits.shape[1]} classes")
        plain = type(target) is Tensor and target.device.type == "cpu"  # not one that counts operations alone
        if hard and plain and not bool(((target >= 0) & (target < logits.shape[1])).all()):
            wrong = int(target[(target < 0) | (target >= logits.shape[1])][0])
            raise DataError(f"label {wrong} is none of the {logits.shape[1]} classes that have logits")


def balanced_class_weights(counts: Sequence[int]) -> list[float]:
    """Return ``N / (K * n_k)``, scikit-learn's "balanced" rule; a class without samples gets 0. Counts below 0:
    DataError."""
    counts = as_numbers("counts", counts, ndim=1).tolist()
    if not all(0 <= count < math.inf for count in counts):
        raise DataError(f"counts of classes {counts}: none can be below 0")
    total, present = sum(counts), sum(1 for count in counts if count)
    return [total / (present * count) if count else 0.0 for count in counts]
