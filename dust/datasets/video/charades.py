"""Charades as SlowFast lists it: the frames of each video as pictures, with the actions that each of them shows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.frame_lists import names_hash
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.transforms.frames import ClipSampler, Rng
from dust.datasets.video.video import VideoDataset
from dust.decode.reader import ClipReader, FrameFolderReader
from dust.utils.errors import VideoError


class StepSampler(ClipSampler):
    """SlowFast's rule for Charades: every ``sampling_rate``-th picture; past an end its last one is repeated."""

    def _steps(self, video_len: int, start: int) -> list[int]:
        numbers = start + self.sampling_rate * np.arange(self.num_frames)
        return np.clip(numbers, 0, video_len - 1).tolist()

    def _slack(self, video_len: int) -> int:
        return video_len - (self.num_frames - 1) * self.sampling_rate - 1

    def span(self, fps: float) -> float:
        """Return the frames from a view's first to its last."""
        return self.clips_per_view * ((self.num_frames - 1) * self.sampling_rate + 1)

    def _random(self, video_len: int, fps: float, rng: Rng) -> list[int]:
        """Start anywhere; a video shorter than the clip begins up to so many steps late."""
        slack = self._slack(video_len)
        return self._steps(video_len, int(rng.randint(min(slack, 0), max(slack, 0) + 1)))

    def _centre(self, video_len: int, fps: float) -> list[int]:
        """Return the one centre clip. (SlowFast validates on a random one.)"""
        return self._steps(video_len, max(self._slack(video_len), 0) // 2)

    def _view(self, video_len: int, fps: float, num_clips: int, clip_idx: int) -> list[int]:
        """Spread from the beginning to the very end; a single clip begins at the first frame."""
        gap = max(self._slack(video_len), 0) / max(num_clips - 1, 1)
        return self._steps(video_len, round(gap * clip_idx))


@DATASET_REGISTRY.register()
class Charades(VideoDataset):
    """``train.csv`` and ``val.csv`` of ``original_vido_id video_id frame_id path labels``, a row for each frame.

    In training a clip has the labels that its frames show, from the first to the last; otherwise the whole video's.
    Clips of other lists, of which the manifest knows no frames, keep their label.

    Args:
        manifest: see :mod:`dust.datasets.manifest.frame_lists`.
        reading: the other arguments of VideoDataset.
    """

    default_format = "charades"

    def __init__(self, *, manifest: Manifest, **reading: Any) -> None:
        super().__init__(manifest=manifest, **reading)
        self.frame_labels = manifest.frames

    @classmethod
    def reading_from_config(cls, cfg: Any, views: str) -> dict[str, Any]:
        reading = super().reading_from_config(cfg, views)
        old = reading["sampler"]
        sampler = StepSampler(
            mode=old.mode, num_frames=old.num_frames, sampling_rate=old.sampling_rate, target_fps=old.target_fps,
            clips_per_view=old.clips_per_view,
        )  # fmt: skip
        return {**reading, "sampler": sampler}

    def open(self, clip: Clip) -> ClipReader:
        """Return a reader of the clip. VideoError where it cannot be opened, or has other frames than the list."""
        reader, listed = super().open(clip), self.frame_labels.get(clip.id)
        if listed is None:
            return reader
        reason = ""
        if len(reader) != len(listed.codes):
            reason = f"the list has {len(listed.codes)} frames of it, the folder {len(reader)} pictures"
        elif isinstance(reader, FrameFolderReader) and names_hash(reader.names) != listed.names:
            reason = "the list names other pictures than the folder has"
        if reason:
            reader.close()
            raise VideoError(clip.path, reason)
        return reader

    def as_seen(self, clip: Clip, frames: Sequence[int]) -> Clip:
        """Return the clip with the labels of the frames from the first to the last."""
        listed = self.frame_labels.get(clip.id)
        return clip if listed is None else replace(clip, label=listed.between(frames[0], frames[-1]))
