"""Clips that slide over a stream: the frames that reading the windows by number gives, each converted once."""

import numpy as np
import pytest

from dust.datasets.transforms.frames import ClipSampler
from dust.decode.live import StreamFrame
from dust.streaming.video import SlidingClips, WindowRule, extents, window_rule
from dust.utils.errors import ConfigError


def sampler(mode="dense", frames=4, rate=2):
    return ClipSampler(mode=mode, num_frames=frames, sampling_rate=rate, target_fps=30)


def slide(rule, positions, gap=0.0):
    """Window by window the positions of its frames; and how often a frame was converted."""
    seen = []

    def convert(picture):
        seen.append(picture)
        return np.full((1, 1, 1, 3), picture, np.uint8)

    clips, windows = SlidingClips(rule, convert, gap=gap), []
    for number, position in enumerate(positions):
        windows += clips.push(position, StreamFrame(number, position / rule.rate, number))
    windows += clips.finish()
    return [[int(one[0, 0, 0, 0]) for one in window.pictures] for window in windows], seen, clips


def test_a_files_windows_are_those_of_the_sampler():
    rule = window_rule(sampler(), 30.0)
    assert rule == WindowRule((0, 2, 4, 7), 8.0, 4, 30.0)
    found, converted, _ = slide(rule, range(40))
    assert found == sampler().windows(40, 30.0, 4)
    assert len(converted) == len(set(converted)), "a frame is converted once"


@pytest.mark.parametrize(("fps", "length"), [(25.0, 61), (29.97, 33), (60.0, 100), (12.0, 50)])
def test_windows_at_any_rate(fps, length):
    one = sampler(frames=5, rate=3)
    rule = window_rule(one, fps)
    found, _, _ = slide(rule, range(length))
    expected = one.windows(length, fps, rule.step)
    assert found[: len(expected)] == expected and len(found) - len(expected) in (0, 1)


def test_a_video_shorter_than_a_window_repeats_its_last_frame():
    rule = window_rule(sampler(), 30.0)
    assert slide(rule, range(3))[0] == sampler().windows(3, 30.0, 4) == [[0, 2, 2, 2]]
    assert slide(rule, range(1))[0] == [[0, 0, 0, 0]] and slide(rule, [])[0] == []


def test_windows_of_a_given_length():
    rule = window_rule(sampler("whole_clip"), 10.0, window=2.0, stride=0.5)
    assert (rule.length, rule.step) == (20, 5) and rule.offsets == tuple(sampler("whole_clip").val(20, 10.0))
    with pytest.raises(ConfigError, match="--window SECONDS"):
        window_rule(sampler("segments"), 10.0)
    with pytest.raises(ConfigError, match="above 0"):
        window_rule(sampler(), 10.0, stride=-1)
    assert window_rule(sampler("videomae_dense"), 25.0).offsets == (0, 2, 4, 6)
    assert window_rule(sampler("vjepa"), 25.0).offsets == (0, 2, 5, 7)


@pytest.mark.parametrize(("mode", "length"), [("vjepa", 16), ("videomae_dense", 16), ("dense", 16)])
def test_a_window_of_joined_clips_is_as_long_as_both_together(mode, length):
    joined = ClipSampler(mode=mode, num_frames=4, sampling_rate=2, target_fps=30, clips_per_view=2)
    rule = window_rule(joined, 30.0)
    single = sampler(mode).val(8, 30.0)
    assert rule.length == length and rule.offsets == (*single, *(8 + offset for offset in single))


def test_a_live_source_goes_by_times_not_by_numbers():
    """Frames that come unevenly, at half the rate and with some missing: each moment has the last frame before it."""
    rule = WindowRule((0, 2, 4, 6), 8, 4, 30.0)
    positions = [0.0, 1.9, 2.1, 4.4, 5.0, 8.3, 10.0, 12.2, 14.0]
    found, _, _ = slide(rule, positions)
    expected = [
        [max(n for n, p in enumerate(positions) if p <= start + offset) for offset in rule.offsets] for start in (0, 4)
    ]
    assert found[:2] == expected


def test_after_a_gap_windows_begin_anew():
    rule = WindowRule((0, 2, 4, 6), 8, 4, 30.0)
    found, _, clips = slide(rule, [*range(9), *range(100, 110)], gap=30)
    assert found == [[0, 2, 4, 6], [9, 11, 13, 15]] and clips.restarts == 1


def test_each_moment_is_answered_by_one_window():
    assert extents([0, 2, 4], [4, 6, 8], 9.0) == [(0.0, 3.0), (3.0, 5.0), (5.0, 9.0)]
    assert extents([0.0], [1.0], 0.0) == [(0.0, 1.0)] and extents([], [], 5.0) == []
