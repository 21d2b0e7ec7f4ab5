"""Windows that slide over whole videos, for features of every moment (temporal action detection reads such)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from dust.datasets.sample import BadClip
from dust.decode.reader import ClipReader
from dust.utils.errors import VideoError


class Clips(Protocol):
    """What is asked of the dataset whose clips are read."""

    @property
    def clips(self) -> Sequence[Any]: ...
    @property
    def sampler(self) -> Any: ...

    def open(self, clip: Any) -> ClipReader: ...
    def read_views(self, clip: Any, choose: Callable[[int, float], list[list[int]]]) -> Any: ...


class SlidingWindows(Dataset[Any]):
    """Item after item, ``chunk`` windows of one video: inputs (windows, C, T, H, W), id and path of the video.

    A video of any length is read in pieces, so that no more than a chunk of it is in memory. The lengths of all videos
    are read when this is made. A video that cannot be read is one item, a :class:`BadClip`.

    Args:
        dataset: the clips, how a clip is sampled (densely), and the crop.
        stride: frames of the video from one window to the next; 0 is a window's length.
        chunk: windows per item, at least 1.
    """

    def __init__(self, dataset: Clips, *, stride: int, chunk: int) -> None:
        self.dataset, self.stride, self.chunk = dataset, stride, chunk
        self.clips = dataset.clips
        windows = [self._count(clip) for clip in self.clips]
        # item number of each video's first chunk, and behind them the number of all items
        self._first = np.concatenate([[0], np.cumsum([-(-count // chunk) for count in windows])])

    def _count(self, clip: Any) -> int:
        try:
            with self.dataset.open(clip) as reader:
                return len(self.dataset.sampler.windows(len(reader), reader.fps, self.stride))
        except VideoError:
            return 1  # its item will say what is wrong

    def first_item(self, sample: int) -> int:
        """Return the number of the item that begins video number ``sample``."""
        return int(self._first[sample])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Any:
        sample = int(np.searchsorted(self._first, index, side="right")) - 1
        begin = (index - self.first_item(sample)) * self.chunk
        clip = self.clips[sample]

        def choose(video_len: int, fps: float) -> list[list[int]]:
            return self.dataset.sampler.windows(video_len, fps, self.stride)[begin : begin + self.chunk]

        try:
            return self.dataset.read_views(clip, choose)
        except VideoError as error:
            return BadClip(clip.id, clip.path, error.reason)
