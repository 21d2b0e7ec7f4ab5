"""CPU time of reading clips: dust's decoder, the floor below it, and other readers, in interleaved rounds."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from dust.benchmark.clips import Peer, Protocol, View, require_healthy
from dust.benchmark.floor import decode_only
from dust.benchmark.report import Report
from dust.datasets.transforms.device import DeviceTransform
from dust.decode.reader import FrameRequest, VideoReader
from dust.utils.errors import DustError
from dust.utils.files import open_file
from dust.utils.rng import numpy_rng

METHOD = (
    "CPU time of this process (all threads; decoders and torch run with one). Every round takes each video once, with "
    "a new random clip that is the same for all readers, and runs the readers one after the other, the first one "
    "changing from video to video. A round's figure is the mean over its videos, the table shows the median of the "
    "rounds; a ratio is the median of the rounds' ratios to `dust`. Beforehand every file is "
    "read (page cache), and every reader takes the first video once. Opening and closing the file is in every figure."
)
DUST = "dust"
#: SlowFast's normalisation.
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


@dataclass
class _Task:
    """One thing to time on one video."""

    reader: str
    gives: str
    action: Callable[[], Any]


@dataclass
class _Times:
    """Seconds per round and reader: a dict video -> (CPU, wall) for each round."""

    rounds: list[dict[str, dict[str, tuple[float, float]]]] = field(default_factory=list)
    gives: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, video: str, tasks: Sequence[_Task], turn: int) -> None:
        """Time the tasks, beginning with the one whose turn it is. A reader that fails on a video is noted."""
        turn %= len(tasks)
        for task in [*tasks[turn:], *tasks[:turn]]:
            self.gives[task.reader] = task.gives
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                task.action()
            except Exception as error:  # another library's: any of them
                if task.reader.startswith(DUST):
                    raise
                self.failures[f"{task.reader}: {os.path.basename(video)}"] = str(error).strip().splitlines()[0]
                continue
            spent = time.process_time() - cpu, time.perf_counter() - wall
            self.rounds[-1].setdefault(task.reader, {})[video] = spent

    def rows(self, what: str, order: Sequence[str]) -> list[dict[str, Any]]:
        rows = []
        for reader in order:
            done = [(taken[reader], taken[DUST]) for taken in self.rounds if taken.get(reader)]
            if not done:
                continue
            rows.append(
                {
                    "what": what,
                    "reader": reader,
                    "gives": self.gives[reader],
                    "cpu_ms": 1e3 * median(_mean(own, own, 0) for own, _ in done),
                    "wall_ms": 1e3 * median(_mean(own, own, 1) for own, _ in done),
                    "cpu_over_dust": median(_mean(own, own, 0) / _mean(dust, own, 0) for own, dust in done),
                    "videos": len(done[0][0]),
                }
            )
        return rows


def _mean(times: dict[str, tuple[float, float]], videos: dict[str, Any], which: int) -> float:
    """Return the mean seconds over those of the videos that the other reader managed too."""
    return sum(times[video][which] for video in videos) / len(videos)


def benchmark_decode(
    videos: Sequence[str],
    protocol: Protocol,
    *,
    rounds: int,
    peers: Sequence[Peer] = (),
    views: bool = True,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Report:
    """Time training clips, and with ``views`` also multi-view tests, of every video in each of ``rounds`` rounds.

    Raises DataError for a damaged video.
    """
    if rounds < 1:
        raise DustError(f"--rounds {rounds}: at least 1")
    facts = [_Facts.of(video) for video in videos]
    train, test = _Times(), _Times()
    normalize = DeviceTransform(mean=MEAN, std=STD)
    with _one_thread(), tempfile.TemporaryDirectory() as scratch:
        for number in range(-1, rounds):  # round -1 takes the first video alone, and is forgotten
            train.rounds.append({})
            test.rounds.append({})
            for place, video in enumerate(facts if number >= 0 else facts[:1]):
                rng = numpy_rng(seed, "benchmark", number, place)
                view = protocol.training_view(video.length, video.fps, video.height, video.width, rng)
                fresh = os.path.join(scratch, f"{number}_{place}{os.path.splitext(video.path)[1]}")
                os.symlink(os.path.abspath(video.path), fresh)  # a name that no index is kept for
                train.run(video.path, list(_train_tasks(video.path, fresh, view, peers)), number + place)
                if views:
                    all_views = protocol.test_views(video.length, video.fps, video.height, video.width)
                    test.run(video.path, list(_test_tasks(video.path, all_views, peers, normalize)), number + place)
    del train.rounds[0], test.rounds[0]
    names = [peer.name for peer in peers]
    rows = train.rows("train clip", [DUST, f"{DUST}, no index yet", "decode only", *names])
    label = f"{protocol.num_clips}x{protocol.num_crops} test"
    rows += test.rows(label, [DUST, f"{DUST} + normalise", "decode only", *names])
    failed = [f"{who}: {why}" for who, why in {**train.failures, **test.failures}.items()]
    settings = {
        "videos": len(videos),
        "rounds": rounds,
        "clip": f"{protocol.frames}x{protocol.rate}",
        "short_side": "-".join(map(str, protocol.short)),
        "crop": protocol.crop,
    }
    return Report("decode", METHOD, rows, [*notes, *(f"failed: {line}" for line in failed)], settings)


@dataclass(frozen=True)
class _Facts:
    path: str
    length: int
    fps: float
    height: int
    width: int

    @classmethod
    def of(cls, path: str) -> "_Facts":
        """Read the file once, which warms the page cache and this process's index."""
        with open_file(path) as file:
            while file.read(1 << 22):
                pass
        with require_healthy(path) as reader:
            reader.frames([0])
            return cls(path, len(reader), reader.fps, reader.height, reader.width)


def _train_tasks(path: str, fresh: str, view: View, peers: Sequence[Peer]) -> Iterator[_Task]:
    yield _Task(DUST, "uint8", lambda: read_views(path, [view]))
    yield _Task(f"{DUST}, no index yet", "uint8", lambda: read_views(fresh, [view]))
    yield _Task("decode only", "nothing", lambda: decode_only(path, view.indices))
    for peer in peers:
        if peer.train is not None:
            yield _Task(peer.name, peer.gives, partial(peer.train, path, view))


def _test_tasks(path: str, views: Sequence[View], peers: Sequence[Peer], normalize: DeviceTransform) -> Iterator[_Task]:
    numbers = [number for view in views for number in view.indices]
    yield _Task(DUST, "uint8", lambda: read_views(path, views))
    yield _Task(f"{DUST} + normalise", "float32", lambda: _normalized(read_views(path, views), normalize))
    yield _Task("decode only", "nothing", lambda: decode_only(path, numbers))
    for peer in peers:
        if peer.test is not None:
            yield _Task(peer.name, peer.gives, partial(peer.test, path, views))


def read_views(path: str, views: Sequence[View]) -> np.ndarray:
    """Read in dust's own way: open, one decode for all views, close. uint8 (views * crops, T, h, w, 3)."""
    requests = [
        FrameRequest(view.indices, view.geometry.box, view.geometry.size, view.geometry.crops) for view in views
    ]
    with VideoReader(path) as reader:
        arrays = reader.read(requests)
        if reader.report.damaged:
            raise DustError(f"{path}: damage came to light while reading ({reader.report.reason}); leave it out")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _normalized(views: np.ndarray, transform: DeviceTransform) -> torch.Tensor:
    """Map uint8 (V, T, H, W, 3) -> float32 (V, 3, T, H, W)."""
    video = torch.from_numpy(views).permute(0, 4, 1, 2, 3).contiguous()
    return transform({"inputs": {"video": video}}, training=False)["inputs"]["video"]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch work on one thread, as in a loader's worker; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
