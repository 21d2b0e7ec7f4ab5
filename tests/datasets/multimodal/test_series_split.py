"""The series of a split: statistics against NumPy, missing values counted, draws that depend on nothing else, and all
problems in one error."""

import logging
import pickle

import numpy as np
import pytest
import torch

from dust.datasets.arrays import ArrayFiles, SampleError, StackedRows
from dust.datasets.multimodal.series import SeriesRules, Window
from dust.datasets.multimodal.series_split import Moments, SplitSeries
from dust.utils.errors import ConfigError, DataError


def saved(path, array) -> str:
    np.save(path, array)
    return str(path)


# --- statistics and the split ---------------------------------------------------------------------------------------


def test_moments_are_numpys_whatever_the_blocks():
    rng = np.random.RandomState(0)
    values = (rng.standard_normal((50, 3, 9)) * [[1], [1e-3], [100]] + [[0], [1e4], [5]]).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    for size in (1, 7, 50):
        moments = Moments(3)
        for start in range(0, 50, size):
            moments.update(values[start : start + size])
        found, slow = moments.statistics(), values.astype(np.float64)
        np.testing.assert_allclose(found["mean"], np.nanmean(slow, axis=(0, 2)), rtol=1e-12)
        np.testing.assert_allclose(found["std"], np.nanstd(slow, axis=(0, 2)), rtol=1e-9)


def test_a_constant_channel_and_one_never_seen(caplog):
    moments = Moments(2)
    moments.update(np.full((4, 2, 5), 0.1, np.float32))
    with caplog.at_level(logging.WARNING):
        assert moments.statistics()["std"] == [1.0, 1.0]
    assert "never change" in caplog.text
    values = np.ones((4, 2, 5), np.float32)
    values[:, 1] = np.nan
    moments = Moments(2)
    moments.update(values)
    with pytest.raises(DataError, match=r"series channels \[1\]"):
        moments.statistics()


@pytest.fixture
def stack(tmp_path):
    """(references, values) of 20 series of 3 x 6 in two stacked files, one of them channels last."""
    values = np.random.RandomState(0).standard_normal((20, 3, 6)).astype(np.float32) * 3 + 5
    first, second = saved(tmp_path / "a.npy", values[:12]), saved(tmp_path / "b.npy", values[12:])
    return [f"{first}#{n}" for n in range(12)] + [f"{second}#{n}" for n in range(8)], values


def split_of(references, rules=None, split="train", **options) -> SplitSeries:
    ids = [f"s{n}" for n in range(len(references))]
    return SplitSeries(ids=ids, references=references, rules=rules or SeriesRules(3, 6), split=split, **options)


def get(series: SplitSeries, *indices, epoch=None) -> np.ndarray:
    return series.batch(indices, [epoch] * len(indices)).numpy()


def separate(tmp_path, values) -> list[str]:
    return [saved(tmp_path / f"one{n}.npy", one) for n, one in enumerate(values)]


def test_normalised_by_the_training_split(tmp_path, stack):
    references, values = stack
    mean, std = values.mean(axis=(0, 2), keepdims=True), values.astype(np.float64).std(axis=(0, 2), keepdims=True)
    expected = (values - mean) / std
    series = split_of(references)
    np.testing.assert_allclose(get(series, *range(20)), expected, atol=1e-5)
    np.testing.assert_allclose(get(series, 13, 2, 2), expected[[13, 2, 2]], atol=1e-5)
    alone = split_of(separate(tmp_path, values))
    np.testing.assert_allclose(get(alone, *range(20)), get(series, *range(20)), atol=1e-6)
    np.testing.assert_allclose(alone.statistics["mean"], series.statistics["mean"], rtol=1e-9)
    # another split takes what training fitted, also after a trip through a checkpoint
    val = split_of(references[:3], split="val", statistics=series.statistics)
    np.testing.assert_allclose(get(val, 0, 1, 2), expected[:3], atol=1e-5)
    assert all(type(value) in (list, int) for value in series.statistics.values())
    np.testing.assert_array_equal(get(split_of(references, normalize=False), *range(20)), values)


def test_a_split_without_statistics(stack):
    with pytest.raises(DataError, match="the val split's series need the mean.*SERIES.NORMALIZE False"):
        split_of(stack[0], split="val")
    split_of(stack[0], split="val", normalize=False)
    with pytest.raises(ConfigError, match="NUM_CHANNELS 3: .*of 2 channels"):
        split_of(stack[0], split="val", statistics={"mean": [0.0, 0.0], "std": [1.0, 1.0], "length": 6})


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_missing_values_are_masked_and_counted(tmp_path, caplog, stacked, normalize):
    values = np.random.RandomState(0).standard_normal((4, 2, 5)).astype(np.float32) + 7
    values[1, 0, 2:4] = values[3, 1] = np.nan  # two points; a whole channel
    path = saved(tmp_path / "a.npy", values)
    references = [f"{path}#{n}" for n in range(4)] if stacked else separate(tmp_path, values)
    with caplog.at_level(logging.WARNING):
        series = split_of(references, SeriesRules(2, 5, missing="mask"), normalize=normalize)
    assert "7 of 40 values are missing, in 2 of 4 samples" in caplog.text
    assert (series.missing_values, series.missing_samples) == (7, 2)
    mean, std = np.nanmean(values, axis=(0, 2))[:, None], np.nanstd(values, axis=(0, 2))[:, None]
    filled = np.where(np.isnan(values), mean, values)
    expected = (filled - mean) / std if normalize else filled
    np.testing.assert_allclose(get(series, *range(4)), expected, atol=1e-5)
    marked = split_of(references, SeriesRules(2, 5, missing="mask_channels"), normalize=normalize)
    both = get(marked, *range(4))
    np.testing.assert_allclose(both[:, :2], expected, atol=1e-5)
    np.testing.assert_array_equal(both[:, 2:], ~np.isnan(values))


@pytest.mark.parametrize("stacked", [True, False])
def test_all_problems_of_a_split_in_one_error(tmp_path, stacked):
    values = np.zeros((4, 2, 5), np.float32)
    values[1, 1, 3], values[2, 0, 0], values[3] = np.nan, np.inf, np.nan
    path = saved(tmp_path / "a.npy", values)
    references = [f"{path}#{n}" for n in range(4)] if stacked else separate(tmp_path, values)
    with pytest.raises(DataError) as caught:
        split_of(references, SeriesRules(2, 5))
    message = str(caught.value)
    assert "missing values: set SERIES.MISSING mask or mask_channels (2 cases)" in message
    assert "s1: " in message and "1 of 10 values, the first in channel 1 at point 3" in message
    assert "s3: " in message and "10 of 10 values" in message
    assert "infinite values" in message and "s2: " in message
    with pytest.raises(DataError, match="s2: .*1 of 10 values") as caught:
        split_of(references, SeriesRules(2, 5, missing="mask"))
    assert "missing values" not in str(caught.value)


def test_wrong_stacks_are_named(tmp_path):
    good = saved(tmp_path / "good.npy", np.zeros((3, 2, 5)))
    for array, message in (
        (np.zeros((3, 4, 5)), r"NUM_CHANNELS 2.*\n.*s1 and others: .*bad.npy \(shape \(4, 5\)\)"),
        (np.zeros((3, 2, 6)), "not the 5 time points.*bad.npy .6 points"),
        (np.zeros((1, 2, 5)), "a row that the array does not have"),
        (np.zeros((3, 2, 5), "U3"), "not an array of real numbers"),
    ):
        bad = saved(tmp_path / "bad.npy", array)
        with pytest.raises(DataError, match=f"(?s){message}"):
            split_of([f"{good}#0", f"{bad}#2"], SeriesRules(2, 5))


def test_length_0_is_that_of_the_first(tmp_path, stack):
    series = split_of(stack[0], SeriesRules(3))
    assert series.statistics["length"] == 6 and get(series, 0).shape == (1, 3, 6)
    longer = saved(tmp_path / "longer.npy", np.zeros((3, 7)))
    with pytest.raises(DataError, match="not the 6 time points of SERIES.LENGTH.*where that is 0"):
        split_of([*separate(tmp_path, stack[1]), longer], SeriesRules(3))
    with pytest.raises(DataError, match="not the 6 time points"):
        split_of([longer], SeriesRules(3), split="val", statistics=series.statistics)


@pytest.mark.parametrize("stacked", [True, False])
def test_noise_and_crops_are_drawn_from_epoch_and_sample(tmp_path, stack, stacked):
    references = stack[0] if stacked else separate(tmp_path, stack[1])
    rules = SeriesRules(3, 4, fit="crop")
    train = split_of(references, rules, training=True, noise=0.5, seed=3)
    still = split_of(references, rules, training=True, seed=3)
    batch = get(train, *range(20), epoch=1)
    np.testing.assert_array_equal(batch[[4, 2]], get(train, 4, 2, epoch=1))
    assert not np.array_equal(batch, get(train, *range(20), epoch=2))
    assert not np.array_equal(batch, get(split_of(references, rules, training=True, noise=0.5), *range(20), epoch=1))
    crops = get(still, *range(20), epoch=1)
    # each crop is three in a row of the whole, and the noise is 0.5 deviations on top of it
    whole = get(split_of(references), *range(20))
    for one, of in zip(crops, whole, strict=True):
        assert any(np.allclose(one, of[:, start : start + 4], atol=1e-6) for start in range(3))
    assert 0.4 < (batch - crops).std() < 0.6
    fixed = get(split_of(references, rules, noise=0.5), *range(20), epoch=1)
    np.testing.assert_allclose(fixed, whole[..., 1:5], atol=1e-6)


def test_noise_leaves_missing_values_alone(tmp_path):
    values = np.ones((3, 1, 4), np.float32) * np.arange(4)
    values[0, 0, 1] = np.nan
    path = saved(tmp_path / "a.npy", values)
    references = [f"{path}#{n}" for n in range(3)]
    series = split_of(references, SeriesRules(1, 4, missing="mask_channels"), training=True, noise=1.0)
    got = get(series, 0, epoch=0)[0]
    np.testing.assert_array_equal(got[1], [1, 0, 1, 1])
    assert got[0, 1] == 0


def test_a_bad_sample_is_found_when_it_is_read_unchecked(tmp_path):
    values = np.zeros((3, 2, 5), np.float32)
    values[1, 0, 0] = np.nan
    path = saved(tmp_path / "a.npy", values)
    series = split_of([f"{path}#{n}" for n in range(3)], SeriesRules(2, 5), normalize=False, check=False)
    get(series, 0, 2)
    with pytest.raises(SampleError, match="missing values"):
        get(series, 0, 1, 2)


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_a_batch_of_rows_over_several_files(tmp_path):
    values = np.arange(60.0).reshape(10, 2, 3)
    paths = [saved(tmp_path / f"{n}.npy", values[n : n + 2]) for n in range(0, 10, 2)]
    rows = StackedRows([f"{paths[n // 2]}#{n % 2}" for n in range(10)], ArrayFiles())
    order = np.array([9, 0, 3, 3, 8, 1])
    np.testing.assert_array_equal(rows.block(order), values[order])
    np.testing.assert_array_equal(rows.one(7), values[7])


def test_what_a_worker_gets_holds_no_array(tmp_path):
    values = np.zeros((1000, 3, 60), np.float32)
    path = saved(tmp_path / "a.npy", values)
    series = split_of([f"{path}#{n}" for n in range(1000)], SeriesRules(3, 60), normalize=False)
    get(series, 3)
    data = pickle.dumps(series)
    assert len(data) < values.nbytes / 5
    torch.testing.assert_close(pickle.loads(data).batch([3], [None]), series.batch([3], [None]))


def test_open_maps_are_bounded(tmp_path):
    files = ArrayFiles()
    for n in range(100):
        files.open(saved(tmp_path / f"{n}.npy", np.zeros(2)))
    assert len(files._files) == 64


def test_windows_of_one_recording_are_samples(tmp_path):
    own = np.arange(0, 60, 0.1)
    np.savez(tmp_path / "long.npz", series=np.stack([own, own * 2]).astype(np.float32), time=own)
    rules = SeriesRules(2, length=5, fit="resample", rate=10.0)
    cuts = [Window(10.0, 20.0), Window(30.0, 31.0, offset_s=5.0), None]
    series = SplitSeries(
        ids=["a", "b", "c"], references=[str(tmp_path / "long.npz")] * 3, rules=rules, split="train", cuts=cuts,
        normalize=False,
    )  # fmt: skip
    first, second, whole = get(series, 0, 1, 2)
    np.testing.assert_allclose(first[0], np.linspace(10, 19.9, 5), atol=1e-4)
    np.testing.assert_allclose(second[1], 2 * np.linspace(25, 25.9, 5), atol=1e-3)
    np.testing.assert_allclose(whole[0], np.linspace(0, 59.9, 5), atol=1e-4)
    with pytest.raises(DataError, match=r"(?s)no value in the window.*b: "):
        SplitSeries(
            ids=["a", "b"], references=[str(tmp_path / "long.npz")] * 2, rules=rules, split="train",
            cuts=[cuts[0], Window(90.0)], normalize=False,
        )  # fmt: skip
