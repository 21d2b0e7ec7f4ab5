"""KeyStep on a recording as it comes in: each frame is encoded once, and every window is made of kept embeddings.

In evaluation mode a frame's embedding does not depend on its window (batch norms use their statistics), so the
probabilities are those of encoding every window anew, at 1/57 of the cost for N = 65 and a ViT-S/16. Embeddings go
through the temporal encoder again in every window, since positions are counted from the window's first frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dust.procedure.decoders import Detections
from dust.procedure.metrics import Step
from dust.procedure.step_decoder import StepDecoder, Update
from dust.utils.errors import ConfigError, DataError

PHASES = ("first", "all")


def span_of(frames: int, skip: int) -> int:
    """Frames from a window's first to its last, both included, of N ``frames`` with ``skip`` between two of them."""
    return (frames - 1) * (skip + 1) + 1


def padding_of(count: int, frames: int, skip: int) -> int:
    """How many frames the window of a recording of ``count`` frames repeats, because the recording is shorter."""
    return max(0, frames - 1 - (count - 1) // (skip + 1))


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
    _check_phases(phases)
    encoder, count, span = temporal_part(model), len(embeddings), span_of(frames, skip)
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


@dataclass(frozen=True, slots=True)
class StepUpdate:
    """``steps`` completed as of ``frame``, as (frame, step id). ``probabilities`` (K,) on the CPU, of "this component
    changed in the window that ends here"; None where no window does. ``padding``: frames that the window repeats."""

    frame: int
    steps: list[Step]
    probabilities: Tensor | None
    padding: int = 0


class StepStream:
    """Feeds one recording to a model, frame by frame; output as that of the whole recording at once.

    Args:
        model: a KeyStepVideo, or a TemporalEncoder for embeddings; it is put into evaluation mode.
        decoder: makes steps of probabilities (and of object states, if its mode uses them).
        start: ``() -> update``, a decoder at a recording's beginning: ``lambda: decoder.start(procedure, states)``.
        frames, skip, phases: see :func:`window_probabilities`.
        transform: makes of a pushed frame what the model takes; None: it is that already.
        cache: False encodes all frames of every window anew, for comparison.

    It holds the embeddings of one window's span, whatever the recording's length. ``encoded`` counts the frames that
    went through the frame encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: StepDecoder,
        start: Callable[[], Update],
        *,
        frames: int = 65,
        skip: int = 3,
        phases: str = "first",
        transform: Callable[[Tensor], Tensor] | None = None,
        cache: bool = True,
    ) -> None:
        _check_phases(phases)
        self.model, self.decoder, self._start = model.eval(), decoder, start
        self.frames, self.skip, self.phases = frames, skip, phases
        self.transform, self.cache = transform, cache
        self.encoder = temporal_part(model)
        self.device = next(self.encoder.parameters()).device
        self.span = span_of(frames, skip)
        self._behind = (skip + 1) * torch.arange(frames - 1, -1, -1)  # of each frame of a window, from its last
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new recording begins."""
        self.count = self.encoded = self._windows = 0
        self._ring: Tensor | None = None  # frame t is in row t % span
        self._update = self._start()

    @torch.inference_mode()
    def push(self, frame: Tensor, detections: Detections = ()) -> StepUpdate:
        """The next frame: an embedding (D,) for a TemporalEncoder, else a picture (C, H, W) that ``transform`` takes,
        or the model. ``detections``: what an object detector saw in it, (class, confidence) each."""
        kept = frame.to(self.device) if self.transform is None else self.transform(frame.to(self.device))
        if self.cache:
            kept = self._embed(kept[None])[0]
        if self._ring is None:
            self._ring = kept.new_zeros((self.span, *kept.shape))
        self._ring[self.count % self.span] = kept
        self.count += 1
        done = self.count - self.span
        if done < 0 or (self.phases == "first" and done % (self.skip + 1)):
            steps = self._update(self.count - 1, detections, None, (), 0)
            return StepUpdate(self.count - 1, steps, None)
        return self._decide(detections)

    @torch.inference_mode()
    def finish(self) -> StepUpdate | None:
        """The recording is over. One that was shorter than a window gets its only one now, padded in front."""
        return self._decide(()) if 0 < self.count < self.span else None

    def _decide(self, detections: Detections) -> StepUpdate:
        """The window that ends in the newest frame."""
        assert self._ring is not None
        now = self.count - 1
        places = (now - self._behind).clamp(min=0) % self.span
        window = self._ring[places.to(self.device)]
        if not self.cache:
            window = self._embed(window)
        probabilities = torch.sigmoid(self.encoder(window[None]).float())[0].cpu()
        phase = self._windows % self.decoder.phases
        self._windows += 1
        values = probabilities.numpy()
        steps = self._update(now, detections, self.decoder.digits(values), values, phase)
        return StepUpdate(now, steps, probabilities, padding_of(self.count, self.frames, self.skip))

    def _embed(self, frames: Tensor) -> Tensor:
        """(T, C, H, W) pictures -> (T, D); embeddings pass."""
        embed: Any = getattr(self.model, "embed", None)
        if embed is None:
            return frames
        self.encoded += len(frames)
        return embed(frames[:, :, None])


def _check_phases(phases: str) -> None:
    if phases not in PHASES:
        raise ConfigError(f"KEYSTEP.INFER.PHASES {phases!r}: choose {' or '.join(PHASES)}")
