"""What TRAIN.COMPILE compiles, and how often, told by a compiler that counts and runs what it is given as it is."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dust.config import load_config
from dust.engine.setup import build_compiled, compile_blocks
from dust.engine.sharding import blocks_of, shard
from dust.models.layers import DropPath
from dust.utils.errors import ConfigError
from tests.models.small_models import SMALL, make


class Counting:
    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model_of(name, **arguments):
    torch.manual_seed(0)
    return make(name, next(small for known, small, _ in SMALL if known == name), **arguments)


def learn(model, clips, frames=4):
    model(torch.randn(clips, 3, frames, 32, 32, generator=torch.Generator().manual_seed(3))).square().sum().backward()


def test_twelve_blocks_are_two_compilations():
    """One without drop path and one with, whatever its rate; two more for batches of any other size."""
    model, counting = model_of("VideoMAE", depth=12, drop_path_rate=0.3).train(), Counting()
    names = [*model.state_dict()]
    rates = {block.drop_path.rate for block in model.blocks}
    assert len(rates) == 12 and not [name for name in names if "keep" in name]
    compile_blocks(model, backend=counting)
    learn(model, 4)
    learn(model, 4)
    assert counting.count == 2
    learn(model, 3)
    learn(model, 2)
    assert counting.count == 4 and [*model.state_dict()] == names
    blocks = copy.deepcopy(model).blocks  # as an average of the weights is made: it runs as it is
    assert all(block._compiled_call_impl is None for block in blocks)


def test_more_kinds_of_blocks_than_torchs_limit_all_run_compiled():
    """Three kinds in the first stage (shifted or not, and the very first without drop path), two in the second, and as
    many for all other sizes of batches."""
    counting = Counting()
    model = model_of("VideoSwin", depths=[3, 2], num_heads=[2, 4], drop_path_rate=0.3).train()
    compile_blocks(model, backend=counting)
    found = []
    for clips in (2, 3, 4):
        learn(model, clips)
        found.append(counting.count)
    assert found == [5, 10, 10]


@pytest.mark.parametrize("name", ["TimeSformer", "CAST"])
def test_blocks_that_are_compiled_give_the_same_outputs_and_gradients(name):
    plain = model_of(name, drop_path_rate=0.0).train()
    compiled = compile_blocks(copy.deepcopy(plain), backend="aot_eager")
    for model in (plain, compiled):
        learn(model, 2)
    for (key, own), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if own.requires_grad:
            torch.testing.assert_close(other.grad, own.grad, atol=1e-4, rtol=1e-3, msg=key)


def test_blocks_whose_weights_are_shared_out_compile_as_often():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, counting = model_of("VideoMAE", depth=4, drop_path_rate=0.3).train(), Counting()
        shard(model, torch.device("cpu"), None)
        compile_blocks(model, backend=counting)
        learn(model, 2)
        learn(model, 2)
    finally:
        dist.destroy_process_group()
    assert counting.count == 2


def test_a_compiled_drop_path_keeps_as_many_and_divides_by_the_same():
    model = DropPath(0.3).train()
    x = torch.randn(20000, 1).abs() + 1
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        given = x.to(dtype)
        plain, compiled = model(given), torch.compile(model, backend="eager")(given)
        assert compiled.dtype == dtype
        kept = compiled != 0
        assert abs(kept.float().mean() - 0.7) < 4 * (0.21 / len(x)) ** 0.5
        both = kept & (plain != 0)
        assert torch.equal(compiled[both], plain[both])
    assert model.eval()(x) is x


def test_the_key_says_what_is_compiled(monkeypatch):
    whole, blocks = [], []
    monkeypatch.setattr(torch, "compile", lambda model: whole.append(model) or model)
    monkeypatch.setattr(nn.Module, "compile", lambda block: blocks.append(block))
    model = model_of("TimeSformer")
    for words in ([], ["TRAIN.COMPILE_UNIT", "blocks"]):
        assert build_compiled(load_config(None, words), model) is model
    assert not whole and not blocks
    assert build_compiled(load_config(None, ["TRAIN.COMPILE", "True"]), model) is model
    assert len(whole) == 1 and not blocks
    cfg = load_config(None, ["TRAIN.COMPILE", "True", "TRAIN.COMPILE_UNIT", "blocks"])
    assert build_compiled(cfg, model) is model
    assert len(whole) == 1 and blocks == blocks_of(model)
    with pytest.raises(ConfigError, match=r"COMPILE_UNIT blocks: Linear has no list of blocks"):
        build_compiled(cfg, nn.Linear(2, 2))
