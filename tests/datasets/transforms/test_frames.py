"""Frame numbers against the official functions' (tests/data), and laws that hold for every rule."""

import numpy as np
import pytest
import torch

from dust.datasets.transforms import frames as sampling
from dust.datasets.transforms.frames import MODES, ClipSampler
from dust.utils.errors import ConfigError, DataError
from tests.helpers import golden_json

SLOWFAST = golden_json("pysf_temporal_sampling")
VIDEOMAE = golden_json("videomae_sampling")["cases"]
LENGTHS = (1, 2, 3, 7, 8, 9, 16, 31, 100, 301)


def of_kind(kind):
    cases = [case for case in VIDEOMAE if case["kind"] == kind]
    assert cases
    return cases


class OnlyRandint:
    """An rng with nothing but ``randint(low, high)``."""

    def __init__(self, seed):
        self._state = np.random.RandomState(seed)

    def randint(self, low, high):
        return self._state.randint(low, high)


# --- golden numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SLOWFAST["uniform_clip"])
def test_dense_test_clips_equal_slowfast(case):
    span = sampling.dense_span(case["NUM_FRAMES"], case["SAMPLING_RATE"], case["fps"], case["TARGET_FPS"])
    start = sampling.dense_start(case["num_video_frames"], span, case["num_clips"], case["clip_idx"])
    assert start == pytest.approx(case["start"])
    assert start + span - 1 == pytest.approx(case["end"])
    indices = sampling.dense_test(
        case["num_video_frames"],
        case["fps"],
        case["NUM_FRAMES"],
        case["SAMPLING_RATE"],
        case["TARGET_FPS"],
        num_clips=case["num_clips"],
        clip_idx=case["clip_idx"],
    )
    assert indices == case["indices"]


@pytest.mark.parametrize("case", SLOWFAST["use_offset_sampling"])
def test_offset_starts_equal_slowfast(case):
    start = sampling.dense_start(
        case["video_size"], case["clip_size"], case["num_clips"], case["clip_idx"], use_offset=True
    )
    assert (start, start + case["clip_size"] - 1) == (case["start"], case["end"])


@pytest.mark.parametrize("case", SLOWFAST["ssv2_val_segments"])
def test_segment_midpoints_equal_slowfast(case):
    assert sampling.segments_test(case["video_length"], case["num_frames"]) == case["val_indices"]


@pytest.mark.parametrize("case", of_kind("dense_train"))
def test_videomae_dense_training_clips(case):
    rng = np.random.RandomState(case["np_random_seed"])
    args = case["num_video_frames"], case["clip_len"], case["sampling_rate"]
    assert sampling.videomae_dense_train(*args, rng) == case["indices"]


@pytest.mark.parametrize("case", of_kind("dense_test"))
def test_videomae_dense_test_clips(case):
    args = case["num_video_frames"], case["clip_len"], case["sampling_rate"]
    count = case["test_num_segment"]
    clips = [sampling.videomae_dense_test(*args, num_clips=count, clip_idx=i) for i in range(count)]
    assert clips == case["clips"]


@pytest.mark.parametrize("case", of_kind("tsn_train"))
def test_videomae_tsn_training_clips(case):
    rng = OnlyRandint(case["np_random_seed"])
    assert sampling.tsn_train(case["num_video_frames"], case["num_frames"], rng) == case["indices"]


@pytest.mark.parametrize("case", of_kind("tsn_test"))
def test_videomae_tsn_test_clips(case):
    count = case["test_num_segment"]
    clips = [
        sampling.tsn_test(case["num_video_frames"], case["num_frames"], num_clips=count, clip_idx=i)
        for i in range(count)
    ]
    assert clips == case["clips"]


def test_no_golden_case_is_left_out():
    assert {case["kind"] for case in VIDEOMAE} == {"dense_train", "dense_test", "tsn_train", "tsn_test"}
    assert set(SLOWFAST) == {"uniform_clip", "use_offset_sampling", "ssv2_val_segments"}


@pytest.mark.parametrize(
    ("video_len", "parts", "wanted"),
    [
        (100, 2, [15, 21, 28, 34, 65, 71, 78, 84]),  # two parts of 50, a window of 20 in the middle of each
        (103, 2, [15, 21, 28, 34, 66, 72, 79, 85]),  # parts of 51: what remains at the end is never seen
        (30, 2, [0, 6, 13, 19, 10, 16, 23, 29]),  # parts of 15: windows overlap, (30 - 20) // 1 apart
        (12, 2, [0, 11, 11, 11, 0, 11, 11, 11]),  # shorter than a window: one frame for every 5, then its last one
        (45, 3, [0, 6, 13, 19, 12, 18, 25, 31, 24, 30, 37, 43]),
    ],
)
def test_joined_clips_by_the_rule_of_v_jepas_evaluation(video_len, parts, wanted):
    """Counted by hand: a window of 4 frames, 5 apart, ends one before its 20 frames' end."""
    sampler = ClipSampler(mode="vjepa", num_frames=4, sampling_rate=5, target_fps=30, clips_per_view=parts)
    assert sampler.val(video_len, 30.0) == wanted == sampler.test(video_len, 25.0, 1)[0]


def test_vjepas_training_windows_are_videomaes_of_each_part():
    sampler = ClipSampler(mode="vjepa", num_frames=4, sampling_rate=5, target_fps=30, clips_per_view=2)
    rngs = np.random.RandomState(3), np.random.RandomState(3)
    first, second = (sampling.videomae_dense_train(60, 4, 5, rngs[0]) for _ in range(2))
    assert sampler.train(121, 30.0, rngs[1]) == [*first, *(60 + index for index in second)] and first != second


def test_vjepas_views_reach_from_the_beginning_to_the_end():
    views = [sampling.vjepa_test(100, 4, 5, num_clips=3, clip_idx=view) for view in range(3)]
    assert [view[0] for view in views] == [0, 40, 80] and views[2][-1] == 99


# --- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("video_len", LENGTHS)
@pytest.mark.parametrize("fps", (0.0, float("nan"), 0.5, 25.0, 240.0))
@pytest.mark.parametrize("num_frames,rate", ((1, 1), (8, 4), (16, 32)))
def test_every_clip_is_complete_in_range_and_in_order(mode, video_len, fps, num_frames, rate):
    sampler = ClipSampler(mode=mode, num_frames=num_frames, sampling_rate=rate, target_fps=30, jitter_fps=5)
    clips = [sampler.train(video_len, fps, np.random.RandomState(seed)) for seed in range(5)]
    clips += [sampler.val(video_len, fps)]
    for num_clips in (1, 2, 3, 5):
        views = sampler.test(video_len, fps, num_clips)
        assert len(views) == num_clips
        clips += views
    for clip in clips:
        assert len(clip) == num_frames
        assert all(type(index) is int and 0 <= index < video_len for index in clip)
        assert clip == sorted(clip)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parts", (2, 3))
@pytest.mark.parametrize("video_len", LENGTHS)
def test_a_joined_view_is_a_clip_of_each_part(mode, parts, video_len):
    options = {"mode": mode, "num_frames": 8, "sampling_rate": 4, "target_fps": 30}
    single, joined = ClipSampler(**options), ClipSampler(**options, clips_per_view=parts)
    cut = sampling.joined_parts(video_len, parts, single.span(25.0))
    assert len(cut) == parts and all(start >= 0 and start + length <= video_len for start, length in cut)
    assert cut == sorted(cut) and len({length for _, length in cut}) == 1
    for view, given in enumerate(joined.test(video_len, 25.0, 2)):
        wanted = [start + i for start, length in cut for i in single.test(length, 25.0, 2)[view]]
        assert given == wanted and len(given) == 8 * parts
    assert joined.val(video_len, 25.0) == [start + i for start, length in cut for i in single.val(length, 25.0)]
    assert joined.span(25.0) == parts * single.span(25.0)
    drawn = joined.train(video_len, 25.0, np.random.RandomState(0))
    assert len(drawn) == 8 * parts and min(drawn) >= 0 and max(drawn) < video_len


@pytest.mark.parametrize("mode", MODES)
def test_one_seed_gives_one_clip_and_others_give_others(mode):
    sampler = ClipSampler(mode=mode, num_frames=8, sampling_rate=4, target_fps=30)
    clips = [tuple(sampler.train(300, 30.0, np.random.RandomState(seed))) for seed in (0, 0, 1, 2, 3)]
    assert clips[0] == clips[1]
    assert len(set(clips)) == 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("video_len", (97, 300))
def test_views_differ_and_the_centre_clip_is_central(mode, video_len):
    sampler = ClipSampler(mode=mode, num_frames=8, sampling_rate=4, target_fps=30, use_offset_sampling=True)
    views = sampler.test(video_len, 30.0, 3)
    assert len({tuple(view) for view in views}) == 3
    assert [view[0] for view in views] == sorted(view[0] for view in views)
    centre = sampler.val(video_len, 30.0)
    middle = (centre[0] + centre[-1]) / 2
    assert abs(middle - (video_len - 1) / 2) <= sampler.sampling_rate


def test_whole_clip_takes_one_frame_of_each_equal_segment():
    rng = OnlyRandint(3)
    for video_len, frames in ((40, 8), (41, 8), (47, 8), (8, 8), (301, 96)):
        for _ in range(20):
            clip = sampling.whole_clip_random(video_len, frames, rng)
            for i, index in enumerate(clip):
                assert video_len * i / frames - 1 < index < video_len * (i + 1) / frames
        assert len(set(clip)) == frames


def test_whole_clip_reaches_every_frame():
    rng = np.random.RandomState(0)
    seen = {index for _ in range(200) for index in sampling.whole_clip_random(21, 8, rng)}
    assert seen == set(range(21))


def test_whole_clip_uniform_is_made_of_midpoints():
    assert sampling.whole_clip_uniform(40, 8) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert sampling.whole_clip_uniform(8, 8) == list(range(8))
    assert sampling.whole_clip_uniform(4, 8) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampling.whole_clip_uniform(1, 4) == [0, 0, 0, 0]


def test_whole_clip_views_interleave_to_a_finer_grid():
    views = [sampling.whole_clip_uniform(240, 8, num_clips=3, clip_idx=i) for i in range(3)]
    assert sorted(index for view in views for index in view) == sampling.whole_clip_uniform(240, 24)


def test_segment_training_stays_within_the_parts():
    rng = np.random.RandomState(0)
    drawn = np.array([sampling.segments_train(41, 8, rng) for _ in range(300)])
    assert drawn.min(0).tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    assert drawn.max(0).tolist() == [5, 10, 15, 20, 25, 30, 35, 40]


def test_short_video_repeats_its_last_frame_when_dense():
    sampler = ClipSampler(mode="dense", num_frames=8, sampling_rate=32, target_fps=30)
    assert sampler.train(40, 30.0, np.random.RandomState(0)) == [0, 36, 39, 39, 39, 39, 39, 39]


def test_short_video_is_spread_out_where_videomae_repeats_its_first_frame():
    sampler = ClipSampler(mode="videomae_tsn", num_frames=16, sampling_rate=1, target_fps=30)
    assert set(sampler.train(12, 30.0, np.random.RandomState(0))) == set(range(12))


def test_the_rate_of_the_video_scales_the_span():
    assert sampling.dense_span(8, 32, 30.0, 30) == 256
    assert sampling.dense_span(8, 32, 15.0, 30) == 128
    assert sampling.dense_span(8, 32, 0.0, 30) == 256


def test_fps_jitter_only_shortens_the_span():
    jittered = ClipSampler(mode="dense", num_frames=8, sampling_rate=8, target_fps=30, jitter_fps=30)
    spans = [clip[-1] - clip[0] for clip in (jittered.train(300, 30.0, np.random.RandomState(s)) for s in range(50))]
    assert 63 >= max(spans) > 55
    assert 40 > min(spans) >= 31


@pytest.mark.parametrize("num_frames", (2, 3, 7, 8, 13, 16, 64, 96))
@pytest.mark.parametrize("video_len", (1000, 1001, 4321))
def test_whole_steps_are_not_rounded_below_themselves(num_frames, video_len):
    """With a span of rate * (T - 1) + 1 frames from a whole start, every index is a multiple of the rate."""
    for rate in range(1, 8):
        window = sampling.dense_window(video_len, 3.0, rate * (num_frames - 1) + 1.0, num_frames)
        assert window == [3 + rate * i for i in range(num_frames)]


def test_single_linspace_is_torchs():
    rng = np.random.RandomState(0)
    for _ in range(3000):
        start, span, count = rng.uniform(0, 500), rng.uniform(0, 500), int(rng.randint(1, 97))
        expected = torch.linspace(start, start + span, count)
        # a machine without fused multiply-add may differ from the published numbers in the last bit
        actual = sampling._single_linspace(start, start + span, count)
        np.testing.assert_allclose(actual, expected.numpy(), rtol=3e-7, atol=1e-6)


# --- wrong input --------------------------------------------------------------------------------------------------


def test_unknown_mode_names_the_near_ones():
    with pytest.raises(ConfigError, match=r"'densse'.*did you mean dense"):
        ClipSampler(mode="densse", num_frames=8, sampling_rate=1, target_fps=30)


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as error:
        ClipSampler(mode="dense", num_frames=0, sampling_rate=-1, target_fps=0, jitter_fps=-2)
    for part in ("frames 0", "rate -1", "fps 0", "jitter -2"):
        assert part in str(error.value)


def test_an_empty_video_and_no_views_are_refused():
    sampler = ClipSampler(mode="dense", num_frames=8, sampling_rate=1, target_fps=30)
    with pytest.raises(DataError, match="0 frames"):
        sampler.val(0, 30.0)
    with pytest.raises(ConfigError, match="0 temporal views"):
        sampler.test(10, 30.0, 0)
