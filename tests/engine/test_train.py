"""What a training run does besides resuming."""

import gc
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from dust.config import accumulation_steps
from dust.engine.evaluator import Evaluator
from dust.engine.learner import Learner
from dust.engine.run_dir import RunDir
from dust.engine.state import say_share
from dust.engine.step import Diverged
from dust.engine.train import build_trainer, run_stage
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import load_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.logging import setup_logging
from tests.runs import RICH, assert_same_run, write_noise


def fit(cfg):
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.fit()
    return trainer


def test_logs_in_slowfasts_form(tiny):
    cfg = tiny(SOLVER__MAX_EPOCH=2, TRAIN__BATCH_SIZE=2, SOLVER__CLIP_GRAD_L2NORM=1.0)
    run = RunDir(cfg.OUTPUT_DIR)
    setup_logging(run.path)
    build_trainer(cfg, run).fit()
    text = (run.path / "stdout.log").read_text()
    setup_logging()
    lines = [json.loads(line) for line in re.findall(r"json_stats: (.*)", text)]
    kinds = [line["_type"] for line in lines]
    assert kinds.count("train_iter") == 4 and kinds.count("train_epoch") == kinds.count("val_epoch") == 2
    first = lines[kinds.index("train_iter")]
    assert first["epoch"] == "1/2" and first["iter"] == "2/5"
    assert {"dt", "dt_data", "dt_net", "eta", "loss", "lr", "gpu_mem", "top1_err", "grad_norm"} <= set(first)
    assert list(first) == sorted(first)
    validation = lines[kinds.index("val_epoch")]
    assert validation["min_top1_err"] <= validation["top1_err"]
    assert re.search(r"^\[\d\d/\d\d \d\d:\d\d:\d\d\]\[INFO\] \w+\.py: +\d+: ", text, re.M)


def test_accumulation_gives_the_gradient_of_the_big_batch(tiny, monkeypatch):
    """Two batches of 5 accumulated step like one of 10: same clips, same augmentation, drop-outs off."""
    common = {"SOLVER__MAX_EPOCH": 1, "TIMESFORMER__DROP_RATE": 0.0, "TIMESFORMER__DROP_PATH_RATE": 0.0}
    common |= {"SOLVER__OPTIMIZING_METHOD": "sgd", "TRAIN__EVAL_PERIOD": 0}
    big = fit(tiny("big", TRAIN__BATCH_SIZE=10, **common)).state
    small = fit(tiny("small", TRAIN__BATCH_SIZE=5, GLOBAL_BATCH_SIZE=10, **common)).state
    assert small.updates == big.updates == 1
    for a, b in zip(big.model.parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_short_last_group_is_stepped(tiny):
    common = {"TRAIN__BATCH_SIZE": 2, "GLOBAL_BATCH_SIZE": 4, "SOLVER__MAX_EPOCH": 1}  # 5 batches: 2, 2, 1
    cfg = tiny("all", DATA_LOADER__DROP_LAST=False, **common)
    assert accumulation_steps(cfg) == 2
    assert fit(cfg).state.updates == 3
    assert fit(tiny("full", **common)).state.updates == 2, "DATA_LOADER.DROP_LAST: a step that is not full"


def test_a_loss_that_is_not_finite_stops_with_names(tiny):
    cfg = tiny(SOLVER__MAX_EPOCH=2)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer._train_epoch(), trainer._close_epoch()
    with torch.no_grad():
        next(trainer.state.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"epoch 2, iteration 1: \{'loss': nan\}; clips: clip_\d"):
        trainer._train_epoch()
    saved = load_checkpoint(trainer.run.checkpoints / "checkpoint_epoch_00001.pyth")
    assert all(torch.isfinite(value).all() for value in saved["model_state"].values())


def test_gradients_that_are_not_finite_never_reach_a_checkpoint(tiny):
    """The last step of an epoch has them, and a checkpoint would follow."""
    cfg = tiny(SOLVER__MAX_EPOCH=2, TRAIN__CHECKPOINT_PERIOD_ITERS=1)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer._train_epoch(), trainer._close_epoch()
    weight = trainer.state.model.head.weight
    weight.register_hook(lambda gradient: gradient * float("nan") if trainer.state.iteration == 2 else gradient)
    with pytest.raises(
        Diverged, match=r"epoch 2, iteration 3: those of head.weight; clips: clip_\d.*Lower SOLVER"
    ) as error:
        trainer.fit()
    assert str(trainer.run.checkpoints) in str(error.value)
    paths = sorted(trainer.run.checkpoints.glob("*.pyth"))
    assert len(paths) > 1
    for path in paths:
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["model_state"].values()), path


def test_early_stopping_and_best(tiny):
    cfg = tiny(SOLVER__MAX_EPOCH=30, TRAIN__EARLY_STOPPING_PATIENCE=2)
    state = fit(cfg).state
    best = load_checkpoint(RunDir(cfg.OUTPUT_DIR).checkpoints / "checkpoint_best.pyth")
    assert state.epoch < 30 and state.best["stale"] == 2
    assert state.best["epoch"] == best["epoch"] + 1 == state.epoch - 2
    assert fit(cfg).state.epoch == state.epoch  # started again, it stays stopped


def test_finetuning_takes_weights_only_and_resumes(tiny):
    source = tiny("source", SOLVER__MAX_EPOCH=1)
    fit(source)
    file = str(RunDir(source.OUTPUT_DIR).checkpoints / "checkpoint_epoch_00001.pyth")
    cfg = tiny("fine", TRAIN__CHECKPOINT_FILE_PATH=file, TRAIN__FINETUNE=True, SOLVER__MAX_EPOCH=1)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    assert trainer.state.epoch == 0
    loaded = load_checkpoint(file)["model_state"]
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.state.model.state_dict().items())
    trainer.fit()
    assert fit(cfg).state.updates == trainer.state.updates  # found its own checkpoint, not the source


def test_a_finished_checkpoint_is_no_silent_success(tiny):
    source = tiny("source", SOLVER__MAX_EPOCH=1)
    fit(source)
    file = str(RunDir(source.OUTPUT_DIR).checkpoints / "checkpoint_epoch_00001.pyth")
    with pytest.raises(CheckpointError, match="TRAIN.FINETUNE True"):
        fit(tiny("next", TRAIN__CHECKPOINT_FILE_PATH=file, SOLVER__MAX_EPOCH=1))
    assert fit(tiny("more", TRAIN__CHECKPOINT_FILE_PATH=file, SOLVER__MAX_EPOCH=2)).state.epoch == 2


def test_data_that_changed_is_not_resumed(tiny, clips, tmp_path):
    fit(tiny(SOLVER__MAX_EPOCH=1))
    other = tmp_path / "other"
    other.mkdir()
    for split in ("train", "val", "test"):
        rows = (clips / f"{split}.csv").read_text().splitlines()
        (other / f"{split}.csv").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(CheckpointError, match="other data"):
        fit(tiny(SOLVER__MAX_EPOCH=2, DATA__PATH_TO_DATA_DIR=str(other), DATA__PATH_PREFIX=str(clips)))


class TestBadClips:
    @pytest.fixture
    def damaged(self, tmp_path):
        """30 clips of which one is random bytes."""
        root = tmp_path / "damaged"
        root.mkdir()
        for index in range(30):
            write_noise(root / f"{index}.mp4", 60 if index % 2 else 190, frames=4, seed=index)
        (root / "7.mp4").write_bytes(bytes(range(256)) * 20)
        rows = [f"{index}.mp4,{index % 2}" for index in range(30)]
        (root / "train.csv").write_text("\n".join(rows) + "\n")
        (root / "val.csv").write_text("\n".join(rows[:4]) + "\n")
        return str(root)

    def test_skipped_listed_and_counted(self, tiny, damaged):
        cfg = tiny(DATA__PATH_TO_DATA_DIR=damaged, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=5)
        trainer = fit(cfg)
        assert trainer.state.epoch == 1
        listed = (trainer.run.path / "bad_clips.csv").read_text()
        assert "7.mp4" in listed and listed.startswith("split,id,path,reason")

    def test_a_batch_of_bad_clips_alone_is_no_step(self, tiny, damaged):
        cfg = tiny(DATA__PATH_TO_DATA_DIR=damaged, SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=1)
        assert fit(cfg).state.updates == 29

    def test_raise(self, tiny, damaged):
        with pytest.raises(DataError, match=r"7\.mp4.*TRAIN\.ON_BAD_CLIP skip"):
            fit(tiny(DATA__PATH_TO_DATA_DIR=damaged, SOLVER__MAX_EPOCH=1, TRAIN__ON_BAD_CLIP="raise"))

    def test_a_bad_validation_clip_loses_no_epoch(self, tiny, damaged):
        """It is governed by the training's key, and counted; TEST's own default, raise, would have ended the run."""
        val = Path(damaged) / "val.csv"
        val.write_text(val.read_text() + "7.mp4,1\n")
        cfg = tiny(DATA__PATH_TO_DATA_DIR=damaged, SOLVER__MAX_EPOCH=2)
        assert cfg.TEST.ON_BAD_CLIP == "raise"
        trainer = fit(cfg)
        assert trainer.state.epoch == 2
        assert "val,7.mp4" in (trainer.run.path / "bad_clips.csv").read_text()

    def test_too_many(self, tiny, damaged):
        with pytest.raises(DataError, match=r"MAX_BAD_FRACTION"):
            fit(tiny(DATA__PATH_TO_DATA_DIR=damaged, SOLVER__MAX_EPOCH=1, DATA__MAX_BAD_FRACTION=0.01))


def test_compile_and_mixed_precision_are_switches(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__COMPILE=True, TRAIN__MIXED_PRECISION=True, TRAIN__EVAL_PERIOD=0)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(getattr(o, "dtype", None)))
    try:
        fit(cfg)
    finally:
        handle.remove()
    assert len(compiled) == 1 and torch.bfloat16 in seen


@pytest.mark.parametrize(("call", "saved"), [(1, []), (4, ["checkpoint_epoch_00001_iter_0000003.pyth"])])
def test_a_signal_ends_a_compile(tiny, monkeypatch, call, saved):
    """The fourth batch is shorter, so that the model compiles again; what was learnt until then is saved."""
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__COMPILE=True, TRAIN__EVAL_PERIOD=0, DATA_LOADER__DROP_LAST=False)
    calls = []

    def compiling(model):
        model.register_forward_pre_hook(before, with_kwargs=True)
        return model

    def before(model, args, inputs):
        calls.append(len(inputs["video"]))
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it goes on")

    monkeypatch.setattr(torch, "compile", compiling)
    with pytest.raises(Interrupted):
        fit(cfg)
    assert [path.name for path in RunDir(cfg.OUTPUT_DIR).checkpoints.glob("*.pyth")] == saved
    assert fit(cfg).state.updates == 4 and calls[-1] == 1


def test_an_evaluation_that_fails_loses_nothing(tiny, monkeypatch):
    """Whatever it fails by, however rarely the run saves: it goes on at the evaluation, to the same bits and lines."""
    rare = {**RICH, "TRAIN__CHECKPOINT_PERIOD": 0}
    whole = tiny("whole", **rare)
    fit(whole)
    cfg, calls, seen = tiny(**rare), [], []
    evaluate, step = Evaluator.evaluate, Learner._micro_step

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) in errors:
            raise errors[len(calls)]
        return evaluate(self, *args, **kwargs)

    errors = {2: RuntimeError("out of memory"), 3: DataError("a clip")}
    monkeypatch.setattr(Evaluator, "evaluate", failing)
    for error in errors.values():
        with pytest.raises(type(error)):
            fit(cfg)
    monkeypatch.setattr(Learner, "_micro_step", lambda self, batch: seen.append(self.state.epoch) or step(self, batch))
    fit(cfg)
    assert min(seen) == 2, "epochs count from 0: two were trained before the second evaluation"
    for name in ("checkpoint_epoch_00003.pyth", "checkpoint_best.pyth"):
        one, other = (load_checkpoint(RunDir(c.OUTPUT_DIR).checkpoints / name) for c in (cfg, whole))
        assert_same_run(one, other)


def test_gpus_that_are_not_there(tiny):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"NUM_GPUS 1: this machine has 0. Set NUM_GPUS 0"):
        fit(tiny(NUM_GPUS=1))


def test_tensorboard_gets_scalars_figures_and_moving_clips(tiny):
    cfg = tiny(
        SOLVER__MAX_EPOCH=1,
        TENSORBOARD__ENABLE=True,
        TENSORBOARD__CONFUSION_MATRIX__ENABLE=True,
        TENSORBOARD__INPUT_CLIPS=1,
    )
    trainer = fit(cfg)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = trainer.run.path.glob("runs-*")
    events = EventAccumulator(str(folder)).Reload()
    assert {"Train/loss", "Train/lr", "Train/Top1_err", "Val/Top1_err"} <= set(events.Tags()["scalars"])
    assert {"Val/confusion_matrix", "Val/clip_0"} <= set(events.Tags()["images"])
    assert events.Images("Val/clip_0")[0].encoded_image_string.startswith(b"GIF8")


def test_a_checkpoint_of_another_program_is_not_resumed(tiny):
    cfg = tiny()
    save_checkpoint(RunDir(cfg.OUTPUT_DIR).checkpoints / "checkpoint_epoch_00001.pyth", {"epoch": 0, "model_state": {}})
    with pytest.raises(CheckpointError, match="not written by dust"):
        fit(cfg)


def test_no_worker_outlives_a_training(tiny):
    """The trainer is in a circle with its hooks: left to the collector, each worker was waited for 5 seconds."""
    cfg = tiny("workers", SOLVER__MAX_EPOCH=1, DATA_LOADER__NUM_WORKERS=2)
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        run_stage(cfg, RunDir(cfg.OUTPUT_DIR))
        assert not set(multiprocessing.active_children()) - before
    finally:
        gc.enable()


def test_a_class_without_a_training_clip_is_said(tiny, clips, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    rows = {split: (clips / f"{split}.csv").read_text() for split in ("train", "val")}
    for split, text in rows.items():
        (data / f"{split}.csv").write_text(text)
    (data / "classes.txt").write_text("bright\ndark\ndim\n")
    (data / "val.csv").write_text(rows["val"].replace("dark", "dim", 1))
    where = {"DATA__PATH_TO_DATA_DIR": str(data), "DATA__PATH_PREFIX": str(clips), "MODEL__NUM_CLASSES": 3}
    cfg = tiny(**where)
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).close()
    assert "1 of 3 classes have clips in the val split and none in training: dim" in caplog.text


def test_one_class_is_nothing_to_learn(tiny, clips, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val"):
        (data / f"{split}.csv").write_text((clips / f"{split}.csv").read_text().replace("dark", "bright"))
    cfg = tiny(DATA__PATH_TO_DATA_DIR=str(data), DATA__PATH_PREFIX=str(clips), MODEL__NUM_CLASSES=1)
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).close()
    assert "all training clips are of one class (bright)" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"MODEL__EXPECT_PRETRAINED": True}, "MODEL.EXPECT_PRETRAINED True"),
        ({"SOLVER__LAYER_DECAY": 0.75}, "SOLVER.LAYER_DECAY 0.75"),
        ({}, ""),
    ],
)
def test_fine_tuning_from_random_weights_warns(tiny, caplog, recipe, why):
    cfg = tiny(**recipe)
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).close()
    assert ("begins from random weights" in caplog.text) == bool(why) and why in caplog.text


def test_a_step_that_wants_more_clips_than_there_are_names_its_key(tiny, caplog):
    for key, count in (("TRAIN__BATCH_SIZE", 16), ("GLOBAL_BATCH_SIZE", 32)):
        caplog.clear()
        cfg = tiny(key, **{"TRAIN__BATCH_SIZE": 4, key: count})
        build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).close()
        assert (
            f"{key.replace('__', '.')}: an optimizer step wants {count} clips, and the training split has 10"
            in caplog.text
        )


def test_a_gpu_with_few_clips_at_a_time_is_warned_of(caplog):
    with caplog.at_level("INFO", "dust.engine.state"):
        for clips, accumulate in ((1, 8), (8, 1), (1, 1)):
            say_share(clips, accumulate)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "INFO"]
    assert "1 clips on a GPU at a time, 8 batches" in caplog.text and "TRAIN.BATCH_SIZE" in caplog.text
