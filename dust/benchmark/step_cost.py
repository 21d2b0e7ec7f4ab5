"""FLOP and memory of a training step, counted without computing it: every tensor is a fake one, of any size."""

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dust.benchmark.device import with_classes
from dust.benchmark.model import random_batch
from dust.engine.setup import build_autocast
from dust.engine.sharding import blocks_of
from dust.models import build_model
from dust.models.optimizer import construct_optimizer
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils.flops import flop_counter

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepCost:
    """What one process computes and holds for a batch.

    Attributes:
        parameters, trainable: numbers of values.
        largest_block: values in the largest unit that FSDP gathers at a time.
        forward_flops, backward_flops: of the whole batch, 2 per multiply-add; what activation checkpointing computes
            again is in the backward.
        activation_bytes: the most that stood at once during forward and backward beside weights and gradients.
        state_bytes: of the optimizer, per trainable value.
    """

    parameters: int
    trainable: int
    largest_block: int
    forward_flops: int
    backward_flops: int
    activation_bytes: int
    state_bytes: float


def count_step(cfg, batch: int) -> StepCost:
    """Count a training step of cfg's model on ``batch`` clips (AUG.NUM_SAMPLE views of each), in cfg's precision."""
    cfg = with_classes(cfg)
    with torch.device("meta"):
        model = build_model(cfg)
    classes = [str(index) for index in range(cfg.MODEL.NUM_CLASSES)]
    task = build_task(cfg, DataInfo(classes, [1] * len(classes)))
    views = batch * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device=CPU).train()
        data = _fake_batch(cfg, views)
        _step(cfg, model, task, data)  # gradients stand from the second step on, as DDP's buckets do
        held, flops = _Held(), flop_counter()
        with held, flops:
            loss = _loss(cfg, model, task, data)
            forward = flops.get_total_flops()
            loss.backward()
        state = _state_bytes(cfg, model)
    trainable = [one for one in model.parameters() if one.requires_grad]
    return StepCost(
        parameters=_values(model.parameters()),
        trainable=_values(trainable),
        largest_block=max((_values(block.parameters()) for block in blocks_of(model)), default=0),
        forward_flops=forward,
        backward_flops=flops.get_total_flops() - forward,
        activation_bytes=held.peak,
        state_bytes=state / max(_values(trainable), 1),
    )


def _values(parameters: Any) -> int:
    return sum(one.numel() for one in parameters)


def _fake_batch(cfg, views: int) -> dict[str, Any]:
    one = random_batch(cfg, 1, CPU)
    inputs = {name: torch.empty((views, *value.shape[1:]), dtype=value.dtype) for name, value in one["inputs"].items()}
    label = torch.empty((views, *one["label"].shape[1:]), dtype=one["label"].dtype)
    if cfg.MIXUP.ENABLE:
        label = torch.empty((views, cfg.MODEL.NUM_CLASSES))
    return {"inputs": inputs, "label": label, "id": list(range(views))}


def _loss(cfg, model: nn.Module, task: Any, batch: dict[str, Any]) -> Tensor:
    with build_autocast(cfg, CPU)():
        outputs = task.forward(model, batch["inputs"])
        return torch.stack([value.float() for value in task.losses(outputs, batch).values()]).sum()


def _step(cfg, model: nn.Module, task: Any, batch: dict[str, Any]) -> None:
    _loss(cfg, model, task, batch).backward()


def _state_bytes(cfg, model: nn.Module) -> int:
    """Return the bytes of the optimizer's state after a step, counters left out."""
    optimizer = construct_optimizer(model, cfg)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in values if value.ndim)


class _Held(TorchDispatchMode):
    """Bytes of all storages that were made while this lasts and still live; the most of them at once is ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._note(one.untyped_storage(), given)
        return result

    def _note(self, storage: Any, given: set[int]) -> None:
        if storage in self.known or id(storage) in given:  # known, or a view of what stood before
            return
        self.known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._gone, size)
        self.now += size
        if self.now > self.peak:
            gc.collect()  # a mode like this one leaves cycles behind where a checkpointed block ends; training does not
            self.peak = max(self.peak, self.now)

    def _gone(self, size: int) -> None:
        self.now -= size

    def __enter__(self):
        gc.collect()
        gc.freeze()  # so that collecting looks at what is new only
        return super().__enter__()

    def __exit__(self, *error):
        gc.unfreeze()
        return super().__exit__(*error)
