"""Point tracks of several cameras that no list names: a file for each camera, found by their names."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.config import CfgNode
from dust.datasets.sample import BadClip
from dust.datasets.tracks.files import SUFFIXES, read_tracks
from dust.datasets.tracks.manifest import TrackClip, TrackManifest, read_new_clips
from dust.datasets.tracks.tracks import PointTracks
from dust.deploy.reading import SHORT, Reader, Reading
from dust.utils.errors import DataError
from dust.utils.files import natural_order

DEFAULT_FPS = 30.0  # of tracks that do not say
#: ``walk_view_0.npz``, ``walk-cam3``: what a recording is called, and the camera's number.
CAMERA = re.compile(r"(?P<name>.*?)[_.-]?(?:view|camera|cam)[_.-]?(?P<number>\d+)")


class TrackReader(Reader):
    """Reads samples of point tracks for a test of PointTracks.

    A source is the file of one camera (``walk_view_0.npz``), whose others are found by their names, a folder with the
    files of one sample, or ``{camera: file, or {"tracks", "visibility", "size", "fps"} of arrays}``.

    Args:
        dataset_of: ``dataset_of(manifest)``: the dataset of these clips.
        class_names: in the order of the logits.
        facts: how a source becomes what the model sees.
    """

    def __init__(
        self, dataset_of: Callable[[TrackManifest], PointTracks], class_names: Sequence[str], facts: Mapping[str, Any]
    ) -> None:
        self.dataset_of, self.class_names, self.description = dataset_of, list(class_names), dict(facts)

    def read_list(self, path: str) -> Sequence[Any]:
        return read_new_clips(path)

    def is_clip(self, folder: str) -> bool:
        return len(samples_in(Path(folder))) == 1

    def in_folder(self, folder: str, above: Sequence[str] = ()) -> Iterator[Any]:
        here = [*above, os.path.realpath(folder)]
        if here[-1] in above:
            return
        yield from samples_in(Path(folder))
        for inside in sorted(Path(folder).iterdir(), key=natural_order):
            if inside.is_dir() and not CAMERA.fullmatch(inside.name) and not inside.name.startswith("."):
                yield from self.in_folder(str(inside), here)

    def frames(self, source: Any) -> tuple[dict[str, Any], float, TrackClip]:
        """Return a sample frame by frame: ``tracks`` (T, V, P, 2), ``visible`` (T, V, P) and ``view_mask`` (V,) as the
        model takes them; its frames per second; what it is. DataError where it cannot be read."""
        with tempfile.TemporaryDirectory(prefix="dust-") as folder:
            clip = source if isinstance(source, TrackClip) else sample_of(source, Path(folder))
            dataset = self.dataset_of(TrackManifest([clip], self.class_names, "prediction"))
            dataset.window = dataset.stride = 1  # every frame is a window, and points are chosen once for all of them
            item = dataset[0]
            if isinstance(item, BadClip):
                raise DataError(f"{clip.id}: {item.reason}")
            size = (dataset.frame_size[0], dataset.frame_size[1]) if dataset.frame_size else None
            fps = dataset.fps or read_tracks(clip.path, threshold=dataset.visibility_threshold, size=size).fps
        inputs = item["inputs"]
        found = {name: inputs[name][:, :, 0] for name in ("tracks", "visible")}
        return {**found, "view_mask": inputs["view_mask"][0]}, fps or DEFAULT_FPS, clip

    def read(self, source: Any) -> Reading:
        with tempfile.TemporaryDirectory(prefix="dust-") as folder:
            clip = source if isinstance(source, TrackClip) else sample_of(source, Path(folder))
            reading = Reading(clip.id, clip.path if clip.files else clip.id)
            dataset = self.dataset_of(TrackManifest([clip], self.class_names, "prediction"))
            item = dataset[0]
        if isinstance(item, BadClip):
            reading.error = item.reason
            return reading
        item["label"] = None
        absent = [str(view) for view in dataset.views if view not in clip.files]
        if absent:
            reading.warnings.append(f"no tracks of camera {', '.join(absent)}")
        frames = int(item["inputs"]["time_mask"][0].sum())
        if frames < SHORT * dataset.window:
            reading.warnings.append(f"only {frames} frames, the model was trained on windows of {dataset.window}")
        reading.items = [item]
        return reading


def samples_in(folder: Path) -> list[TrackClip]:
    """Return the samples whose cameras' files lie in a folder, in natural order."""
    found: dict[str, dict[int, str]] = {}
    for path in sorted(folder.iterdir(), key=natural_order):
        match = CAMERA.fullmatch(path.name if path.is_dir() else path.stem)
        if match and (path.is_dir() or path.suffix in SUFFIXES):
            found.setdefault(match["name"], {})[int(match["number"])] = str(path)
    return [_clip(name or folder.name, files) for name, files in found.items()]


def sample_of(source: Any, folder: Path) -> TrackClip:
    """Return the sample that a source means; arrays are written into ``folder``. DataError where it means none."""
    if isinstance(source, Mapping):
        files = {}
        for view, one in source.items():
            if not isinstance(view, int):
                raise DataError(f"tracks come by their camera's number, {{0: file, 1: file}}; got {view!r}")
            if isinstance(one, Mapping):
                np.savez(folder / f"view_{view}.npz", **one)
                files[view] = str(folder / f"view_{view}.npz")
            else:
                files[view] = os.fspath(one)
        if not files:
            raise DataError("a sample of point tracks needs the file of one camera at least")
        return _clip("arrays" if str(folder) in files[min(files)] else files[min(files)], files)
    path = Path(os.fspath(source)).expanduser()
    if path.is_dir():
        samples = samples_in(path)
        if len(samples) == 1:
            return samples[0]
    match = CAMERA.fullmatch(path.stem)
    if match and path.exists():
        name = match["name"] or path.parent.name
        beside = (clip for clip in samples_in(path.parent) if clip.id == name)
        return next((clip for clip in beside if str(path) in clip.files.values()), _clip(str(path), {0: str(path)}))
    return _clip(str(path), {0: str(path)})


def _clip(name: str, files: dict[int, str]) -> TrackClip:
    return TrackClip(name, None, sequence=name, files=files, where=dict(files))


def build_track_reader(cfg: CfgNode, cls: Any, class_names: Sequence[str], fitted: Mapping[str, Any]) -> TrackReader:
    """Build the reader of point tracks."""

    def dataset_of(manifest: TrackManifest) -> PointTracks:
        return cls.for_clips(cfg, manifest, fitted)

    node = cfg.TRACKS
    facts = {
        "input": "tracks",
        "cameras": list(node.TEST_VIEWS or node.VIEWS),
        "points": node.NUM_POINTS,
        "chosen_by": node.POINTS,
        "window": node.WINDOW,
        "stride": node.STRIDE,
        "fps": node.FPS,
        "coordinates": node.COORDINATES,
    }
    return TrackReader(dataset_of, class_names, facts)
