"""From a source (a file, a folder of pictures, bytes, an array) to what a model sees, by the datasets' own code."""

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from dust.config import CfgNode, with_values
from dust.datasets import DATASET_REGISTRY
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.sample import BadClip
from dust.datasets.transforms.frames import dense_span
from dust.datasets.video import VideoDataset
from dust.decode.reader import ArrayReader, ClipReader
from dust.utils.errors import ConfigError, DataError, VideoError

#: A clip shorter than this share of the training's span is warned of, and a picture smaller than this share of a crop.
SHORT = 0.5
SMALL = 0.25


@dataclass(eq=False)
class Reading:
    """One source on its way through a model.

    Attributes:
        id, path: what the prediction will be called.
        items: evaluation items, one or several (a recording comes in pieces); empty after an error.
        error: why it cannot be read.
        damage: what is wrong with it although it can be.
        warnings: why an answer may be poor.
    """

    id: str
    path: str
    items: Iterable[dict[str, Any] | BadClip] = ()
    error: str = ""
    damage: str = ""
    warnings: list[str] = field(default_factory=list)


class Reader(Protocol):
    """Turns sources into readings. Any number of threads may call it at once."""

    def read(self, source: Any) -> Reading:
        """Read one source. What is wrong with it stands in the reading; nothing is raised for a bad file."""
        ...

    def read_list(self, path: str) -> Sequence[Any]:
        """The sources that a csv list names, in its order."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """How a source becomes what the model sees, as json can hold it."""
        ...


@dataclass(frozen=True)
class VideoClipReader:
    """Reads clips of video for a test of VideoDataset or one of its kind.

    Args:
        dataset_of: ``dataset_of(manifest)``: the dataset of these clips, with the views of a test.
        list_of: ``list_of(path)``: the clips that a csv list names.
        class_names: of the model.
        facts: how clips become what the model sees, for people.
    """

    dataset_of: Callable[[Manifest], VideoDataset]
    list_of: Callable[[str], list[Clip]]
    class_names: Sequence[str]
    facts: Mapping[str, Any]

    @property
    def description(self) -> dict[str, Any]:
        return dict(self.facts)

    def read_list(self, path: str) -> Sequence[Any]:
        return self.list_of(path)

    def read(self, source: Any) -> Reading:
        clip = source if isinstance(source, Clip) else Clip(*_names_of(source), None)
        dataset = self.dataset_of(Manifest([clip], list(self.class_names), "prediction", False))
        reading = Reading(clip.id, clip.path)
        try:
            with opened(clip.path if isinstance(source, Clip) else source, dataset) as reader:
                reading.warnings = find_weaknesses(dataset, reader)
                item = dataset.read_views(clip, dataset.evaluation_views, reader, keep_damaged=True)
                reading.damage = reader.report.reason
        except VideoError as error:
            reading.error = error.reason
        else:
            reading.items = [item]
        return reading


def opened(source: Any, dataset: VideoDataset) -> ClipReader:
    """Open a path, bytes or an array (T, H, W, 3) uint8 as ``dataset`` opens its clips. VideoError where it cannot."""
    if isinstance(source, np.ndarray):
        return ArrayReader(source, resize=dataset.resize)
    if isinstance(source, bytes | bytearray | memoryview):
        return _BytesReader(bytes(source), dataset)
    return dataset.open(Clip("", os.fspath(source), None))


class _BytesReader:
    """A video file's bytes as a reader: they lie in a temporary file until it is closed."""

    def __init__(self, data: bytes, dataset: VideoDataset) -> None:
        handle, self._file = tempfile.mkstemp(prefix="dust-", suffix=".video")
        try:
            with io.FileIO(handle, "wb") as file:
                file.write(data)
            self._reader = dataset.open(Clip("", self._file, None))
        except VideoError as error:
            os.unlink(self._file)
            raise VideoError("bytes", error.reason) from error
        except BaseException:
            os.unlink(self._file)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def __len__(self) -> int:
        return len(self._reader)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        if os.path.exists(self._file):
            os.unlink(self._file)


def _names_of(source: Any) -> tuple[str, str]:
    """(id, path) of a source that no list names."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return path, path
    if isinstance(source, np.ndarray):
        return "array", "array"
    if isinstance(source, bytes | bytearray | memoryview):
        return "bytes", "bytes"
    raise DataError(
        f"a {type(source).__name__} is no clip: give a path, a video file's bytes, or frames as a uint8 array "
        "(T, H, W, 3), RGB"
    )


def find_weaknesses(dataset: VideoDataset, reader: ClipReader) -> list[str]:
    """Why an answer about this clip may be poor: too few frames, or pictures that are far too small."""
    sampler, frames, found = dataset.sampler, len(reader), []
    span: float = sampler.num_frames
    if sampler.mode == "dense":
        span = dense_span(sampler.num_frames, sampler.sampling_rate, reader.fps, sampler.target_fps)
    elif sampler.mode == "videomae_dense":
        span = sampler.num_frames * sampler.sampling_rate
    if frames == 1:
        found.append(f"a single frame, which stands for all {sampler.num_frames} of a clip")
    elif frames < SHORT * span:
        found.append(f"only {frames} frames, the model was trained on clips of {round(span)}")
    crop = dataset.eval_transform.crop_size if dataset.eval_transform is not None else 0
    if min(reader.height, reader.width) < SMALL * crop:
        found.append(f"pictures of {reader.width}x{reader.height} pixels, the model was trained on {crop}x{crop}")
    return found


def build_reader(cfg: CfgNode, class_names: Sequence[str], fitted: Mapping[str, Any]) -> Reader:
    """The reader of sources for the test that cfg describes.

    Raises:
        ConfigError: the dataset of this system reads no new clips.
    """
    cls: Any = DATASET_REGISTRY.get(cfg.TEST.DATASET)
    if issubclass(cls, VideoDataset):
        return build_video_reader(cfg, cls, class_names)
    raise ConfigError(
        f"TEST.DATASET {cfg.TEST.DATASET} has no for_clips, so it reads no clips but those of its lists; see "
        "docs/EXTENDING.md"
    )


def build_video_reader(cfg: CfgNode, cls: Any, class_names: Sequence[str]) -> VideoClipReader:
    def list_of(path: str) -> list[Clip]:
        listed = with_values(cfg, {"DATA.PATH_TO_DATA_DIR": path, "DATA.FORMAT": "csv", "DATA.CHECK_FILES": False})
        arguments = cls.from_config(listed, "test", list(class_names))
        return [replace(clip, label=None) for clip in arguments["manifest"].clips]

    def dataset_of(manifest: Manifest) -> VideoDataset:
        return cls.for_clips(cfg, manifest)

    data, sample = cfg.DATA, dataset_of(Manifest([], list(class_names), "", False))
    transform = sample.eval_transform
    assert transform is not None
    facts = {
        "input": "video",
        "frames": data.NUM_FRAMES,
        "sampling": sample.sampler.mode,
        "sampling_rate": data.SAMPLING_RATE,
        "target_fps": data.TARGET_FPS,
        "views": sample.num_temporal_views * transform.num_crops,
        "temporal_views": sample.num_temporal_views,
        "crops": transform.num_crops,
        "short_side": transform.short_side,
        "crop_size": transform.crop_size,
        "resize": data.RESIZE,
        "mean": list(data.MEAN),
        "std": list(data.STD),
        "channels": "BGR" if data.REVERSE_INPUT_CHANNEL else "RGB",
    }
    return VideoClipReader(dataset_of, list_of, list(class_names), facts)
