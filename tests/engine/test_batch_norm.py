"""Precise statistics of batch norms against the statistics of everything at once, and in a run."""

import signal

import pytest
import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from dust.datasets.workers import WorkerError
from dust.engine.batch_norm import PreciseStatistics, batch_norms, use_precise_statistics
from dust.engine.learner import Learner
from dust.engine.run_dir import RunDir
from dust.engine.train import build_trainer
from dust.launch.signals import Interrupted, StopEarly
from tests.runs import StopAfter, assert_same_run, final, train


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.Dropout(0.5), nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))


def test_one_batch_gives_its_own_statistics():
    model, batch = network().train(), torch.randn(3, 2, 4, 6, 5)
    assert use_precise_statistics(model, model, [batch]) == 1
    values = model[0](batch).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, values.mean(dim=1))
    torch.testing.assert_close(model[1].running_var, values.var(dim=1, correction=0))
    assert model.training and model[1].num_batches_tracked == 0 and not model[1]._forward_pre_hooks
    inner = model[0](batch)
    inner = (inner - inner.mean((0, 2, 3, 4), keepdim=True)) / (
        inner.var((0, 2, 3, 4), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    torch.testing.assert_close(model[4].running_mean, model[3](inner).mean((0, 2, 3, 4)), atol=1e-5, rtol=1e-4)


def test_batches_of_every_size_weigh_by_their_values():
    """The first norm sees the same values however they are cut into batches."""
    whole = torch.randn(7, 2, 4, 6, 5)
    found = []
    for sizes in ([7], [1, 4, 2]):
        model = network()
        use_precise_statistics(model, model, whole.split(sizes))
        found.append((model[1].running_mean, model[1].running_var))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("convert", [lambda norm: norm, convert_sync_batchnorm], ids=["alone", "several processes"])
def test_a_norm_that_does_more_than_to_normalise_does_it_here_too(convert):
    """timm's convolutional nets have their activation in the norm; what comes behind it must be seen as in training."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(convert(BatchNormAct2d(3)), nn.BatchNorm2d(3)), torch.randn(4, 3, 5, 5)
    use_precise_statistics(model, model, [batch])
    mean, variance = batch.mean((0, 2, 3), keepdim=True), batch.var((0, 2, 3), keepdim=True, correction=0)
    inner = ((batch - mean) / (variance + 1e-5).sqrt()).relu()
    torch.testing.assert_close(model[1].running_mean, inner.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, inner.var((0, 2, 3), correction=0))


def test_a_pass_that_fails_leaves_the_statistics_as_they_were():
    model = network()
    mean = model[1].running_mean

    def fail(batch):
        raise ValueError(model(batch).shape)

    with pytest.raises(ValueError):
        use_precise_statistics(model, fail, [torch.randn(2, 2, 3, 4, 4)])
    assert model[1].running_mean is mean and not model[1]._forward_pre_hooks and not mean.any()


def test_processes_that_were_asked_to_stop_do_so_before_they_add_their_sums():
    """One of them stops waiting for its data, the others are through: all come to ``agree``, where all stop."""
    model = network()
    mean = model[1].running_mean.clone()

    def agree():
        raise Interrupted(signal.SIGTERM)

    def stop(batch):
        raise StopEarly

    for forward in (model, stop):
        with pytest.raises(Interrupted):
            use_precise_statistics(model, forward, [torch.randn(2, 2, 3, 4, 4)], agree)
        assert torch.equal(mean, model[1].running_mean)


def test_nothing_else_changes():
    model, batch = network().eval(), torch.randn(2, 2, 3, 4, 4)
    before = {name: value.clone() for name, value in model.named_parameters()}
    state = torch.get_rng_state()
    use_precise_statistics(model, model, [batch])
    assert torch.equal(state, torch.get_rng_state()) and not model.training
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    mean = model[1].running_mean.clone()
    assert use_precise_statistics(model, model, []) == 0 and torch.equal(mean, model[1].running_mean)
    assert use_precise_statistics(nn.Linear(2, 2), None, [batch]) == 0
    assert batch_norms(nn.BatchNorm1d(2, track_running_stats=False)) == []


PRECISE = {
    "MODEL__MODEL_NAME": "ResNet", "RESNET__WIDTH_PER_GROUP": 2, "DATA__TRAIN_CROP_SIZE": 32,
    "DATA__TEST_CROP_SIZE": 32, "DATA__TRAIN_JITTER_SCALES": [32, 36], "BN__USE_PRECISE_STATS": True,
    "BN__NUM_BATCHES_PRECISE": 3, "TRAIN__EVAL_PERIOD": 0, "SOLVER__MAX_EPOCH": 1, "EMA__ENABLED": True,
    "EMA__DECAY": 0.5,
}  # fmt: skip
TWICE = {**PRECISE, "SOLVER__MAX_EPOCH": 2}


def test_a_run_ends_with_the_statistics_of_its_last_weights(tiny):
    """The same as one pass over the epoch's first batches, for the averaged weights too."""
    cfg = tiny("precise", **PRECISE)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.fit()
    saved, key = final(cfg), "s1.pathway0_stem.bn.running_var"
    assert not torch.allclose(saved["model_state"][key], saved["ema_state"][key])
    for part, model in (("model_state", trainer.state.model), ("ema_state", trainer.state.ema.module)):
        trainer.sampler.set_position(0, 0)
        batches = [trainer.learner.transform(batch, training=False)["inputs"]["video"] for batch in trainer.loader][:3]
        with torch.no_grad():
            stem = model.s1["pathway0_stem"]
            values = torch.cat([stem.conv(batch) for batch in batches])
        wanted = values.transpose(0, 1).flatten(1).var(dim=1, correction=0)
        torch.testing.assert_close(saved[part][key], wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_was_cut_ends_with_the_same_bits(tiny, monkeypatch):
    whole, cfg = train(tiny("whole", **TWICE)), tiny("cut", **TWICE)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        StopAfter(patch, 3)
        train(cfg)
    assert_same_run(train(cfg), whole)


def test_an_epoch_is_saved_before_its_statistics_are_measured(tiny, monkeypatch):
    """A worker that dies then, or a kill, costs no epoch, in a run without evaluations too."""
    whole, cfg = train(tiny("whole", **PRECISE)), tiny("cut", **PRECISE)

    def fail(*args):
        raise WorkerError("gone")

    with monkeypatch.context() as patch, pytest.raises(WorkerError):
        patch.setattr(PreciseStatistics, "update", fail)
        train(cfg)

    def learn(*args):
        raise AssertionError("a step is made again")

    monkeypatch.setattr(Learner, "_micro_step", learn)
    assert_same_run(train(cfg), whole)


def test_a_model_without_batch_norms_is_left_alone(tiny):
    cfg = tiny("plain", BN__USE_PRECISE_STATS=True)
    assert build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).precise is None
