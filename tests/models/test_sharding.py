"""Every registered model learns the same when two processes share its parameters and the batch."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from dust.engine.sharding import blocks_of, gathered, shard, whole_tensors
from dust.utils.ending import end_in_moments
from dust.utils.errors import ConfigError
from tests.models.small_models import SMALL, inputs_of, make


def total(outputs):
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    return sum((value.float() ** 2).mean() for value in outputs.values() if value.is_floating_point())


def learnt(model, inputs):
    """One step of SGD, so that gradients show."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(0)
    total(model(**inputs)).backward()
    optimizer.step()


def compare(rank, port, problems):
    torch.set_num_threads(1)
    end_in_moments()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for number, (name, arguments, shapes) in enumerate(SMALL):
        try:
            torch.manual_seed(0)
            one = make(name, arguments).eval()
            torch.manual_seed(0)
            two = make(name, arguments).eval()
            inputs = inputs_of(shapes)
            shard(two, torch.device("cpu"), None)
            assert all(isinstance(parameter, DTensor) for parameter in two.parameters())
            two.load_state_dict(one.state_dict())
            learnt(one, inputs)
            learnt(two, {key: value[rank : rank + 1] for key, value in inputs.items()})
            for key, value in whole_tensors(two.state_dict()).items():
                torch.testing.assert_close(value, one.state_dict()[key], atol=1e-6, rtol=1e-5, msg=key)
            with gathered(two), torch.no_grad():
                if rank == 0:  # alone, which a sharded model cannot
                    torch.testing.assert_close(total(two(**inputs)), total(one(**inputs)))
            with torch.no_grad():
                two(**inputs)  # and together again
        except Exception as error:
            problems.append(f"{name}-{number} on process {rank}: {type(error).__name__}: {str(error)[:300]}")
    for check in (check_frozen_experts, lambda: check_mixed_precision(rank)):
        try:
            check()
        except Exception as error:
            problems.append(f"process {rank}: {type(error).__name__}: {str(error)[:300]}")
    dist.barrier()  # who leaves first may abort the other while it is still sending
    dist.destroy_process_group()


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU())

    def forward(self, x):
        assert self.body[0].weight.dtype == torch.bfloat16 and x.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            return x + self.body(x)


def check_mixed_precision(rank):
    """Blocks compute in bfloat16; parameters, gradients and what comes out stay float32."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(Block(), Block())
    inputs = torch.randn(2, 4, 16)
    expected = torch.nn.Sequential(*[torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)])
    expected.load_state_dict({k.replace(".body.0", ""): v for k, v in model.state_dict().items()})
    shard(model, torch.device("cpu"), torch.bfloat16)
    output = model(inputs[rank])
    output.square().mean().backward()
    x = inputs
    for layer in expected:
        x = x + torch.nn.functional.gelu(layer(x))
    x.square().mean().backward()
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, x[rank], atol=0.03, rtol=0.03)
    for own, whole in zip(model.parameters(), expected.parameters(), strict=True):
        assert own.dtype == own.grad.dtype == torch.float32
        torch.testing.assert_close(whole_tensors(own.grad), whole.grad, atol=0.01, rtol=0.05)


def check_frozen_experts():
    """What a CAST that trains on frozen experts saves, and takes back, is the same where it is shared out."""
    arguments = next(arguments for name, arguments, _ in SMALL if name == "CAST")
    one, two = make("CAST", arguments), make("CAST", arguments)
    for model in (one, two):
        model.init_from = {"trunk": ("CAST.TRUNK_FROM", "x")}
    saved = one.partial_state_dict()
    shard(two, torch.device("cpu"), None)
    shared = whole_tensors(two.partial_state_dict())
    assert shared.keys() == saved.keys() < one.state_dict().keys() | saved.keys()
    assert two.frozen_sha256() == one.frozen_sha256()
    with torch.no_grad():
        for parameter in two.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    assert not whole_tensors(two.head.bias).any() and one.head.bias.any()
    two.load_partial(saved, "one")
    for key, value in whole_tensors(two.state_dict()).items():
        assert torch.equal(value, one.state_dict()[key]), key


@pytest.mark.slow
def test_sharded_models_learn_the_same():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    problems = mp.Manager().list()
    mp.spawn(compare, (port, problems), nprocs=2)
    assert not list(problems), "\n".join(problems)


def test_scalars_cannot_be_shared():
    model = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"Module.scale is a scalar.*nn.Parameter\(torch.tensor\(\[1.0\]\)\).*ddp"):
        shard(model, torch.device("cpu"), None)


#: Small models, and networks of convolutions: these are sharded as a whole.
NO_UNITS = {"SeriesRocket", "PointTrackTransformer", "PointTrackLSTM", "SlowFast", "ResNet", "X3D", "TorchvisionVideo"}


def test_transformers_have_units():
    for name, arguments, _ in SMALL:
        blocks = blocks_of(make(name, arguments))
        assert len(blocks) > 1 or name in NO_UNITS, name
