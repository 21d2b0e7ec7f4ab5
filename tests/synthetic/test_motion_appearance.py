"""Generated motion and appearance: one frame tells no direction, motion no tint, and clips are as labelled."""

from collections import Counter

import numpy as np
import pytest

from dust.decode.reader import VideoReader
from dust.synthetic.motion_appearance import CLASSES, HUES, SHIFTS, class_clip, generate_motion_appearance
from dust.utils.errors import DataError
from dust.utils.rng import numpy_rng
from dust.utils.tstl_grouping import read_grouping
from tests.helpers import csv_dicts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("ma") / "out"
    assert generate_motion_appearance(out, clips=8, seed=3, frames=4) == {"train": 72, "val": 12, "test": 12}
    return out


def frames_of(path):
    with VideoReader(path) as reader:
        return np.stack(list(reader.frames(range(len(reader))))).astype(float)


def direction_of(frames):
    """Where a texture moves: the second frame, moved back, is the first again."""
    grey = frames.mean(axis=3)
    errors = {
        name: abs(np.roll(grey[2], (-down, -right), axis=(0, 1)) - grey[1]).mean()
        for name, (right, down) in SHIFTS.items()
    }
    return min(errors, key=errors.get)


def tint_of(frames):
    """The nearest tint by the means of its colours, or None of a grey clip."""
    from colorsys import rgb_to_hsv

    hue, saturation, _ = rgb_to_hsv(*(frames.mean(axis=(0, 1, 2)) / 255))
    return None if saturation < 0.2 else min(HUES, key=lambda name: abs((hue * 360 - HUES[name] + 180) % 360 - 180))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_clips_are_as_labelled(data, split):
    for row in csv_dicts(data / f"{split}.csv"):
        frames = frames_of(data / row["path"])
        tint = tint_of(frames)
        assert row["label"] == (direction_of(frames) if tint is None else tint)


def test_motion_tells_nothing_of_the_tints():
    counts = Counter()
    for name in HUES:
        for number in range(60):
            counts[direction_of(class_clip(name, numpy_rng(0, name, number), 3, 32).astype(float))] += 1
    assert set(counts) == set(SHIFTS)
    assert max(abs(count - 60) for count in counts.values()) < 4 * 60**0.5


def test_a_frame_tells_nothing_of_the_direction():
    """Pixels, gradients and their products have the same means in frames of every direction, within chance."""
    features = {}
    for name in SHIFTS:
        frames = [class_clip(name, numpy_rng(1, name, n), 4, 32)[3, :, :, 0].astype(float) for n in range(150)]
        x = np.stack(frames) - 128
        right, down = np.roll(x, -1, axis=2) - x, np.roll(x, -1, axis=1) - x
        each = [x, abs(x), right, down, right * down, right**3, down**3, x * right, x * down]
        features[name] = np.stack([value.mean(axis=(1, 2)) for value in each], axis=1)
    pooled = np.concatenate(list(features.values()))
    error = pooled.std(axis=0) / 150**0.5 + 1e-9
    for name, values in features.items():
        assert (abs(values.mean(axis=0) - pooled.mean(axis=0)) / error).max() < 4.5, name


def test_what_lies_beside_the_clips(data):
    assert (data / "classes.txt").read_text().split() == CLASSES and len(CLASSES) == 12
    grouping = read_grouping(data / "class_grouping.json")
    assert grouping.class_names == tuple(CLASSES) and [len(group) for group in grouping.groups] == [3] * 4
    named = [{CLASSES[number] for number in group} for group in grouping.groups]
    assert named[0] | named[1] == set(SHIFTS) and all(SHIFTS[name][0] > 0 for name in named[0])
    assert named[2] == {"red", "orange", "yellow"}
    for split, each in (("train", 6), ("val", 1), ("test", 1)):
        assert Counter(row["label"] for row in csv_dicts(data / f"{split}.csv")) == dict.fromkeys(CLASSES, each)


def test_the_same_seed_gives_the_same_clips(data, tmp_path):
    generate_motion_appearance(tmp_path / "again", clips=8, seed=3, frames=4)
    generate_motion_appearance(tmp_path / "other", clips=8, seed=4, frames=4)
    for name in ("videos/red_0000.mp4", "videos/left_0007.mp4"):
        first, again, other = (
            (folder / name).read_bytes() for folder in (data, tmp_path / "again", tmp_path / "other")
        )
        assert first == again != other


def test_impossible_numbers_and_a_folder_in_use(data, tmp_path):
    for wrong in ({"clips": 2}, {"size": 15}, {"frames": 1}):
        with pytest.raises(DataError, match="clips .* size .* frames"):
            generate_motion_appearance(tmp_path / "x", **wrong)
    with pytest.raises(DataError, match="is not empty"):
        generate_motion_appearance(data, clips=3)
