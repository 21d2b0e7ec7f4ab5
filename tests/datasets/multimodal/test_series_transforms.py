"""What is made of a whole series: laws of augmentations, levels and derivatives against NumPy, windows as slices."""

import numpy as np
import pytest

from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.multimodal.series_split import SplitSeries
from dust.datasets.multimodal.series_transforms import (
    SERIES_AUGMENTATION_REGISTRY,
    SeriesShaping,
    crop,
    level,
    rotate,
    scale,
    time_warp,
    window_starts,
    with_derivatives,
)
from dust.datasets.transforms.augment import build_augmentations
from dust.utils.errors import ConfigError, SampleError
from dust.utils.rng import numpy_rng


def noise(*shape) -> np.ndarray:
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def rng(number: int = 0) -> np.random.RandomState:
    return numpy_rng(1, number)


# --- augmentations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SERIES_AUGMENTATION_REGISTRY))
def test_each_keeps_the_series_and_draws_from_its_stream_alone(name):
    change, values = SERIES_AUGMENTATION_REGISTRY.get(name), noise(3, 40)
    before = values.copy()
    first, again, other = change(values, rng()), change(values, rng()), change(values, rng(1))
    assert first.shape == values.shape and first.dtype == np.float32
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, values)
    for points in (1, 2):
        assert np.isfinite(change(noise(3, points), rng())).all()


def test_scaling_is_one_factor_for_each_channel():
    values = noise(3, 40)
    factors = scale(values, rng()) / values
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 40, axis=1), rtol=1e-5)
    assert len({round(float(factor), 4) for factor in factors[:, 0]}) == 3


def test_a_warped_ramp_stays_a_rising_one_with_its_ends():
    ramp = np.arange(60, dtype=np.float32)[None]
    warped = time_warp(ramp, rng(), std=0.5)
    assert (np.diff(warped) > 0).all() and abs(warped - ramp).max() > 1
    np.testing.assert_allclose(warped[0, [0, -1]], [0, 59], atol=1e-4)
    np.testing.assert_allclose(time_warp(ramp, rng(), std=0.0), ramp, atol=1e-4)


def test_a_crop_of_a_ramp_is_a_part_of_it():
    ramp = np.arange(101, dtype=np.float32)[None]
    for number in range(20):
        part = crop(ramp, rng(number), least=0.5)
        assert part.min() >= 0 and part.max() <= 100 and 50 <= part[0, -1] - part[0, 0] <= 100
        np.testing.assert_allclose(np.diff(part), np.diff(part)[0, 0], atol=1e-3)


def test_rotation_keeps_lengths_and_angles_and_turns_the_sensors_of_a_device_alike():
    values = noise(7, 30)
    turned = rotate(values, rng(), degrees=90, axes=[[0, 1, 2], [3, 4, 5]])
    for triple in ([0, 1, 2], [3, 4, 5]):
        np.testing.assert_allclose((turned[triple] ** 2).sum(0), (values[triple] ** 2).sum(0), rtol=1e-4)
    dots = (values[:3] * values[3:6]).sum(0)
    np.testing.assert_allclose((turned[:3] * turned[3:6]).sum(0), dots, atol=1e-4)
    np.testing.assert_array_equal(turned[6], values[6])
    angle = np.degrees(np.arccos((turned[:3] * values[:3]).sum(0) / (values[:3] ** 2).sum(0)))
    assert (angle <= 90.001).all()
    with pytest.raises(ConfigError, match="three channels for each sensor"):
        rotate(values, rng(), axes=[[0, 1, 9]])


def test_missing_values_stay_missing():
    values = noise(3, 40)
    values[1, 10:15] = np.nan
    for name in SERIES_AUGMENTATION_REGISTRY:
        changed = SERIES_AUGMENTATION_REGISTRY.get(name)(values, rng())
        assert np.isnan(changed).any()


def test_a_wrong_name_and_an_augmentation_that_changes_the_shape():
    with pytest.raises(ConfigError, match=r"SERIES.AUGMENT, entry 1: no series augmentation is called 'time_wrap'"):
        build_augmentations(["time_wrap"], "SERIES.AUGMENT", SERIES_AUGMENTATION_REGISTRY)
    with pytest.raises(ConfigError, match=r"shorter made float32 \(3, 39\) of float32 \(3, 40\)"):

        def shorter(values, rng):
            return values[:, 1:]

        SeriesShaping(augmentations=[shorter])(noise(3, 40), rng())


# --- levels and derivatives -----------------------------------------------------------------------------------------


def test_levels_are_numpys_and_leave_out_what_is_missing():
    values = noise(3, 40) * 7 + 100
    values[0, 5] = np.nan
    centred, standard = level(values, "centre"), level(values, "standardize")
    np.testing.assert_allclose(np.nanmean(centred, axis=1), 0, atol=1e-4)
    expected = (values - np.nanmean(values, axis=1, keepdims=True)) / np.nanstd(values, axis=1, keepdims=True)
    np.testing.assert_allclose(standard, expected, atol=1e-3)
    assert np.isnan(standard[0, 5]) and level(values, "as_is") is values
    constant = level(np.full((1, 9), 0.1, np.float32), "standardize")
    np.testing.assert_array_equal(constant, np.zeros((1, 9)))


def test_derivatives_of_a_parabola():
    parabola = (np.arange(20, dtype=np.float32) ** 2)[None]
    made = with_derivatives(parabola, 2)
    assert made.shape == (3, 20)
    np.testing.assert_allclose(made[1, 1:-1], 2 * np.arange(1, 19), atol=1e-4)
    np.testing.assert_allclose(made[2, 2:-2], 2, atol=1e-4)
    np.testing.assert_array_equal(with_derivatives(noise(2, 1), 1)[2:], 0)


# --- of a split -----------------------------------------------------------------------------------------------------


def split_of(tmp_path, values, rules, split="train", **options) -> SplitSeries:
    paths = []
    for number, one in enumerate(values):
        paths.append(str(tmp_path / f"{number}.npy"))
        np.save(paths[-1], one)
    ids = [str(number) for number in range(len(values))]
    return SplitSeries(ids=ids, references=paths, rules=rules, split=split, **options)


LENGTHS = (30, 41, 26)


@pytest.fixture
def recordings():
    return [noise(2, length) * 3 + 5 for length in LENGTHS]


def slow_way(values: np.ndarray) -> np.ndarray:
    """Centred, with first derivatives."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.concatenate([centred, np.gradient(centred, axis=1)])


def test_windows_are_slices_of_what_is_made_of_the_whole_recording(tmp_path, recordings):
    shaping = SeriesShaping(per_recording="centre", derivatives=1)
    rules = SeriesRules(2, 10, "windows", stride=4)
    train = split_of(tmp_path, recordings, rules, shaping=shaping)
    whole = [slow_way(values) for values in recordings]
    together = np.concatenate(whole, axis=1)
    np.testing.assert_allclose(train.statistics["mean"], together.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(train.statistics["std"], together.std(axis=1), rtol=1e-4)
    mean, std = (np.array(train.statistics[name])[:, None] for name in ("mean", "std"))
    test = split_of(tmp_path, recordings, rules, "test", shaping=shaping, statistics=train.statistics)
    for index, values in enumerate(whole):
        normal = (values - mean) / std
        expected = [normal[:, start : start + 10] for start in range(0, values.shape[1] - 9, 4)]
        np.testing.assert_allclose(test.windows(index).numpy(), expected, atol=1e-4)


def test_a_training_window_is_drawn_anywhere_and_alike_for_the_same_epoch_and_view(tmp_path, recordings):
    rules = SeriesRules(2, 10, "windows")
    series = split_of(tmp_path, recordings, rules, training=True, normalize=False)
    seen = set()
    for epoch in range(200):
        (window,) = series.batch([0], [epoch]).numpy()
        starts = [start for start in range(21) if np.array_equal(window, recordings[0][:, start : start + 10])]
        assert len(starts) == 1
        seen |= set(starts)
    assert seen == set(range(21))
    first, again, other = (series.batch([0], [0], view).numpy() for view in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_augmentations_act_in_training_alone(tmp_path, recordings):
    shaping, rules = SeriesShaping(augmentations=[scale, time_warp]), SeriesRules(2, 20, "resample")
    train = split_of(tmp_path, recordings, rules, shaping=shaping, training=True)
    plain = split_of(tmp_path, recordings, rules, statistics=train.statistics)
    fixed = split_of(tmp_path, recordings, rules, "val", shaping=shaping, statistics=train.statistics)
    np.testing.assert_array_equal(plain.batch([0, 1], [None] * 2), fixed.batch([0, 1], [None] * 2))
    assert not np.array_equal(train.batch([0, 1], [3, 3]), plain.batch([0, 1], [None] * 2))
    np.testing.assert_array_equal(train.batch([1], [3])[0], train.batch([0, 1], [3, 3])[1])


def test_masks_stand_for_what_was_measured(tmp_path):
    values = noise(2, 12)
    values[1, 4] = np.nan
    rules = SeriesRules(2, 12, missing="mask_channels")
    made = split_of(tmp_path, [values], rules, shaping=SeriesShaping(derivatives=1)).batch([0], [None])[0].numpy()
    assert made.shape == (6, 12)
    expected = np.ones((2, 12))
    expected[1, 4] = 0
    np.testing.assert_array_equal(made[4:], expected)
    assert np.isfinite(made).all() and made[3, 3] == 0  # the derivative beside the gap is missing too


def test_a_recording_shorter_than_a_window(tmp_path, recordings):
    series = split_of(tmp_path, recordings[:1], SeriesRules(2, 30, "windows"))
    assert series.windows(0).shape == (1, 2, 30)
    with pytest.raises(SampleError, match="set a smaller SERIES.LENGTH"):
        SeriesRules(2, 31, "windows").prepare(series._read(0), "a.npy")


def test_where_windows_begin():
    assert list(window_starts(10, 4, 3)) == [0, 3, 6] and list(window_starts(4, 4, 9)) == [0]
