"""An optimizer step without data: weights of batches, accumulation, scaling, clipping, the average, losses that are
not finite. The reference is always one big batch and a few lines of torch."""

import contextlib
import copy
import math

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from dust.engine.step import BatchName, Diverged, OptimizerStep
from dust.utils import distributed


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(12, 4, generator=generator), torch.randn(12, 2, generator=generator)


def make(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    step = OptimizerStep(model, torch.optim.SGD(model.parameters(), lr=0.5), **{"batch_size": 4, **options})
    return model, step


def loss_of(model, x, y):
    return nn.functional.mse_loss(model(x), y)


def learn(model, step, x, y, sizes):
    """One optimizer step over batches of these sizes, in order; its figures."""
    step.accumulate = len(sizes)
    parts = zip(x.split(sizes), y.split(sizes), strict=True)
    for number, (x_part, y_part) in enumerate(parts, start=1):
        step.backward(lambda x=x_part, y=y_part: {"loss": loss_of(model, x, y)}, len(x_part), last=number == len(sizes))
    return {name: value.item() for name, value in step.step().items()}


def reference(x, y, change=lambda model: None):
    """The weights after one step with the mean gradient of all samples."""
    model, step = make()
    loss_of(model, x, y).backward()
    change(model)
    step.optimizer.step()
    return model.state_dict()


def assert_same(model, weights):
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[12], [6, 6], [4, 4, 4], [1] * 12])
def test_batches_that_are_accumulated_step_like_the_large_one(data, sizes):
    model, step = make(batch_size=max(sizes))
    learn(model, step, *data, sizes)
    assert_same(model, reference(*data))
    assert step.updates == 1
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("sizes", [[4, 1, 4, 3], [4, 0, 4, 4], [1, 2, 3, 4, 2]])
def test_every_sample_of_a_ragged_batch_weighs_alike(data, sizes):
    """Bad clips make batches shorter, or empty."""
    model, step = make()
    learn(model, step, *data, sizes)
    assert_same(model, reference(*data))


def test_nothing_that_was_accumulated_is_no_step(data):
    model, step = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert step.backward(lambda: pytest.fail("nothing is to be computed"), 0, last=True) == {}
    assert step.step() == {} and step.updates == 0
    assert_same(model, before)


def test_the_next_step_begins_from_nothing(data):
    """Weights of the step before do not count any more."""
    x, y = data
    model, step = make()
    learn(model, step, x[:5], y[:5], [4, 1])
    twice, other = make()
    for part in (slice(0, 5), slice(5, 12)):
        other.optimizer.zero_grad()
        loss_of(twice, x[part], y[part]).backward()
        other.optimizer.step()
    learn(model, step, x[5:], y[5:], [3, 4])
    assert_same(model, twice.state_dict())


def test_a_scaled_loss_steps_like_one_that_is_not(data):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    model, step = make(scaler=scaler, clip_norm=0.1)
    stats = learn(model, step, *data, [4, 4, 4])
    plain, other = make(clip_norm=0.1)
    assert stats["grad_norm"] == pytest.approx(learn(plain, other, *data, [4, 4, 4])["grad_norm"], rel=1e-5)
    assert_same(model, plain.state_dict())
    assert scaler.get_scale() == 2048.0, "it grew after a step that held"


def test_gradients_are_clipped_by_value(data):
    model, step = make(clip_value=0.01)
    assert learn(model, step, *data, [4, 4, 4]) == {}

    def clip(model):
        for parameter in model.parameters():
            parameter.grad.clamp_(-0.01, 0.01)

    assert_same(model, reference(*data, clip))


def test_gradients_are_clipped_by_norm_and_the_norm_is_told(data):
    model, step = make(clip_norm=0.1)
    stats = learn(model, step, *data, [4, 4, 4])
    norms = []

    def clip(model):
        norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
        norms.append(norm.item())
        for parameter in model.parameters():
            parameter.grad.mul_(0.1 / norm)

    assert_same(model, reference(*data, clip))
    assert stats == {"grad_norm": pytest.approx(norms[0], rel=1e-5)} and norms[0] > 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_adds_nothing(data, bad):
    x, y = data
    model, step = make()
    step.accumulate = 2
    step.backward(lambda: {"loss": loss_of(model, x, y)}, 4, last=False)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    with pytest.raises(Diverged, match="the loss is not finite: .*'other'") as error:
        step.backward(lambda: {"loss": loss_of(model, x, y), "other": torch.tensor(bad)}, 4, last=True)
    assert set(error.value.losses) == {"loss", "other"}
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert step.updates == 0


def spoil(model, value=float("nan")):
    """Make one gradient not finite, as a kernel with a fault does: the loss is as it should be."""
    return model[2].weight.register_hook(lambda gradient: gradient * value)


def optimizers():
    return [
        lambda model: torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.5),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.5, fused=True),
    ]


@pytest.mark.parametrize("make_optimizer", optimizers(), ids=["sgd", "adamw", "fused"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"clip_value": 0.1}], ids=["plain", "norm", "value"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_reaches_nothing(data, make_optimizer, options, value):
    model, step = make(**options)
    step.optimizer = make_optimizer(model)
    step.ema = ModelEmaV3(model, decay=0.5)
    learn(model, step, *data, [6, 6])
    before = copy.deepcopy([model.state_dict(), step.optimizer.state_dict(), step.ema.module.state_dict()])
    spoil(model, value)
    with pytest.raises(Diverged, match=r"^the gradients are not finite: those of 2.weight$"):
        learn(model, step, *data, [6, 6])
    assert_equal([model.state_dict(), step.optimizer.state_dict(), step.ema.module.state_dict()], before)
    assert step.updates == 1


def test_where_reading_would_wait_the_optimizer_skips_the_step_and_the_next_one_says_so(data, monkeypatch):
    """As on a GPU: the flag stays on the device, as ``found_inf`` of a fused optimizer."""
    monkeypatch.setattr(OptimizerStep, "_defers", lambda self, flag: True)
    model, step = make()
    step.optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    learn(model, step, *data, [4, 4, 4])
    step.check()
    before = copy.deepcopy([model.state_dict(), step.optimizer.state_dict()])
    handle = spoil(model)
    step.accumulate = 1
    name = BatchName("epoch 1, iteration 2", ["a", "b"])
    step.backward(lambda: {"loss": loss_of(model, *data)}, 12, last=True, name=name)
    assert step.step() == {}
    assert_equal([model.state_dict(), step.optimizer.state_dict()], before)
    handle.remove()
    with pytest.raises(Diverged, match=r"at epoch 1, iteration 2: those of 2.weight; clips: a, b$"):
        learn(model, step, *data, [12])
    assert not hasattr(step.optimizer, "found_inf"), "what was told to the optimizer is forgotten"


def test_a_loss_that_is_not_finite_is_known_by_its_gradients(data, monkeypatch):
    """Whatever they were: so that every process hears of it."""
    monkeypatch.setattr(OptimizerStep, "_defers", lambda self, flag: True)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_and_highest_begun", lambda value, number: lambda: (2 * value, number))
    monkeypatch.setattr(distributed, "all_gather_objects", lambda value: [([], [], []), value])
    model, step = make()
    bad = torch.tensor(float("inf"))
    step.backward(lambda: {"loss": loss_of(model, *data), "other": bad}, 12, last=True, name=BatchName(ids=["a"]))
    assert all(parameter.grad.isnan().all() for parameter in model.parameters())
    before = copy.deepcopy(model.state_dict())
    step.optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    step.step()
    assert_equal(model.state_dict(), before)
    with pytest.raises(Diverged, match=r"the loss is not finite: .*'other': inf.*; clips: a$") as error:
        step.check()
    assert error.value.losses["other"] == math.inf


def test_a_step_that_overflows_in_float16_is_none(data):
    """The average and the count of steps stand still, and the norm, which is infinite, is not told."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model, step = make(scaler=scaler, clip_norm=0.1)
    step.ema = ModelEmaV3(model, decay=0.5)
    learn(model, step, *data, [4, 4, 4])
    with torch.no_grad():
        model[0].weight.add_(1.0)  # so that the average would move
    before = copy.deepcopy([model.state_dict(), step.ema.module.state_dict()])
    handle = spoil(model, float("inf"))
    assert learn(model, step, *data, [4, 4, 4]) == {}
    assert_equal([model.state_dict(), step.ema.module.state_dict()], before)
    assert step.updates == 1 and scaler.get_scale() == 512.0
    with pytest.raises(Diverged, match="however small the scale"):
        for _ in range(40):
            learn(model, step, *data, [12])
    handle.remove()


def assert_equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_the_average_follows_the_steps(data):
    model, step = make()
    step.ema = ModelEmaV3(model, decay=0.75)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    for decay in (0.0, 0.75, 0.75):  # timm's average begins as a copy of the first step's weights
        learn(model, step, *data, [6, 6])
        for name, value in model.state_dict().items():
            average[name].mul_(decay).add_(value, alpha=1.0 - decay)
    assert step.updates == 3
    assert_same(step.ema.module, average)


def test_gradients_are_exchanged_once_a_step(data):
    model, step = make()
    entered = []

    @contextlib.contextmanager
    def grad_sync(last):
        entered.append(last)
        yield

    step.grad_sync = grad_sync
    learn(model, step, *data, [4, 4, 4])
    assert entered == [False, False] * 2 + [True, True], "the forward and the backward of each batch"
