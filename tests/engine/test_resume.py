"""Resume equals uninterrupted, bit for bit; workers change nothing."""

import os
import signal

import pytest
import torch

from dust.engine.learner import Learner
from dust.engine.run_dir import RunDir
from dust.engine.stages import build_stage, finished
from dust.engine.state import malformed
from dust.engine.train import Trainer, build_trainer
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import load_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError
from tests.runs import RICH, StopAfter, assert_same, assert_same_run, final, train


@pytest.fixture
def uninterrupted(tiny):
    return train(tiny("whole", **RICH))


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 4, 5, 6, 12])
def test_a_run_cut_at_any_step_ends_with_the_same_bits(tiny, uninterrupted, monkeypatch, batches):
    cfg = tiny("cut", **RICH)
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
        StopAfter(patch, batches)
        train(cfg)
    assert stop.value.exit_code == 130
    assert_same_run(train(cfg), uninterrupted)


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


@pytest.mark.slow
@pytest.mark.parametrize(("period", "batches"), [(1, 3), (2, 6), (2, 9), (3, 2)])
def test_a_power_cut_loses_no_more_than_the_period(tiny, uninterrupted, monkeypatch, period, batches):
    cfg = tiny("cut", TRAIN__CHECKPOINT_PERIOD_ITERS=period, **RICH)
    original, seen, cut = Learner._micro_step, [], []

    def step(trainer, batch):
        seen.append(trainer.state.epoch * trainer.iters + trainer.state.iteration)
        if len(seen) == batches and not cut:
            cut.append(True)
            raise PowerCut
        return original(trainer, batch)

    monkeypatch.setattr(Learner, "_micro_step", step)
    with pytest.raises(PowerCut):
        train(cfg)
    done = seen[-1]
    seen.clear()
    assert_same_run(train(cfg), uninterrupted)
    # an optimizer step sums two batches here, so the period counts from one such boundary to the next
    assert done - seen[0] <= 2 * -(-period // 2)
    left = {path.name for path in RunDir(cfg.OUTPUT_DIR).checkpoints.glob("*.pyth")}
    assert not [name for name in left if "_iter_" in name]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tiny, uninterrupted, workers):
    assert_same_run(train(tiny("workers", DATA_LOADER__NUM_WORKERS=workers, **RICH)), uninterrupted)


@pytest.mark.slow
def test_stopping_after_an_epoch_and_training_on(tiny, uninterrupted):
    cfg = tiny("short", **{**RICH, "SOLVER__MAX_EPOCH": 3})
    checkpoints = RunDir(cfg.OUTPUT_DIR).checkpoints
    train(cfg)
    for epoch in (2, 3):
        (checkpoints / f"checkpoint_epoch_{epoch:05d}.pyth").unlink()
    assert_same_run(train(cfg), uninterrupted)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tiny, caplog):
    cfg = tiny()
    whole = train(cfg)
    newest = RunDir(cfg.OUTPUT_DIR).checkpoints / "checkpoint_epoch_00003.pyth"
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level("INFO", logger="dust"):
        assert_same_run(train(cfg), whole)
    assert "checkpoint_epoch_00003.pyth" in caplog.text and "checkpoint_epoch_00002.pyth" in caplog.text


def test_evaluation_never_moves_the_training_streams(tiny):
    often = train(tiny("often", TRAIN__EVAL_PERIOD=1, **RICH))
    never = train(tiny("never", TRAIN__EVAL_PERIOD=0, **RICH))
    for part in ("model_state", "ema_state", "optimizer_state"):
        assert_same(often[part], never[part], part)


def test_an_interrupted_validation_is_done_again(tiny, monkeypatch):
    cfg = tiny()
    original = Trainer._validate

    def validate(trainer):
        monkeypatch.setattr(Trainer, "_validate", original)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    monkeypatch.setattr(Trainer, "_validate", validate)
    with pytest.raises(Interrupted) as stop:
        train(cfg)
    assert stop.value.exit_code == 143
    assert_same_run(train(cfg), train(tiny("whole")))


def test_another_configuration_is_refused_by_key(tiny):
    train(tiny(SOLVER__MAX_EPOCH=1))
    with pytest.raises(CheckpointError, match=r"SOLVER\.BASE_LR: 0\.01 -> 0\.02") as error:
        train(tiny(SOLVER__MAX_EPOCH=1, SOLVER__BASE_LR=0.02))
    assert "OUTPUT_DIR" in str(error.value) and "AUTO_RESUME" in str(error.value)


ABSURD = {
    "epoch": (None, -1, 1.0, torch.zeros(3), 2**70), "iteration": ("x", True), "complete": (1, torch.zeros(3)),
    "global_batch": (0, float("inf"), None), "world_size": ([],), "shards": (0,), "best": (5, {"value": "x"}),
    "least_errors": ("x", {"a": None}), "meter": ({}, {"sums": {"a": "x"}, "samples": {}}), "hooks": (3,),
    "sources": (3,), "written": (10**400, None), "class_names": (None, torch.zeros(2)), "cfg": (3,),
    "scaler_state": (None,), "model_state": (3, {}, {"x": torch.zeros(3)}),
    "optimizer_state": (3, {}, {"state": {}, "param_groups": [5]}),
}  # fmt: skip


def test_a_signed_checkpoint_of_another_form_is_refused(tiny):
    """Somebody may have written it: its hash is right, and what it holds is not of the kind that a run writes."""
    cfg = tiny(SOLVER__MAX_EPOCH=2, TEST__ENABLE=False)
    train(tiny(SOLVER__MAX_EPOCH=1, TEST__ENABLE=False))
    (path,) = RunDir(cfg.OUTPUT_DIR).checkpoints.glob("checkpoint_epoch_*.pyth")
    whole, once = load_checkpoint(path), tiny(SOLVER__MAX_EPOCH=1, TEST__ENABLE=False)
    saved = {**whole, "cfg": whole["cfg"].replace("MAX_EPOCH: 1", "MAX_EPOCH: 2")}
    for name, values in ABSURD.items():
        for value in values:
            save_checkpoint(path, {**whole, name: value})
            if malformed({**whole, name: value}):  # weights are looked at where they are put back
                assert not finished(lambda: build_stage(once), once.OUTPUT_DIR)
            save_checkpoint(path, {**saved, name: value})
            with pytest.raises(CheckpointError, match=path.name):
                build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    save_checkpoint(path, whole)
    assert finished(lambda: build_stage(once), once.OUTPUT_DIR)
    save_checkpoint(path, saved)
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).close()


def test_beginning_anew_keeps_what_was(tiny):
    cfg = tiny(SOLVER__MAX_EPOCH=1)
    train(cfg)
    train(tiny(SOLVER__MAX_EPOCH=1, SOLVER__BASE_LR=0.02, TRAIN__AUTO_RESUME=False))
    old = RunDir(cfg.OUTPUT_DIR).path / "checkpoints.old" / "checkpoint_epoch_00001.pyth"
    assert load_checkpoint(old)["cfg"] != final(cfg)["cfg"]


def test_keep_last_deletes_only_what_this_run_wrote(tiny):
    cfg = tiny(TRAIN__CHECKPOINT_KEEP_LAST=1)
    folder = RunDir(cfg.OUTPUT_DIR).checkpoints
    (folder / "checkpoint_foreign.pyth").write_bytes(b"mine")
    train(cfg)
    kept = {path.name for path in folder.glob("*.pyth")}
    assert kept == {"checkpoint_epoch_00003.pyth", "checkpoint_best.pyth", "checkpoint_foreign.pyth"}
    assert (folder / "checkpoint_foreign.pyth").read_bytes() == b"mine"
