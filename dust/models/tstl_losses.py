"""TSTL's triplet loss: like contrastive_losses.batch_all_loss, but in the units of the embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dust.utils.errors import DataError


def batch_all_triplet_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """``relu(d_ap - d_an + margin)`` over all triplets (anchor, another row of its label, a row of another label) of
    (B, D) embeddings and (B,) labels, averaged over those above 0; distances are Euclidean.

    0, with a zero gradient, where the batch has no such triplet. float32; memory B^3. Tests compare with numbers that
    the authors' code gave.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise DataError(
            f"the triplet loss got embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; "
            "it takes (B, D) and (B,)"
        )
    embeddings = embeddings.float()
    squares = (embeddings[:, None] - embeddings).square().sum(dim=2)
    equal = squares == 0  # the root's gradient at 0 would be infinite
    distances = squares.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    values = F.relu(distances[:, :, None] - distances[:, None, :] + margin)
    counted = positive[:, :, None] & ~same[:, None, :] & (values > 0)  # (B, B, B)
    return values.where(counted, torch.zeros_like(values)).sum() / counted.sum().clamp(min=1)
