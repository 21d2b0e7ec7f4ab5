"""A study whose driver and trials are killed: no trial is lost or counted twice, and each is that of a quiet study."""

import json
import os
import signal

import psutil
import pytest

from dust.utils.checkpoint import list_checkpoints
from tests.helpers import ROOT
from tests.processes import KILL, gone, until
from tests.runs import TINY, assert_same_run, command_line, final_of

SETTINGS = {
    **TINY,
    "SOLVER.MAX_EPOCH": 2,
    "TRAIN.EVAL_PERIOD": 0,
    "TRAIN.CHECKPOINT_PERIOD_ITERS": 1,
    "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "TEST.REPORT": False,
}
FILE = """
TUNE:
  SPACE:
  - SOLVER.BASE_LR: {low: 0.0001, high: 0.1, log: True}
  - TIMESFORMER.DROP_RATE: [0.0, 0.2]
  TRIALS: 3
  SAMPLER: random
"""


@pytest.fixture
def start(zygote, clips, tmp_path):
    """``start(folder)``: a driver, whose trials are forked from it."""
    (tmp_path / "study.yaml").write_text(FILE)

    def driver(folder, trials=3):
        words = command_line({**SETTINGS, "DATA.PATH_TO_DATA_DIR": clips, "OUTPUT_DIR": folder, "TUNE.TRIALS": trials})
        load = str(ROOT / "tests" / "analysis" / "tuning" / "fork_trials.py")
        return zygote.start(["tune", "--cfg", str(tmp_path / "study.yaml"), *words], command=True, load=load)

    return driver


def saved(folder, count=1):
    return lambda: len(list_checkpoints(folder / "checkpoints")) >= count


def trial_of(driver) -> psutil.Process:
    """The process of the trial that runs."""
    return next(one for one in driver.workers() if one.ppid() == driver.pid)


def outcome(folder):
    return json.loads((folder / "trials.json").read_text())


@pytest.mark.slow
def test_a_study_whose_driver_and_trials_are_killed_is_the_quiet_one(start, tmp_path):
    quiet, cut = tmp_path / "quiet", tmp_path / "cut"
    assert start(quiet).wait() == 0

    driver = start(cut)  # the driver dies, its trial goes on alone
    until(saved(cut / "trial_000"), "the first checkpoint", driver)
    orphan = trial_of(driver)
    os.kill(orphan.pid, signal.SIGSTOP)  # so that it is there when the next one comes
    driver.send(KILL)
    driver.wait()

    driver = start(cut)
    until(lambda: "waiting for trials" in driver.said or (cut / "trial_001").exists(), "a second driver", driver)
    until(saved(cut / "trial_001"), "a checkpoint of the second trial", driver)
    until(lambda: trial_of(driver) != orphan, "a trial of its own", driver)
    os.kill(trial_of(driver).pid, KILL)  # a trial dies alone, and goes on at once
    until(lambda: "was ended by SIGKILL" in driver.said, "the driver sees it", driver)
    assert driver.said.count("trial 0 ") == 0, "it belongs to the process that was left"
    until(saved(cut / "trial_002", 2), "the third trial", driver)
    workers = driver.workers()
    for one in (driver.pid, *(worker.pid for worker in workers), orphan.pid):  # all at once, as in a power cut
        os.kill(one, KILL)
    driver.wait()
    until(lambda: all(gone(one) for one in (*workers, orphan)), "the end of all")
    with open(cut / "study.journal", "ab") as journal:
        journal.write(b'{"op_code":4,"worker')

    driver = start(cut)
    assert driver.wait() == 0, driver.said[-3000:]
    assert outcome(cut) == outcome(quiet)
    assert [row["state"] for row in outcome(cut)["trials"]] == ["complete"] * 3
    for number in range(3):
        name = f"trial_{number:03d}"
        assert_same_run(final_of(cut / name), final_of(quiet / name))
        report = [json.loads((folder / name / "results" / "test.json").read_text()) for folder in (quiet, cut)]
        assert report[0]["metrics"] == report[1]["metrics"] and report[0]["split"] == "val"

    assert start(cut).wait() == 0  # nothing is left to do
    assert outcome(cut) == outcome(quiet)


@pytest.mark.slow
def test_a_driver_that_is_asked_to_stop_saves_its_trial_and_goes_on(start, tmp_path):
    driver = start(tmp_path / "study", trials=1)
    until(saved(tmp_path / "study" / "trial_000"), "the first checkpoint", driver)
    driver.send(signal.SIGTERM)
    assert driver.wait() == 128 + signal.SIGTERM
    assert "study: 1 open\n" in driver.said
    driver = start(tmp_path / "study", trials=1)
    assert driver.wait() == 0
    assert "trial 0 continues" in driver.said and "study: 1 complete\n" in driver.said
