import pytest
import torch
from torch import nn

from dust.models.optimizer import build_optimizer, parameter_groups, set_lr
from dust.utils.errors import ConfigError


class Net(nn.Module):
    """Two blocks with a batch norm, an embedding that never decays, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(1, 4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.bn = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self):
        return {"embed"}

    def group_matcher(self, coarse=False):
        return {"stem": r"^embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^bn|^frozen|^head", (99999,))]}


def settings(model, **kwargs):
    """name -> (weight decay, lr scale), and that each trainable parameter is in exactly one group."""
    groups = parameter_groups(model, weight_decay=0.1, **kwargs)
    names = {id(p): n for n, p in model.named_parameters()}
    found = [(names[id(p)], (g["weight_decay"], g["lr_scale"])) for g in groups for p in g["params"]]
    assert len(found) == len(dict(found)) == sum(p.requires_grad for p in model.parameters())
    return dict(found)


def test_slowfast_decay_rules():
    plain = settings(Net(), bn_weight_decay=0.03)
    assert plain["blocks.0.weight"] == plain["blocks.0.bias"] == plain["head.bias"] == (0.1, 1.0)
    assert plain["bn.weight"] == (0.03, 1.0)
    assert plain["embed"] == (0.0, 1.0)
    assert settings(Net(), zero_wd_1d=True)["blocks.0.bias"] == (0.0, 1.0)


def test_layer_decay_is_the_last_layer_at_full_rate():
    scales = {name: scale for name, (_, scale) in settings(Net(), layer_decay=0.5).items()}
    assert scales["head.weight"] == 1.0
    assert scales["embed"] < scales["blocks.0.weight"] < scales["blocks.1.weight"] <= 1.0
    assert scales["blocks.0.weight"] == pytest.approx(scales["blocks.1.weight"] / 2)


def test_set_lr_keeps_the_scale():
    model = Net()
    optimizer = build_optimizer(model, name="adamw", lr=0.1, weight_decay=0.1, layer_decay=0.5)
    set_lr(optimizer, 0.4)
    assert {round(group["lr"] / group["lr_scale"], 9) for group in optimizer.param_groups} == {0.4}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "lamb"])
def test_every_kind_takes_a_step_on_every_parameter(name):
    torch.manual_seed(0)
    model = Net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, name=name, lr=0.1, weight_decay=0.1)
    sum((p**2).sum() + p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad, n


def test_an_unknown_optimizer_names_near_misses():
    with pytest.raises(ConfigError, match="adamw"):
        build_optimizer(Net(), name="adamww", lr=0.1, weight_decay=0.0)


def test_the_backbone_learns_at_a_share_of_the_rate():
    model = nn.Sequential()
    model.body, model.head = nn.Linear(2, 2), nn.Linear(2, 3)
    optimizer = build_optimizer(model, name="sgd", lr=1.0, weight_decay=0.0, backbone_lr_scale=0.1)
    set_lr(optimizer, 0.5)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates == {id(p): 0.05 for p in model.body.parameters()} | {id(p): 0.5 for p in model.head.parameters()}
    with pytest.raises(ConfigError, match="BACKBONE_LR_SCALE: Linear has no head"):
        build_optimizer(nn.Linear(2, 2), name="sgd", lr=1.0, weight_decay=0.0, backbone_lr_scale=0.1)
