"""Generated point tracks: geometry, what one camera cannot know, and files."""

import json
import math

import numpy as np
import pytest

from dust.synthetic.tracks import FPS, MOTIONS, SIZE, Camera, camera_ring, generate_tracks, motion_path, observe
from dust.utils.errors import DataError
from dust.utils.rng import numpy_rng
from tests.helpers import csv_dicts

SMALL = {"sequences": 4, "classes": 3, "views": 3, "points": 10, "frames": 12}


def rows_of(folder):
    return csv_dicts(folder / "tracks.csv")


def test_a_camera_projects_as_a_pinhole():
    camera = Camera(np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), np.eye(3), np.array([0.0, 0, 4]))
    # by hand: 100 * 1 / (4 + 1) + 32, 100 * 2 / 5 + 24
    np.testing.assert_allclose(camera.project(np.array([1.0, 2.0, 1.0])), [52.0, 64.0])


@pytest.mark.parametrize("views", [2, 4, 5, 8])
def test_cameras_are_level_and_look_at_the_centre_from_different_sides(views):
    ring = camera_ring(views, numpy_rng(0, views))
    assert len(ring) == views
    for camera in ring:
        np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.R) == pytest.approx(1)
        np.testing.assert_allclose(camera.project(np.zeros(3)), [SIZE[1] / 2, SIZE[0] / 2])
        assert camera.project(np.array([0, 0, 1.0]))[1] < SIZE[0] / 2  # up is up
        assert (camera.R @ np.array([0, 0, 1.0]))[2] == pytest.approx(0)  # height is not depth
    forward = np.stack([camera.R[2] for camera in ring])
    cosines = np.abs(forward @ forward.T - np.eye(views))
    assert cosines.max() < math.cos(math.radians(180 / 8 * 0.59))


@pytest.mark.parametrize("kind", ["circle", "pick_and_place", "zig_zag"])
def test_one_camera_cannot_tell_the_two_senses_but_two_can(kind):
    """The mirror image in depth of a left motion is a right motion, and a level camera sees nothing of it."""
    left = motion_path(f"{kind}_left", 40, numpy_rng(3, kind))
    camera = camera_ring(4, numpy_rng(5))[0]
    axis = camera.R[2]
    mirrored = left - 2 * (left @ axis)[:, None] * axis

    def sense(path):
        return np.sign(np.sum(path[:-1, 0] * np.diff(path[:, 1]) - path[:-1, 1] * np.diff(path[:, 0])))

    right = motion_path(f"{kind}_right", 40, numpy_rng(4, kind))
    assert sense(left) == -sense(mirrored) == -sense(right) != 0
    assert np.abs(camera.project(left) - camera.project(mirrored)).max() < 10  # pixels, of a motion of over 200
    other = camera_ring(4, numpy_rng(5))[1]
    assert np.abs(other.project(left) - other.project(mirrored)).max() > 60


def test_what_a_tracker_sees():
    camera, rng = camera_ring(4, numpy_rng(0))[0], numpy_rng(1)
    points = np.broadcast_to(rng.uniform(-0.5, 0.5, (30, 3)), (25, 30, 3))
    tracks, visible = observe(camera, points, rng)
    assert tracks.shape == (25, 30, 2) and tracks.dtype == np.float32
    assert visible.shape == (25, 30) and visible.dtype == bool and 0.4 < visible.mean() < 0.99
    error = np.linalg.norm(tracks - camera.project(points), axis=-1)
    assert np.median(error[visible]) < 10 < np.median(error[~visible])


def test_generate_writes_what_it_says(tmp_path):
    counts = generate_tracks(tmp_path / "data", missing=0.3, **SMALL)
    rows = rows_of(tmp_path / "data")
    assert counts == {"train": 6, "val": 3, "test": 3}
    assert {row["label"] for row in rows} == set(MOTIONS[:3])
    assert len({(row["sample"], row["view"]) for row in rows}) == len(rows) < 4 * 3 * 3
    assert len({row["sample"] for row in rows}) == 12
    splits = {}
    for row in rows:
        splits.setdefault(row["sequence"], set()).add(row["split"])
        with np.load(tmp_path / "data" / row["file"]) as data:
            assert data["tracks"].shape == (12, 10, 2) and data["visibility"].shape == (12, 10)
            assert tuple(data["size"]) == SIZE and data["fps"] == FPS
    assert all(len(split) == 1 for split in splits.values())
    cameras = json.loads((tmp_path / "data" / "cameras.json").read_text())
    assert len(cameras) == 4 and len(cameras["seq_0000"]) == 3


def test_the_same_seed_gives_the_same_tracks(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate_tracks(tmp_path / name, seed=seed, **SMALL)
    files = [row["file"] for row in rows_of(tmp_path / "a")]
    same = [np.array_equal(*(np.load(tmp_path / name / file)["tracks"] for name in "ab")) for file in files]
    assert all(same)
    file = next(file for file in files if (tmp_path / "c" / file).exists())
    assert not np.array_equal(*(np.load(tmp_path / name / file)["tracks"] for name in "ac"))


def test_a_filled_folder_is_refused_and_wrong_numbers_are_named_together(tmp_path):
    generate_tracks(tmp_path / "data", **SMALL)
    with pytest.raises(DataError, match="not empty"):
        generate_tracks(tmp_path / "data", **SMALL)
    generate_tracks(tmp_path / "data", **SMALL, force=True)
    with pytest.raises(DataError, match=r"sequences 1: at least 3.*classes 9: at most 7.*missing 1"):
        generate_tracks(tmp_path / "x", sequences=1, classes=9, missing=1)
