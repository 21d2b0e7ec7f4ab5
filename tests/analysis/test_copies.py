"""Copies are told by their pictures: re-encoded, cut out, begun later; other moments of the same scene are none."""

import itertools
import tracemalloc

import numpy as np
import pytest

from benchmarks.copies import figures, make_set
from dust.analysis import copies
from dust.analysis.copies import Sketch, candidates, compare, same_recordings, sketch
from dust.analysis.curate import families
from dust.decode.reader import ArrayReader, open_clip
from tests.helpers import VIDEOS, needs_videos


def scene(seed, count=40, size=64):
    """(T, H, W, 3) uint8: a background over which three discs go their ways."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.uniform(40, 200, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
    y, x = np.mgrid[:size, :size]
    places, speeds = rng.uniform(0, size, (3, 2)), rng.uniform(-2, 2, (3, 2))
    frames = np.repeat(ground[None], count, axis=0)
    for number in range(count):
        for (down, right), colour in zip((places + number * speeds) % size, rng.permutation(3), strict=True):
            inside = (y - down) ** 2 + (x - right) ** 2 < 60
            frames[number][inside] = 0
            frames[number][inside, colour] = 255
    return (frames + rng.normal(0, 2, frames.shape)).clip(0, 255).astype(np.uint8)


def drawn(frames, fps=12):
    return sketch(ArrayReader(frames, fps=fps))


def test_a_copy_lies_on_its_original_wherever_it_was_cut():
    whole = scene(0)
    original = drawn(whole[:32])
    for other in (whole[:32, 4:60, 2:58], whole[6:38], whole[4:36, 8:, :56], 255 - (255 - whole[:32]) // 2):
        match = compare(original, drawn(other))
        assert match.same, match
        assert compare(drawn(other), original) == match
    faster = drawn(np.repeat(whole[:32], 2, axis=0), fps=24)
    assert compare(original, faster).same, "of twice the frames a second"


@pytest.mark.parametrize("seed", range(3))
def test_scenes_that_only_one_of_two_shows_do_not_hide_where_it_was_cut(seed):
    """Both show 65 % of the other, a dull scene; what the means of the whole clips show are the bright ones."""
    before, shared, after = (scene(10 * seed + part, count) for part, count in ((1, 14), (2, 26), (3, 14)))
    shared = 100 + shared // 8
    original = np.concatenate([before, shared])
    other = np.concatenate([shared, after])[:, 14:62, 2:50]
    match = compare(drawn(original), drawn(other))
    assert match.same, match
    assert not compare(drawn(original), drawn(after)).same


def test_another_moment_of_a_scene_is_no_copy():
    whole = scene(1, 90)
    assert not compare(drawn(whole[:30]), drawn(whole[60:])).same, "the same background"
    assert not compare(drawn(scene(2)), drawn(scene(3))).same
    still = np.repeat(scene(4, 1), 20, axis=0)
    assert compare(drawn(still), drawn(still[5:])).same, "what does not move is told by its picture"


def test_takes_of_a_camera_before_which_nothing_moves():
    """A copy has the same picture, of whatever brightness; another take has other light, or a thing more."""
    rng = np.random.default_rng(11)
    coarse, fine = rng.uniform(30, 200, (12, 12)), rng.normal(0, 9, (48, 48))
    ground = np.kron(coarse, np.ones((8, 8))) + np.kron(fine, np.ones((2, 2)))

    def take(picture):
        frames = picture + rng.normal(0, 2, (20, *picture.shape))
        return drawn(np.repeat(frames[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8))

    original, shadow, thing = take(ground), ground.copy(), ground.copy()
    shadow[:, 48:] *= 0.8
    thing[60:68, 40:48] = 20
    for copy in (ground, ground[6:90, 4:88], 255 * (ground.clip(0, 255) / 255) ** 0.8, 0.7 * ground + 20):
        assert compare(original, take(copy)).same
    for other in (shadow, thing):
        assert not compare(original, take(other)).same


def test_how_long_it_takes_is_said_of_many_pairs(monkeypatch, caplog):
    monkeypatch.setattr(copies, "TIMED", 1)
    done = []
    with caplog.at_level("INFO", "dust.analysis"):
        copies.say_how_long("clips are drawn", range(19), done.append)
        assert not done and not caplog.messages
        copies.say_how_long("clips are drawn", range(20), done.append)
    assert done == [0] and caplog.messages == ["20 clips are drawn: about a minute or less"]


def test_pairs_are_those_of_a_slow_search(monkeypatch):
    sketches = [drawn(scene(seed)[start : start + 30]) for seed in range(6) for start in (0, 5)]
    means = np.array([one.pictures.mean(axis=0) for one in sketches], np.float32)
    found = set(candidates(means))
    assert {(2 * seed, 2 * seed + 1) for seed in range(6)} <= found
    expected = {(i, j) for i, j in itertools.combinations(range(12), 2) if compare(sketches[i], sketches[j]).same}
    assert {pair[:2] for pair in same_recordings(sketches)} == expected == {(2 * n, 2 * n + 1) for n in range(6)}
    monkeypatch.setattr(copies, "CANDIDATES", 1)
    assert same_recordings(sketches[:1]) == [] == same_recordings([])


def test_large_pictures_are_drawn_a_few_at_a_time():
    """48 of them are 133 MB, and 530 more as numbers; 49 MB are read at a time."""
    one = np.random.default_rng(7).integers(0, 256, (640, 1280, 3), dtype=np.uint8)
    frames = np.broadcast_to(one, (48, *one.shape))
    tracemalloc.start()
    try:
        found = drawn(frames)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.pictures) == 48 and peak < 110e6, peak
    assert np.array_equal(found.pictures[0], found.pictures[-1])
    assert np.array_equal(found.pictures[:1], drawn(frames[:1]).pictures)


def test_a_clip_of_one_picture():
    one = drawn(scene(5, 1))
    assert one.pictures.shape == (1, copies.SIDE, copies.SIDE)
    assert compare(one, one).same and not compare(one, drawn(scene(6, 1))).same
    black = Sketch(np.zeros((3, copies.SIDE, copies.SIDE), np.uint8), 0.1, np.zeros((96, 96), np.float32))
    assert not compare(black, one).same


@needs_videos
@pytest.mark.slow
def test_copies_of_real_clips(tmp_path):
    """Of a take of each of seven videos with a re-encoded, a cropped and a later copy: recall >= 0.99 at precision
    >= 0.95, by the families that are written."""
    files = sorted((VIDEOS / "k400like").glob("*_g250.mp4"))
    owner = make_set(files, tmp_path, most=1, seconds=1.4, later=0.3)
    sketches = []
    for number in range(len(owner)):
        with open_clip(tmp_path / f"{number}.mp4") as reader:
            sketches.append(sketch(reader))
    recall, precision = figures(families(same_recordings(sketches), len(owner)), owner)
    assert len(owner) == 28 and recall >= 0.99 and precision >= 0.95
