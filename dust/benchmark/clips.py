"""What the decode benchmark asks every reader for, and the readers that dust is compared with."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.manifest.table import read_csv
from dust.datasets.transforms.clip import EvalTransform, Geometry, TrainTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.decode.folders import iter_clips
from dust.decode.reader import VideoReader
from dust.utils.errors import DataError, DustError

ReadFrames = Callable[[str, list[int], tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class View:
    """Frames of one video and where to look in them: ``indices`` (T,), one geometry with one or several crops."""

    indices: list[int]
    geometry: Geometry


@dataclass(frozen=True)
class Protocol:
    """What a clip is: ``frames`` at ``rate`` (of 30 frames per second), ``short`` side range, ``crop`` pixels; in a
    test ``num_clips`` times ``num_crops`` views."""

    frames: int = 8
    rate: int = 8
    crop: int = 224
    short: tuple[int, int] = (256, 320)
    num_clips: int = 10
    num_crops: int = 3

    def training_view(self, length: int, fps: float, height: int, width: int, rng: np.random.RandomState) -> View:
        """Return a random clip with a random short side and a random crop."""
        transform = TrainTransform(crop_size=self.crop, jitter_scales=self.short, random_flip=False)
        return View(self._sampler().train(length, fps, rng), transform.geometry(height, width, rng))

    def test_views(self, length: int, fps: float, height: int, width: int) -> list[View]:
        """Return ``num_clips`` clips with ``num_crops`` crops each; with several crops the short side is the crop's."""
        short = self.crop if self.num_crops > 1 else self.short[0]
        transform = EvalTransform(crop_size=self.crop, short_side=short, num_crops=self.num_crops)
        geometry = transform.geometry(height, width)
        return [View(indices, geometry) for indices in self._sampler().test(length, fps, self.num_clips)]

    def _sampler(self) -> ClipSampler:
        return ClipSampler(mode="dense", num_frames=self.frames, sampling_rate=self.rate, target_fps=30.0)


@dataclass(frozen=True)
class Peer:
    """Another way to read clips, by name. Each call opens the file, reads and closes it; None = it does not do that.

    Attributes:
        train: (path, view) -> the clip.
        test: (path, views) -> all views of a video.
        gives: what comes out, for the table.
    """

    name: str
    train: Callable[[str, View], Any] | None = None
    test: Callable[[str, Sequence[View]], Any] | None = None
    gives: str = "uint8"


def find_videos(sources: Sequence[str]) -> list[str]:
    """Return video files named by folders (searched through), csv lists of clips, and files.

    Raises DataError for a source that is not there and for one that holds no video.
    """
    found: list[str] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            here = sorted(iter_clips(path, frames=False))
        elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
            here = _listed(path)
        else:
            here = [str(path)]
        missing = [file for file in here if not os.path.isfile(file)]
        if missing:
            raise DataError(f"--videos {source}: {missing[0]} is not there ({len(missing)} of {len(here)} files)")
        if not here:
            raise DataError(f"--videos {source}: no video in it. Give a folder of clips, a csv or video files.")
        found += here
    return found


def _listed(path: Path) -> list[str]:
    """Return the clips of a csv; relative paths are looked for beside it, then in the working folder."""
    raw = read_csv(path, split="")
    raw.problems.raise_if_any(raw.source)
    beside = [path.parent / row.written for row in raw.rows]
    return [str(file if file.is_file() else row.written) for file, row in zip(beside, raw.rows, strict=True)]


def require_healthy(path: str) -> VideoReader:
    """Return an open reader; a damaged file is refused, since every reader makes something else of it."""
    reader = VideoReader(path)
    if reader.report.damaged:
        reader.close()
        raise DataError(f"{path} is damaged ({reader.report.reason}): leave it out of a benchmark")
    return reader


def peer_by_frames(name: str, read: ReadFrames) -> Peer:
    """Return a library that gives chosen frames, scaled: frames are cut as dust cuts them, a test reads each frame
    once.

    Args:
        read: (path, frame numbers, (H, W)) -> uint8 (T, H, W, 3); it opens the file and lets it go.
    """

    def train(path: str, view: View) -> np.ndarray:
        return cut(read(path, view.indices, view.geometry.size), view)[0]

    def test(path: str, views: Sequence[View]) -> np.ndarray:
        numbers = sorted({number for view in views for number in view.indices})
        frames = read(path, numbers, views[0].geometry.size)
        place = {number: index for index, number in enumerate(numbers)}
        return np.concatenate([cut(frames[[place[n] for n in view.indices]], view) for view in views])

    return Peer(name, train, test)


def cut(frames: np.ndarray, view: View) -> np.ndarray:
    """Cut (T, H, W, 3) of the view's scaled size -> its crops, (crops, T, h, w, 3)."""
    if frames.shape[1:3] != view.geometry.size:
        raise DustError(f"frames of {frames.shape[1:3]} pixels came where {view.geometry.size} were asked for")
    return np.stack([frames[:, y : y + h, x : x + w] for y, x, h, w in view.geometry.crops])
