"""Low-rank adapters: nothing at first, low rank, merged = unmerged, on whatever the attention is called."""

import pytest
import torch

from dust.models.layers.lora import TARGETS, add_lora, merge_lora, without_lora
from dust.utils.errors import ConfigError
from tests.models.small_models import SMALL, inputs_of, make

ATTENTIVE = ["VideoMAE", "CLIPVisual", "VJEPA2", "MViT", "TimeSformer", "VideoSwin"]
CASES = {name: next((arguments, shapes) for case, arguments, shapes in SMALL if case == name) for name in ATTENTIVE}


def learnt(model, targets=tuple(TARGETS), rank=2):
    """The same model with adapters that change something, and what they adapt."""
    names = add_lora(model, rank, 8.0, targets)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return names


@pytest.mark.parametrize("name", ATTENTIVE)
def test_nothing_changes_at_first_and_merging_changes_nothing(name):
    arguments, shapes = CASES[name]
    inputs = inputs_of(shapes)
    model = make(name, arguments).eval()
    names = list(model.state_dict())
    before = model(**inputs)
    adapted = add_lora(model, 2, 8.0, list(TARGETS))
    kinds = {key.rsplit(".", 2)[-2] for key in adapted}
    assert len(adapted) >= 4 and kinds & {"fc1", "c_fc"} and kinds & {"proj", "out_proj"}
    assert torch.equal(model(**inputs), before)
    model = make(name, arguments).eval()
    learnt(model)
    changed = model(**inputs)
    assert not torch.allclose(changed, before, atol=1e-4)
    merge_lora(model)
    assert list(model.state_dict().keys()) == names or set(model.state_dict()) == set(names)
    torch.testing.assert_close(model(**inputs), changed, atol=1e-6, rtol=1e-6)


def test_queries_and_values_alone_are_changed_by_low_rank():
    model = make("VJEPA2", CASES["VJEPA2"][0]).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = learnt(model, ("q", "v"))
    assert all(".qkv." in name for name in names)
    merge_lora(model)
    change = model.state_dict()[names[0]] - before[names[0]]
    q, k, v = change.chunk(3)
    assert not k.any() and torch.linalg.matrix_rank(q) == 2 == torch.linalg.matrix_rank(v)
    others = [key for key in before if key not in names]
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in others)


def test_weights_have_their_own_names_without_adapters():
    model = make("VJEPA2", CASES["VJEPA2"][0]).eval()
    names, inputs = set(model.state_dict()), inputs_of(CASES["VJEPA2"][1])
    learnt(model)
    after, parameters = model(**inputs), {id(parameter) for parameter in model.parameters()}
    with without_lora(model):
        assert set(model.state_dict()) == names
    assert torch.equal(model(**inputs), after)
    assert {id(parameter) for parameter in model.parameters()} == parameters, "an optimizer still has them"


def test_a_network_of_convolutions_has_nothing_to_adapt():
    arguments = next(arguments for name, arguments, _ in SMALL if name == "ResNet")
    with pytest.raises(ConfigError, match=r"PROBE.LORA_TARGETS \['q'\]: ResNet has no such weights"):
        add_lora(make("ResNet", arguments), 2, 8.0, ["q"])
