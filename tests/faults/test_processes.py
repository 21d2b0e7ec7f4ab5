"""Several processes of one run: whoever is killed, the others end, and the next start goes on to the same end."""

import random
import signal
from collections.abc import Callable, Sequence

import psutil
import pytest
import torch

from dust.engine.run_dir import RunDir
from dust.utils.checkpoint import load_checkpoint
from tests.faults.victims import PARTS, newest, saves, words
from tests.helpers import ROOT
from tests.processes import KILL, Run, gone, until
from tests.runs import assert_same

TWO = {
    "NUM_PROCS_PER_NODE": 2,
    "TRAIN__BATCH_SIZE": 4,
    "GLOBAL_BATCH_SIZE": 8,
    "DATA_LOADER__NUM_WORKERS": 1,
    "LOG_PERIOD": 100,
    "TEST__ENABLE": False,
}
Disturbance = Callable[[Run], int]


def kill_launcher(victim: Run) -> int:
    victim.send(KILL)
    return -KILL


def kill_first_rank(victim: Run) -> int:
    victim.ranks()[0].kill()
    return 1


def kill_second_rank(victim: Run) -> int:
    victim.ranks()[1].kill()
    return 1


def term_to_all(victim: Run) -> int:
    victim.send(signal.SIGTERM, group=True)
    return 143


def term_to_launcher(victim: Run) -> int:
    victim.send(signal.SIGTERM)
    return 143


def disturb(zygote, clips, tmp_path, disturbances: Sequence[Disturbance], epochs: int, **more) -> None:
    settings = {**TWO, "SOLVER__MAX_EPOCH": epochs, **more}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    zygote.finish(words(clips, whole, **settings))
    rng, everyone = random.Random(9), list[psutil.Process]()
    for disturbance in disturbances:
        victim = zygote.start(words(clips, cut, **settings), spawn=True)
        saves(cut / "checkpoints", victim, rng.randint(2, 5))
        everyone += victim.workers()
        expected = disturbance(victim)
        assert victim.wait() == expected, victim.said[-3000:]
    zygote.finish(words(clips, cut, **settings))
    one, other = newest(whole), newest(cut)
    assert_same({part: other[part] for part in PARTS}, {part: one[part] for part in PARTS})
    until(lambda: all(gone(one) for one in everyone), "the end of what the dead left")


@pytest.mark.slow
def test_a_dead_launcher_leaves_nothing_behind(zygote, clips, tmp_path):
    """Its processes end with it, and the folder is free. (Dead ranks and TERM: tests/launch/test_launcher.py.)"""
    victim = zygote.start(words(clips, tmp_path / "run", **TWO, SOLVER__MAX_EPOCH=1000), spawn=True)
    saves(tmp_path / "run" / "checkpoints", victim, 2)
    everyone = victim.workers()
    assert len(victim.ranks()) == 2
    expected = kill_launcher(victim)
    assert victim.wait() == expected
    until(lambda: all(gone(one) for one in everyone), "the end of what the dead left")
    with RunDir(tmp_path / "run").lock():
        pass


@pytest.mark.faults100
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("kind", ["full", "sharded", "fsdp"])
def test_every_way_to_disturb_two_processes(zygote, clips, tmp_path, kind, background):
    more = {"TRAIN__CHECKPOINT_FORMAT": "full" if kind == "full" else "sharded", "TRAIN__CHECKPOINT_ASYNC": background}
    if kind == "fsdp":
        more["TRAIN__PARALLEL"] = "fsdp"
    ways = [kill_first_rank, kill_second_rank, kill_launcher, term_to_all, term_to_launcher]
    disturb(zygote, clips, tmp_path, ways, epochs=30, **more)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_loss_of_one_process_that_is_not_finite_ends_all_by_its_name(zygote, clips, tmp_path, parallel):
    """All of them in the same step, so that none waits for the others, and the error is said once, with the clips."""
    settings = {**TWO, "TRAIN__PARALLEL": parallel, "IMPORTS": [str(ROOT / "tests" / "faults" / "spoil.py")]}
    settings |= {"TRAIN__HOOKS": ["Spoil"], "SOLVER__MAX_EPOCH": 9}
    victim = zygote.start(words(clips, tmp_path / "run", **settings))
    _, error = victim.communicate()
    assert victim.returncode == 2, error
    assert error.count("the loss is not finite at epoch") == 1 and "clips: " in error and "Traceback" not in error
    for path in (tmp_path / "run" / "checkpoints").glob("*.pyth"):
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["model_state"].values())


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 2])
def test_a_loader_of_one_process_that_ends_costs_no_step(zygote, clips, tmp_path, batches):
    """The other has learnt from its batch of the step, in which none takes part: all go back before it."""
    settings = {**TWO, "GLOBAL_BATCH_SIZE": 4 * batches, "SOLVER__MAX_EPOCH": 2, "TRAIN__EVAL_PERIOD": 1}
    lost = {"IMPORTS": [str(ROOT / "tests" / "faults" / "lose.py")], "TRAIN__HOOKS": ["Lose"]}
    zygote.finish(words(clips, tmp_path / "whole", **settings))
    victim = zygote.start(words(clips, tmp_path / "cut", **settings, **lost))
    _, error = victim.communicate()
    assert victim.returncode == 2 and error.count("gone. Saved") == 1 and "Traceback" not in error, error
    zygote.finish(words(clips, tmp_path / "cut", **settings, **lost))
    one, other = newest(tmp_path / "whole"), newest(tmp_path / "cut")
    assert_same({part: other[part] for part in PARTS}, {part: one[part] for part in PARTS})
