"""What several processes do to a model and its optimizer, seen from one that says that it is one of two."""

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

from dust.engine.setup import has_own_statistics, parallel, prepare_for_several
from dust.engine.sharding import blocks_of, load_optimizer, shard
from dust.models.optimizer import BATCH_NORMS, build_optimizer
from dust.utils import distributed
from dust.utils.errors import CheckpointError
from tests.models.small_models import SMALL, inputs_of, make


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------ batch norms


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050", "regnety_002", "resnet10t"])
def test_batch_norms_of_several_processes_keep_their_activations(monkeypatch, name):
    """timm has them within its norms; torch's own conversion dropped them, and the outputs were others by a million."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    torch.manual_seed(0)
    model, images = timm.create_model(name, num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        prepare_for_several(model, torch.device("cuda"), sharded=False, reduced=False)
        norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        assert norms and all(isinstance(one, nn.SyncBatchNorm) and isinstance(one, BATCH_NORMS) for one in norms)
        torch.testing.assert_close(model.eval()(images), before)


def test_only_statistics_of_their_own_are_sent_with_every_forward_pass(monkeypatch):
    video_mae = next(make(name, arguments) for name, arguments, _ in SMALL if name == "VideoMAE")
    assert dict(video_mae.named_buffers()), "a table of positions, which no checkpoint holds"
    assert not has_own_statistics(video_mae)
    assert has_own_statistics(nn.Sequential(nn.BatchNorm1d(2))) and has_own_statistics(nn.BatchNorm1d(2))
    assert not has_own_statistics(nn.Sequential(nn.SyncBatchNorm(2)))
    assert not has_own_statistics(nn.BatchNorm1d(2, track_running_stats=False))
    asked = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda model, **options: asked.append(options))
    for model, device in ((video_mae, "cpu"), (nn.Sequential(nn.BatchNorm1d(2)), "cuda:0")):
        parallel(model, model, torch.device(device), static_graph=True)
    assert [options["broadcast_buffers"] for options in asked] == [False, True]
    assert [options["bucket_cap_mb"] for options in asked] == [None, 100], "a CPU adds in the order that it always had"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_travel_in_the_type_that_is_chosen(group, monkeypatch, dtype):
    """A group of one, whose mean is what was sent."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    model, x = nn.Linear(4, 3), torch.rand(5, 4)
    run, grad_sync = parallel(model, model, torch.device("cpu"), static_graph=True, dtype=dtype)
    with grad_sync(True):
        run(x).square().mean().backward()
    (alone,) = torch.autograd.grad(model(x).square().mean(), [model.weight])
    assert torch.equal(model.weight.grad, alone.to(getattr(torch, dtype)).float()) and model.weight.grad.ne(0).all()


# --------------------------------------------------------------------------------------------------------- sharding


class Seen(Exception):
    """The first block was reached."""


VIDEO = [one for one in SMALL if "video" in one[2] and one[0] not in ("SlowFast", "ResNet", "X3D", "TorchvisionVideo")]


@pytest.mark.parametrize(("name", "arguments", "shapes"), VIDEO, ids=[name for name, _, _ in VIDEO])
def test_the_residual_stream_is_that_of_a_model_that_is_not_shared_out(group, name, arguments, shapes):
    """In float32, also where embeddings are parameters of the model itself."""
    found = []
    for sharded in (False, True):
        model = make(name, arguments).eval()
        blocks = blocks_of(model)

        def look(module, inputs):
            found.append([value.dtype for value in inputs if isinstance(value, torch.Tensor)])
            raise Seen

        if sharded:
            shard(model, torch.device("cpu"), torch.bfloat16)
        for block in blocks:
            block.register_forward_pre_hook(look)
        with pytest.raises(Seen), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            model(**inputs_of(shapes))
    assert found[0] == found[1]


def test_weights_stay_gathered_from_one_batch_of_a_step_to_the_next(group, monkeypatch):
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)))
    shard(model, torch.device("cpu"), None)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    run, grad_sync = parallel(model, model, torch.device("cpu"), static_graph=False)
    whole = []
    for last in (False, True):
        with grad_sync(last):
            run(torch.ones(1, 4)).sum().backward()
        whole.append(all(not isinstance(one, dist.tensor.DTensor) for one in model.parameters()))
    assert whole == [True, False]


# -------------------------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize("fused", [(None, True), (True, None)])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_goes_on_as_it_was_built_on_this_device(optimizer, fused):
    """A checkpoint of a CPU says that its steps are not fused, and one of a GPU that they are."""
    weights = [nn.Parameter(torch.ones(3)) for _ in fused]
    first, second = (optimizer([weight], lr=0.1, fused=way) for weight, way in zip(weights, fused, strict=True))
    weights[0].grad = weights[1].grad = torch.ones(3)
    first.step()
    state = first.state_dict()
    state["param_groups"][0]["lr"] = 0.5
    load_optimizer(second, state, "x")
    assert second.param_groups[0]["fused"] is fused[1] and second.param_groups[0]["lr"] == 0.5
    second.step()
    assert torch.isfinite(weights[1]).all()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_on_the_cpu_is_the_plain_loop(name):
    assert not build_optimizer(nn.Linear(2, 2), name=name, lr=0.1, weight_decay=0.0).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_on_a_gpu_weights_that_are_shared_out_are_stepped(group, monkeypatch, name):
    """By one kernel, which leaves out a step that is not finite, where torch has one: it has none of SGD."""
    monkeypatch.setattr("dust.models.optimizer.on_cuda", lambda parameter: True)
    alone, shared = nn.Linear(4, 3), nn.Linear(4, 3)
    shard(shared, torch.device("cpu"), None)
    one, optimizer = (build_optimizer(model, name=name, lr=0.1, weight_decay=0.1) for model in (alone, shared))
    fused = None if name == "sgd" else True
    assert one.param_groups[0]["fused"] is True and optimizer.param_groups[0]["fused"] is fused
    weights = [shared.weight.full_tensor().clone()]
    for bad in [False, True] if fused else [False]:
        shared(torch.full((2, 4), float("nan") if bad else 1.0)).square().sum().backward()
        if fused:
            optimizer.found_inf = torch.tensor(float(bad))
        optimizer.step()
        optimizer.zero_grad()
        weights.append(shared.weight.full_tensor().clone())
    assert not torch.equal(weights[0], weights[1]) and torch.isfinite(weights[1]).all()
    assert torch.equal(weights[1], weights[-1])


def test_a_group_too_many_is_said(group):
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    state = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=0.1).state_dict()
    with pytest.raises(CheckpointError, match="x: .*different number of parameter groups"):
        load_optimizer(torch.optim.SGD(weights[:1], lr=0.1), state, "x")


METHODS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}), "plain": (torch.optim.SGD, {}),
    "adam": (torch.optim.Adam, {}), "adamw": (torch.optim.AdamW, {}),
}  # fmt: skip


@pytest.mark.parametrize("one", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_the_state_of_another_method_is_refused(one, other):
    """It would end in the first step, or compute that step as the other method does."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    first, second = (METHODS[name][0]([weight], lr=0.1, **METHODS[name][1])
                     for name, weight in zip((one, other), weights, strict=True))  # fmt: skip
    weights[0].grad = weights[1].grad = torch.ones(3)
    first.step()
    if METHODS[one][0] is METHODS[other][0]:
        load_optimizer(second, first.state_dict(), "x")
        second.step()
        return
    with pytest.raises(CheckpointError, match="x: its optimizer does not fit"):
        load_optimizer(second, first.state_dict(), "x")


@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_the_state_of_other_weights_is_refused_and_old_files_are_not(method):
    kind, options = METHODS[method]
    weights = [nn.Parameter(torch.ones(count)) for count in (3, 4, 3)]
    first, wider, old = (kind([weight], lr=0.1, **options) for weight in weights)
    weights[0].grad = torch.ones(3)
    first.step()
    with pytest.raises(CheckpointError, match=r"x: .*is of shape \(3,\), not \(4,\)"):
        load_optimizer(wider, first.state_dict(), "x")
    state = first.state_dict()
    for name in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        state["param_groups"][0].pop(name, None)
    old.param_groups[0]["lr_scale"] = 0.5
    load_optimizer(old, state, "x")
    assert old.param_groups[0]["lr_scale"] == 0.5, "another program's file does not have it"
    weights[2].grad = torch.ones(3)
    old.step()
