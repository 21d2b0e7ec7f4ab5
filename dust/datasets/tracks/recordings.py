"""Whole recordings of point tracks, frame by frame, with the label of every frame: what a stream is tested on.

A recording is a sequence of the manifest. The files of its clips are played whole, one behind the other, so that frames
between two labelled clips of one file are played too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from dust.datasets.sample import BadClip
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import TrackClip
from dust.datasets.tracks.tracks import PointTracks


@dataclass(slots=True)
class Part:
    """One set of files (a camera each) from its first frame to its last.

    ``tracks`` (T, V, P, 2) and ``visible`` (T, V, P) as the models take them; ``view_mask`` (V,); ``labels`` (T,)
    class numbers, -1 where no clip is.
    """

    id: str
    tracks: Tensor
    visible: Tensor
    view_mask: Tensor
    labels: np.ndarray


class TrackRecordings:
    """The recordings of one split.

    Args:
        arguments: those of :class:`PointTracks`, as its ``from_config`` gives them for an evaluation; ``window`` and
            ``stride`` do not matter.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        manifest = arguments["manifest"]
        found: dict[str, dict[tuple, list[TrackClip]]] = {}
        for clip in manifest.clips:
            files = tuple(sorted(clip.files.items()))
            found.setdefault(clip.sequence, {}).setdefault(files, []).append(clip)
        self.names = list(found)
        self._parts: list[list[int]] = []  # of each recording, indices into the dataset
        self._clips: list[list[TrackClip]] = []  # of each index, the clips that lie in it
        whole: list[TrackClip] = []
        for parts in found.values():
            self._parts.append([len(whole) + place for place in range(len(parts))])
            for clips in parts.values():
                whole.append(replace(clips[0], label=None, start=0, end=None))
                self._clips.append(clips)
        # a window of one frame, every frame: all frames in their order, and points chosen once for all of them
        frames = {"window": 1, "stride": 1, "training": False}
        self.dataset = PointTracks(**{**arguments, **frames, "manifest": replace(manifest, clips=whole)})

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, number: int) -> Iterator[Part | BadClip]:
        """Yield the parts of a recording in their order; a BadClip in the place of one that cannot be read."""
        for index in self._parts[number]:
            item = self.dataset[index]
            if isinstance(item, BadClip):
                yield item
                continue
            inputs = item["inputs"]
            tracks = inputs["tracks"][:, :, 0]  # (T, V, 1, P, 2) -> (T, V, P, 2)
            labels = self._labels(index, len(tracks))
            yield Part(item["id"], tracks, inputs["visible"][:, :, 0], inputs["view_mask"][0], labels)

    def _labels(self, index: int, length: int) -> np.ndarray:
        clips = self._clips[index]
        times = np.arange(length) * self._frames_per_step(clips[0])
        labels = np.full(length, -1)
        for clip in clips:
            if clip.label is not None:
                end = np.inf if clip.end is None else clip.end
                labels[(times >= clip.start) & (times < end)] = clip.label
        return labels

    def _frames_per_step(self, clip: TrackClip) -> float:
        """Return the frames of the file from one frame of the stream to the next: 1, unless TRACKS.FPS asks for another
        rate."""
        if not self.dataset.fps:
            return 1.0
        file = clip.files[min(clip.files) if clip.clock is None else clip.clock]
        size = self.dataset.frame_size
        fps = read_tracks(file, threshold=self.dataset.visibility_threshold, size=(size[0], size[1]) if size else None)
        return fps.fps / self.dataset.fps
