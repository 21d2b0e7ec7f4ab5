"""The offset between a sensor's clock and a video's: found where there is one, and said not to be clear where not."""

import numpy as np
import pytest

from dust.cli.estimate_offset import main
from dust.convert import clock
from dust.convert.clock import estimate_offset, motion_of_series, motion_of_video
from dust.datasets.multimodal.series import Series
from dust.utils.errors import ConfigError, DataError
from tests.datasets.clip_files import write_clip

BURSTS = [(3.0, 4.0), (9.0, 9.5), (12.0, 15.0), (21.0, 22.0), (26.0, 26.4)]  # seconds in which something moves


def activity(times):
    return np.array([any(start <= t < end for start, end in BURSTS) for t in times], float)


def watch(offset, rate=50.0, seed=0):
    """A sensor whose time 0 is the recording's ``offset``."""
    own = np.arange(0, 28, 1 / rate)
    rng = np.random.RandomState(seed)
    values = rng.normal(size=(3, len(own))) * (0.1 + 2 * activity(own + offset))
    return Series(values.astype(np.float32), own)


@pytest.mark.parametrize("offset", [0.0, 2.35, -6.1])
@pytest.mark.parametrize("begin", [0.0, 1000.0])
def test_the_offset_is_found_at_any_rate_and_time_of_day(offset, begin):
    times = np.arange(0, 30, 0.04)
    video = times, activity(times) + np.random.RandomState(1).uniform(0, 0.3, len(times))
    series = watch(offset)
    series.times += begin
    found = estimate_offset(video, motion_of_series(series, "a"), most=begin + 20)
    assert found.offset_s == pytest.approx(offset - begin, abs=0.11)
    assert found.correlation > 0.8 and found.is_clear


def test_noise_is_not_clear_and_what_cannot_be_compared_is_refused():
    times = np.arange(0, 30, 0.04)
    noise = times, np.random.RandomState(1).uniform(size=len(times))
    assert not estimate_offset(noise, motion_of_series(watch(0.0), "a")).is_clear
    with pytest.raises(DataError, match="5 seconds in common"):
        estimate_offset((times[:50], times[:50]), motion_of_series(watch(0.0), "a"))
    with pytest.raises(DataError, match="no times"):
        motion_of_series(Series(np.ones((1, 5), np.float32)), "a")
    with pytest.raises(DataError, match="no channel changes"):
        motion_of_series(Series(np.ones((1, 5), np.float32), np.arange(5.0)), "a")
    with pytest.raises(ConfigError, match="--most 0"):
        estimate_offset(noise, noise, most=0)
    with pytest.raises(ConfigError, match="--drift 1e.06"):
        estimate_offset(noise, noise, drift=1e6)


def slow(seed, seconds, memory):
    """Times and a curve that remembers ``memory`` seconds of its past (25 Hz)."""
    rng, keep, curve = np.random.RandomState(seed), np.exp(-1 / (25 * memory)), [0.0]
    for step in rng.normal(size=int(25 * seconds) - 1):
        curve.append(keep * curve[-1] + step)
    return np.arange(len(curve)) / 25, np.abs(curve)


@pytest.mark.parametrize("memory", [0.3, 1.0, 3.0])
def test_short_curves_of_different_things_are_seldom_clear_and_of_one_thing_nearly_always(memory):
    """Slow curves of ten seconds correlate above 0.5 by chance: 12 of 40 pairs looked clear by that alone."""
    pairs = [(slow(2 * seed, 10, memory), slow(2 * seed + 1, 10, memory)) for seed in range(40)]
    assert sum(estimate_offset(*pair).is_clear for pair in pairs) <= 2
    found = []
    for seed in range(20):
        times, curve = slow(seed, 32, memory)
        noise = curve.std() * np.random.RandomState(seed).uniform(size=(2, 750))
        found.append(estimate_offset((times[:750], curve[:750] + noise[0]), (times[:750], curve[50:] + noise[1])))
    assert all(one.offset_s == pytest.approx(2.0, abs=0.11) for one in found)
    assert sum(one.is_clear for one in found) >= 16


@pytest.mark.parametrize("ppm", [-250, 0, 140])
@pytest.mark.parametrize("begin", [0.0, 1.7e9])
def test_the_drift_is_found(ppm, begin):
    """Of half an hour: where the answer puts each moment of the sensor's, and that none is seen where there is none."""
    times, curve = slow(0, 1800, 1.0)
    noise = curve.std() * np.random.RandomState(1).uniform(size=(2, len(curve)))
    own = (times - 12.3) / (1 + ppm * 1e-6)
    kept = (own >= 0) & (times < 1790)
    sensor = begin + own[kept], (curve + noise[1])[kept]
    found = estimate_offset((times, curve + noise[0]), sensor, most=begin * 1.001 + 20)
    shown = found.offset_s + (1 + found.drift_ppm * 1e-6) * sensor[0]
    assert np.abs(shown - times[kept]).max() < 0.11 and found.is_clear
    assert bool(found.drift_ppm) == bool(ppm) and found.least_ppm == pytest.approx(223, abs=3)
    if ppm:
        alone = estimate_offset((times, curve + noise[0]), sensor, most=begin * 1.001 + 20, drift=0)
        assert not alone.drift_ppm and not alone.least_ppm and alone.correlation < found.correlation - 0.02


def test_correlations_of_all_lags_are_those_one_by_one():
    rng = np.random.RandomState(0)
    a, b, lags = rng.normal(size=70).cumsum(), rng.normal(size=50), np.arange(-50, 71)
    expected = []
    for lag in lags:
        first, second = a[max(lag, 0) :], b[max(-lag, 0) :]
        count = min(len(first), len(second))
        expected.append(np.corrcoef(first[:count], second[:count])[0, 1] if count >= 8 else np.nan)
    np.testing.assert_allclose(clock._correlations(a, b, lags, 8), expected, atol=1e-9)
    assert np.isnan(clock._correlations(np.ones(70), b, lags, 8)).all()  # flat


def test_the_motion_of_a_video_is_that_between_its_frames(tmp_path):
    write_clip(tmp_path / "a.mp4", 70, rate=10)
    times, change = motion_of_video(tmp_path / "a.mp4")
    np.testing.assert_allclose(times, 0.05 + np.arange(69) / 10, atol=1e-6)
    assert (change > 0).all()


def test_the_command_says_when_it_does_not_know(tmp_path, capsys):
    write_clip(tmp_path / "a.mp4", 100, rate=10)  # moves evenly all the time
    series = watch(0.0, rate=20.0)
    np.savez(tmp_path / "a.npz", series=series.values, time=series.times)
    assert main([str(tmp_path / "a.mp4"), str(tmp_path / "a.npz"), "--most", "5"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("offset_s ") and "not clear" in said
