"""From a source (a file, a folder of pictures, bytes, an array) to what a model sees, by the datasets' own code."""

import http.client
import logging
import os
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable
from urllib.parse import quote

import numpy as np

from dust.datasets.manifest.manifest import Clip
from dust.datasets.sample import BadClip
from dust.datasets.video.video import VideoDataset
from dust.decode.folders import DEAD_LINK, Scan, is_file, is_picture, is_video, scan_clips, visible
from dust.decode.live import is_remote_file
from dust.decode.members import member_of
from dust.decode.reader import ArrayReader, ClipReader
from dust.decode.segment import part_of
from dust.utils.errors import DataError, VideoError
from dust.utils.files import natural_order

#: A clip shorter than this share of the training's span is warned of, and a picture smaller than this share of a crop.
SHORT = 0.5
SMALL = 0.25
DOWNLOAD = 2 << 30  # bytes of one video, at most
_OF_ADDRESSES = "%/:=&?~#+!$,;'@()*[]"  # characters that mean something in an address, or are encoded already

logger = logging.getLogger(__name__)


@runtime_checkable
class Listed(Protocol):
    """A row of a csv list: what it is called, and the file that it names."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...


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


class Reader(ABC):
    """Turns sources into readings. Any number of threads may call :meth:`read` at once."""

    #: How a source becomes what the model sees, as json can hold it.
    description: Mapping[str, Any]
    #: DATA.FRAME_PATTERN, which pictures of a folder are its frames.
    frame_pattern = ""

    @abstractmethod
    def read(self, source: Any) -> Reading:
        """Read one source. What is wrong with a file stands in the reading; nothing is raised for it."""

    @abstractmethod
    def read_list(self, path: str) -> Sequence[Any]:
        """Return the sources that a csv list names, in its order; of a list with splits those of the test."""

    def in_folder(self, folder: str) -> Iterator[Any]:
        """Yield the sources of a folder: itself, if it is one of pictures, else the videos and folders of pictures at
        any depth, in natural order. The log says what is left out."""
        if is_frame_folder(folder):
            yield folder
            return
        scan = scan_clips(folder)
        dead = [path for path in scan.left_out.get(DEAD_LINK, ()) if is_video(path)]
        scan.found += dead  # they are asked for, and say what is wrong
        tell_left_out(folder, scan)
        yield from sorted(scan.found, key=lambda path: [natural_order(part) for part in Path(path).parts])

    def is_clip(self, folder: str) -> bool:
        """Tell whether a folder is one source."""
        return is_frame_folder(folder)

    def complete(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """Yield the readings with what another model must say of them first; as they are by default."""
        yield from readings


def tell_left_out(folder: str, scan: Scan) -> None:
    """Log what of a folder is not read."""
    if scan.left_out:
        level = logging.INFO if scan.only_hidden else logging.WARNING
        logger.log(level, "%s: left out: %s", folder, scan.summary())


def is_frame_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a clip of pictures, and holds no videos."""
    names = [entry.name for entry in visible(path) if is_file(entry)]
    return any(map(is_picture, names)) and not any(map(is_video, names))


class VideoClipReader(Reader):
    """Reads clips of video for a test of VideoDataset or one of its kind.

    Args:
        dataset: of no clip; it says how one is read, in the views of a test.
        list_of: ``list_of(path)``: the clips that a csv list names.
    """

    def __init__(self, dataset: VideoDataset, list_of: Callable[[str], Sequence[Clip]]) -> None:
        self.dataset, self.list_of = dataset, list_of
        self.description, self.frame_pattern = describe_video(dataset), dataset.frame_pattern

    def read_list(self, path: str) -> Sequence[Any]:
        return self.list_of(path)

    def read(self, source: Any) -> Reading:
        clip = source if isinstance(source, Clip) else Clip(*names_of(source), None)
        reading = Reading(clip.id, clip.path)
        read_video(reading, clip, self.dataset, clip.path if isinstance(source, Clip) else source)
        return reading


def read_video(reading: Reading, clip: Clip, dataset: VideoDataset, source: Any) -> None:
    """Read the views of a test into ``reading``, with what there is to say of the clip."""
    try:
        with part_of(opened(source, dataset), clip.segment) as reader:
            reading.warnings += find_weaknesses(dataset, reader)
            item = dataset.read_views(clip, dataset.evaluation_views, reader, keep_damaged=True)
            reading.damage = reader.report.reason
    except VideoError as error:
        reading.error = error.reason
    else:
        reading.items = [item]


def describe_video(dataset: VideoDataset) -> dict[str, Any]:
    """Return how a clip of video becomes what the model sees."""
    sampler, transform = dataset.sampler, dataset.eval_transform
    assert transform is not None
    temporal = 1 if dataset.centre else dataset.num_temporal_views
    return {
        "input": "video",
        "frames": sampler.num_frames,
        "clips_per_view": sampler.clips_per_view,
        "sampling": sampler.mode,
        "sampling_rate": sampler.sampling_rate,
        "target_fps": sampler.target_fps,
        "views": temporal * transform.num_crops,
        "temporal_views": temporal,
        "crops": transform.num_crops,
        "short_side": max(transform.short_side, transform.crop_size),
        "crop_size": transform.crop_size,
        "resize": dataset.resize,
    }


def opened(source: Any, dataset: VideoDataset) -> ClipReader:
    """Open a path, a web address, bytes or an array (T, H, W, 3) uint8 as ``dataset`` opens its clips. VideoError where
    it cannot."""
    if isinstance(source, np.ndarray):
        return ArrayReader(source, resize=dataset.resize)
    if isinstance(source, bytes | bytearray | memoryview):
        return _TemporaryReader(lambda file: file.write(source), dataset, "bytes")
    if member_of(source) is None and is_remote_file(source):
        return _TemporaryReader(lambda file: download(source, file), dataset, source)
    return dataset.open(Clip("", os.fspath(source), None))


def download(address: str, file: IO[bytes], limit: int = DOWNLOAD) -> None:
    """Write what a web address holds into an open file; spaces and letters beyond ASCII in it are encoded. VideoError
    where it cannot be fetched whole, or is too large."""
    try:
        with urllib.request.urlopen(quote(address, safe=_OF_ADDRESSES), timeout=60) as answer:
            size, stated = 0, answer.headers.get("Content-Length", "")
            while block := answer.read(1 << 20):
                size += len(block)
                if size > limit:
                    raise VideoError(address, f"holds more than {limit >> 20} MB")
                file.write(block)
            if stated.isdecimal() and size < int(stated):  # http.client says nothing of it
                raise VideoError(address, f"cannot be fetched: it breaks off after {size:,} of {int(stated):,} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise VideoError(address, f"cannot be fetched: {getattr(error, 'reason', error)}") from error


class _TemporaryReader:
    """A reader of a temporary file, which is gone once it is closed.

    Args:
        fill: writes the file.
        name: for messages.
    """

    def __init__(self, fill: Callable[[IO[bytes]], Any], dataset: VideoDataset, name: str) -> None:
        handle, self._file = tempfile.mkstemp(prefix="dust-", suffix=".video")
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
            self._reader = dataset.open(Clip("", self._file, None))
        except VideoError as error:
            os.unlink(self._file)
            raise VideoError(name, error.reason) from error
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


def names_of(source: Any) -> tuple[str, str]:
    """Return (id, path) of a source."""
    if isinstance(source, Listed):
        return source.id, source.path
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
    """Return why an answer about this clip may be poor: too few frames, or pictures that are far too small."""
    sampler, frames, found = dataset.sampler, len(reader), []
    span = sampler.span(reader.fps) or sampler.num_frames * sampler.clips_per_view
    if frames == 1:
        found.append(f"a single frame, which stands for all {sampler.num_frames} of a clip")
    elif frames < SHORT * span:
        found.append(f"only {frames} frames, the model was trained on clips of {round(span)}")
    crop = dataset.eval_transform.crop_size if dataset.eval_transform is not None else 0
    if min(reader.height, reader.width) < SMALL * crop:
        found.append(f"pictures of {reader.width}x{reader.height} pixels, the model was trained on {crop}x{crop}")
    return found
