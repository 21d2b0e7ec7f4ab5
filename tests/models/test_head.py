import pytest
import torch
import torch.nn as nn

from dust.models.layers.checks import check_arguments
from dust.models.layers.head import Checkpointed, ClassifierHead, new_head, run_block
from dust.utils.errors import ConfigError


class Small(ClassifierHead, Checkpointed):
    layer_stem = "^embed"

    def __init__(self):
        super().__init__()
        self.num_features = 4
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.set_grad_checkpointing(False)
        self.reset_classifier(3)


def test_a_head_is_replaced_and_taken_away():
    model = Small().double()
    assert list(model.state_dict())[-2:] == ["head.weight", "head.bias"] and model.get_classifier() is model.head
    model.reset_classifier(5)
    assert model.num_classes == 5 and model.head.weight.shape == (5, 4)
    assert model.head.weight.dtype == torch.float64  # as the others are
    model.reset_classifier(0)
    assert isinstance(model.head, nn.Identity) and model.num_classes == 0
    assert model.group_matcher() == {"stem": "^embed", "blocks": [(r"^blocks\.(\d+)", None)]}


def test_first_weights():
    torch.manual_seed(0)
    one = new_head(4, 3, std=0.5)
    torch.manual_seed(0)
    small = new_head(4, 3, std=0.5, scale=0.25)
    assert torch.equal(one.weight * 0.25, small.weight) and not one.bias.any()


@pytest.mark.parametrize("act_checkpoint", [False, True])
def test_a_block_is_computed_twice_only_where_it_is_asked_for(act_checkpoint):
    calls = []
    block = nn.Linear(2, 2)
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    run_block(block, act_checkpoint, torch.ones(1, 2, requires_grad=True)).sum().backward()
    with torch.no_grad():
        run_block(block, act_checkpoint, torch.ones(1, 2))
    assert len(calls) == 2 + act_checkpoint


def test_all_arguments_are_checked_at_once():
    check_arguments("M", above_zero={"a": 1}, from_zero={"b": 0}, rates={"c": 0.0}, choices={"d": ("x", ("x", "y"))})
    with pytest.raises(ConfigError) as caught:
        check_arguments(
            "M",
            above_zero={"a": 0},
            from_zero={"b": -1, "num_classes": -2},
            rates={"c": 1.0},
            choices={"d": ("z", ("x", "y"))},
            multiples=[("e", 5, "f", 2), ("g", 4, "h", 0)],
            more=["else"],
        )
    assert str(caught.value) == (
        "M: a is 0, it must be above 0; h is 0, it must be above 0; b is -1, it must be 0 or more; num_classes is -2, "
        "it must be 0 (no head) or more; c is 1.0, it must be in [0, 1); d is 'z', it must be one of x, y; "
        "e 5 is not a multiple of f 2; else"
    )
