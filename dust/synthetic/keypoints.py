"""Generated keypoints with a known answer: a person of 17 joints (COCO's) who moves one limb.

The class is the limb, by its side: left_arm, right_arm, left_leg, right_leg. Half of the people stand with their back
to the camera, so that the side of the picture says nothing: only the joints' names (their order) do. Faces of those
who look away are not seen.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust.datasets.tracks.skeletons import SKELETONS, find_pairs
from dust.synthetic.motion import SHARES, claim_folder, finish_folder
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.rng import numpy_rng

LIMBS = ("left_arm", "right_arm", "left_leg", "right_leg")
NAMES = SKELETONS["coco"]
SIZE = (480, 640)  # height and width, pixels
FPS = 30.0
NOISE = 0.01  # standard deviation of a joint's place, heights of a person
SWING = {"arm": 2.2, "leg": 1.1}  # radians from the body, at most
_FACE = ("nose", "left_eye", "right_eye")
#: where joints of the right half of the picture are, heights of a person: x from the middle, y down from the hips
_PLACES = {
    "nose": (0.0, -0.42), "eye": (0.02, -0.44), "ear": (0.05, -0.42), "shoulder": (0.11, -0.3),
    "elbow": (0.14, -0.14), "wrist": (0.15, 0.02), "hip": (0.07, 0.0), "knee": (0.08, 0.23), "ankle": (0.08, 0.46),
}  # fmt: skip


def person(limb: str, frames: int, away: bool, rng: np.random.RandomState) -> np.ndarray:
    """Return (frames, 17, 2) heights of a person, from the middle of the hips; x to the right of the picture, y down.

    Args:
        limb: of LIMBS, which swings about its shoulder or hip, out and back.
        away: the person shows the back, so that the left joints are on the left of the picture.
    """
    time = np.arange(frames) / FPS
    phase = 2 * math.pi * (rng.uniform(0.4, 0.8) * time + rng.uniform())
    swing = SWING[limb.split("_")[1]] * rng.uniform(0.7, 1.0) * (1 - np.cos(phase)) / 2
    joints = np.zeros((frames, len(NAMES), 2))
    side, part = limb.split("_")
    moving = {"arm": ("shoulder", "elbow", "wrist"), "leg": ("hip", "knee", "ankle")}[part]
    for place, name in enumerate(NAMES):
        own, _, joint = name.rpartition("_")
        x, y = _PLACES[joint]
        at = np.tile([x, y], (frames, 1))
        if own == side and joint in moving:
            root = np.array(_PLACES[moving[0]])
            cos, sin = np.cos(swing), np.sin(swing)
            dx, dy = np.array([x, y]) - root
            at = root + np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)
        if own == "right":
            at[:, 0] *= -1  # who faces the camera has the left hand on the right of the picture
        joints[:, place] = at
    joints[..., 0] *= -1 if away else 1
    sway = 0.03 * np.sin(2 * math.pi * (0.3 * time + rng.uniform()))
    joints[..., 0] += sway[:, None]
    return joints + rng.standard_normal(joints.shape) * NOISE


def observe(joints: np.ndarray, away: bool, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (T, P, 2) float32 of a person anywhere in the frame, and which joints are seen (T, P)."""
    height = rng.uniform(0.75, 0.95) * SIZE[0]
    middle = np.array([rng.uniform(0.45, 0.55) * SIZE[1], rng.uniform(0.48, 0.52) * SIZE[0]])
    xy = (middle + joints * height).astype(np.float32)
    visible = rng.uniform(size=xy.shape[:2]) > 0.03
    if away:
        visible[:, [NAMES.index(name) for name in _FACE]] = False
    return np.where(visible[..., None], xy, np.float32(0)), visible & ((xy >= 0) & (xy <= SIZE[::-1])).all(axis=-1)


def generate_keypoints(
    out: str | os.PathLike,
    *,
    sequences: int = 80,
    frames: int = 40,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> dict[str, int]:
    """Write ``out/tracks.csv`` and ``out/tracks/*.npz`` with the joints' names and their left and right pairs.

    Every sequence is a person with a clip of each limb; 70, 15 and 15 % of them are train, val and test.

    Args:
        sequences: at least 3.
        frames: per clip, at least 8.
        seed, force, progress: as in :func:`dust.synthetic.tracks.generate_tracks`.

    Returns:
        {split: number of clips}.

    Raises:
        DataError: numbers out of range, a folder that is not empty, a foreign file in the way.
    """
    if sequences < len(SHARES) or frames < 8:
        raise DataError(f"these keypoints cannot be generated: sequences {sequences} (3 or more), frames {frames} (8)")
    folder = Path(out)
    held_out = max(1, round(SHARES["val"] * sequences))
    work: list[tuple[int, str, str]] = []
    rows: list[tuple[str, int, str, str, str, str]] = []
    for number in range(sequences):
        split = "train" if number < sequences - 2 * held_out else "val" if number < sequences - held_out else "test"
        for limb in LIMBS:
            sample = f"person_{number:04d}_{len(work) % len(LIMBS)}"
            file = f"tracks/{sample}.npz"
            work.append((number, limb, file))
            rows.append((sample, 0, limb, file, f"person_{number:04d}", split))
    claim_folder(folder, [*(row[3] for row in rows), "tracks.csv"], force=force)
    facts: dict[str, Any] = {
        "names": np.array(NAMES),
        "pairs": find_pairs(NAMES),
        "size": np.array(SIZE),
        "fps": np.array(FPS),
    }
    try:
        (folder / "tracks").mkdir(exist_ok=True)
        for number, limb, file in progress(work):
            rng = numpy_rng(seed, "keypoints", number, limb)
            away = bool(rng.uniform() < 0.5)
            tracks, visibility = observe(person(limb, frames, away, rng), away, rng)
            np.savez(folder / file, tracks=tracks, visibility=visibility, **facts)
    except OSError as error:
        raise DataError(f"{folder}: keypoints cannot be written: {error.strerror or error}") from error
    write_csv(folder / "tracks.csv", ("sample", "view", "label", "file", "sequence", "split"), rows)
    finish_folder(folder)
    return {split: sum(row[5] == split for row in rows) for split in SHARES}
