"""KeyStep on a recording as it comes in: each frame is encoded once, and every window is made of kept embeddings.

In evaluation mode a frame's embedding does not depend on its window (batch norms use their statistics), so the
probabilities are those of encoding every window again, at 1/57 of the cost for N = 65 and a ViT-S/16. Embeddings go
through the temporal encoder again in every window, since positions are counted from the window's first frame.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dust.config import CfgNode
from dust.datasets.keystep.frames import procedures_of
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.checkpoints import build_checkpoint_to_test
from dust.engine.inference import OutputError, why_not_finite
from dust.engine.setup import Autocast, build_autocast, build_device, build_device_transform, build_for
from dust.engine.stages import build_settled
from dust.engine.weights import build_weights_choice, load_trained
from dust.models.keystep_windows import window_logits
from dust.models.protocol import EncodesFrames
from dust.procedure.decoders import Detections
from dust.procedure.metrics import Step
from dust.procedure.mistakes import Mistake, MistakeWatch
from dust.procedure.step_decoder import StepDecoder, Update
from dust.procedure.table import state_vectors
from dust.procedure.windows import check_phases, window_padding, window_span
from dust.tasks.keystep import build_mistake_rule, build_step_decoder
from dust.utils.checkpoint import load_checkpoint
from dust.utils.errors import DataError


@dataclass(frozen=True, slots=True)
class StepUpdate:
    """``steps`` completed as of ``frame``, as (frame, step id). ``probabilities`` (K,) on the CPU, of "this component
    changed in the window that ends here" (2 K in EXE_MODE ``mistakes``: and "was put on wrongly"); None where no window
    does. ``padding``: frames that the window repeats. ``alarms``: mistakes, as of ``frame``."""

    frame: int
    steps: list[Step]
    probabilities: Tensor | None
    padding: int = 0
    alarms: Sequence[Mistake] = ()


class StepStream:
    """Feeds one recording to a model, frame by frame; output as that of the whole recording at once.

    Args:
        model: a KeyStepVideo, or a TemporalEncoder for embeddings; it is put into evaluation mode.
        decoder: makes steps of probabilities (and of object states, if its mode uses them).
        start: ``() -> update``, a decoder at a recording's beginning: ``lambda: decoder.start(procedure, states)``.
        watch: ``() -> MistakeWatch``, at a recording's beginning; None raises no alarms.
        frames, skip, phases: see :func:`dust.models.keystep_windows.recording_windows`.
        transform: makes of a pushed frame what the model takes; None: it is that already.
        cache: False encodes all frames of every window again, for comparison.
        components: K, where the model says more than that of a window.
        autocast: a context for the frame encoder; windows are in float32, as in a test.

    It holds the embeddings of one window's span, whatever the recording's length. ``encoded`` counts the frames that
    went through the frame encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: StepDecoder,
        start: Callable[[], Update],
        *,
        watch: Callable[[], MistakeWatch] | None = None,
        frames: int = 65,
        skip: int = 3,
        phases: str = "first",
        transform: Callable[[Tensor], Tensor] | None = None,
        cache: bool = True,
        components: int | None = None,
        autocast: Autocast = contextlib.nullcontext,
    ) -> None:
        check_phases(phases)
        self.autocast = autocast
        self.model, self.decoder, self._start, self._start_watch = model.eval(), decoder, start, watch
        self.frames, self.skip, self.phases, self.components = frames, skip, phases, components
        self.transform, self.cache = transform, cache
        self.device = next(model.parameters()).device
        self.span = window_span(frames, skip)
        self._behind = (skip + 1) * torch.arange(frames - 1, -1, -1)  # of each frame of a window, from its last
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new recording begins."""
        self.count = self.encoded = self._windows = 0
        self._ring: Tensor | None = None  # frame t is in row t % span
        self._update = self._start()
        self._watch = self._start_watch() if self._start_watch is not None else None

    @torch.inference_mode()
    def push(self, frame: Tensor, detections: Detections = ()) -> StepUpdate:
        """Take the next frame: an embedding (D,) for a TemporalEncoder, else a picture (C, H, W) that ``transform``
        takes, or the model. ``detections``: what an object detector saw in it, (class, confidence) each.

        Raises:
            DataError: a frame that is no tensor of finite numbers, or of another shape than those before.
            OutputError: what the model says of the window is not finite.
        """
        if not isinstance(frame, Tensor) or (frame.is_floating_point() and not bool(torch.isfinite(frame).all())):
            what = "is not finite" if isinstance(frame, Tensor) else f"is a {type(frame).__name__}, not a tensor"
            raise DataError(f"frame {self.count} of the stream {what}")
        kept = frame.to(self.device) if self.transform is None else self.transform(frame.to(self.device))
        if self.cache:
            kept = self._embed(kept[None])[0]
        if self._ring is None:
            self._ring = kept.new_zeros((self.span, *kept.shape))
        if kept.shape != self._ring.shape[1:]:
            before = tuple(self._ring.shape[1:])
            raise DataError(f"frame {self.count} of the stream is {tuple(kept.shape)}, those before are {before}")
        self._ring[self.count % self.span] = kept
        self.count += 1
        done = self.count - self.span
        if done < 0 or (self.phases == "first" and done % (self.skip + 1)):
            steps = self._update(self.count - 1, detections, None, (), 0)
            return StepUpdate(self.count - 1, steps, None, alarms=self._alarms(steps))
        return self._decide(detections)

    @torch.inference_mode()
    def finish(self) -> StepUpdate | None:
        """End the recording: what was left out is known now. One that was shorter than a window gets its
        only one, padded in front. None where there is nothing more to say."""
        last = self._decide(()) if 0 < self.count < self.span else None
        left_out = self._watch.finish(self.count - 1) if self._watch is not None and self.count else []
        if last is None:
            return StepUpdate(self.count - 1, [], None, alarms=left_out) if left_out else None
        return replace(last, alarms=[*last.alarms, *left_out])

    def _alarms(self, steps: list[Step], probabilities: np.ndarray | None = None, phase: int = 0) -> Sequence[Mistake]:
        """Return those of the newest frame."""
        return () if self._watch is None else self._watch.update(self.count - 1, steps, probabilities, phase)

    def _decide(self, detections: Detections) -> StepUpdate:
        """Decide on the window that ends in the newest frame."""
        assert self._ring is not None
        now = self.count - 1
        rows = (now - self._behind).clamp(min=0) % self.span
        window = self._ring[rows.to(self.device)]
        if not self.cache:
            window = self._embed(window)
        probabilities = torch.sigmoid(window_logits(self.model, window[None]).float())[0].cpu()
        reason = why_not_finite(probabilities)
        if reason:
            raise OutputError(f"the window of frames {max(0, self.count - self.span)} to {now}: {reason}")
        phase = self._windows % self.decoder.phases
        self._windows += 1
        values = probabilities.numpy()
        changes = values[: self.components]
        steps = self._update(now, detections, self.decoder.digits(changes), changes, phase)
        padding, alarms = window_padding(self.count, self.frames, self.skip), self._alarms(steps, values, phase)
        return StepUpdate(now, steps, probabilities, padding, alarms)

    def _embed(self, frames: Tensor) -> Tensor:
        """Map (T, C, H, W) pictures -> (T, D); embeddings pass."""
        if not isinstance(self.model, EncodesFrames):
            return frames
        self.encoded += len(frames)
        with self.autocast():
            return self.model.embed(frames[:, :, None]).float()


def build_step_stream(cfg: CfgNode, procedure: str = "", *, cache: bool = True, fps: float = 10.0) -> StepStream:
    """Return the stream that a configuration's TEST would run, with the checkpoint that it would test.

    ``stream.push(picture)`` takes a KeyStepVideo's pictures as uint8 RGB (C, H, W) of any size, a TemporalEncoder's
    embeddings (D,), and returns a :class:`dust.models.keystep_stream.StepUpdate`.

    Args:
        procedure: the name of what is being done, of those in the data folder's procedure file; "" for the first.
        fps: frames per second that will be pushed, for KEYSTEP.MISTAKES.WAIT.
        cache: False encodes all frames of every window again, for comparison.

    Raises:
        DataError: no such procedure. CheckpointError: nothing to test, or it does not fit.
    """
    cfg = build_settled(cfg)
    data = procedures_of(cfg, "test", labels=False, frames=False)
    name = procedure or next(iter(data.start_states))
    what, graph, rule = data.procedure(name), data.graph(name), build_mistake_rule(cfg)
    states = state_vectors(data.state_names) if data.state_names else {}
    device = build_device(cfg)
    path = build_checkpoint_to_test(cfg).path()
    model = build_for(cfg, device)
    load_trained(model, path, load_checkpoint(path), output_dir=cfg.OUTPUT_DIR, weights=build_weights_choice(cfg))
    decoder = build_step_decoder(cfg)
    return StepStream(
        model,
        decoder,
        functools.partial(decoder.start, what, states),
        watch=functools.partial(MistakeWatch, graph, what, rule, fps),
        components=what.num_components,
        frames=cfg.KEYSTEP.FRAMES,
        skip=cfg.KEYSTEP.SKIP_FACTOR,
        phases=cfg.KEYSTEP.INFER.PHASES,
        transform=build_picture_transform(cfg) if isinstance(model, EncodesFrames) else None,
        cache=cache,
        autocast=build_autocast(cfg, device),
    )


#: The name by which users know it (docs/KEYSTEP.md).
open_stream = build_step_stream


def build_picture_transform(cfg: CfgNode) -> Callable[[Tensor], Tensor]:
    """Map uint8 (C, H, W) -> normalised float32 (C, size, size) with the side that the model was trained for.

    A picture of another size is scaled here, with antialiasing; the datasets let the decoder scale, which is not the
    same to the last bit. For the same bits push frames as :class:`dust.datasets.keystep.frames.FrameReader` reads them.
    """
    return functools.partial(_prepare, build_device_transform(cfg), cfg.DATA.TRAIN_CROP_SIZE)


def _prepare(transform: DeviceTransform, size: int, picture: Tensor) -> Tensor:
    if picture.dtype != torch.uint8 or picture.ndim != 3:
        raise DataError(
            f"a picture of {picture.dtype} and shape {tuple(picture.shape)} was pushed; it must be uint8 (C, H, W)"
        )
    if picture.shape[1:] != (size, size):
        from torchvision.transforms.v2 import functional as F

        picture = F.resize(picture, [size, size], antialias=True)
    return transform.normalize(picture[None, :, None])[0, :, 0]
