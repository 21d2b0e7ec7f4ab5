"""Windows of point tracks that several cameras see at once, with masks for points, cameras and frames.

An input is ``tracks`` (V, T, P, 2) float32, x and y in [-1, 1] over the frame (or pixels), ``visible`` (V, T, P) bool,
``view_mask`` (V,) bool and ``time_mask`` (T,) bool. What a mask leaves out is zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.labels import read_class_list
from dust.datasets.manifest.several import one_folder
from dust.datasets.sample import BadClip, SampleRequest, class_counts
from dust.datasets.tracks.files import Tracks, mirrored, read_tracks
from dust.datasets.tracks.manifest import TrackClip, TrackManifest, read_track_manifest
from dust.datasets.tracks.skeletons import mirrored_labels
from dust.utils.errors import ConfigError, DataError, Problems
from dust.utils.rng import numpy_rng

POINTS = ("motion", "rightmost", "random", "grid")
CHOICES = {
    "points": POINTS,
    "point_counts": ("same", "any"),
    "align": ("error", "resample"),
    "coordinates": ("normalised", "pixels"),
}


def choose_points(tracks: Tracks, count: int, how: str, rng: np.random.RandomState) -> np.ndarray:
    """Return which ``count`` points of a camera are kept, in all frames, as ascending indices; all if there are no
    more.

    Points that are never visible come last. ``rightmost``: the largest mean x where visible. ``motion``: the longest
    way between frames in which the point is visible. ``grid``: one of each cell of the picture in turn, by where a
    point is first visible. ``random``: by ``rng``.
    """
    total = tracks.xy.shape[1]
    if total <= count:
        return np.arange(total)
    visible = tracks.visible
    if how == "rightmost":
        score = (tracks.xy[..., 0] * visible).sum(axis=0) / visible.sum(axis=0).clip(min=1)
    elif how == "motion":
        steps = np.linalg.norm(np.diff(tracks.xy, axis=0), axis=-1)
        score = (steps * (visible[1:] & visible[:-1])).sum(axis=0)
    elif how == "grid":
        score = -_turn_in_cell(tracks, count).astype(float)
    else:
        score = rng.uniform(size=total)
    score = np.where(visible.any(axis=0), score, -np.inf)
    return np.sort(np.argsort(-score, kind="stable")[:count])


def _turn_in_cell(tracks: Tracks, count: int) -> np.ndarray:
    """Return (P,): 0 for the first point of its cell, 1 for the second, and so on, in about ``count`` cells."""
    assert tracks.size is not None
    side = max(1, int(np.sqrt(count)))
    first = tracks.visible.argmax(axis=0)
    at = tracks.xy[first, np.arange(len(first))] / np.array(tracks.size[::-1])
    cells = np.clip((at * side).astype(int), 0, side - 1) @ np.array([1, side])
    turns = np.zeros(len(cells), dtype=int)
    for cell in np.unique(cells):
        inside = np.flatnonzero(cells == cell)
        seen = np.argsort(~tracks.visible[:, inside].any(axis=0), kind="stable")
        turns[inside[seen]] = np.arange(len(inside))
    return turns


@DATASET_REGISTRY.register()
class PointTracks(Dataset[Any]):
    """A manifest's clips as windows of points.

    In training, item ``SampleRequest(epoch, sample)`` is a list of one augmented window of a clip. Else item ``index``
    is one
    clip with all its windows: every input has a leading dimension of windows. A clip that cannot be read is a
    :class:`BadClip`.

    Args:
        manifest: the clips and the class names.
        views: camera numbers, in the order of V.
        seen_views: those that are not treated as missing; () is all of them.
        num_points: P.
        points: how points are chosen, see :func:`choose_points`; the choice is for a clip, and for each draw of it with
            ``random`` in training.
        point_counts: same | any: whether cameras of a clip may have different numbers of points.
        window, stride: frames of a window, and from one to the next in evaluation; the last one ends with the clip.
        fps: frames per second that files are brought to; 0 as they are.
        align: error | resample: cameras of a clip that differ in length.
        coordinates: normalised | pixels.
        frame_size: height and width for files without; () none.
        visibility_threshold: see :func:`read_tracks`.
        check_files: read everything now and report all problems.
        cache_mb: MiB of clips that stay in memory.
        view_dropout, point_noise, time_jitter, rotation, scale, mirror: augmentation, see dust/config/tracks.py.
        training: whether items are augmented windows.
        seed: the run's seed, from which all draws are derived.

    Raises:
        ConfigError: arguments that cannot be, all of them.
        DataError: with ``check_files``, every problem of every file.
    """

    def __init__(
        self,
        *,
        manifest: TrackManifest,
        views: Sequence[int],
        seen_views: Sequence[int] = (),
        num_points: int = 500,
        points: str = "motion",
        point_counts: str = "same",
        window: int = 50,
        stride: int = 25,
        fps: float = 0.0,
        align: str = "error",
        coordinates: str = "normalised",
        frame_size: Sequence[int] = (),
        visibility_threshold: float = 0.9,
        check_files: bool = True,
        cache_mb: float = 512,
        view_dropout: float = 0.0,
        point_noise: float = 0.0,
        time_jitter: float = 0.0,
        rotation: float = 0.0,
        scale: float = 0.0,
        mirror: float = 0.0,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        self.clips: list[TrackClip] = manifest.clips
        self.class_names = list(manifest.class_names)
        self.views = list(views)
        self.seen_views = set(seen_views or views)
        self.num_points = num_points
        self.points = points
        self.point_counts = point_counts
        self.window = window
        self.stride = stride
        self.fps = fps
        self.align = align
        self.coordinates = coordinates
        self.frame_size = tuple(int(side) for side in frame_size)
        self.visibility_threshold = visibility_threshold
        self.view_dropout = view_dropout
        self.point_noise = point_noise
        self.time_jitter = time_jitter
        self.rotation = rotation
        self.scale = scale
        self.mirror = mirror
        self._mirrored_label = mirrored_labels(self.class_names, "TRACKS.MIRROR") if mirror else []
        self.training = training
        self.seed = seed
        self._check_arguments()
        self._cache: dict[int, list[Tracks | None]] = {}
        self._cache_bytes_left = cache_mb * 2**20
        if check_files:
            self._check_files(manifest.source)

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        """Return the arguments that a configuration asks for; ``views`` as in
        :func:`dust.datasets.build.build_dataset`."""
        manifest = _manifest_of(cfg, split, class_names)
        return {"manifest": manifest, **cls.reading_from_config(cfg, views or split)}

    @classmethod
    def for_clips(cls, cfg, manifest: TrackManifest, fitted: Mapping[str, Any]) -> "PointTracks":
        """Return a test's dataset of new clips."""
        return cls(manifest=manifest, **{**cls.reading_from_config(cfg, "test"), "check_files": False})

    @classmethod
    def reading_from_config(cls, cfg, views: str) -> dict[str, Any]:
        """Return how clips are read, whatever manifest they are of: all arguments but ``manifest``."""
        node, training = cfg.TRACKS, views == "train"
        return {
            "views": node.VIEWS,
            "seen_views": () if training else node.TEST_VIEWS,
            "num_points": node.NUM_POINTS,
            "points": node.POINTS,
            "point_counts": node.POINT_COUNTS,
            "window": node.WINDOW,
            "stride": node.STRIDE,
            "fps": node.FPS,
            "align": node.ALIGN,
            "coordinates": node.COORDINATES,
            "frame_size": node.FRAME_SIZE,
            "visibility_threshold": node.VISIBILITY_THRESHOLD,
            "check_files": node.CHECK_FILES,
            "cache_mb": node.CACHE_MB,
            "view_dropout": node.VIEW_DROPOUT,
            "point_noise": node.POINT_NOISE,
            "time_jitter": node.TIME_JITTER,
            "rotation": node.ROTATION,
            "scale": node.SCALE,
            "mirror": node.MIRROR,
            "training": training,
            "seed": cfg.RNG_SEED,
        }

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        return _manifest_of(cfg, split, None).class_names

    def _check_arguments(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, it must be above 0"
            for name in ("num_points", "window", "stride")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} is {getattr(self, name)}, it must be in [0, 1)"
            for name in ("view_dropout", "time_jitter", "scale", "visibility_threshold")
            if not 0 <= getattr(self, name) < 1
        ]
        if not 0 <= self.mirror <= 1:
            problems.append(f"mirror is {self.mirror}, it must be in [0, 1]")
        problems += [
            f"{name} is {getattr(self, name)}, it must be 0 or more"
            for name in ("fps", "point_noise", "rotation")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(allowed)}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        if self.coordinates == "pixels" and (self.rotation or self.scale or self.point_noise):
            problems.append("rotation, scale and point_noise need coordinates normalised")
        if not self.views or len(set(self.views)) < len(self.views) or min(self.views) < 0:
            problems.append(f"views are {self.views}: camera numbers from 0, each once, are needed")
        if not self.seen_views <= set(self.views):
            problems.append(f"seen_views (TEST_VIEWS) {sorted(self.seen_views)} are not among the views {self.views}")
        if len(self.frame_size) not in (0, 2) or any(side < 1 for side in self.frame_size):
            problems.append(f"frame_size is {list(self.frame_size)}, it must be height and width, or empty")
        if problems:
            raise ConfigError("PointTracks (keys TRACKS.*): " + "; ".join(problems))

    def _check_files(self, source: str) -> None:
        problems = Problems()
        for index in range(len(self.clips)):
            try:
                self._read(index)
            except DataError as error:
                for line in str(error).split("\n"):
                    problems.add("tracks that cannot be used (TRACKS.CHECK_FILES False leaves such clips out)", line)
        problems.raise_if_any(source)

    def __len__(self) -> int:
        return len(self.clips)

    def class_counts(self) -> list[int]:
        """Return how many clips each class has, in the order of ``class_names``."""
        return class_counts(self.clips, len(self.class_names))

    def __getitem__(self, key: SampleRequest | int) -> Any:
        index = key.sample if isinstance(key, SampleRequest) else key
        clip = self.clips[index]
        try:
            cameras = self._read(index)
        except DataError as error:
            return BadClip(clip.id, clip.path, str(error))
        if self.training:
            assert isinstance(key, SampleRequest), "a training sample is asked for with its epoch"
            rng, label = numpy_rng(self.seed, "augment", key.epoch, key.sample), clip.label
            drawn = self.mirror and numpy_rng(self.seed, "mirror", key.epoch, key.sample).uniform() < self.mirror
            if drawn and label is not None and self._mirrored_label[label] is not None:
                cameras = [None if camera is None else mirrored(camera) for camera in cameras]
                label = self._mirrored_label[label]
            inputs = self._cut(self._stack(cameras, rng), self._training_frames(self._length(cameras), rng))
            return [self._sample(clip, self._augment(inputs, rng), label)]
        whole = self._stack(cameras, numpy_rng(self.seed, "points", clip.id))
        windows = [self._cut(whole, frames) for frames in self._evaluation_frames(self._length(cameras))]
        stacked = {name: np.stack([window[name] for window in windows]) for name in windows[0]}
        return self._sample(clip, stacked, clip.label)

    def _sample(self, clip: TrackClip, inputs: dict[str, np.ndarray], label: int | None) -> dict[str, Any]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        return {"inputs": tensors, "label": label, "id": clip.id, "path": clip.path}

    # ------------------------------------------------------------------------------------------- reading a clip

    def _read(self, index: int) -> list[Tracks | None]:
        """Return one entry per camera of ``views``, all of one length; None for a camera that is missing."""
        if index in self._cache:
            return self._cache[index]
        clip = self.clips[index]
        found, problems = {}, []
        for view in sorted(clip.files.keys() & set(self.views)):
            file = clip.files[view]
            size = (self.frame_size[0], self.frame_size[1]) if self.frame_size else None
            try:
                found[view] = read_tracks(file, threshold=self.visibility_threshold, size=size)
            except DataError as error:
                problems.append(f"{clip.where[view]}: {error}")
        if found and not problems:
            problems = self._align(clip, found)
        if problems:
            raise DataError("\n  ".join(problems))
        cameras = [found.get(view) for view in self.views]
        size_in_bytes = sum(camera.xy.nbytes + camera.visible.nbytes for camera in cameras if camera is not None)
        if size_in_bytes <= self._cache_bytes_left:
            self._cache_bytes_left -= size_in_bytes
            self._cache[index] = cameras
        return cameras

    def _align(self, clip: TrackClip, found: dict[int, Tracks]) -> list[str]:
        """Cut the clip out of its cameras and bring them to one rate and length, in place; return what is wrong."""
        counts = {view: tracks.xy.shape[1] for view, tracks in found.items()}
        if self.point_counts == "same" and len(set(counts.values())) > 1:
            return [
                f"{', '.join(clip.where[view] for view in found)}: sample {clip.id}: cameras have different numbers of "
                f"points ({_listed(counts)}): track as many in each, or set TRACKS.POINT_COUNTS any"
            ]
        clock = clip.clock if clip.clock in found else min(found)
        if self.align == "resample":
            length = len(found[clock].xy)
            for view, tracks in found.items():
                found[view] = _at(tracks, np.linspace(0, len(tracks.xy) - 1, length).round().astype(int))
        lengths = {view: len(tracks.xy) for view, tracks in found.items()}
        shortest = min(lengths.values())
        end = shortest if clip.end is None else clip.end
        if not clip.start < end <= shortest:
            return [
                f"{clip.where[clock]}: sample {clip.id}: frames {clip.start} to {end} of files of {_listed(lengths)}"
            ]
        for view, tracks in found.items():
            frames = np.arange(clip.start, end if clip.end is not None else len(tracks.xy))
            if self.fps and not tracks.fps:
                return [f"{clip.where[view]}: {clip.files[view]}: no fps in it, which TRACKS.FPS {self.fps:g} needs"]
            if self.fps:
                steps = np.arange(int((len(frames) - 1) * self.fps / tracks.fps + 1e-6) + 1)
                frames = frames[(steps * tracks.fps / self.fps).round().astype(int).clip(max=len(frames) - 1)]
            found[view] = _at(tracks, frames)
        lengths = {view: len(tracks.xy) for view, tracks in found.items()}
        if max(lengths.values()) - min(lengths.values()) > bool(self.fps):
            return [
                f"{', '.join(clip.where[view] for view in found)}: sample {clip.id}: cameras have different numbers of "
                f"frames ({_listed(lengths)}): cut them alike, or set TRACKS.ALIGN resample or TRACKS.FPS"
            ]
        for view, tracks in found.items():  # two rates may round to one frame more or less
            found[view] = _at(tracks, np.arange(min(lengths.values())))
        return []

    def _length(self, cameras: list[Tracks | None]) -> int:
        """Return the frames of a clip; a window of a clip that no camera sees."""
        return next((len(camera.xy) for camera in cameras if camera is not None), self.window)

    def _stack(self, cameras: list[Tracks | None], rng: np.random.RandomState) -> dict[str, np.ndarray]:
        """Return the chosen points of all cameras: tracks (V, T, P, 2), visible (V, T, P) and view_mask (V,)."""
        shape = (len(cameras), self._length(cameras), self.num_points)
        xy, visible = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
        there = np.zeros(len(cameras), bool)
        for number, tracks in enumerate(cameras):
            if tracks is None or self.views[number] not in self.seen_views:
                continue
            assert tracks.size is not None
            there[number] = True
            chosen = choose_points(tracks, self.num_points, self.points, rng)
            width_height = np.array(tracks.size[::-1], np.float32)
            points = tracks.xy[:, chosen]
            inside = ((points >= 0) & (points <= width_height)).all(axis=-1)
            if self.coordinates == "normalised":
                points = 2 * points / width_height - 1
            xy[number, :, : len(chosen)] = points
            visible[number, :, : len(chosen)] = tracks.visible[:, chosen] & inside
        return {"tracks": xy, "visible": visible, "view_mask": there}

    # -------------------------------------------------------------------------------------- windows, augmentation

    def _evaluation_frames(self, length: int) -> list[np.ndarray]:
        last = max(length - self.window, 0)
        starts = sorted({*range(0, last + 1, self.stride), last})
        return [start + np.arange(self.window) for start in starts]

    def _training_frames(self, length: int, rng: np.random.RandomState) -> np.ndarray:
        """Return a window anywhere in the clip, at a speed of 1 up to ``time_jitter`` more or less."""
        speed = 1 + rng.uniform(-self.time_jitter, self.time_jitter)
        steps = (np.arange(self.window) * speed).round().astype(int)
        return rng.randint(0, max(length - int(steps[-1]), 1)) + steps

    def _cut(self, whole: dict[str, np.ndarray], frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return the frames of a window; those behind the end are empty, and time_mask says so."""
        there = frames < whole["tracks"].shape[1]
        inside = frames[there]
        padding = len(frames) - len(inside)
        visible = np.pad(whole["visible"][:, inside], ((0, 0), (0, padding), (0, 0)))
        tracks = np.pad(whole["tracks"][:, inside], ((0, 0), (0, padding), (0, 0), (0, 0)))
        if self.coordinates == "normalised":  # the published model, which takes pixels, looks at hidden points too
            tracks = np.where(visible[..., None], tracks, np.float32(0))
        return {"tracks": tracks, "visible": visible, "view_mask": whole["view_mask"], "time_mask": there}

    def _augment(self, inputs: dict[str, np.ndarray], rng: np.random.RandomState) -> dict[str, np.ndarray]:
        """Drop, turn and zoom cameras about the middle of the frame, and put noise on every point."""
        xy, there = inputs["tracks"], inputs["view_mask"]
        dropped = there & (rng.uniform(size=len(there)) < self.view_dropout)
        if there.any() and (dropped == there).all():
            dropped[rng.choice(np.flatnonzero(there))] = False
        angle = np.radians(rng.uniform(-self.rotation, self.rotation, len(there)))
        zoom = 1 + rng.uniform(-self.scale, self.scale, len(there))
        noise = rng.standard_normal(xy.shape) * self.point_noise if self.point_noise else 0.0
        if self.rotation or self.scale or self.point_noise:
            cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
            turn = np.stack([cos, sin, -sin, cos], axis=-1).reshape(-1, 1, 2, 2)
            xy = np.where(inputs["visible"][..., None], xy @ turn + noise, 0.0).astype(np.float32)
        kept = there & ~dropped
        visible = inputs["visible"] & kept[:, None, None]
        return {**inputs, "tracks": xy * kept[:, None, None, None], "visible": visible, "view_mask": kept}


def _at(tracks: Tracks, frames: np.ndarray) -> Tracks:
    return replace(tracks, xy=tracks.xy[frames], visible=tracks.visible[frames])


def _listed(values: dict[int, int]) -> str:
    return ", ".join(f"view {view}: {value}" for view, value in sorted(values.items()))


def _manifest_of(cfg, split: str, class_names: Sequence[str] | None) -> TrackManifest:
    if class_names is None and cfg.DATA.CLASS_LIST:
        class_names = read_class_list(cfg.DATA.CLASS_LIST)
    return read_track_manifest(
        root=one_folder(cfg.DATA.PATH_TO_DATA_DIR, "PointTracks"),
        split=split,
        class_names=class_names,
        num_classes=max(cfg.MODEL.NUM_CLASSES, 0) or None,
        views=cfg.TRACKS.VIEWS,
        group_column=cfg.DATA.GROUP_COLUMN,
        corrections=cfg.DATA.CORRECTIONS,
        extra_columns=cfg.DATA.EXTRA_COLUMNS,
    )
