"""Which tensors of a file are taken, and of which types: converted exactly, or refused by name."""

import logging

import pytest
import torch
from torch import nn

from dust.utils.checkpoint import load_weights, save_checkpoint
from dust.utils.checkpoint.tensors import AVERAGES, find_tensors, has_averages
from dust.utils.errors import CheckpointError, ConfigError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)


def state_of(value):
    return {key: torch.full_like(tensor, value) for key, tensor in Net().state_dict().items()}


# ------------------------------------------------------------------------------------------------ raw or averaged


@pytest.mark.parametrize("raw", ["model_state", "model", "state_dict", "module"])
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("inner", [lambda state: state, lambda state: {"module": state, "decay": 0.9}])
def test_raw_and_averaged_weights_are_told_apart(tmp_path, raw, average, inner):
    path = tmp_path / "w.pyth"
    save_checkpoint(path, {raw: state_of(1.0), average: inner(state_of(2.0)), "epoch": 3})
    for weights, value in (("auto", 1), ("raw", 1), ("averaged", 2)):
        model = Net()
        report = load_weights(model, path, strict=True, weights=weights)
        assert (model.body.weight == value).all()
        words = (
            f"read from {average!r}: averaged weights, not those of {raw!r}" if value == 2 else "are not used: MODEL"
        )
        assert any(words in note for note in report.notes), report.notes


@pytest.mark.parametrize("average", AVERAGES)
def test_a_file_of_averages_alone(average):
    data = {average: state_of(2.0), "epoch": 3}
    for weights in ("auto", "averaged"):
        model = Net()
        load_weights(model, data, strict=True, weights=weights)
        assert (model.body.weight == 2).all() and has_averages(data)
    with pytest.raises(CheckpointError, match=f"holds averaged weights alone, under {average}. Set MODEL.WEIGHTS aver"):
        load_weights(Net(), data, weights="raw")


def test_parts_beside_their_average_are_the_raw_weights():
    data = {"encoder": state_of(1.0), "predictor": state_of(3.0), "target_encoder": state_of(2.0), "epoch": 3}
    for weights, value in (("auto", 2), ("averaged", 2), ("raw", 1)):
        notes = []
        found = find_tensors("w.pt", data, notes, weights)
        assert (found["body.weight" if value == 2 else "encoder.body.weight"] == value).all()
        assert ("not those of 'encoder', 'predictor'" in notes[0]) == (value == 2), notes
    student = {"ema_encoder": state_of(4.0), "target_encoder": state_of(2.0)}  # a distilled one beside its teacher's
    assert (find_tensors("w.pt", student, [])["body.weight"] == 4).all()


def test_the_first_of_several_classifiers():
    notes = []
    found = find_tensors("p.pt", {"classifiers": [state_of(1.0), state_of(2.0)], "epoch": 20}, notes)
    assert (found["body.weight"] == 1).all()
    assert notes == ["read from 'classifiers', the first of 2: the others are not used"]
    for empty in ([], [{}], [3], "ab", {"a": 1}):
        with pytest.raises(
            CheckpointError, match="p.pt: holds no tensors, .*classifiers; its keys: classifiers, epoch"
        ):
            find_tensors("p.pt", {"classifiers": empty, "epoch": 20}, [])


def test_averages_that_are_not_there(tmp_path):
    path = tmp_path / "w.pyth"
    save_checkpoint(path, {"model_state": state_of(1.0), "ema_state": {}})  # as a run without EMA writes it
    with pytest.raises(CheckpointError, match=r"w\.pyth: holds no averaged weights.*model_state.*MODEL.WEIGHTS raw"):
        load_weights(Net(), path, weights="averaged")
    assert not any("averaged" in note for note in load_weights(Net(), path).notes)
    with pytest.raises(ConfigError, match="'ema'.*auto, raw, averaged"):
        load_weights(Net(), path, weights="ema")


# ------------------------------------------------------------------------------------------------------------ types

EXACT = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("name", EXACT)
def test_fractions_of_fewer_bits_are_converted_exactly(tmp_path, name):
    dtype = getattr(torch, name)
    values = torch.tensor([0.0, 1.0, -1.5, 0.25, 3.5, -0.0625, 12.0, -56.0]).to(dtype)
    state = state_of(1.0) | {"body.bias": values}
    torch.save({"model": state}, tmp_path / "w.pth")
    for source in ({"model": state}, tmp_path / "w.pth"):
        model = Net()
        report = load_weights(model, source, strict=True)
        assert model.body.bias.dtype == torch.float32 and torch.equal(model.body.bias, values.float())
        assert any("8-bit" in note and "body.bias" in note for note in report.notes) == ("float8" in name)


def test_every_float8_value_arrives_and_nan_among_them_is_named():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        every = torch.arange(256, dtype=torch.uint8).view(dtype)
        finite = every[every.float().isfinite()]
        found = find_tensors("x", {"a": finite}, [])["a"]
        assert torch.equal(found, finite.float()) and len(found) > 240
        with pytest.raises(CheckpointError, match=r"NaN or infinity in body\.bias"):
            load_weights(Net(), state_of(1.0) | {"body.bias": every[-8:]})


def test_gradients_and_parameters_are_left_behind():
    weight = nn.Parameter(torch.ones(8, 4))
    shared = weight * 2  # has a history
    model = Net()
    load_weights(model, state_of(1.0) | {"body.weight": shared, "body.bias": nn.Parameter(torch.ones(8))}, strict=True)
    assert (model.body.weight == 2).all() and model.body.weight.requires_grad and model.body.weight.is_leaf
    model.body.weight.sum().backward()
    assert weight.grad is None


UNFIT = {
    "int8": (torch.ones(8, 4, dtype=torch.int8), r"body\.weight is torch.int8 in the file.*scales"),
    "uint8": (torch.ones(8, 4, dtype=torch.uint8), "torch.uint8"),
    "int64": (torch.ones(8, 4, dtype=torch.int64), "torch.int64"),
    "bool": (torch.ones(8, 4, dtype=torch.bool), "torch.bool"),
    "complex": (torch.ones(8, 4, dtype=torch.complex64), r"body\.weight is complex"),
    "sparse": (torch.ones(8, 4).to_sparse(), r"body\.weight is sparse"),
    "meta": (torch.ones(8, 4, device="meta"), r"body\.weight has a shape but no values"),
    "too large": (torch.full((8, 4), 1e300, dtype=torch.float64), "beyond what the model's torch.float32"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_cannot_be_converted_is_refused_by_name(kind):
    tensor, words = UNFIT[kind]
    model = Net()
    before = model.body.weight.clone()
    with pytest.raises(CheckpointError, match=f"state dict: .*{words}"):
        load_weights(model, state_of(1.0) | {"body.weight": tensor})
    assert torch.equal(model.body.weight, before)


def test_counters_may_have_been_halved_with_the_weights_but_are_whole():
    halved = {key: tensor.half() for key, tensor in state_of(3.0).items()}
    model = Net()
    load_weights(model, halved, strict=True)
    assert model.norm.num_batches_tracked == 3 and model.norm.num_batches_tracked.dtype == torch.int64
    with pytest.raises(CheckpointError, match="num_batches_tracked is torch.float32"):
        load_weights(Net(), state_of(1.0) | {"norm.num_batches_tracked": torch.tensor(2.5)})


def test_a_model_of_16_bits_takes_no_number_that_it_cannot_hold(caplog):
    with caplog.at_level(logging.INFO, logger="dust"):
        load_weights(Net().half(), state_of(1.0))
    with pytest.raises(CheckpointError, match=r"body\.bias are beyond what the model's torch.float16 holds"):
        load_weights(Net().half(), state_of(1.0) | {"body.bias": torch.full((8,), 1e6)})


@pytest.mark.parametrize("name", ["net", "network", "weights", "checkpoint"])
def test_a_name_of_a_part_holds_the_weights_where_there_is_nothing_else(name):
    notes = []
    found = find_tensors("a.pth", {name: {"model": state_of(1.0)}, "epoch": 3}, notes)
    assert list(found) == list(state_of(1.0)) and notes == [f"read from {name!r}"]
    both = find_tensors("a.pth", {name: state_of(1.0), "head": {"weight": torch.ones(2)}}, [])
    assert f"{name}.body.weight" in both and "head.weight" in both  # a model in parts


def test_the_count_of_an_averaged_model_is_no_weight():
    """The state of torch.optim.swa_utils.AveragedModel, whole and in a container."""
    averaged = torch.optim.swa_utils.AveragedModel(Net())
    state = averaged.state_dict()
    for data in (state, {"model": state}):
        notes, model = [], Net()
        found = find_tensors("a.pth", data, notes)
        assert "averaged weights, of torch's AveragedModel" in notes
        model.load_state_dict({key.removeprefix("module."): value for key, value in found.items()})
        assert torch.equal(model.body.weight, averaged.module.body.weight)
