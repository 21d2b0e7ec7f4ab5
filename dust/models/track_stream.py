"""Point tracks as they come in: a decision every few frames, and each frame's front end computed once.

Windows overlap (of 50 frames every 5), but the front end sees one frame at a time, so its features are kept and a new
window costs the front end of its new frames only. The logits are those of the whole windows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dust.models.track_front_end import PointTrackModel
from dust.models.tracks import PointTrackLSTM, State
from dust.utils.errors import ConfigError, DustError


@dataclass(frozen=True)
class StreamWindow:
    """Frames ``start`` to ``stop`` (exclusive) of the sequence, and their logits (K,) on the CPU."""

    start: int
    stop: int
    logits: Tensor


@dataclass(frozen=True, slots=True)
class FrameDecision:
    """``label``: a class index. ``probability``: the mean of that class over the windows that cover the frame."""

    frame: int
    label: int
    probability: float


class TrackStream:
    """Feeds one sequence to a model, frame by frame.

    Args:
        model: a PointTrackTransformer or PointTrackLSTM; it is put into evaluation mode.
        window: frames that the model sees at once.
        stride: frames between windows, at most ``window``.
        view_mask: (V,) bool, the cameras that are there in this sequence; None: all.
        stateful: PointTrackLSTM only: go on from the state of the window before; the stride must be the window.

    Every window's logits are kept for :meth:`timeline` until :meth:`reset`.
    ``front_end_frames`` counts the frames (of all cameras) that went through the front end.
    """

    def __init__(
        self,
        model: PointTrackModel,
        *,
        window: int = 50,
        stride: int = 5,
        view_mask: Tensor | None = None,
        stateful: bool = False,
    ) -> None:
        if not 1 <= stride <= window:
            raise ConfigError(f"window {window}, stride {stride}: the stride must be in 1..window")
        if stateful and (not isinstance(model, PointTrackLSTM) or stride != window):
            raise ConfigError("stateful needs a PointTrackLSTM, and a stride that is the window")
        self.model = model.eval()
        self.window = window
        self.stride = stride
        self.stateful = stateful
        self.device = next(model.parameters()).device
        self.reset(view_mask)

    def reset(self, view_mask: Tensor | None = None) -> None:
        """Forget everything: a new sequence begins, with these cameras."""
        self.view_mask = None if view_mask is None else view_mask.to(self.device)[None]
        self.front_end_frames = 0
        self._new: list[tuple[Tensor, Tensor]] = []  # frames that have not been through the front end
        self._features: Tensor | None = None  # (T, V, F) of the newest frames, a window at most
        self._windows: list[StreamWindow] = []
        self._state: State | None = None
        self._count = 0

    def push(self, points: Tensor, visible: Tensor | None = None) -> StreamWindow | None:
        """The next frame: points (V, P, 2) as the model takes them, visible (V, P) bool or None for all.

        Returns:
            A window whenever one is full, else None.
        """
        if points.ndim != 3:
            raise DustError(f"points of one frame are (V, P, 2), got {tuple(points.shape)}")
        seen = torch.ones(points.shape[:2], dtype=torch.bool) if visible is None else visible
        self._new.append((points, seen))
        self._count += 1
        if self._count < self.window or (self._count - self.window) % self.stride:
            return None
        return self._decide(self._count - self.window, None)

    def finish(self) -> StreamWindow | None:
        """The sequence is over: a window for its last frames, if no window holds them yet. A sequence shorter than a
        window is padded. With ``stateful`` the state is forgotten."""
        done = self._windows[-1].stop if self._windows else 0
        last = None
        if self._count > done:
            short = self._count < self.window
            fresh = self._count - done if self.stateful else self.window
            last = self._decide(max(0, self._count - fresh), self._count if short else None)
        self._state = None
        return last

    @torch.inference_mode()
    def _decide(self, start: int, length: int | None) -> StreamWindow:
        """The window from ``start`` to the newest frame; of ``length`` frames, the rest padded, if that is given."""
        self._run_front_end()
        assert self._features is not None
        frames = self._features[None, -(self._count - start) :]  # (1, T, V, F)
        if self.stateful:
            assert isinstance(self.model, PointTrackLSTM)
            outputs, self._state = self.model.read_frames(frames, self._state)
            features = outputs[:, -1] if self.model.pool == "last" else outputs.mean(dim=1)
        elif length is None:
            features = self.model.forward_frames(frames, self.view_mask)
        else:
            padding = frames.new_zeros((1, self.window - length, *frames.shape[2:]))
            time_mask = torch.arange(self.window, device=self.device)[None] < length
            features = self.model.forward_frames(torch.cat([frames, padding], dim=1), self.view_mask, time_mask)
        logits = self.model.forward_head(features)[0].float().cpu()
        self._windows.append(StreamWindow(start, self._count, logits))
        return self._windows[-1]

    def _run_front_end(self) -> None:
        if not self._new:
            return
        points, visible = (torch.stack(parts, dim=1)[None].to(self.device) for parts in zip(*self._new, strict=True))
        features = self.model.frame_features(points, visible, self.view_mask)[0]  # (T, V, F)
        self.front_end_frames += len(features)
        kept = features if self._features is None else torch.cat([self._features, features])
        self._features = kept[-self.window :]
        self._new.clear()

    def windows(self) -> list[StreamWindow]:
        """All windows since :meth:`reset`, in their order."""
        return list(self._windows)

    def timeline(self, how: str = "vote") -> list[FrameDecision]:
        """One decision per frame that a window covers.

        Args:
            how: vote (the class that most of the frame's windows chose, of equal ones the more probable) | mean (the
                class of the largest mean probability).
        """
        if how not in ("vote", "mean"):
            raise ConfigError(f"a timeline is made by vote or mean, not by {how!r}")
        if not self._windows:
            return []
        probabilities = torch.stack([window.logits for window in self._windows]).softmax(dim=1)  # (N, K)
        votes = torch.nn.functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
        total, chosen = torch.zeros(self._count, probabilities.shape[1]), torch.zeros(self._count, votes.shape[1])
        covered = torch.zeros(self._count, dtype=torch.long)
        for number, window in enumerate(self._windows):
            frames = slice(window.start, window.stop)
            total[frames] += probabilities[number]
            chosen[frames] += votes[number]
            covered[frames] += 1
        mean = total / covered.clamp(min=1)[:, None]
        score = mean if how == "mean" else chosen + mean  # a mean is at most 1: it only parts equal votes
        labels = score.argmax(dim=1)
        return [
            FrameDecision(frame, int(labels[frame]), float(mean[frame, labels[frame]]))
            for frame in range(self._count)
            if covered[frame]
        ]
