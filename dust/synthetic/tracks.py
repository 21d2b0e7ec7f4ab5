"""Generated point tracks with a known answer: an object that moves in three dimensions, seen by several cameras.

Cameras stand level with the object in a ring and far away, so that each sees width and height, but hardly depth. Most
motions come in two senses, to the left and to the right about the vertical axis, and start anywhere on the circle. From
one camera both senses look alike; two cameras see which of them leads. A line back and forth looks like a circle from
the side. So one camera alone cannot tell all classes apart, and two or more can.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dust.synthetic.motion import SHARES, claim_folder, finish_folder
from dust.utils.errors import DataError
from dust.utils.files import write_csv, write_text
from dust.utils.rng import numpy_rng

MOTIONS = (
    "circle_left",
    "circle_right",
    "line",
    "pick_and_place_left",
    "pick_and_place_right",
    "zig_zag_left",
    "zig_zag_right",
)
SIZE = (480, 640)  # height and width of every camera, pixels
FPS = 24.0
DISTANCE = 40.0  # metres from a camera to the centre; motions measure about two
FOCAL = 7200.0  # pixels: one metre at the centre is 180 pixels
CLUTTER = 0.15  # share of the points that stand still in the background
NOISE = 1.0  # standard deviation of a point's place, pixels
SHAKE = 3.0  # standard deviation of a whole picture's place, pixels, over time


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera. A point X (metres) is at ``K @ (R @ X + t)`` in homogeneous pixels; x right, y down."""

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 3) metres -> (..., 2) pixels."""
        x = (points @ self.R.T + self.t) @ self.K.T
        return x[..., :2] / x[..., 2:]


def camera_ring(views: int, rng: np.random.RandomState) -> list[Camera]:
    """Return ``views`` level cameras around the origin, that look at it, evenly spaced up to a fifth of the space.

    Half a turn apart two cameras see mirror images and nothing new, so an even number is spread over half a turn.
    """
    turn = math.pi if views % 2 == 0 else 2 * math.pi
    height, width = SIZE
    K = np.array([[FOCAL, 0.0, width / 2], [0.0, FOCAL, height / 2], [0.0, 0.0, 1.0]])
    cameras = []
    for view in range(views):
        azimuth = turn * (view + rng.uniform(-0.2, 0.2)) / views
        right = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
        down = np.array([0.0, 0.0, -1.0])
        forward = np.cross(right, down)
        cameras.append(Camera(K, np.stack([right, down, forward]), np.array([0.0, 0.0, DISTANCE])))
    return cameras


def motion_path(name: str, frames: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the centre of the object, (frames, 3) metres, z up."""
    kind, _, sense = name.rpartition("_") if name != "line" else ("line", "", "")
    time = np.linspace(0.0, 1.0, frames)
    radius, start = rng.uniform(0.6, 1.0), rng.uniform(0.0, 2 * math.pi)
    turns = rng.uniform(0.8, 1.2) * (1 if sense == "left" else -1)
    if kind == "pick_and_place":  # up, half a turn, down
        turns /= 2
        carried = np.clip((time - 0.2) / 0.6, 0.0, 1.0)
        lift = np.clip(np.minimum(time, 1 - time) / 0.2, 0.0, 1.0)
        angle, z = start + 2 * math.pi * turns * carried, 0.7 * lift - 0.35
    else:
        angle = start + 2 * math.pi * turns * time
        waves = rng.uniform(2.5, 3.5) * time + rng.uniform()
        z = 0.9 * np.abs(2 * (waves % 1.0) - 1) - 0.45 if kind == "zig_zag" else np.zeros(frames)
    if kind == "line":  # the same speeds as a circle's shadow, along one direction
        direction = rng.uniform(0.0, 2 * math.pi)
        along = radius * np.cos(angle)
        return np.stack([along * math.cos(direction), along * math.sin(direction), z], axis=1)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def object_points(centre: np.ndarray, points: int, rng: np.random.RandomState) -> np.ndarray:
    """Return a rigid cloud that follows ``centre`` and turns slowly, and some clutter that stands still: (T, P, 3)
    metres."""
    still = round(CLUTTER * points)
    cloud = rng.standard_normal((points - still, 3)) * rng.uniform(0.08, 0.16)
    angles = np.linspace(0.0, rng.uniform(-1.0, 1.0), len(centre))
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros(len(centre))
    turn = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], axis=1).reshape(-1, 3, 3)
    moving = np.einsum("tij,pj->tpi", turn, cloud) + centre[:, None]
    clutter = np.broadcast_to(rng.uniform(-1.2, 1.2, (still, 3)), (len(centre), still, 3))
    return np.concatenate([moving, clutter], axis=1)[:, rng.permutation(points)]


def smooth_noise(frames: int, scale: float, rng: np.random.RandomState) -> np.ndarray:
    """Return (frames, 2) noise of standard deviation ``scale`` that changes over about eight frames."""
    knots = rng.standard_normal((frames // 8 + 2, 2)) * scale
    at = np.arange(frames) / 8.0
    return np.stack([np.interp(at, np.arange(len(knots)), knots[:, axis]) for axis in range(2)], axis=1)


def observe(camera: Camera, points: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Return what a tracker makes of (T, P, 3) metres: tracks (T, P, 2) pixels float32, and visibility (T, P) bool.

    Points are lost for a while, are hidden behind an upright post in every third clip, and where they are not seen the
    tracker guesses.
    """
    frames, count = points.shape[:2]
    xy = camera.project(points) + smooth_noise(frames, SHAKE, rng)[:, None]
    xy += rng.standard_normal(xy.shape) * NOISE
    time = np.arange(frames)[:, None]
    lost = rng.randint(0, frames, count)
    visible = ~((time >= lost) & (time < lost + rng.randint(1, max(2, frames // 3), count)))
    if rng.uniform() < 1 / 3:
        post = rng.uniform(0.2, 0.8) * SIZE[1]
        visible &= np.abs(xy[..., 0] - post) > rng.uniform(15.0, 40.0)
    visible &= ((xy >= 0) & (xy < SIZE[::-1])).all(axis=-1)
    xy = np.where(visible[..., None], xy, xy + rng.standard_normal(xy.shape) * 30.0)
    return xy.astype(np.float32), visible


def generate_tracks(
    out: str | os.PathLike,
    *,
    classes: int = len(MOTIONS),
    sequences: int = 60,
    views: int = 4,
    points: int = 64,
    frames: int = 50,
    missing: float = 0.02,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write ``out/tracks.csv``, ``out/tracks/*.npz`` and ``out/cameras.json`` (what DATASET.md calls point tracks).

    Every sequence holds one clip of each class in random order and has its own cameras; 70, 15 and 15 % of the
    sequences are train, val and test.

    Args:
        classes: the first 2..7 of MOTIONS.
        sequences: at least 3; as many clips per class.
        views: 2..8 cameras.
        points: per camera, at least 8.
        frames: per clip, at least 8.
        missing: chance that a camera of a clip has no file, in [0, 1); one always has.
        seed: the same seed gives the same tracks.
        force: replace what an earlier run wrote. Other files in the folder are never touched.
        progress: wraps the list of clips to show how far it is.

    Returns:
        {split: number of clips}.

    Raises:
        DataError: numbers out of range, a folder that is not empty, a foreign file in the way.
    """
    _check_numbers(classes=classes, sequences=sequences, views=views, points=points, frames=frames, missing=missing)
    folder = Path(out)
    work, rows = _plan(classes, sequences, views, missing, seed)
    claim_folder(folder, [*(row[3] for row in rows), "tracks.csv", "cameras.json"], force=force)
    cameras = [camera_ring(views, numpy_rng(seed, "cameras", number)) for number in range(sequences)]
    try:
        (folder / "tracks").mkdir(exist_ok=True)
        for number, motion, files in progress(work):
            rng = numpy_rng(seed, "tracks", number, motion)
            scene = object_points(motion_path(motion, frames, rng), points, rng)
            for view, file in files.items():
                seen = numpy_rng(seed, "tracks", number, motion, "view", view)
                tracks, visibility = observe(cameras[number][view], scene, seen)
                np.savez(folder / file, tracks=tracks, visibility=visibility, size=np.array(SIZE), fps=np.array(FPS))
    except OSError as error:
        raise DataError(f"{folder}: tracks cannot be written: {error.strerror or error}") from error
    write_text(folder / "cameras.json", _calibration(cameras))
    write_csv(folder / "tracks.csv", ("sample", "view", "label", "file", "sequence", "split"), rows)
    finish_folder(folder)
    splits = {sample: split for sample, _, _, _, _, split in rows}
    return {split: list(splits.values()).count(split) for split in SHARES}


def _check_numbers(**given: float) -> None:
    least = {"classes": 2, "sequences": len(SHARES), "views": 2, "points": 8, "frames": 8, "missing": 0}
    most = {"classes": len(MOTIONS), "views": 8}
    wrong = [f"{name} {given[name]}: at least {low}" for name, low in least.items() if given[name] < low]
    wrong += [f"{name} {given[name]}: at most {high}" for name, high in most.items() if given[name] > high]
    if given["missing"] >= 1:
        wrong.append(f"missing {given['missing']}: below 1")
    if wrong:
        raise DataError("these tracks cannot be generated: " + "; ".join(wrong))


def _plan(
    classes: int, sequences: int, views: int, missing: float, seed: int
) -> tuple[list[tuple[int, str, dict[int, str]]], list[tuple[str, int, str, str, str, str]]]:
    """Return every clip as (sequence, motion, file of each view), and the rows of the csv."""
    held_out = max(1, round(SHARES["val"] * sequences))
    work, rows = [], []
    for number in range(sequences):
        rng = numpy_rng(seed, "sequence", number)
        split = "train" if number < sequences - 2 * held_out else "val" if number < sequences - held_out else "test"
        sequence = f"seq_{number:04d}"
        for place, index in enumerate(rng.permutation(classes)):
            sample, motion = f"{sequence}_{place}", MOTIONS[index]
            there = rng.uniform(size=views) >= missing
            there[rng.randint(views)] = True
            files = {view: f"tracks/{sample}_view_{view}.npz" for view in np.flatnonzero(there).tolist()}
            work.append((number, motion, files))
            rows += [(sample, view, motion, file, sequence, split) for view, file in files.items()]
    return work, rows


def _calibration(cameras: list[list[Camera]]) -> str:
    named = {
        f"seq_{number:04d}": [
            {"K": camera.K.tolist(), "R": camera.R.tolist(), "t": camera.t.tolist(), "size": list(SIZE)}
            for camera in ring
        ]
        for number, ring in enumerate(cameras)
    }
    return json.dumps(named, indent=1) + "\n"
