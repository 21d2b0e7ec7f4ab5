"""Samples of several modalities that no list names: a video and its series, or what another stage makes of it."""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dust.datasets.manifest.manifest import Clip
from dust.datasets.multimodal.fusion import FusedDataset, with_others
from dust.datasets.multimodal.fusion_manifest import FusedClip
from dust.datasets.multimodal.series import SUFFIXES, Window
from dust.datasets.sample import BadClip
from dust.datasets.video.video import VideoDataset
from dust.decode.folders import HIDDEN, VIDEO_SUFFIXES, Scan, is_hidden
from dust.deploy.feature_stage import rounded
from dust.deploy.reading import Reader, Reading, describe_video, names_of, read_video, tell_left_out
from dust.engine.inference import Inference
from dust.utils.errors import DataError
from dust.utils.files import natural_order


@dataclass(frozen=True)
class VideoFeatures:
    """How another stage makes a feature of a clip.

    Attributes:
        loop: its outputs are the features of views; a clip's is their mean.
        dataset: of no clip; it says how one is read.
        dtype: in which the features of the training were stored.
    """

    loop: Inference
    dataset: VideoDataset
    dtype: str = "float32"


class FusedReader(Reader):
    """Reads samples for a test of FusedDataset.

    A source is ``{"video": ..., "series": ...}`` (paths, bytes and arrays as they are for each by itself), or a video
    file beside which the series lies, under the same name: ``a.mp4`` with ``a.npy``, ``a.csv``, ... A model of
    series alone takes that file, or the array.

    Args:
        dataset_of: ``dataset_of(clips)``: the dataset of these samples.
        list_of: ``list_of(path)``: the samples that a csv names.
        modalities: what a source needs: video, series or both.
        video: of no clip; it says how videos are read. None where the model sees none.
        features: how the video's features are made, where the model sees those.
    """

    def __init__(
        self,
        dataset_of: Callable[[Sequence[FusedClip]], FusedDataset],
        list_of: Callable[[str], Sequence[FusedClip]],
        modalities: Sequence[str],
        video: VideoDataset | None,
        features: VideoFeatures | None,
    ) -> None:
        self.dataset_of, self.list_of, self.modalities = dataset_of, list_of, tuple(dict.fromkeys(modalities))
        self.video = features.dataset if features is not None else video
        self.features = features
        self.description = {
            **(describe_video(self.video) if self.video is not None else {}),
            "input": "+".join(self.modalities),
            **({"video_as": "features of another stage"} if features is not None else {}),
        }

    def read_list(self, path: str) -> Sequence[Any]:
        return self.list_of(path)

    def in_folder(self, folder: str) -> Iterator[Any]:
        if "video" in self.modalities:
            yield from super().in_folder(folder)
            return
        scan = Scan()
        for path in sorted(Path(folder).rglob("*"), key=natural_order):
            if path.is_dir():
                continue
            if any(map(is_hidden, path.relative_to(folder).parts)):
                scan.left_out[HIDDEN].append(str(path))
            elif not path.is_file():
                scan.left_out["no plain file, or a link that leads nowhere"].append(str(path))
            elif path.suffix.lower() in SUFFIXES:
                yield str(path)
            else:
                scan.left_out[f"no series ({', '.join(SUFFIXES)} are read)"].append(str(path))
        tell_left_out(folder, scan)

    def read(self, source: Any) -> Reading:
        names, parts = self._parts(source)
        reading = Reading(*names)
        clip = source if isinstance(source, FusedClip) else FusedClip(reading.id, reading.path, None)
        if "video" in self.modalities:
            assert self.video is not None
            read_video(reading, Clip(reading.id, reading.path, None, segment=clip.segment), self.video, parts["video"])
        if "series" in self.modalities and not reading.error:
            self._add_series(reading, parts.get("series"), clip.window)
        return reading

    def _add_series(self, reading: Reading, series: Any, window: Window | None) -> None:
        if series is None:
            reading.error = f"no series beside it: looked for the same name with {', '.join(SUFFIXES)}"
            return
        reference, temporary = series, ""
        if isinstance(series, np.ndarray):
            handle, temporary = tempfile.mkstemp(prefix="dust-", suffix=".npy")
            os.close(handle)
            np.save(temporary, series)
            reference = temporary
        try:
            clip = FusedClip(reading.id, reading.path, None, series=os.fspath(reference), window=window)
            # the series alone: the video was read already
            dataset = self.dataset_of([clip])
            dataset.videos = None
            item = dataset[0]
        finally:
            if temporary:
                os.unlink(temporary)
        if isinstance(item, BadClip):
            reading.error, reading.items = item.reason, ()
            return
        others, whole = {"series": item["inputs"]["series"][0]}, next(iter(reading.items), None)
        if whole is None:
            reading.items = [item]
        elif isinstance(whole, dict):
            reading.items = [with_others(whole, others) if self.features is None else {**whole, "others": others}]

    def complete(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        """Yield the readings with the features of their videos, for which the other stage's model runs over all of them
        in turn."""
        if self.features is None:
            yield from readings
            return
        waiting: deque[Reading] = deque()

        def items() -> Iterator[dict[str, Any]]:
            for reading in readings:
                waiting.append(reading)
                if not reading.error:
                    (item,) = reading.items
                    assert isinstance(item, dict)
                    yield {**item, "reading": reading}

        def note(bad: BadClip) -> None:
            for reading in waiting:
                if reading.id == bad.id:
                    reading.error = reading.error or bad.reason

        for record in replace(self.features.loop, on_bad=note)(items()):
            while waiting[0] is not record["reading"]:
                yield waiting.popleft()
            reading = waiting.popleft()
            feature = rounded(record["outputs"].mean(dim=0), self.features.dtype)
            inputs = {**record.get("others", {}), "video_features": torch.from_numpy(feature)}
            sample: dict[str, Any] = {"id": reading.id, "path": reading.path, "label": None, "inputs": {}}
            reading.items = [with_others(sample, inputs)]
            yield reading
        yield from waiting

    def _parts(self, source: Any) -> tuple[tuple[str, str], dict[str, Any]]:
        """Return ((id, path), {modality: what is read}) of a source."""
        if isinstance(source, FusedClip):
            found = {"video": source.video, "series": source.series}
            return (source.id, source.path), {name: found[name] for name in self.modalities}
        if isinstance(source, Mapping):
            missing = [name for name in self.modalities if name not in source]
            unknown = sorted(set(source) - {"video", "series"})
            if missing or unknown:
                raise DataError(
                    f"a source of this model has {' and '.join(self.modalities)}; "
                    f"{', '.join(missing) or 'nothing'} is missing, {', '.join(unknown) or 'nothing'} is unknown"
                )
            parts = {name: source[name] for name in self.modalities}
            return _names(parts[self.modalities[0]]), parts
        if self.modalities == ("series",):
            return _names(source), {"series": source}
        parts = {"video": source}
        if "series" in self.modalities:
            parts["series"] = series_beside(source)
        return names_of(source), parts


def series_of(clip: Clip) -> FusedClip:
    """Return a file of series as a sample; of a segment, which is in seconds there, the window that is meant."""
    segment = clip.segment
    window = None if segment is None else Window(start=segment.start, end=segment.end)
    return FusedClip(clip.id, clip.path, None, series=clip.path, window=window)


def _names(source: Any) -> tuple[str, str]:
    return ("array", "array") if isinstance(source, np.ndarray) else names_of(source)


def series_beside(video: Any) -> str | None:
    """Return the file of a video's series, which has its name; None where there is none."""
    if not isinstance(video, str | os.PathLike):
        return None
    path = Path(video)
    stem = path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
    found = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    return next((str(one) for one in found if one.is_file()), None)
