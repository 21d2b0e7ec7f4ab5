"""The engine's parts from plain values, without a configuration: a training, an evaluation, a choice of checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dust.datasets.loader import EpochBatchSampler, EvaluationSampler, collate_evaluation, collate_training
from dust.datasets.manifest.manifest import Clip
from dust.datasets.sample import SampleRequest
from dust.engine.checkpoints import CheckpointChoice
from dust.engine.evaluator import Evaluator
from dust.engine.hooks import Hook, SaveOptions
from dust.engine.run_dir import RunDir
from dust.engine.state import TrainState
from dust.engine.step import OptimizerStep
from dust.engine.train import Trainer, TrainOptions
from dust.tasks.classification import Classification
from dust.utils.checkpoint import save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError
from dust.utils.lr_policy import LRSchedule

CPU = torch.device("cpu")


class Signs(Dataset):
    """Vectors whose class is the sign of their first entry."""

    def __init__(self, training):
        self.training = training
        self.values = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        self.labels = (self.values[:, 0] > 0).long().tolist()
        self.clips = [Clip(id=str(index), path="", label=label) for index, label in enumerate(self.labels)]

    def __len__(self):
        return len(self.values)

    def __getitem__(self, request):
        index = request.sample if isinstance(request, SampleRequest) else request
        sample = {"label": self.labels[index], "id": str(index), "path": ""}
        if self.training:
            return [{"inputs": {"x": self.values[index]}, **sample}]
        return {"inputs": {"x": self.values[index][None]}, **sample}


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x)


def as_is(batch, *, training, seed_words=()):
    return batch


class Losses(Hook):
    def __init__(self):
        self.steps, self.accuracies, self.epochs = [], [], []

    def after_step(self, state, step):
        self.steps.append(step.stats["loss"])

    def after_evaluation(self, state, result):
        self.accuracies.append(result.metrics["top1_acc"])

    def after_epoch(self, state, end):
        self.epochs.append((end.epoch, end.last))


@pytest.fixture
def evaluator():
    return Evaluator(Classification(class_names=["minus", "plus"]), as_is, CPU, micro_batch=5)


def val_loader():
    return DataLoader(Signs(False), sampler=EvaluationSampler(32), collate_fn=collate_evaluation)


def test_a_training(tmp_path, evaluator):
    torch.manual_seed(1)
    model = Head()
    step = OptimizerStep(model, torch.optim.SGD(model.parameters(), lr=1.0), batch_size=8)
    state = TrainState(step, global_batch=8, shards=1)
    state.metadata = {"iters_per_epoch": 4, "steps_per_epoch": 4}
    sampler, losses = EpochBatchSampler(32, 8, seed=3), Losses()
    trainer = Trainer(
        RunDir(tmp_path),
        state,
        model,
        DataLoader(Signs(True), batch_sampler=sampler, collate_fn=collate_training),
        evaluator,
        as_is,
        LRSchedule(policy="cosine", base_lr=1.0, max_epoch=3),
        TrainOptions(max_epoch=3, seed=3, eval_period=2),
        SaveOptions(period=0),
        val_loader=val_loader(),
        hooks={"Losses": losses},
    )
    trainer.fit()
    assert len(losses.steps) == 12 and losses.steps[-1] < losses.steps[0] / 2
    assert len(losses.accuracies) == 2 and losses.accuracies[-1] > 90, "after the second epoch and the last"
    assert losses.epochs == [(1, False), (2, False), (3, True)]
    names = {path.name for path in (tmp_path / "checkpoints").glob("*.pyth")}
    assert names == {"checkpoint_epoch_00003.pyth", "checkpoint_best.pyth"}


def test_an_evaluation(tmp_path, evaluator):
    from dust.engine.run_dir import BadClipLog

    model = Head()
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        model.head.bias.zero_()
    bad_clips, seen = BadClipLog(tmp_path / "bad.csv", "val", "raise"), []
    evaluation, counts = evaluator.evaluate(
        model, val_loader(), split="val", bad_clips=bad_clips, on_sample=lambda done, total: seen.append((done, total))
    )
    assert evaluation.metrics()["top1_acc"] == 100.0
    assert counts == {"samples": 32, "bad_clips": 0} and seen[-1] == (32, 32)


def test_which_checkpoint_is_worked_on(tmp_path):
    """A named one, else the stage's own best or last, else the fallback, else an error that says what to do."""
    out = tmp_path / "test"
    choice = {"output_dir": str(out), "key": "TEST.CHECKPOINT_FILE_PATH"}
    named, other = tmp_path / "named.pyth", tmp_path / "train" / "checkpoints" / "checkpoint_epoch_00002.pyth"
    for path in (named, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, {"model_state": {}})
    assert CheckpointChoice(**choice).find() is None
    with pytest.raises(CheckpointError, match="nothing to test: TEST.CHECKPOINT_FILE_PATH is empty and .*Train first"):
        CheckpointChoice(**choice).path()
    assert CheckpointChoice(**choice, fallback=str(named)).path() == named
    assert CheckpointChoice(**choice, name="train").path() == other, "a stage beside, by its name"
    with pytest.raises(ConfigError, match="TEST.CHECKPOINT_FILE_PATH stage9: there is no"):
        CheckpointChoice(**choice, name="stage9").find()
    for name in ("checkpoint_epoch_00001.pyth", "checkpoint_best.pyth"):
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        save_checkpoint(out / "checkpoints" / name, {"model_state": {}})
    assert CheckpointChoice(**choice, fallback=str(named)).path().name == "checkpoint_epoch_00001.pyth"
    assert CheckpointChoice(**choice, best=True).path().name == "checkpoint_best.pyth"
    assert CheckpointChoice(**choice, best=True, name=str(named)).path() == named
