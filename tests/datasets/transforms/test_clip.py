"""Geometry against SlowFast's numbers and torchvision's crops; colour augmentation by its laws."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from dust.datasets.transforms import augment as augment_module
from dust.datasets.transforms import clip as transform
from dust.datasets.transforms.clip import EvalTransform, TrainTransform
from dust.utils.errors import ConfigError
from tests.helpers import golden_json

SIZES = ((240, 320), (320, 240), (1, 1), (3, 200), (200, 3), (97, 131), (720, 1280))


def rng(seed=0):
    return np.random.RandomState(seed)


def random_clip(seed=0, frames=4, channels=3, size=(40, 56)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, channels, *size), dtype=torch.uint8, generator=generator)


def assert_within(geometry, height, width, crop):
    y, x, h, w = geometry.box
    assert y >= 0 and x >= 0 and h > 0 and w > 0 and y + h <= height and x + w <= width
    for top, left, ch, cw in geometry.crops:
        assert (ch, cw) == (crop, crop)
        assert 0 <= top <= geometry.size[0] - crop and 0 <= left <= geometry.size[1] - crop


# --- fixed crops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden_json("pysf_spatial_sampling"))
def test_three_crops_equal_slowfast(case):
    args = case["h"], case["w"], case["short_side"], case["crop"]
    size, crops = transform.test_crops(*args, 3)
    assert list(size) == case["resized_hw"] == list(transform.short_side_size(*args[:3]))
    assert [list(crop) for crop in crops] == case["crops_y_x_h_w_for_idx_0_1_2"]
    geometry = EvalTransform(crop_size=args[3], short_side=args[2], num_crops=3).geometry(*args[:2])
    assert (geometry.size, geometry.crops, geometry.flip) == (size, crops, False)


@pytest.mark.parametrize("case", golden_json("pysf_spatial_sampling"))
def test_one_crop_is_slowfasts_middle_one(case):
    _, crops = transform.test_crops(case["h"], case["w"], case["short_side"], case["crop"], 1)
    assert [list(crop) for crop in crops] == case["crops_y_x_h_w_for_idx_0_1_2"][1:2]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_crops", (1, 2, 3, 5))
def test_crops_reach_from_end_to_end(size, num_crops):
    geometry = EvalTransform(crop_size=32, short_side=36, num_crops=num_crops).geometry(*size)
    assert_within(geometry, *size, 32)
    assert min(geometry.size) == 36
    assert len(geometry.crops) == num_crops
    along = 0 if size[0] > size[1] else 1
    offsets = [crop[along] for crop in geometry.crops]
    steps = np.diff(offsets)
    if num_crops > 1:
        assert (offsets[0], offsets[-1]) == (0, geometry.size[along] - 32)
        assert steps.max() - steps.min() <= 1


def test_a_crop_larger_than_the_short_side_raises_it():
    geometry = EvalTransform(crop_size=64, short_side=32).geometry(100, 200)
    assert geometry.size == (64, 128)
    assert geometry.crops == ((0, 32, 64, 64),)
    training = TrainTransform(crop_size=64, jitter_scales=(20, 30)).geometry(100, 200, rng())
    assert training.size == (64, 128)


# --- random geometry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("relative", ({}, {"scales_relative": (0.08, 1.0), "aspect_relative": (0.75, 1.3333)}))
def test_training_geometry_lies_within_the_picture(size, relative):
    transform_ = TrainTransform(crop_size=32, jitter_scales=(28, 48), **relative)
    for seed in range(50):
        geometry = transform_.geometry(*size, rng(seed))
        assert_within(geometry, *size, 32)
        assert len(geometry.crops) == 1
        assert geometry == transform_.geometry(*size, rng(seed))


def test_the_short_side_is_uniform_or_reciprocally_uniform():
    draws = {
        inverse: np.array([transform.jitter_short_side(200, 400, r, inv_uniform=inverse) for _ in range(4000)])
        for inverse, r in ((False, rng()), (True, rng()))
    }
    for values in draws.values():
        assert values.min() >= 200 and values.max() <= 400
    assert draws[False].mean() == pytest.approx(300, abs=3)
    # the mean of 1/u for u uniform in [1/400, 1/200] is 400 ln 2
    assert draws[True].mean() == pytest.approx(400 * np.log(2), abs=3)
    assert (1 / draws[True]).mean() == pytest.approx((1 / 200 + 1 / 400) / 2, rel=0.01)


def test_random_crops_cover_the_picture_evenly():
    r = rng()
    boxes = np.array([transform.random_crop(12, 14, 10, r)[:2] for _ in range(3000)])
    counts = np.bincount(boxes[:, 0] * 5 + boxes[:, 1], minlength=15)
    assert len(counts) == 15 and counts.min() > 140 and counts.max() < 260


def test_random_resized_crops_keep_to_their_ranges():
    r = rng()
    boxes = np.array([transform.random_resized_crop(300, 400, (0.1, 0.5), (0.5, 2.0), r) for _ in range(2000)])
    share = boxes[:, 2] * boxes[:, 3] / (300 * 400)
    aspect = boxes[:, 3] / boxes[:, 2]
    assert 0.099 < share.min() < 0.11 and 0.49 < share.max() < 0.505
    assert 0.49 < aspect.min() < 0.53 and 1.9 < aspect.max() < 2.02
    assert np.median(np.log(aspect)) == pytest.approx(0, abs=0.06)


def test_a_crop_that_cannot_fit_falls_back_to_the_centre():
    # a picture fifty times as wide as high holds no box of nearly its whole area and a ratio near one
    assert transform.random_resized_crop(10, 500, (0.9, 1.0), (0.75, 4 / 3), rng()) == (0, 243, 10, 13)
    assert transform.random_resized_crop(500, 10, (0.9, 1.0), (0.75, 4 / 3), rng()) == (243, 0, 13, 10)


def test_one_relative_range_takes_torchvisions_other():
    assert TrainTransform(crop_size=8, scales_relative=(0.5, 1.0)).aspect == (3 / 4, 4 / 3)
    assert TrainTransform(crop_size=8, aspect_relative=(1.0, 1.0)).area == (0.08, 1.0)
    assert TrainTransform(crop_size=8).area is None


def test_half_of_the_clips_are_flipped_or_none():
    on, off = (TrainTransform(crop_size=8, random_flip=flip) for flip in (True, False))
    assert 0.45 < np.mean([on.geometry(20, 20, rng(seed)).flip for seed in range(1000)]) < 0.55
    assert not any(off.geometry(20, 20, rng(seed)).flip for seed in range(100))


# --- colours ------------------------------------------------------------------------------------------------------


def test_without_augmentation_only_the_flip_remains():
    plain = TrainTransform(crop_size=40)
    clip = random_clip()
    geometry = plain.geometry(40, 56, rng())
    for flip in (False, True):
        out = plain(clip, transform.Geometry(geometry.box, geometry.size, geometry.crops, flip), rng())
        assert torch.equal(out, clip.flip(-1) if flip else clip)


@pytest.mark.parametrize("channels", (1, 3))
def test_augmentation_is_the_same_for_all_frames_and_comes_from_the_rng_alone(channels):
    augment = TrainTransform(
        crop_size=40,
        auto_augment="rand-m7-n4-mstd0.5-inc1",
        color_jitter=0.4,
        grayscale_prob=0.3,
        interpolation="random",
    )
    still = random_clip(frames=1, channels=channels).expand(5, -1, -1, -1)
    geometry = augment.geometry(40, 56, rng())
    results = []
    for seed in range(25):
        out = augment(still, geometry, rng(seed))
        assert out.shape == still.shape and out.dtype == torch.uint8
        assert torch.equal(out, out[:1].expand_as(out))
        torch.manual_seed(seed + 100)
        np.random.seed(seed + 100)
        assert torch.equal(out, augment(still, geometry, rng(seed)))
        results.append(out)
    assert len({result.numpy().tobytes() for result in results}) == 25


def test_the_input_is_left_as_it_was():
    augment = TrainTransform(crop_size=40, auto_augment="rand-m9-n4-p1", color_jitter=0.4, grayscale_prob=1.0)
    clip = random_clip()
    before = clip.clone()
    for seed in range(10):
        augment(clip, augment.geometry(40, 56, rng(seed)), rng(seed))
    assert torch.equal(clip, before)


def test_colour_jitter_multiplies_within_its_range():
    grey = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)  # contrast and saturation leave it alone
    values = [int(augment_module.jitter_colors(grey, 0.4, rng(seed))[0, 0, 0, 0]) for seed in range(400)]
    assert 57 <= min(values) < 63 and 137 < max(values) <= 140  # each of the three operations rounds down
    assert np.mean(values) == pytest.approx(100, abs=5)


def test_colour_jitter_is_torchvisions_operations():
    clip = random_clip()
    r = rng(5)
    factors = [r.uniform(0.6, 1.4) for _ in range(3)]
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    expected = clip
    for i in r.permutation(3):
        expected = torch.stack([operations[i](frame, factors[i]) for frame in expected])
    assert torch.equal(augment_module.jitter_colors(clip, 0.4, rng(5)), expected)


def test_greyscale_has_one_luma_in_all_channels():
    out = augment_module.grayscale(random_clip())
    assert torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 0], out[:, 2])
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 200
    assert abs(int(augment_module.grayscale(red)[0, 0, 0, 0]) - 0.299 * 200) <= 1
    single = random_clip(channels=1)
    assert torch.equal(augment_module.grayscale(single), single)


# --- wrong input --------------------------------------------------------------------------------------------------


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        TrainTransform(
            crop_size=0,
            jitter_scales=(320, 256),
            scales_relative=(0.5, 1.5),
            aspect_relative=(1.0,),
            color_jitter=-1.0,
            grayscale_prob=2.0,
            interpolation="cubic",
        )
    for part in ("size 0", "[320, 256]", "[0.5, 1.5]", "[1.0]", "jitter -1.0", "2.0", "'cubic'"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match=r"crop size 0.*number of crops -1"):
        EvalTransform(crop_size=0, short_side=2, num_crops=-1)
