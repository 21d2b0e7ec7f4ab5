"""Sensors beside clips: one series per clip, whatever rates and units, and all that is wrong at once."""

import numpy as np
import pytest

from dust.cli.convert_data import main
from dust.convert.imu import read_imu
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import read_series
from dust.utils.errors import ConfigError, DataError
from tests.datasets.clip_files import write_clip


def sensor(path, times, factor, unit=1.0):
    rows = [f"{t * unit:g},{factor * t:.6g},{2 * factor * t:.6g},{3 * factor * t:.6g}" for t in times]
    path.write_text("\n".join(["time,x,y,z", *rows]) + "\n")


def of(*paths):
    return {"train": Manifest([Clip(path.stem, str(path), 0) for path in paths], ["G1"], "here", multi_label=False)}


def test_a_slower_sensor_is_laid_on_the_times_of_the_first(tmp_path):
    sensor(tmp_path / "a_acc.csv", np.arange(0, 2, 0.01), 1.0, 1000)
    sensor(tmp_path / "a_gyro.csv", [*np.arange(0.5, 1.5, 0.05), 1.0], -1.0, 1000)  # the last packet came late
    series = read_imu(of(tmp_path / "a.mp4"), unit="ms")[str(tmp_path / "a.mp4")]
    assert series.values.shape == (6, 96) and series.times[0] == 0
    np.testing.assert_allclose(series.times, np.arange(96) / 100, atol=1e-6)
    np.testing.assert_allclose(series.values[0], 0.5 + series.times, atol=1e-4)
    np.testing.assert_allclose(series.values[3:], -series.values[:3], atol=1e-4)


def test_nothing_is_invented_across_a_gap(tmp_path):
    """Where the gyroscope was silent for a second its channels are missing, on times of the accelerometer."""
    sensor(tmp_path / "a_acc.csv", np.arange(0, 4, 0.01), 1.0)
    sensor(tmp_path / "a_gyro.csv", [*np.arange(0, 1.5, 0.02), *np.arange(2.5, 4, 0.02)], -1.0)
    series = read_imu(of(tmp_path / "a.mp4"))[str(tmp_path / "a.mp4")]
    silent = (series.times > 1.49) & (series.times < 2.49)
    assert np.isnan(series.values[3:, silent]).all() and np.isfinite(series.values[:3]).all()
    assert np.isfinite(series.values[3:, ~silent]).mean() > 0.98


def test_files_without_times_or_of_all_channels(tmp_path):
    np.save(tmp_path / "a_acc.npy", np.ones((3, 7)))
    np.save(tmp_path / "a_gyro.npy", np.zeros((3, 7)))
    files = "{stem}_acc.npy,{stem}_gyro.npy"
    series = next(iter(read_imu(of(tmp_path / "a.mp4"), files).values()))
    assert series.values.shape == (6, 7) and series.times is None
    (tmp_path / "imu").mkdir()
    np.save(tmp_path / "imu" / "a.npy", np.ones((6, 9)))
    series = next(iter(read_imu(of(tmp_path / "a.mp4"), "imu/{stem}.npy").values()))
    assert series.values.shape == (6, 9)
    np.save(tmp_path / "a_gyro.npy", np.zeros((3, 8)))
    with pytest.raises(DataError, match=r"without times, of different lengths.*"):
        read_imu(of(tmp_path / "a.mp4"), files)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    sensor(tmp_path / "a_acc.csv", [0, 1, 2], 1.0)
    sensor(tmp_path / "a_gyro.csv", [5, 6, 7], 1.0)
    sensor(tmp_path / "b_acc.csv", [0, 1, 2], 1.0)
    with pytest.raises(DataError) as error:
        read_imu(of(tmp_path / "a.mp4", tmp_path / "b.mp4"))
    assert "no time in common" in str(error.value) and "0 to 2 s, 5 to 7 s" in str(error.value)
    assert "b_gyro.csv" in str(error.value) and "--imu-files" in str(error.value)
    for files in ("acc.csv", "{name}.csv", ""):
        with pytest.raises(ConfigError, match="--imu-files"):
            read_imu(of(tmp_path / "a.mp4"), files)


def test_muwiges_with_its_sensors_is_a_list_of_several_modalities(tmp_path):
    for number, name in enumerate(("S1/G1/a", "S1/G2/a", "S2/G1/a", "S2/G2/a")):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        write_clip(tmp_path / "raw" / f"{name}.mp4", 5 + number)
        sensor(tmp_path / "raw" / f"{name}_acc.csv", np.arange(0, 1, 0.1), 1.0 + number)
        sensor(tmp_path / "raw" / f"{name}_gyro.csv", np.arange(0, 1, 0.1), 1.0)
    argv = ["muwiges", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--test-subjects", "2", "--with-imu"]
    assert main([*argv, "--workers", "0"]) in (0, None)
    manifest = read_fused_manifest(root=str(tmp_path / "out"), split="train", modalities=("video", "series"))
    assert [clip.id for clip in manifest.clips] == ["S1/G1/a.mp4", "S1/G2/a.mp4"]
    assert {clip.group for clip in manifest.clips} == {"person 1"} and manifest.class_names[1] == "G2"
    series = read_series(manifest.clips[1].series, 6)
    np.testing.assert_allclose(series.values[0], 2 * series.times, atol=1e-4)
