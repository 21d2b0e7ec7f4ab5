"""Point tracks as they come in: a decision every few frames, and each frame's front end computed once.

Windows overlap (of 50 frames every 5), but the front end sees one frame at a time, so its features are kept and a new
window costs the front end of its new frames only. The logits are those of the whole windows.
"""

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.config import CfgNode
from dust.datasets.sample import BadClip
from dust.datasets.tracks.recordings import TrackRecordings
from dust.datasets.tracks.tracks import PointTracks
from dust.engine.checkpoints import build_checkpoint_to_test
from dust.engine.inference import OutputError, why_not_finite
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import Autocast, build_autocast, build_device, build_for
from dust.engine.stages import build_settled
from dust.engine.weights import build_weights_choice, load_trained
from dust.models.track_front_end import PointTrackModel
from dust.models.tracks import PointTrackLSTM, State
from dust.utils.checkpoint import file_sha256, learnt_of, load_checkpoint
from dust.utils.errors import ConfigError, DustError
from dust.utils.files import file_stems, write_csv, write_text
from dust.utils.logging import progress
from dust.utils.metrics import f1_scores
from dust.visualization.timeline import timeline_figure


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
        stateful: PointTrackLSTM only: continue from the state of the window before; the stride must be the window.
        autocast: a context for all that the model computes, as in a test.

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
        autocast: Autocast = contextlib.nullcontext,
    ) -> None:
        self.autocast = autocast
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
        """Take the next frame: points (V, P, 2) as the model takes them, visible (V, P) bool or None for all.

        Returns:
            A window whenever one is full, else None.

        Raises:
            DustError: other shapes, or than in the frame before; points that are visible and not finite.
            OutputError: what the model says of the window is not finite.
        """
        if not isinstance(points, Tensor) or points.ndim != 3 or points.shape[2] != 2:
            raise DustError(f"points of one frame are (V, P, 2), got {tuple(np.shape(points))}")
        seen = torch.ones(points.shape[:2], dtype=torch.bool) if visible is None else visible
        if not isinstance(seen, Tensor) or seen.shape != points.shape[:2] or seen.dtype != torch.bool:
            raise DustError(f"visible must be bool {tuple(points.shape[:2])}, for each point of the frame")
        if self._new and points.shape != self._new[-1][0].shape:
            before = tuple(self._new[-1][0].shape)
            raise DustError(f"points of frame {self._count} are {tuple(points.shape)}, those before are {before}")
        if not bool(torch.isfinite(points[seen.to(points.device)]).all()):
            raise DustError(f"visible points of frame {self._count} are not finite")
        self._new.append((points, seen))
        self._count += 1
        if self._count < self.window or (self._count - self.window) % self.stride:
            return None
        return self._decide(self._count - self.window, None)

    def finish(self) -> StreamWindow | None:
        """End the sequence: return a window for its last frames, if no window holds them yet. A sequence shorter
        than a window is padded. With ``stateful`` the state is forgotten."""
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
        """Decide on the window from ``start`` to the newest frame; of ``length`` frames, the rest padded, if that is
        given."""
        with self.autocast():
            logits = self._logits(start, length)[0].float().cpu()
        reason = why_not_finite(logits)
        if reason:
            raise OutputError(f"frames {start} to {self._count - 1}: {reason}")
        self._windows.append(StreamWindow(start, self._count, logits))
        return self._windows[-1]

    def _logits(self, start: int, length: int | None) -> Tensor:
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
        return self.model.forward_head(features)

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
        """Return all windows since :meth:`reset`, in their order."""
        return list(self._windows)

    def timeline(self, how: str = "vote") -> list[FrameDecision]:
        """Return one decision per frame that a window covers.

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


logger = logging.getLogger(__name__)


def run_stage(
    cfg: CfgNode, run: RunDir, *, split: str = "test", stride: int = 5, how: str = "vote", stateful: bool = False
) -> dict[str, Any]:
    """Stream every recording of a split in windows of TRACKS.WINDOW frames.

    Writes ``OUTPUT_DIR/stream_<split>/``: for each recording a csv (frame, prediction, probability, label) and a
    picture, and ``stream.json``.

    Args:
        stride: frames from one decision to the next.
        how: vote | mean, see :meth:`TrackStream.timeline`.
        stateful: PointTrackLSTM: windows that continue each other; ``stride`` is then the window.

    Returns:
        What stream.json holds: accuracy, macro and weighted F1 over labelled frames (percent), counts of frames and
        windows, and how often a frame went through the front end with and without the cache.

    Raises:
        ConfigError: the model is not one of point tracks.
        dust.utils.errors.DataError: a clip could not be used and may not be left out; all others are written.
    """
    cfg = build_settled(cfg)
    device = build_device(cfg)
    path = build_checkpoint_to_test(cfg).path()
    saved = load_checkpoint(path)
    model = build_for(cfg, device)
    if not isinstance(model, PointTrackModel):
        raise ConfigError(f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME}: PointTrackTransformer and PointTrackLSTM stream")
    load_trained(model, path, saved, output_dir=cfg.OUTPUT_DIR, weights=build_weights_choice(cfg))
    recordings = TrackRecordings(PointTracks.from_config(cfg, split, learnt_of(saved, path)[0], views="test"))
    window = cfg.TRACKS.WINDOW
    autocast, step = build_autocast(cfg, device), window if stateful else stride
    stream = TrackStream(model, window=window, stride=step, stateful=stateful, autocast=autocast)
    bad_clips = BadClipLog(run.path / "bad_clips.csv", split, cfg.TEST.ON_BAD_CLIP, key="TEST.ON_BAD_CLIP")
    folder = run.path / f"stream_{split}"
    folder.mkdir(exist_ok=True)
    files = file_stems(recordings.names)
    counts = {"frames": 0, "windows": 0, "front_end_frames": 0, "front_end_frames_without_cache": 0}
    everything: list[np.ndarray] = []
    for number, file in enumerate(progress(files, desc=f"streaming {split}")):
        try:
            decisions, labels = _stream_one(stream, recordings, number, how, bad_clips, counts)
        except OutputError as error:
            bad_clips(BadClip(recordings.names[number], recordings.names[number], str(error)))
            continue
        if not len(labels):
            continue
        predicted, probability = _by_frame(decisions, len(labels))
        everything.append(np.stack([predicted, labels]))
        names = recordings.dataset.class_names
        _write_csv(folder / f"{file}.csv", predicted, probability, labels, names)
        figure = timeline_figure(predicted, probability, labels, names, cfg.TRACKS.FPS)
        figure.savefig(folder / f"{file}.png", dpi=100)
    if not everything:
        bad_clips.refuse_empty(len(recordings.names))
    report = {
        "metrics": _metrics(*np.concatenate(everything, axis=1)),
        "counts": {"recordings": len(everything), **counts, "bad_clips": bad_clips.count},
        "window": window,
        "stride": stream.stride,
        "checkpoint_sha256": file_sha256(path),
    }
    write_text(folder / "stream.json", json.dumps(report, indent=2) + "\n")
    logger.info("%d recordings; timelines: %s", len(everything), folder)
    bad_clips.finish(folder)
    return report


def _stream_one(
    stream: TrackStream,
    recordings: TrackRecordings,
    number: int,
    how: str,
    bad_clips: BadClipLog,
    counts: dict[str, int],
) -> tuple[list[FrameDecision], np.ndarray]:
    """Return (decisions, labels) of a recording. Where other cameras are there than before, the stream begins again."""
    decisions: list[FrameDecision] = []
    labels: list[np.ndarray] = []
    played, current = 0, None

    def close() -> None:
        stream.finish()
        done = stream.timeline(how)
        decisions.extend(
            FrameDecision(decision.frame + played, decision.label, decision.probability) for decision in done
        )
        windows = stream.windows()
        counts["windows"] += len(windows)
        counts["front_end_frames"] += stream.front_end_frames
        counts["front_end_frames_without_cache"] += sum(window.stop - window.start for window in windows)

    for part in recordings.parts(number):
        if isinstance(part, BadClip):
            bad_clips(part)
            continue
        if current is None or not part.view_mask.equal(current):
            if current is not None:
                close()
                played = sum(map(len, labels))
            current = part.view_mask
            stream.reset(current)
        for points, visible in zip(part.tracks, part.visible, strict=True):
            stream.push(points, visible)
        labels.append(part.labels)
    if current is None:
        return [], np.zeros(0, int)
    close()
    total = np.concatenate(labels)
    counts["frames"] += len(total)
    return decisions, total


def _by_frame(decisions: Sequence[FrameDecision], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class numbers (length,), -1 where no window was, and their probabilities."""
    predicted, probability = np.full(length, -1), np.zeros(length)
    for decision in decisions:
        predicted[decision.frame], probability[decision.frame] = decision.label, decision.probability
    return predicted, probability


def _metrics(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    counted = labels >= 0
    if not counted.any():
        return {}
    right = predicted[counted] == labels[counted]
    return {"frame_acc": 100.0 * float(right.mean()), **f1_scores(predicted[counted], labels[counted])}


def _write_csv(
    path: Path, predicted: np.ndarray, probability: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    rows = []
    for frame, (guess, sure, label) in enumerate(zip(predicted, probability, labels, strict=True)):
        words = [names[number] if number >= 0 else "" for number in (guess, label)]
        rows.append([frame, words[0], f"{sure:.4f}", words[1]])
    write_csv(path, ["frame", "prediction", "probability", "label"], rows, line_end="\r\n")
