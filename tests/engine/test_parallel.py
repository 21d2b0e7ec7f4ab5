"""Sharded models and checkpoints: the same numbers as whole ones, on any number of processes, written when they may."""

import shutil
import signal

import pytest
from torch import nn

from dust.datasets.loader import EpochBatchSampler
from dust.engine import saver
from dust.engine.run_dir import RunDir
from dust.engine.sharding import blocks_of
from dust.engine.train import build_trainer
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import load_checkpoint
from dust.utils.errors import CheckpointError
from tests.processes import until, zygote
from tests.runs import PLAIN, RICH, StopAfter, assert_close_weights, assert_same_run, epochs, run, train, weights, words

FSDP = {"TRAIN__PARALLEL": "fsdp", "SOLVER__CLIP_GRAD_L2NORM": 1.0, "TEST__ENABLE": False}
SHARDED = {**FSDP, "TRAIN__CHECKPOINT_FORMAT": "sharded", "SOLVER__OPTIMIZING_METHOD": "adamw", "SOLVER__BASE_LR": 1e-3}


@pytest.fixture(scope="module")
def replicated(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("ddp") / "run", 2, **{**FSDP, "TRAIN__PARALLEL": "ddp"})


@pytest.fixture(scope="module")
def sharded(clips, tmp_path_factory):
    """Two processes to the end, a folder of parts for every epoch."""
    return run(clips, tmp_path_factory.mktemp("sharded") / "run", 2, **SHARDED)


def last(out, suffix):
    return load_checkpoint(out / "checkpoints" / f"checkpoint_epoch_00002.{suffix}")


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"GLOBAL_BATCH_SIZE": 8}], ids=["plain", "accumulated"])
def test_a_sharded_model_learns_what_a_replicated_one_does(clips, tmp_path, replicated, more):
    """10 clips in batches of 4, 4 clips to evaluate, weights averaged, gradients clipped."""
    alike = {**FSDP, **more, "TRAIN__PARALLEL": "ddp"}
    reference = run(clips, tmp_path / "ddp", 2, **alike) if more else replicated
    out = run(clips, tmp_path / "fsdp", 2, **FSDP, **more)
    assert_close_weights(weights(reference), weights(out))
    for first, second in zip(epochs(reference), epochs(out), strict=True):
        assert second == pytest.approx(first, abs=1.1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_are_taken_up_by_any_number_of_processes(clips, tmp_path, sharded, count):
    """The first epoch of two processes, the second of one, two or three; 4 clips a batch, also over three."""
    out = tmp_path / "run"
    shutil.copytree(sharded, out)
    shutil.rmtree(out / "checkpoints" / "checkpoint_epoch_00002.dcp")
    background = {"TRAIN__CHECKPOINT_ASYNC": True}  # how it is written changes nothing
    run(clips, out, count, **{**SHARDED, **background, "TRAIN__CHECKPOINT_FORMAT": "full" if count == 1 else "sharded"})
    first, second = last(sharded, "dcp"), last(out, "pyth" if count == 1 else "dcp")
    if count == 2:
        assert_same_run(first, second)
    else:
        assert_close_weights(first, second)
        assert "is not identical" in (out / "stdout.log").read_text()
    assert second["world_size"] == count and second["updates"] == first["updates"]


@pytest.mark.slow
@pytest.mark.parametrize("batches", [4, 7, 12])
def test_written_behind_the_training_a_resumed_run_is_the_same(tiny, monkeypatch, batches):
    """Everything random on, a checkpoint every two batches."""
    behind = {**RICH, "TRAIN__CHECKPOINT_ASYNC": True, "TRAIN__CHECKPOINT_PERIOD_ITERS": 2}
    whole = train(tiny("whole", **RICH))
    with monkeypatch.context() as patch:
        StopAfter(patch, batches)
        with pytest.raises(Interrupted):
            train(tiny("behind", **behind))
    assert_same_run(whole, train(tiny("behind", **behind)))


def test_what_cannot_be_written_behind_the_training_ends_it(tiny, monkeypatch):
    def full(path, state):
        raise CheckpointError(f"{path}: the checkpoint could not be written: No space left on device")

    monkeypatch.setattr(saver, "save_checkpoint", full)
    cfg = tiny(TRAIN__CHECKPOINT_ASYNC=True, SOLVER__MAX_EPOCH=1, TRAIN__EVAL_PERIOD=0)
    with pytest.raises(CheckpointError, match="No space left"):
        train(cfg)


#: 10 clips in steps of 4: (TRAIN.BATCH_SIZE, NUM_SHARDS, GLOBAL_BATCH_SIZE), all of which make such steps.
STEPS = {"nodes": (2, 2, 0), "accumulated": (2, 1, 4), "small": (1, 1, 4)}


def steps(tiny, name, out, **more):
    size, shards, global_batch = STEPS[name]
    batches = {"TRAIN__BATCH_SIZE": size, "NUM_SHARDS": shards, "GLOBAL_BATCH_SIZE": global_batch}
    scaled = {"SOLVER__BASE_LR_SCALE_NUM_SHARDS": True, "TRAIN__EVAL_PERIOD": 0}
    return tiny(out, **{**PLAIN, **scaled, **batches, **more})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "resumed", "stop"),
    [("accumulated", "small", 1), ("accumulated", "small", 4), ("small", "accumulated", 5), ("small", "nodes", 2)],
)
def test_other_batches_that_make_the_same_steps_go_on(tiny, monkeypatch, caplog, begun, resumed, stop):
    """A run that stopped anywhere goes on in batches of another size, and ends as if it had not."""
    whole = train(steps(tiny, begun, "whole"))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        StopAfter(patch, stop)
        train(steps(tiny, begun, "cut"))
    cut = train(steps(tiny, resumed, "cut"))
    assert_close_weights(whole, cut)
    assert cut["updates"] == whole["updates"] == 6 and "is not identical" in caplog.text


def test_fewer_nodes_keep_the_steps_and_the_rates(tiny, caplog):
    """Two nodes of two clips, then one node: it takes two batches for a step, at two nodes' rate. (All in one process,
    which takes the whole of every batch.)"""
    alike = {"SOLVER__LR_POLICY": "steps_with_relative_lrs", "SOLVER__STEPS": [0], "SOLVER__LRS": [1.0]}
    whole = train(steps(tiny, "nodes", "whole", **alike))
    train(steps(tiny, "nodes", "run", SOLVER__MAX_EPOCH=1, **alike))
    one = train(steps(tiny, "nodes", "run", NUM_SHARDS=1, **alike))
    assert_close_weights(whole, one)
    assert (one["global_batch"], one["shards"]) == (4, 2)
    assert (
        "TRAIN.BATCH_SIZE 2 x NUM_SHARDS 1: the run began with 4 clips per optimizer step and keeps them" in caplog.text
    )


def test_parts_of_a_larger_model_are_another_run(tiny):
    parts = {"TRAIN__CHECKPOINT_FORMAT": "sharded", "SOLVER__MAX_EPOCH": 1, "TRAIN__EVAL_PERIOD": 0}
    cfg = tiny("run", **parts)
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).fit()
    with pytest.raises(CheckpointError, match="TIMESFORMER.DEPTH: 2 -> 1"):
        train(tiny("run", **parts, TIMESFORMER__DEPTH=1))


def test_other_steps_are_another_run(tiny):
    train(steps(tiny, "accumulated", "run", SOLVER__MAX_EPOCH=1))
    with pytest.raises(CheckpointError, match=r"another configuration:\n  GLOBAL_BATCH_SIZE: 4 -> 8"):
        train(steps(tiny, "accumulated", "run", GLOBAL_BATCH_SIZE=8))


@pytest.mark.slow
def test_bad_clips_are_counted_over_all_processes(clips, tmp_path):
    """One in ten may be bad. Each process meets one, none too many by itself."""
    shutil.copytree(clips, tmp_path / "clips")
    ranks = [EpochBatchSampler(10, 4, seed=3, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        (tmp_path / "clips" / f"clip_{next(iter(rank))[0].sample}.mp4").write_bytes(b"no video")
    settings = {**PLAIN, "NUM_PROCS_PER_NODE": 2, "DATA__MAX_BAD_FRACTION": 0.1, "LOG_PERIOD": 1}
    process = zygote().start(words(tmp_path / "clips", tmp_path / "run", **settings))
    _, error = process.communicate(timeout=120)
    said = "error: 2 of the 10 clips of this epoch (0.2) could not be read"
    assert process.returncode == 2 and error.count(said) == 1, error
    assert len((tmp_path / "run" / "bad_clips.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_term_does_not_wait_for_the_end_of_an_evaluation(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    head, *rows = (clips / "val.csv").read_text().splitlines()
    for number in range(1000):  # a long one
        for row in rows:
            (tmp_path / "clips" / f"{number}_{row.split(',')[0]}").symlink_to(clips / row.split(",")[0])
    many = [f"{number}_{row}" for number in range(1000) for row in rows]
    (tmp_path / "clips" / "val.csv").write_text("\n".join([head, *many]))
    log = tmp_path / "run" / "stdout.log"
    settings = {**PLAIN, "NUM_PROCS_PER_NODE": 2, "LOG_PERIOD": 1}
    process = zygote().start(words(tmp_path / "clips", tmp_path / "run", **settings))
    until(lambda: log.exists() and '"val_iter"' in log.read_text(), "an evaluation", process)
    process.send(signal.SIGTERM)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 143, error
    assert "stopped at epoch 1, iteration 3; saved" in log.read_text() and '"val_epoch"' not in log.read_text()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))


def test_units_are_the_innermost_blocks():
    stages = nn.ModuleList(nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()])}) for _ in range(2))
    model = nn.ModuleDict({"stages": stages, "head": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))})
    assert [type(one) for one in blocks_of(model)] == [Block] * 4
    assert not blocks_of(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
