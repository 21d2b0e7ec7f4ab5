"""The temperature of a test: fitted on validation alone, applied by predictions, refused where it does not belong."""

import json
import shutil

import numpy as np
import pytest
import torch

import dust
from dust.engine import run_net
from dust.engine.calibration import read_temperature
from dust.engine.run_dir import RunDir
from dust.engine.test import run_stage as run_test
from dust.utils.errors import CheckpointError, ConfigError
from dust.utils.statistics import fit_temperature, measure_calibration
from tests.helpers import csv_dicts
from tests.runs import words


@pytest.fixture
def checkpoint(run):
    return str(run / "checkpoints" / "checkpoint_epoch_00001.pyth")


@pytest.fixture
def calibrated(tiny, checkpoint):
    """The OUTPUT_DIR of a test that has fitted a temperature."""
    cfg = tiny("calibrated", TEST__CHECKPOINT_FILE_PATH=checkpoint, TEST__CALIBRATE=True, TRAIN__ENABLE=False)
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    return RunDir(cfg.OUTPUT_DIR).path


def test_it_is_that_of_validation(tiny, checkpoint, calibrated):
    """As the probabilities of a test of val say it, and nothing of the test's own clips."""
    found = json.loads((calibrated / "results" / "calibration.json").read_text())
    cfg = tiny("val", TEST__CHECKPOINT_FILE_PATH=checkpoint, TEST__SPLIT="val")
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    rows = csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")
    probabilities = np.array([[float(row["prob_bright"]), float(row["prob_dark"])] for row in rows])
    labels = np.array([["bright", "dark"].index(row["label"]) for row in rows])
    assert found["temperature"] == pytest.approx(fit_temperature(probabilities, labels), rel=1e-3)
    assert found["before"]["nll"] == pytest.approx(measure_calibration(probabilities, labels).nll, abs=1e-5)
    assert found["after"]["nll"] <= found["before"]["nll"] and (found["split"], found["clips"]) == ("val", 4)
    report = json.loads((calibrated / "results" / "test.json").read_text())
    assert report["calibration"]["temperature"] == found["temperature"]
    assert json.loads((RunDir(cfg.OUTPUT_DIR).results / "test.json").read_text())["calibration"]["temperature"] is None


def test_predictions_apply_it(calibrated, clips):
    plain, soft = (dust.load(calibrated, device="cpu", calibrated=on) for on in (False, True))
    temperature = json.loads((calibrated / "results" / "calibration.json").read_text())["temperature"]
    assert soft.temperature == temperature != 1
    before, after = plain(clips / "clip_15.mp4"), soft(clips / "clip_15.mp4")
    np.testing.assert_array_equal(before.logits, after.logits)
    expected = (torch.as_tensor(before.logits).double() / temperature).softmax(dim=-1).flatten()
    np.testing.assert_allclose(list(after.probabilities.values()), expected, atol=1e-6)
    assert after.label == before.label


def test_what_was_fitted_for_other_weights_is_refused(calibrated, run, tmp_path):
    with pytest.raises(CheckpointError, match="TEST.CALIBRATE True"):
        dust.load(run, device="cpu", calibrated=True)
    with pytest.raises(CheckpointError, match="fitted for the checkpoint .*, these weights are abc"):
        read_temperature(calibrated, "abc")
    copy = tmp_path / "copy"
    shutil.copytree(calibrated, copy)
    for text in ("[]", "{}", '{"temperature": "hot"}', '{"temperature": 0}', '{"temperature": 1e999}'):
        (copy / "results" / "calibration.json").write_text(text)
        with pytest.raises(CheckpointError, match="holds no temperature"):
            read_temperature(copy, "abc")


def test_clips_that_are_tested_fit_nothing(tiny, checkpoint, clips, tmp_path, capsys):
    folder = tmp_path / "same"
    shutil.copytree(clips, folder)
    shutil.copy(folder / "test.csv", folder / "val.csv")
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=checkpoint, TEST__CALIBRATE=True, DATA__PATH_TO_DATA_DIR=str(folder))
    with pytest.raises(ConfigError, match="4 clips of val are in test, too"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    for more, said in ((("TEST.SPLIT", "val"), "which TEST.SPLIT val measures"), ((), "4 clips of val are in test")):
        assert run_net.main([*words(folder, tmp_path / "other"), "TEST.CALIBRATE", "True", *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
