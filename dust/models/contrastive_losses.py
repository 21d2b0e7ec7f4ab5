"""Losses that pull embeddings of one class together: SupCon, SimCLR, and triplets with batch-hard or batch-all mining.

SupCon: https://arxiv.org/abs/2004.11362 (eq. 2, L_out). SimCLR: https://arxiv.org/abs/2002.05709. Triplet mining:
https://arxiv.org/abs/1703.07737, here over the batch's mean distance and so independent of the embeddings' scale.
``exclude_bg`` is the rule of https://arxiv.org/abs/2408.11700: label 0, the background, is of no class; its rows are
negatives only.

Embeddings are (B, D), usually of unit length; labels are (B,) integers. Every loss is a float32 (or float64) scalar and
is 0, with a zero gradient, where no row of the batch can be an anchor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dust.utils.errors import ConfigError, DataError

LOSSES = ("supcon", "simclr", "batch_hard", "batch_all", "ce")
BACKGROUND = 0


def supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.07,
    base_temperature: float | None = None,
    exclude_bg: bool = False,
) -> Tensor:
    """Return the supervised contrastive loss.

    ``-(T / T0) mean_i 1 / max(|P(i)|, 1) sum_{p in P(i)} log(exp(z_i z_p / T) / sum_{a != i} exp(z_i z_a / T))`` over
    the anchors i, where P(i) are the other rows with i's label. An anchor without any adds 0 to the sum but counts in
    the mean. ``base_temperature`` T0 is by default T, which makes the factor 1.
    """
    _check_batch(embeddings, labels)
    embeddings = _at_least_float32(embeddings)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = embeddings @ embeddings.T / temperature
    logits = logits.masked_fill(itself, torch.finfo(logits.dtype).min)  # not -inf: a lone row would give NaN
    log_prob = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)  # (B, B), row = anchor
    positive = (labels[:, None] == labels) & ~itself
    per_anchor = (log_prob * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return -factor * _mean(per_anchor, _anchors(labels, exclude_bg))


def simclr_loss(embeddings: Tensor, instances: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Return NT-Xent: rows with the same number in ``instances`` (B,) are views of one image, all others are
    negatives."""
    return supcon_loss(embeddings, instances, temperature=temperature)


def batch_hard_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 0.01, exclude_bg: bool = False) -> Tensor:
    """Return ``mean_i relu((hardest positive - hardest negative) / norm + margin)``, Euclidean distances.

    ``norm`` is the mean distance to the hardest negatives, over the same anchors i. Rows without a positive or without
    a negative are no anchors.
    """
    _check_batch(embeddings, labels)
    distances = _distances(_at_least_float32(embeddings))
    positive, negative = _pairs(labels)
    anchors = _anchors(labels, exclude_bg) & positive.any(dim=1) & negative.any(dim=1)
    hardest_positive = distances.masked_fill(~positive, 0.0).amax(dim=1)
    hardest_negative = distances.masked_fill(~negative, torch.inf).amin(dim=1)
    hardest_negative = hardest_negative.where(anchors, torch.ones_like(hardest_negative))
    norm = _mean(hardest_negative, anchors).clamp(min=_tiny(distances))
    return _mean(F.relu((hardest_positive - hardest_negative) / norm + margin), anchors)


def batch_all_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 0.01, exclude_bg: bool = False) -> Tensor:
    """Return ``relu((d_ap - d_an) / norm + margin)`` over all triplets (anchor, positive, negative), averaged over
    those above 0. ``norm`` is the mean of the whole (B, B) matrix of distances, with its zero diagonal. Memory B^3."""
    _check_batch(embeddings, labels)
    distances = _distances(_at_least_float32(embeddings))
    norm = distances.mean().clamp(min=_tiny(distances))
    positive, negative = _pairs(labels)
    triplets = (positive & _anchors(labels, exclude_bg)[:, None])[:, :, None] & negative[:, None, :]  # (B, B, B)
    values = F.relu((distances[:, :, None] - distances[:, None, :]) / norm + margin)
    return _mean(values, triplets & (values > 0))


def state_cross_entropy(logits: Tensor, labels: Tensor, *, exclude_bg: bool = False) -> Tensor:
    """Return the cross-entropy of (B, K) logits; with ``exclude_bg`` rows of label 0 do not count. DataError for other
    shapes and, on a CPU, for labels that are none of the K classes."""
    _check_batch(logits, labels)
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels are {labels.dtype}: states are whole numbers")
    if labels.device.type == "cpu" and not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise DataError(f"labels {labels.min()} to {labels.max()} of {logits.shape[1]} states that have logits")
    per_row = F.cross_entropy(_at_least_float32(logits), labels, reduction="none")
    return _mean(per_row, _anchors(labels, exclude_bg))


class ContrastiveLoss(nn.Module):
    """The loss that ``kind`` names, called with (B, D) embeddings and (B,) labels.

    ``ce`` takes logits instead of embeddings, ``simclr`` the number of the image that a row is a view of instead of
    labels. ``temperature`` is for supcon and simclr, ``margin`` for the triplets, ``exclude_bg`` for all but simclr.
    """

    def __init__(
        self, kind: str = "supcon", *, temperature: float = 0.07, margin: float = 0.01, exclude_bg: bool = False
    ) -> None:
        super().__init__()
        problems = []
        if kind not in LOSSES:
            problems.append(f"loss {kind!r}: choose one of {', '.join(LOSSES)}")
        if not temperature > 0:
            problems.append(f"temperature {temperature}: must be above 0")
        if margin < 0:
            problems.append(f"margin {margin}: must not be negative")
        if kind == "simclr" and exclude_bg:
            problems.append("loss simclr knows no classes, so it has no background to exclude")
        if problems:
            raise ConfigError("; ".join(problems))
        self.kind = kind
        self.temperature = temperature
        self.margin = margin
        self.exclude_bg = exclude_bg

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Map (B, D) and (B,) -> the mean loss, a scalar."""
        if self.kind == "supcon":
            return supcon_loss(rows, labels, temperature=self.temperature, exclude_bg=self.exclude_bg)
        if self.kind == "simclr":
            return simclr_loss(rows, labels, temperature=self.temperature)
        if self.kind == "ce":
            return state_cross_entropy(rows, labels, exclude_bg=self.exclude_bg)
        triplet = batch_hard_loss if self.kind == "batch_hard" else batch_all_loss
        return triplet(rows, labels, margin=self.margin, exclude_bg=self.exclude_bg)


def _check_batch(embeddings: Tensor, labels: Tensor) -> None:
    if not isinstance(embeddings, Tensor) or not isinstance(labels, Tensor):
        raise DataError(f"a contrastive loss takes tensors, got {type(embeddings).__name__}, {type(labels).__name__}")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
        raise DataError(
            f"a contrastive loss got embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; "
            f"it takes (B, D) and (B,), B at least 1: flatten the views into rows"
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _anchors(labels: Tensor, exclude_bg: bool) -> Tensor:
    return labels != BACKGROUND if exclude_bg else torch.ones_like(labels, dtype=torch.bool)


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, B) bools: another row of the same label; a row of another label."""
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _distances(embeddings: Tensor) -> Tensor:
    """Map (B, D) -> (B, B) Euclidean. Equal rows have distance 0 and, unlike with a plain root, a zero gradient."""
    squares = (embeddings[:, None] - embeddings).square().sum(dim=2)
    zero = squares == 0
    return squares.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the mask, 0 (with a gradient of 0) where it is empty."""
    return values.where(mask, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)


def batch_all_triplet_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Return ``relu(d_ap - d_an + margin)`` over all triplets (anchor, another row of its label, a row of another
    label) of (B, D) embeddings and (B,) labels, averaged over those above 0; distances are Euclidean.

    0, with a zero gradient, where the batch has no such triplet. float32; memory B^3. Tests compare with numbers that
    the authors' code gave.
    """
    _check_batch(embeddings, labels)
    embeddings = embeddings.float()
    squares = (embeddings[:, None] - embeddings).square().sum(dim=2)
    equal = squares == 0  # the root's gradient at 0 would be infinite
    distances = squares.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    values = F.relu(distances[:, :, None] - distances[:, None, :] + margin)
    counted = positive[:, :, None] & ~same[:, None, :] & (values > 0)  # (B, B, B)
    return values.where(counted, torch.zeros_like(values)).sum() / counted.sum().clamp(min=1)
