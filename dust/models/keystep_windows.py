"""Windows of a recording's embeddings, and what turns them into logits."""

import numpy as np
import torch
from torch import Tensor, nn

from dust.models.protocol import EncodesFrames
from dust.procedure.windows import window_ends, window_span
from dust.utils.errors import DataError


def window_logits(model: nn.Module, embeddings: Tensor) -> Tensor:
    """Map windows of embeddings (W, N, D) -> logits (W, K), by the part of a model behind its frame encoder, or by a
    model that takes embeddings."""
    logits = model.forward_embeddings(embeddings) if isinstance(model, EncodesFrames) else model(embeddings)
    assert isinstance(logits, Tensor)
    return logits


def recording_windows(
    embeddings: Tensor, *, frames: int, skip: int, phases: str = "first"
) -> tuple[np.ndarray, Tensor]:
    """Return every window of a recording, as a view of its embeddings: nothing is copied.

    Args:
        embeddings: (F, D) of all frames.
        frames, skip: N, and frames between two of them.
        phases: ``first`` (a window every skip + 1 frames) | ``all`` (every frame).

    Returns:
        (W,) last frames, rising, and windows (W, N, D). A recording shorter than a window has one, which repeats the
        first frame in front.
    """
    count, span = len(embeddings), window_span(frames, skip)
    if not count:
        raise DataError("a recording without frames has no window; leave it out")
    last = window_ends(count, frames, skip, phases=phases)
    if count < span:
        embeddings = torch.cat([embeddings[:1].expand(span - count, -1), embeddings])
    hop = skip + 1 if phases == "first" else 1
    # (W, D, span), and of each window every (skip + 1)-th frame
    return last, embeddings.unfold(0, span, hop)[:, :, :: skip + 1].transpose(1, 2)
