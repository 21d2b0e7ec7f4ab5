"""Windows of a recording's embeddings through the temporal encoder."""

import torch
from torch import Tensor, nn

from dust.procedure.windows import check_phases, window_span
from dust.utils.errors import DataError


def temporal_part(model: nn.Module) -> nn.Module:
    """What turns windows of embeddings into logits: the model's temporal encoder, or the model itself."""
    part = getattr(model, "temporal_encoder", model)
    assert isinstance(part, nn.Module)
    return part


@torch.inference_mode()
def window_probabilities(
    model: nn.Module, embeddings: Tensor, *, frames: int, skip: int, phases: str = "first", batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Every window of a recording.

    Args:
        model: in evaluation mode; see :func:`temporal_part`.
        embeddings: (F, D) of all frames.
        frames, skip: N, and frames between two of them.
        phases: ``first`` (a window every skip + 1 frames) | ``all`` (every frame).
        batch: windows at once.

    Returns:
        (W,) last frames, rising, and (W, K) probabilities, both on the CPU. A recording shorter than a window has one,
        which repeats the first frame in front.
    """
    check_phases(phases)
    encoder, count, span = temporal_part(model), len(embeddings), window_span(frames, skip)
    if not count:
        raise DataError("a recording without frames has no window; leave it out")
    if count < span:
        embeddings = torch.cat([embeddings[:1].expand(span - count, -1), embeddings])
    hop = skip + 1 if phases == "first" else 1
    # a view: (W, D, span), and of each window every (skip + 1)-th frame
    windows = embeddings.unfold(0, span, hop)[:, :, :: skip + 1].transpose(1, 2)  # (W, N, D)
    device = next(encoder.parameters()).device
    parts = [torch.sigmoid(encoder(part.to(device)).float()).cpu() for part in windows.split(batch)]
    last = torch.tensor([count - 1]) if count < span else torch.arange(span - 1, count, hop)
    return last, torch.cat(parts)
