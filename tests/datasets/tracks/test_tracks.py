"""Point tracks as samples: points, windows, augmentation, names and mirrors."""

import numpy as np
import pytest
import torch

from dust.config import get_cfg
from dust.datasets.sample import SampleRequest
from dust.datasets.tracks.files import Tracks, mirrored, read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.tracks.tracks import PointTracks, choose_points
from dust.synthetic.tracks import generate_tracks
from dust.utils.errors import ConfigError, DataError

SIZE = (48, 64)  # height, width


def points_of(T=10, P=6, seed=0):
    rng = np.random.RandomState(seed)
    return (rng.uniform(0.02, 0.98, (T, P, 2)) * SIZE[::-1]).astype(np.float32)


def write(path, xy=None, **more):
    xy = points_of() if xy is None else xy
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"tracks": xy, "visibility": np.ones(xy.shape[:2], bool), "size": np.array(SIZE), "fps": np.array(24.0)}
    np.savez(path, **{name: value for name, value in {**arrays, **more}.items() if value is not None})
    return path


def make(folder, rows=None, header="sample,view,label,file,sequence,split", **files):
    """A folder with a clip of each split and class, seen by two cameras."""
    if rows is None:
        rows = [
            f"{split}{label},{view},{label},{split}{label}_{view}.npz,seq_{split},{split}"
            for split in ("train", "val", "test")
            for label in ("left", "right")
            for view in (0, 1)
        ]
    for number, row in enumerate(rows):
        write(folder / row.split(",")[3], points_of(seed=number))
    for name, xy in files.items():
        write(folder / f"{name}.npz", xy)
    (folder / "tracks.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def dataset(folder, split="train", **arguments):
    views = arguments.pop("views", [0, 1])
    manifest = read_track_manifest(root=str(folder), split=split, views=views)
    return PointTracks(manifest=manifest, views=views, **{"num_points": 6, "window": 4, "stride": 3, **arguments})


# --------------------------------------------------------------------------------------------- points and windows


def test_choice_of_points():
    xy = np.zeros((3, 5, 2), np.float32)
    xy[:, :, 0] = [10, 50, 30, 60, 20]  # where
    xy[:, 2, 1] = [0, 20, 0]
    xy[:, 4, 1] = [0, 9, 9]
    visible = np.ones((3, 5), bool)
    visible[:, 3] = False
    tracks = Tracks(xy, visible, SIZE, 0.0)
    rng = np.random.RandomState(0)
    assert choose_points(tracks, 2, "rightmost", rng).tolist() == [1, 2]
    assert choose_points(tracks, 2, "motion", rng).tolist() == [2, 4]
    assert choose_points(tracks, 9, "motion", rng).tolist() == [0, 1, 2, 3, 4]
    assert 3 not in choose_points(tracks, 4, "random", rng)
    spread = np.array([[1, 1], [2, 2], [40, 1], [1, 40], [41, 2], [40, 40], [3, 3]], np.float32)
    grid = Tracks(np.repeat(spread[None], 2, axis=0), np.ones((2, 7), bool), SIZE, 0.0)
    assert choose_points(grid, 4, "grid", rng).tolist() == [0, 2, 3, 5]


def test_random_points_depend_on_the_draw_and_stay_in_evaluation(tmp_path):
    make(tmp_path)
    data = dataset(tmp_path, training=True, points="random", num_points=3, window=10)
    draws = [data[SampleRequest(epoch, 0)][0]["inputs"]["tracks"] for epoch in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1]) and not all(torch.equal(draws[0], other) for other in draws[2:])
    data = dataset(tmp_path, points="random", num_points=3)
    assert torch.equal(data[0]["inputs"]["tracks"], data[0]["inputs"]["tracks"])


def test_evaluation_windows_cover_the_clip(tmp_path):
    make(tmp_path)
    sample = dataset(tmp_path, "test")[1]
    inputs = sample["inputs"]
    assert sample["id"] == "testright" and sample["label"] == 1
    assert inputs["tracks"].shape == (3, 2, 4, 6, 2)  # windows begin at 0, 3 and 6
    expected = 2 * points_of(seed=10) / np.array(SIZE[::-1], np.float32) - 1
    for window, start in enumerate((0, 3, 6)):
        np.testing.assert_allclose(inputs["tracks"][window, 0], expected[start : start + 4], atol=1e-6)
    assert inputs["time_mask"].all() and inputs["view_mask"].dtype == torch.bool
    assert len(dataset(tmp_path, "test", stride=4)[0]["inputs"]["tracks"]) == 3  # 0, 4 and, to the end, 6


def test_a_short_clip_is_padded_and_says_so(tmp_path):
    make(tmp_path)
    inputs = dataset(tmp_path, window=16, num_points=8)[0]["inputs"]
    assert inputs["tracks"].shape == (1, 2, 16, 8, 2)
    assert inputs["time_mask"][0].tolist() == [True] * 10 + [False] * 6
    assert not inputs["visible"][:, :, 10:].any() and not inputs["visible"][..., 6:].any()
    assert not inputs["tracks"][~inputs["visible"]].any()


def test_points_outside_of_the_frame_are_not_visible(tmp_path):
    make(tmp_path)
    xy = points_of()
    xy[4, 2] = (SIZE[1] + 2, 5)
    write(tmp_path / "trainleft_0.npz", xy)
    visible = dataset(tmp_path, window=10)[0]["inputs"]["visible"][0, 0]
    assert (~visible).nonzero().tolist() == [[4, 2]]


def test_training_windows_are_cut_anywhere_and_repeat(tmp_path):
    make(tmp_path)
    data = dataset(tmp_path, training=True)
    whole = torch.tensor(2 * points_of(seed=0) / np.array(SIZE[::-1], np.float32) - 1)
    starts = set()
    for epoch in range(30):
        (sample,) = data[SampleRequest(epoch, 0)]
        tracks = sample["inputs"]["tracks"][0]
        (start,) = [s for s in range(7) if torch.allclose(tracks, whole[s : s + 4], atol=1e-6)]
        starts.add(start)
    assert starts == set(range(7))
    assert torch.equal(
        data[SampleRequest(3, 0)][0]["inputs"]["tracks"], data[SampleRequest(3, 0)][0]["inputs"]["tracks"]
    )


def test_augmentation(tmp_path):
    make(tmp_path)
    plain = {"training": True, "window": 10}
    before = dataset(tmp_path, **plain)[SampleRequest(0, 0)][0]["inputs"]["tracks"]
    turned = dataset(tmp_path, **plain, rotation=30.0)[SampleRequest(0, 0)][0]["inputs"]["tracks"]
    assert not torch.allclose(turned, before) and torch.allclose(turned.norm(dim=-1), before.norm(dim=-1), atol=1e-5)
    zoomed = dataset(tmp_path, **plain, scale=0.3)[SampleRequest(0, 0)][0]["inputs"]["tracks"] / before
    for camera in zoomed:
        assert torch.allclose(camera, camera.flatten()[0].expand_as(camera), atol=1e-4) and 0.7 < camera.mean() < 1.3
    noise = dataset(tmp_path, **plain, point_noise=0.05)[SampleRequest(0, 0)][0]["inputs"]["tracks"] - before
    assert 0.03 < noise.std() < 0.07
    faster = dataset(tmp_path, training=True, window=4, time_jitter=0.9)
    spans = {tuple(faster[SampleRequest(epoch, 0)][0]["inputs"]["tracks"][0, :, 0, 0].tolist()) for epoch in range(20)}
    assert len(spans) > 7  # more than the seven windows of the plain speed
    masks = [dataset(tmp_path, **plain, view_dropout=0.9)[SampleRequest(e, 0)][0]["inputs"] for e in range(10)]
    assert all(inputs["view_mask"].any() for inputs in masks) and not all(inputs["view_mask"].all() for inputs in masks)
    for inputs in masks:
        assert not inputs["tracks"][~inputs["view_mask"]].any() and not inputs["visible"][~inputs["view_mask"]].any()


def test_the_cache_changes_nothing_and_keeps_to_its_size(tmp_path):
    make(tmp_path)
    kept, read = dataset(tmp_path), dataset(tmp_path, cache_mb=0)
    assert len(kept._cache) == 2 and not read._cache
    assert torch.equal(kept[1]["inputs"]["tracks"], read[1]["inputs"]["tracks"])


def test_impossible_arguments_are_named_together(tmp_path):
    make(tmp_path)
    words = (
        r"window is 0.*scale is 2.*points is 'best'.*need coordinates normalised.*\[9\] are not among.*frame_size is"
    )
    with pytest.raises(ConfigError, match=words):
        dataset(tmp_path, window=0, scale=2, points="best", coordinates="pixels", seen_views=[9], frame_size=[3])


def test_from_config_on_generated_tracks(tmp_path):
    generate_tracks(tmp_path, sequences=4, classes=3, points=12, frames=20, missing=0.2)
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path), 3
    cfg.TRACKS.NUM_POINTS, cfg.TRACKS.WINDOW, cfg.TRACKS.STRIDE, cfg.TRACKS.TEST_VIEWS = 10, 12, 4, [0, 2]
    train = PointTracks(**PointTracks.from_config(cfg, "train"))
    assert train.class_counts() == [2, 2, 2]
    (sample,) = train[SampleRequest(0, 5)]
    assert sample["inputs"]["tracks"].shape == (4, 12, 10, 2) and sample["inputs"]["time_mask"].shape == (12,)
    test = PointTracks(**PointTracks.from_config(cfg, "test", train.class_names, views="val"))
    inputs = test[0]["inputs"]
    assert inputs["tracks"].shape == (3, 4, 12, 10, 2) and not inputs["view_mask"][:, [1, 3]].any()
    assert 0.3 < inputs["visible"][inputs["view_mask"]].float().mean() < 1


# -------------------------------------------------------------------------------------------------- names, mirrors

NAMES = np.array(["nose", "left_hand", "right_hand", "tail", "left_foot", "right_foot"])


def test_names_decide_the_pairs_unless_the_file_says_them(tmp_path):
    tracks = read_tracks(write(tmp_path / "a.npz", names=NAMES))
    assert tracks.names == tuple(NAMES) and tracks.pairs.tolist() == [[1, 2], [4, 5]]
    assert read_tracks(write(tmp_path / "b.npz", names=NAMES, pairs=np.array([[0, 3]]))).pairs.tolist() == [[0, 3]]
    assert read_tracks(write(tmp_path / "c.npz")).pairs.shape == (0, 2)
    for wrong, text in (
        (np.array([[0, 6]]), "0 to 5"),
        (np.array([[0, 1], [1, 2]]), "once"),
        (np.zeros(3), "pairs are"),
    ):
        with pytest.raises(DataError, match=text):
            read_tracks(write(tmp_path / "d.npz", pairs=wrong))
    with pytest.raises(DataError, match="5 different ones"):
        read_tracks(write(tmp_path / "e.npz", names=np.array([*NAMES[:5], "nose"])))


def test_mirrored_twice_is_as_before_and_once_left_is_right(tmp_path):
    visible = np.random.RandomState(1).uniform(size=(10, 6)) > 0.3
    tracks = read_tracks(write(tmp_path / "a.npz", names=NAMES, visibility=visible))
    once = mirrored(tracks)
    np.testing.assert_allclose(once.xy[:, 1, 0], SIZE[1] - tracks.xy[:, 2, 0])
    np.testing.assert_array_equal(once.xy[:, 1, 1], tracks.xy[:, 2, 1])
    np.testing.assert_array_equal(once.visible[:, [0, 2, 1, 3, 5, 4]], visible)
    twice = mirrored(once)
    np.testing.assert_allclose(twice.xy, tracks.xy, atol=1e-5)
    np.testing.assert_array_equal(twice.visible, visible)
    assert twice.names == tracks.names


def test_training_mirrors_points_and_classes_and_evaluation_does_not(tmp_path):
    folder = make(tmp_path)
    for file in folder.glob("*.npz"):
        write(file, read_tracks(file).xy, names=NAMES)
    plain, mirror = (dataset(folder, training=True, seed=5, mirror=chance) for chance in (0.0, 1.0))
    order = [0, 2, 1, 3, 5, 4]
    for index, label in enumerate((1, 0)):  # left becomes right
        (before,), (after,) = plain[SampleRequest(0, index)], mirror[SampleRequest(0, index)]
        assert (before["label"], after["label"]) == (1 - label, label)
        expected = before["inputs"]["tracks"][:, :, order] * torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(after["inputs"]["tracks"], expected, atol=1e-5, rtol=0)
    half = dataset(folder, training=True, mirror=0.5)
    labels = [half[SampleRequest(epoch, 0)][0]["label"] for epoch in range(40)]
    assert 8 < sum(labels) < 32
    still, moved = dataset(folder, "val"), dataset(folder, "val", mirror=1.0)
    assert torch.equal(still[0]["inputs"]["tracks"], moved[0]["inputs"]["tracks"]) and moved[0]["label"] == 0
    with pytest.raises(ConfigError, match="mirror is 1.5"):
        dataset(folder, mirror=1.5)
