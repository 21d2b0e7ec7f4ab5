"""Charades as SlowFast lists it: the frames of each video as pictures, with the actions that each of them shows."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.labels import read_class_list
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.transforms.frames import ClipSampler, Rng
from dust.datasets.video.video import VideoDataset
from dust.decode.reader import ClipReader
from dust.utils.errors import DataError, Problems, VideoError
from dust.utils.files import read_text

HEADER = ["original_vido_id", "video_id", "frame_id", "path", "labels"]  # the misspelling is the published lists'
FILES = {"train": ("train.csv",), "val": ("val.csv",), "test": ("test.csv", "val.csv")}


class StepSampler(ClipSampler):
    """SlowFast's rule for Charades: every ``sampling_rate``-th picture; past an end its last one is repeated."""

    def _steps(self, video_len: int, start: int) -> list[int]:
        numbers = start + self.sampling_rate * np.arange(self.num_frames)
        return np.clip(numbers, 0, video_len - 1).tolist()

    def _slack(self, video_len: int) -> int:
        return video_len - (self.num_frames - 1) * self.sampling_rate - 1

    def train(self, video_len: int, fps: float, rng: Rng) -> list[int]:
        """Start anywhere; a video shorter than the clip begins up to so many steps late."""
        slack = self._slack(video_len)
        return self._steps(video_len, int(rng.randint(min(slack, 0), max(slack, 0) + 1)))

    def val(self, video_len: int, fps: float) -> list[int]:
        """The one centre clip. (SlowFast validates on a random one.)"""
        return self._steps(video_len, max(self._slack(video_len), 0) // 2)

    def test(self, video_len: int, fps: float, num_clips: int) -> list[list[int]]:
        """Spread from the beginning to the very end; a single clip begins at the first frame."""
        gap = max(self._slack(video_len), 0) / max(num_clips - 1, 1)
        return [self._steps(video_len, round(gap * number)) for number in range(num_clips)]


@DATASET_REGISTRY.register()
class Charades(VideoDataset):
    """``train.csv`` and ``val.csv`` of ``original_vido_id video_id frame_id path labels``, a row for each frame.

    Labels are numbers with commas between them, in quotes, or "". In training a clip has the labels that its frames
    show, from the first to the last; otherwise the whole video's. DATA.PATH_PREFIX stands before the paths.

    Args:
        frame_labels: by clip, for each of its frames the place of its labels in ``label_sets``.
        label_sets: every set of labels that occurs, sorted.
        reading: the other arguments of VideoDataset.
    """

    def __init__(
        self, *, frame_labels: dict[str, np.ndarray], label_sets: list[tuple[int, ...]], **reading: Any
    ) -> None:
        super().__init__(**reading)
        self.frame_labels, self.label_sets = frame_labels, label_sets

    @classmethod
    def from_config(
        cls, cfg: Any, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        data = cfg.DATA
        if not data.MULTI_LABEL:
            raise DataError("Charades has several labels for a clip: set DATA.MULTI_LABEL True and a loss of bce_logit")
        if class_names is None and data.CLASS_LIST:
            class_names = read_class_list(data.CLASS_LIST)
        names = list(class_names or map(str, range(cfg.MODEL.NUM_CLASSES)))
        found = [Path(data.PATH_TO_DATA_DIR).expanduser() / name for name in FILES[split]]
        path = next((file for file in found if file.is_file()), None)
        if path is None:
            raise DataError(f"no {' or '.join(map(str, found))}: set DATA.PATH_TO_DATA_DIR to SlowFast's frame lists")
        read = read_frame_list(path, names, data.PATH_PREFIX, check_files=data.CHECK_FILES)
        reading = cls.reading_from_config(cfg, views or split)
        old = reading["sampler"]
        sampler = StepSampler(
            mode=old.mode, num_frames=old.num_frames, sampling_rate=old.sampling_rate, target_fps=old.target_fps
        )
        return {**read, **reading, "sampler": sampler}

    def open(self, clip: Clip) -> ClipReader:
        """A reader of the clip. VideoError where it cannot be opened, or has other frames than the list."""
        reader = super().open(clip)
        if len(reader) != len(self.frame_labels[clip.id]):
            reader.close()
            listed = len(self.frame_labels[clip.id])
            raise VideoError(clip.path, f"the list has {listed} frames of it, the folder {len(reader)} pictures")
        return reader

    def as_seen(self, clip: Clip, frames: Sequence[int]) -> Clip:
        """The clip with the labels of the frames from the first to the last."""
        codes = np.unique(self.frame_labels[clip.id][frames[0] : frames[-1] + 1])
        return replace(clip, label=tuple(sorted({label for code in codes for label in self.label_sets[code]})))


def read_frame_list(path: Path, names: Sequence[str], prefix: str, *, check_files: bool) -> dict[str, Any]:
    """Read one of SlowFast's frame lists.

    Args:
        path: the file; its first line is ``HEADER``.
        names: the classes in their order; labels are places in it.
        prefix: put before every path.
        check_files: whether the folder of each video must be there.

    Returns:
        ``manifest`` (a clip for each video, with the labels of all its frames), ``frame_labels`` and ``label_sets``.

    Raises:
        DataError: with all that is wrong in it.
    """
    lines = read_text(path).splitlines()
    if not lines or lines[0].split() != HEADER:
        raise DataError(f"{path}: the first line must be: {' '.join(HEADER)}")
    problems = Problems()
    folders: dict[str, str] = {}
    codes: dict[str, list[int]] = {}
    sets: dict[tuple[int, ...], int] = {}
    for number, line in enumerate(lines[1:], 2):
        row = line.split()
        if not row:
            continue
        labels = row[-1].replace('"', "").split(",") if len(row) == 5 else ["?"]
        labels = [label for label in labels if label]
        if not all(label.isdigit() for label in labels):
            problems.add(f"a row is {' '.join(HEADER)}, its labels numbers with commas", f"line {number}")
            continue
        wrong = [label for label in labels if int(label) >= len(names)]
        if wrong:
            problems.add(
                f"a label that is none of the {len(names)} classes (MODEL.NUM_CLASSES)", f"line {number}: {wrong[0]}"
            )
            continue
        folder = os.path.dirname(os.path.join(os.path.expanduser(prefix), row[3]))
        if folders.setdefault(row[0], folder) != folder:
            problems.add("a video whose frames lie in several folders", row[0])
        key = tuple(sorted({int(label) for label in labels}))
        codes.setdefault(row[0], []).append(sets.setdefault(key, len(sets)))
    if check_files:
        for folder in folders.values():
            if not os.path.isdir(folder):
                problems.add("a folder of frames that is not there (DATA.PATH_PREFIX stands before it)", folder)
    problems.raise_if_any(str(path))
    if not codes:
        raise DataError(f"{path}: lists no frame")
    label_sets = list(sets)
    clips = []
    for video, numbers in codes.items():
        label = tuple(sorted({label for code in set(numbers) for label in label_sets[code]}))
        clips.append(Clip(video, folders[video], label))
    frame_labels = {video: np.array(numbers, np.uint32) for video, numbers in codes.items()}
    return {
        "manifest": Manifest(clips, list(names), str(path), True),
        "frame_labels": frame_labels,
        "label_sets": label_sets,
    }
