"""TERM at any moment: what is done is saved, the exit code is 143, and the next start comes to the same end."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from dust.utils.checkpoint import verify_checkpoint
from tests.faults.victims import assert_same_outcome, outcome, words
from tests.processes import until

#: The line of the log after which the signal comes, and how long after it at most (seconds).
MOMENTS = {
    "first step": ("training from scratch", 0.2),
    "train": ('"train_iter"', 0.1),
    "save": ('"train_iter"', 0.02),
    "eval": ('"train_epoch"', 0.1),
    "test": ('"test_iter"', 0.0),
}
#: Batches that may be begun after the signal: those of the optimizer step that it came in, and of one more that was
#: begun before it was sent. (Two each.)
ONE_STEP = 4


def lines(out: Path, what: str = "") -> list[str]:
    log = out / "stdout.log"
    return [line for line in log.read_text().splitlines() if what in line] if log.exists() else []


def end_by_term(zygote, argv: list[str], out: Path, moment: str, rng: random.Random, group: bool) -> None:
    """Start the run, send TERM at the moment, and see that it leaves at once and properly."""
    mark, delay = MOMENTS[moment]
    after = len(lines(out, mark)) + (rng.randint(0, 4) if moment in ("train", "save") else 0)
    victim = zygote.start(argv)
    until(lambda: len(lines(out, mark)) > after or victim.ended(), f"{mark} in the log", victim)
    time.sleep(rng.uniform(0.0, delay))
    done = len(lines(out, '"train_iter"'))
    victim.send(signal.SIGTERM, group=group)
    if group:
        victim.send(signal.SIGTERM)  # Slurm, srun and launchers all send it
    code = victim.wait()
    assert code == 143, (moment, code, victim.said[-3000:])
    assert "killed by signal" not in victim.said, victim.said[-3000:]
    assert len(lines(out, '"train_iter"')) - done <= ONE_STEP, moment
    if moment != "test":  # which ends at once, so that a worker may say that it was not heard out
        assert "Traceback" not in victim.said, victim.said[-3000:]
        last = lines(out)[-1]
        if moment == "first step" and ("training from scratch" in last or "configuration: " in last):
            return  # it came before the training listened: there is nothing to stop, and nothing to save
        assert "stopped at epoch" in last, victim.said[-3000:]
        if "nothing new was learnt" not in last:  # it stopped before its first step, with an evaluation to make
            assert verify_checkpoint(last.split("saved ")[1]) == "ok"


def many_terms(zygote, clips, tmp_path, moments: list[str], epochs: int) -> None:
    settings = {"LOG_PERIOD": 1, "TRAIN__EVAL_PERIOD": 1, "SOLVER__MAX_EPOCH": epochs}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    zygote.finish(words(clips, whole, **settings))
    rng = random.Random(5)
    for index, moment in enumerate(moments):
        end_by_term(zygote, words(clips, cut, **settings), cut, moment, rng, group=index % 2 == 0)
    zygote.finish(words(clips, cut, **settings))
    assert_same_outcome(cut, outcome(whole))


@pytest.mark.slow
def test_term_in_four_moments(zygote, clips, tmp_path):
    many_terms(zygote, clips, tmp_path, ["first step", "train", "eval", "save"], epochs=6)


@pytest.mark.faults100
def test_thirty_terms(zygote, clips, tmp_path):
    moments = ["first step", *["train", "eval", "save"] * 9, "train", "eval"]
    many_terms(zygote, clips, tmp_path, moments, epochs=60)


@pytest.mark.slow
def test_term_while_testing(zygote, clips, tmp_path):
    settings = {"SOLVER__MAX_EPOCH": 1, "LOG_PERIOD": 1, "TEST__NUM_ENSEMBLE_VIEWS": 30, "TEST__BATCH_SIZE": 1}
    argv = words(clips, tmp_path / "run", **settings)
    end_by_term(zygote, argv, tmp_path / "run", "test", random.Random(0), group=True)
    assert not (tmp_path / "run" / "results").exists()
    zygote.finish(argv)
    assert json.loads((tmp_path / "run" / "results" / "test.json").read_text())["counts"]["samples"] == 4
