"""Recordings as they would come in: a point track model decides every few frames, and each frame gets a class."""

import csv
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.sample import BadClip
from dust.datasets.tracks.recordings import TrackRecordings
from dust.datasets.tracks.tracks import PointTracks
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_for, device_of
from dust.engine.test import checkpoint_to_test
from dust.engine.weights import load_trained
from dust.models.track_front_end import PointTrackModel
from dust.models.track_stream import FrameDecision, TrackStream
from dust.utils.checkpoint import file_sha256, load_checkpoint
from dust.utils.errors import ConfigError, DataError
from dust.utils.logging import progress
from dust.utils.metrics import f1_scores
from dust.visualization.timeline import timeline_figure

logger = logging.getLogger(__name__)


def stream_tracks(
    cfg, run: RunDir, *, split: str = "test", stride: int = 5, how: str = "vote", stateful: bool = False
) -> dict[str, Any]:
    """Streams every recording of a split in windows of TRACKS.WINDOW frames.

    Writes ``OUTPUT_DIR/stream_<split>/``: for each recording a csv (frame, prediction, probability, label) and a
    picture, and ``stream.json``.

    Args:
        stride: frames from one decision to the next.
        how: vote | mean, see :meth:`TrackStream.timeline`.
        stateful: PointTrackLSTM: windows that go on from each other; ``stride`` is then the window.

    Returns:
        What stream.json holds: accuracy, macro and weighted F1 over labelled frames (percent), counts of frames and
        windows, and how often a frame went through the front end with and without the cache.

    Raises:
        ConfigError: the model is not one of point tracks.
    """
    device = device_of(cfg)
    path = checkpoint_to_test(cfg, run)
    saved = load_checkpoint(path)
    model = build_for(cfg, device)
    if not isinstance(model, PointTrackModel):
        raise ConfigError(f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME}: PointTrackTransformer and PointTrackLSTM stream")
    load_trained(cfg, model, path, saved)
    recordings = TrackRecordings(PointTracks.from_config(cfg, split, saved.get("class_names"), views="test"))
    window = cfg.TRACKS.WINDOW
    stream = TrackStream(model, window=window, stride=window if stateful else stride, stateful=stateful)
    bad_clips = BadClipLog(run.path / "bad_clips.csv", split, cfg.TEST.ON_BAD_CLIP, key="TEST.ON_BAD_CLIP")
    folder = run.path / f"stream_{split}"
    folder.mkdir(exist_ok=True)
    files = _file_names(recordings.names)
    counts = {"frames": 0, "windows": 0, "front_end_frames": 0, "front_end_frames_without_cache": 0}
    everything: list[np.ndarray] = []
    for number, file in enumerate(progress(files, desc=f"streaming {split}")):
        decisions, labels = _stream_one(stream, recordings, number, how, bad_clips, counts)
        if not len(labels):
            continue
        predicted, probability = _by_frame(decisions, len(labels))
        everything.append(np.stack([predicted, labels]))
        names = recordings.dataset.class_names
        _write_csv(folder / f"{file}.csv", predicted, probability, labels, names)
        figure = timeline_figure(predicted, probability, labels, names, cfg.TRACKS.FPS)
        figure.savefig(folder / f"{file}.png", dpi=100)
    if not everything:
        raise DataError(f"no recording of the {split} split could be read; see {bad_clips.path}")
    report = {
        "metrics": _metrics(*np.concatenate(everything, axis=1)),
        "counts": {"recordings": len(everything), **counts, "bad_clips": bad_clips.count},
        "window": window,
        "stride": stream.stride,
        "checkpoint_sha256": file_sha256(path),
    }
    (folder / "stream.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("%d recordings; timelines: %s", len(everything), folder)
    return report


def _stream_one(
    stream: TrackStream,
    recordings: TrackRecordings,
    number: int,
    how: str,
    bad_clips: BadClipLog,
    counts: dict[str, int],
) -> tuple[list[FrameDecision], np.ndarray]:
    """(decisions, labels) of a recording. Where other cameras are there than before, the stream begins anew."""
    decisions: list[FrameDecision] = []
    labels: list[np.ndarray] = []
    played, current = 0, None

    def close() -> None:
        stream.finish()
        done = stream.timeline(how)
        decisions.extend(FrameDecision(one.frame + played, one.label, one.probability) for one in done)
        windows = stream.windows()
        counts["windows"] += len(windows)
        counts["front_end_frames"] += stream.front_end_frames
        counts["front_end_frames_without_cache"] += sum(one.stop - one.start for one in windows)

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
    """Class numbers (length,), -1 where no window was, and their probabilities."""
    predicted, probability = np.full(length, -1), np.zeros(length)
    for one in decisions:
        predicted[one.frame], probability[one.frame] = one.label, one.probability
    return predicted, probability


def _metrics(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    counted = labels >= 0
    if not counted.any():
        return {}
    right = predicted[counted] == labels[counted]
    return {"frame_acc": 100.0 * float(right.mean()), **f1_scores(predicted[counted], labels[counted])}


def _file_names(names: Sequence[str]) -> list[str]:
    """Names that a file may have, each once."""
    safe = [re.sub(r"[^A-Za-z0-9_.-]+", "_", name) for name in names]
    return [name if safe.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(safe)]


def _write_csv(
    path: Path, predicted: np.ndarray, probability: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "prediction", "probability", "label"])
        for frame, (guess, sure, label) in enumerate(zip(predicted, probability, labels, strict=True)):
            words = [names[number] if number >= 0 else "" for number in (guess, label)]
            writer.writerow([frame, words[0], f"{sure:.4f}", words[1]])
