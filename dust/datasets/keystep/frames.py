"""Whole recordings of procedures, frame by frame, to extract embeddings of: and how frames of them are read.

A frame is an input ``video`` of one picture, uint8 (C, 1, H, W). Whole pictures are scaled to a square, without a crop,
as KeyStep (STORM-PSR, https://arxiv.org/abs/2510.12385) was published.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.data import ProcedureData, with_graphs
from dust.datasets.keystep.embeddings import clip_length
from dust.datasets.keystep.layouts import read_procedures
from dust.datasets.manifest.several import one_folder
from dust.datasets.sample import BadClip
from dust.decode.clip import reader_class
from dust.decode.reader import FrameRequest, open_clip
from dust.procedure.windows import output_names
from dust.utils.errors import ConfigError, VideoError

PIECE = 256  # frames that a recording is read by, at least: a video is then decoded about once


def procedures_of(cfg, split: str, **options: Any) -> ProcedureData:
    """Return the split that cfg.DATA and cfg.KEYSTEP name; options as of :func:`read_procedures`."""
    data, node = cfg.DATA, cfg.KEYSTEP
    options = {"layout": node.LAYOUT, "table": node.PROCEDURE, "index_cache": data.INDEX_CACHE, **options}
    options |= {"pattern": data.FRAME_PATTERN, "group_column": data.GROUP_COLUMN, "corrections": data.CORRECTIONS}
    options |= {"extra_columns": data.EXTRA_COLUMNS}
    return with_graphs(read_procedures(one_folder(data.PATH_TO_DATA_DIR, "KeyStep"), split, **options), node.GRAPH)


def names_of_outputs(cfg, split: str) -> list[str]:
    """Return what a model of cfg's procedure says of a window: see :func:`dust.procedure.windows.output_names`."""
    return output_names(procedures_of(cfg, split, labels=False, frames=False).components, cfg.KEYSTEP.EXE_MODE)


class FrameReader:
    """Frames by number as uint8 (T, 3, size, size). The last recording stays open, so that reading on costs no seek.

    Args:
        size: side of the square, pixels.
        resize, index_cache, decoder, pattern: see :func:`dust.decode.reader.open_clip`.
    """

    def __init__(
        self, size: int, *, resize: str = "swscale", index_cache: str = "", decoder: str = "pyav", pattern: str = ""
    ) -> None:
        self.size = size
        self.options: dict[str, Any] = {"decoder": decoder, "resize": resize, "index_cache": index_cache or None}
        self.options["pattern"] = pattern
        reader_class(decoder)  # an error of it comes now, not with the first recording
        self._open: Any = None

    @classmethod
    def of(cls, cfg) -> "FrameReader":
        data = cfg.DATA
        options = {"index_cache": data.INDEX_CACHE, "decoder": data.DECODER, "pattern": data.FRAME_PATTERN}
        return cls(data.TRAIN_CROP_SIZE, resize=data.RESIZE, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # each process opens its own

    def read(self, path: str, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Read (C, T, H, W). VideoError where the frames cannot be read, or the file is damaged."""
        if self._open is None or self._open.path != os.fspath(path):
            self.close()
            self._open = open_clip(path, **self.options)
        try:
            # a request names a frame once, which the decoder likes
            wanted, back = np.unique(np.asarray(indices), return_inverse=True)
            pictures = self._open.read([FrameRequest(wanted.tolist(), size=(self.size, self.size))])[0]
        except IndexError as error:
            raise VideoError(path, str(error)) from error
        if self._open.report.damaged:
            raise VideoError(path, self._open.report.reason)
        return torch.from_numpy(pictures[back]).permute(0, 3, 1, 2)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None


@DATASET_REGISTRY.register()
class RecordingFrames(Dataset[Any]):
    """Every frame of every recording, for embeddings: FEATURES.FORMAT per_video stores (frames, D) for each.

    Item ``index`` is a whole recording, inputs ``video`` (frames, C, 1, H, W); ``windows`` gives the same in pieces.
    Labels are not read.
    """

    def __init__(self, *, data: ProcedureData, reader: FrameReader) -> None:
        self.clips, self.class_names, self.reader = data.recordings, data.components, reader

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        return {"data": procedures_of(cfg, split, labels=False), **cls.reading_from_config(cfg)}

    @classmethod
    def reading_from_config(cls, cfg) -> dict[str, Any]:
        """Return how recordings are read, whichever they are."""
        return {"reader": FrameReader.of(cfg)}

    def __len__(self) -> int:
        return len(self.clips)

    def class_counts(self) -> list[int]:
        return [0] * len(self.class_names)

    def __getitem__(self, index: int) -> Any:
        return self.piece(index, range(self.clips[index].num_frames))

    def piece(self, index: int, frames: Sequence[int]) -> Any:
        """Return some frames of recording number ``index`` as an evaluation sample, or a BadClip."""
        one = self.clips[index]
        try:
            pictures = self.reader.read(one.path, frames)
        except VideoError as error:
            return BadClip(one.id, one.path, error.reason)
        if not len(pictures):
            return BadClip(one.id, one.path, "could not be read when its frames were counted")
        return {"inputs": {"video": pictures[:, :, None]}, "label": None, "id": one.id, "path": one.path}

    def windows(self, *, stride: int, chunk: int) -> "FramePieces":
        """Return the recordings in pieces of ``chunk`` frames, or more. ConfigError unless every frame is wanted."""
        if stride > 1:  # RecordingClips has others
            raise ConfigError(f"FEATURES.STRIDE {stride}: KeyStep needs the embedding of every frame; set it to 1")
        return FramePieces(self, max(chunk, PIECE))


@DATASET_REGISTRY.register()
class RecordingClips(RecordingFrames):
    """Clips of every recording, for embeddings by any model of videos: FEATURES.FORMAT per_video stores (clips, D).

    Clip i ends in frame (i + 1) * FEATURES.STRIDE - 1 and reaches back over DATA.NUM_FRAMES x SAMPLING_RATE frames at
    DATA.TARGET_FPS (a recording of unknown rate counts as that), so that its embedding knows nothing of what comes;
    before the beginning the first frame is repeated. Inputs ``video`` (clips, C, T, H, W).
    """

    def __init__(self, *, num_frames: int, sampling_rate: float, target_fps: float, **frames: Any) -> None:
        super().__init__(**frames)
        self.num_frames, self.sampling_rate, self.target_fps = num_frames, sampling_rate, target_fps

    @classmethod
    def reading_from_config(cls, cfg) -> dict[str, Any]:
        data = cfg.DATA
        sampling = {"num_frames": data.NUM_FRAMES, "sampling_rate": data.SAMPLING_RATE, "target_fps": data.TARGET_FPS}
        return {**super().reading_from_config(cfg), **sampling}

    def piece(self, index: int, frames: Sequence[int]) -> Any:
        """Return the clips that end in these frames."""
        one = self.clips[index]
        apart = self.sampling_rate * (one.fps / self.target_fps if one.fps else 1.0)
        back = np.round(apart * np.arange(self.num_frames - 1, -1, -1)).astype(int)
        wanted = np.maximum(np.asarray(frames, int)[:, None] - back, 0)
        found = super().piece(index, wanted.ravel())
        if isinstance(found, BadClip):
            return found
        video = found["inputs"]["video"][:, :, 0]  # (clips * T, C, H, W)
        video = video.view(*wanted.shape, *video.shape[1:]).transpose(1, 2).contiguous()
        return {**found, "inputs": {"video": video}}

    def windows(self, *, stride: int, chunk: int) -> "FramePieces":
        """Return clips that end every ``stride`` frames; 0: each a clip's length from the next."""
        return FramePieces(self, chunk, stride or clip_length(self.num_frames, self.sampling_rate))


class FramePieces(Dataset[Any]):
    """Item after item, ``chunk`` frames of one recording, every ``stride``-th. One that cannot be read is one item, a
    BadClip."""

    def __init__(self, frames: RecordingFrames, chunk: int, stride: int = 1) -> None:
        self.frames, self.clips, self.chunk, self.stride = frames, frames.clips, chunk, stride
        counts = [max(1, -(-(one.num_frames // stride) // chunk)) for one in self.clips]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def first_item(self, sample: int) -> int:
        """Return the number of the item that begins recording number ``sample``."""
        return int(self._first[sample])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Any:
        sample = int(np.searchsorted(self._first, index, side="right")) - 1
        begin = (index - self.first_item(sample)) * self.chunk
        last, stride = self.clips[sample].num_frames - 1, self.stride
        ends = [(i + 1) * stride - 1 for i in range(begin, begin + self.chunk)]
        return self.frames.piece(sample, [end for end in ends if end <= last] or [last] * (last >= 0))
