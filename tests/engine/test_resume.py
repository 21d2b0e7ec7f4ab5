"""Resume equals uninterrupted, bit for bit; workers change nothing."""

import os
import signal

import pytest
import torch

from dust.engine.run_dir import RunDir
from dust.engine.train import Trainer, build_trainer
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import load_checkpoint
from dust.utils.errors import CheckpointError

#: Everything random at once: augmentation, mixing, dropout, drop-path, averaging, accumulation with a short last group.
RICH = {
    "AUG__ENABLE": True,
    "AUG__AA_TYPE": "rand-m7-n2-mstd0.5-inc1",
    "AUG__RE_PROB": 0.5,
    "AUG__NUM_SAMPLE": 2,
    "MIXUP__ENABLE": True,
    "EMA__ENABLED": True,
    "EMA__DECAY": 0.9,
    "GLOBAL_BATCH_SIZE": 6,
    "DATA_LOADER__DROP_LAST": False,
}


def final(cfg):
    return load_checkpoint(RunDir(cfg.OUTPUT_DIR).checkpoints / f"checkpoint_epoch_{cfg.SOLVER.MAX_EPOCH:05d}.pyth")


def assert_same(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def assert_same_run(a, b):
    for part in ("model_state", "ema_state", "optimizer_state", "meter", "best", "least_errors", "updates", "epoch"):
        assert_same(a[part], b[part], part)


def train(cfg):
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).fit()
    return final(cfg)


class StopAfter:
    """Sends this process a signal once so many batches were trained on."""

    def __init__(self, monkeypatch, batches, signum=signal.SIGINT):
        original, self.seen = Trainer._micro_step, 0

        def step(trainer, batch):
            self.seen += 1
            if self.seen == batches:
                os.kill(os.getpid(), signum)
            return original(trainer, batch)

        monkeypatch.setattr(Trainer, "_micro_step", step)


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
    original, seen, cut = Trainer._micro_step, [], []

    def step(trainer, batch):
        seen.append(trainer.state.epoch * trainer.iters + trainer.state.iteration)
        if len(seen) == batches and not cut:
            cut.append(True)
            raise PowerCut
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "_micro_step", step)
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
