"""What a training run is at one moment: its average, and what a checkpoint says of frozen weights."""

import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from dust.engine.state import average_of


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_average_is_timms_and_leaves_alone_what_does_not_learn():
    """-0.0 averaged with itself is 0.0, which is other bits: a checkpoint's experts would not be known again."""
    model = model_of()
    model[0].requires_grad_(False)
    model[0].weight[0, 0] = -0.0
    ours, theirs = average_of(model, decay=0.75, warmup=True), ModelEmaV3(model, decay=0.75, use_warmup=True)
    ours.set(model)
    frozen, version = ours.module[0].weight, ours.module[0].weight._version
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 6):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        for average in (ours, theirs):
            average.update(model, step=step)
    for name, value in ours.module.state_dict().items():
        assert torch.equal(value, theirs.module.state_dict()[name]), name
    assert frozen._version == version and frozen[0, 0].signbit() and not theirs.module[0].weight[0, 0].signbit()


@pytest.mark.parametrize("resumed", [False, True])
def test_the_average_follows_what_learnt_and_was_frozen_then(resumed):
    """A hook that has frozen it does so again in a resumed run, before the first step there."""
    model = model_of()
    average = average_of(model, decay=0.5, warmup=False)
    if not resumed:
        average.update(model)
    model.requires_grad_(False)
    before = copy.deepcopy(model[0].weight)
    model[0].weight += 1
    average.update(model)
    torch.testing.assert_close(average.module[0].weight, before + 0.5)
