"""Stored embeddings of recordings: of every frame, or of clips some frames apart, by any model.

The FEATURES stage wrote them (FORMAT per_video), or STORM-PSR. A recording's frames are what all else counts in: the
embedding of a frame is the newest one whose clip has ended by then, so that it knows nothing of what comes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dust.datasets.keystep.data import Recording
from dust.datasets.transforms.frames import dense_span
from dust.utils.errors import DataError, Problems
from dust.utils.features import FeatureStore
from dust.utils.files import open_file
from dust.utils.structured import parse_yaml


def clip_length(num_frames: int, sampling_rate: float) -> int:
    """Return the frames from a clip to the next where they do not overlap."""
    return max(round(num_frames * sampling_rate), 1)


#: Datasets whose embeddings are of each frame, and of clips that end every STRIDE frames.
EACH_FRAME, ENDING_CLIPS = "RecordingFrames", "RecordingClips"
#: What says how far apart the embeddings of clips are.
PACE_KEYS = ("FEATURES.STRIDE", "DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS")


@dataclass(frozen=True)
class Pace:
    """Which frames embeddings are of: number i is there from frame ``first + i * stride`` on."""

    first: int = 0
    stride: int = 1

    @classmethod
    def of(cls, meta: Mapping[str, Any], fps: float) -> "Pace":
        """Return the pace of a recording at ``fps``, as the configuration says that is stored with features; without
        one they are of every frame. DataError where it does not say how far apart they are."""
        said = parse_yaml(str(meta.get("config", "")) or "{}", "the features' configuration") or {}
        dataset = said.get("TRAIN.DATASET", EACH_FRAME) if isinstance(said, Mapping) else ""
        if dataset == EACH_FRAME:
            return cls()
        lacks = [
            key for key in PACE_KEYS if not isinstance(said, Mapping) or not isinstance(said.get(key), int | float)
        ]
        if lacks:
            raise DataError(
                f"the features' configuration does not say which frames they are of ({', '.join(lacks)}): extract them "
                "again, by RecordingClips or RecordingFrames"
            )
        if dataset == ENDING_CLIPS:
            stride = int(said["FEATURES.STRIDE"]) or clip_length(said["DATA.NUM_FRAMES"], said["DATA.SAMPLING_RATE"])
            return cls(stride - 1, stride)
        span = dense_span(said["DATA.NUM_FRAMES"], said["DATA.SAMPLING_RATE"], fps, said["DATA.TARGET_FPS"])
        return cls(max(math.ceil(span) - 1, 0), int(said["FEATURES.STRIDE"]) or max(round(span), 1))

    @property
    def of_every_frame(self) -> bool:
        return self.stride == 1 and not self.first

    def count(self, frames: int) -> int:
        """Return how many embeddings a recording of so many frames has; one at least."""
        return max((frames - 1 - self.first) // self.stride + 1, 1)

    def rows(self, frames: Any, count: int) -> np.ndarray:
        """Return for each frame the number of its embedding, of ``count``; those before the first one share it."""
        return np.clip((np.asarray(frames) - self.first) // self.stride, 0, count - 1)


def every_frame(store: "FeatureStore | CsvEmbeddings") -> bool:
    """Tell whether a recording has as many embeddings as frames."""
    return Pace.of(store.meta, 10.0).of_every_frame


class Embeddings:
    """Those of the recordings of one split, frame by frame.

    Args:
        store: (rows, D) for each id.
        recordings: with their numbers of frames where embeddings are not of every frame.
        span: frames of a window of the temporal encoder.
        problems: what is wrong with them is added to these.
    """

    def __init__(
        self, store: "FeatureStore | CsvEmbeddings", recordings: Sequence[Recording], span: int, problems: Problems
    ) -> None:
        self.store = store
        self._ids = ids_of(store, recordings)
        self._open: dict[str, Any] = {}
        self.paces = {one.id: Pace.of(store.meta, one.fps) for one in recordings}
        self.missing = [one.id for one in recordings if self._ids.get(one.id) in set(store.missing)]
        self._check(recordings, span, problems)

    def _check(self, recordings: Sequence[Recording], span: int, problems: Problems) -> None:
        for one in recordings:
            pace = self.paces[one.id]
            if one.id not in self._ids:
                begin = ", ".join(self.store.ids[:3])
                text = f"a recording without embeddings: extract those of this data (stored are {begin} ...)"
                problems.add(text, one.id)
            elif one.id in self.missing or pace.of_every_frame:
                continue
            elif not one.num_frames:
                problems.add("its frames cannot be counted, and embeddings are not of every frame", one.id)
            elif len(self.of(one.id)) != pace.count(one.num_frames):
                text = f"{one.id}: {len(self.of(one.id))} embeddings, {pace.count(one.num_frames)} for {one.num_frames}"
                problems.add(
                    "embeddings do not cover the recording: of other frames, or at another rate than its frames per "
                    "second (column fps; DATA.TARGET_FPS of the features)",
                    f"{text} frames, one every {pace.stride} frames from frame {pace.first} on",
                )
            elif 2 * pace.stride > span:
                text = f"{one.id}: one every {pace.stride} frames, {one.fps / pace.stride:.2g} a second"
                problems.add(
                    f"embeddings are too far apart for a window of {span} frames, which holds not two of them: lower "
                    "FEATURES.STRIDE, or raise KEYSTEP.FRAMES or SKIP_FACTOR",
                    text,
                )

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def of(self, name: str) -> Any:
        """Return (rows, D) of the recording of this id."""
        if name not in self._open:
            self._open[name] = self.store.get(self._ids[name])
        return self._open[name]

    def frames(self, one: Recording) -> int:
        """Return the number of frames: as counted, or where embeddings are of every frame as many as there are of
        them."""
        return len(self.of(one.id)) if self.paces[one.id].of_every_frame else one.num_frames

    def read(self, name: str, frames: np.ndarray) -> np.ndarray:
        """Return the embeddings of these frames, float32 (..., D); of stored tokens (N, D) their mean."""
        rows = self.of(name)
        found = np.asarray(rows[self.paces[name].rows(frames, len(rows))]).astype(np.float32, copy=False)
        return found.mean(axis=-2) if len(self.store.shape) == 2 else found


def ids_of(store: "FeatureStore | CsvEmbeddings", recordings: Sequence[Recording]) -> dict[str, str]:
    """Map recording -> the id of its embeddings: its own, or the path (or file name) of its video where they were
    extracted from a list of videos. One that could be several has none, nor have several that could be the same one."""
    there = set(store.ids)
    by_name: dict[str, list[str]] = {}
    for stored in store.ids:
        path = PurePosixPath(stored)
        for name in {path.name, path.stem}:
            by_name.setdefault(name, []).append(stored)
    found = {}
    for one in recordings:
        path = PurePosixPath(one.path)
        for name in (one.id, one.path, path.name, path.stem):
            options = [name] if name in there else by_name.get(name, [])
            if len(options) == 1:
                found[one.id] = options[0]
                break
    claims = Counter(found.values())
    return {name: stored for name, stored in found.items() if claims[stored] == 1 or name == stored}


class CsvEmbeddings:
    """STORM-PSR's files, ``<folder>/<split>/<recording>/embeddings.csv``: no header, one row per frame. The face of a
    :class:`FeatureStore` of format per_video; what made them is not known."""

    format = "per_video"
    meta: Mapping[str, Any] = {}
    missing: Sequence[str] = ()

    def __init__(self, folder: Path, split: str) -> None:
        self.path = folder / split
        self.ids = sorted(path.parent.name for path in self.path.glob("*/embeddings.csv"))
        self.shape = self.get(self.ids[0]).shape[1:]

    def get(self, sample_id: str) -> np.ndarray:
        """Return (frames, D) float32. DataError for a file that holds something else."""
        path = self.path / sample_id / "embeddings.csv"
        try:
            with open_file(path) as file:
                found = np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a csv of numbers, one row per frame: {error}") from error
        if not np.isfinite(found).all() or not found.size:
            raise DataError(f"{path}: no rows, or values that are not finite")
        if found.shape[1:] != getattr(self, "shape", found.shape[1:]):
            raise DataError(f"{path}: {found.shape[1]} columns, where the others have {self.shape[0]}")
        return found


def open_embeddings(folder: Path, split: str) -> FeatureStore | CsvEmbeddings:
    """Return what the FEATURES stage, or STORM-PSR, wrote. DataError if there is neither."""
    if any((folder / split).glob("*/embeddings.csv")):
        return CsvEmbeddings(folder, split)
    return FeatureStore.open(folder, split)
