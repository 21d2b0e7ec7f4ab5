"""Precise batch norm: statistics of training batches under the weights of one moment, instead of a trailing average.

"Rethinking 'Batch' in BatchNorm", Wu and Johnson, https://arxiv.org/abs/2105.07576; SlowFast does it before each
evaluation and checkpoint (BN.USE_PRECISE_STATS).
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dust.config import CfgNode
from dust.datasets.loader import Loader
from dust.engine.setup import Autocast
from dust.engine.sharding import gathered
from dust.engine.state import TrainState
from dust.launch.signals import InterruptFlag, StopEarly
from dust.utils import distributed

logger = logging.getLogger(__name__)
BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Return the batch norms of a model that keep statistics."""
    return [module for module in model.modules() if isinstance(module, BatchNorm) and module.running_mean is not None]


@dataclass
class _Sums:
    """Over all values of a channel: how many there are, their sum and the sum of their squares."""

    count: Tensor
    first: Tensor
    second: Tensor

    def add(self, x: Tensor) -> None:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x.float(), dim=axes, correction=0)
        count = x.numel() // x.shape[1]
        mean, variance = mean.double(), variance.double()
        self.count += count
        self.first += count * mean
        self.second += count * (variance + mean.square())


def _note(sums: _Sums, norm: BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    """Act as the hook before a batch norm."""
    sums.add(inputs[0])


@torch.no_grad()
def use_precise_statistics(
    model: nn.Module, forward: Any, batches: Iterable[Any], agree: Callable[[], None] = lambda: None
) -> int:
    """Set the running mean and variance of every batch norm to those of all values that ``batches`` bring it.

    Each batch is normalised by its own statistics, as in training; all else, dropout too, is as in an evaluation. With
    several processes the values of all count. Returns the number of batches of this process.

    Args:
        forward: ``forward(batch)`` runs the model on one. It, or ``batches``, may raise StopEarly, in any process.
        agree: called by all processes once each is through, before anything is changed; it raises if one has stopped.
    """
    norms, was_training = batch_norms(model), model.training
    if not norms:
        return 0
    sums, handles, done = [], [], 0
    trailing = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        zeros = torch.zeros_like(norm.running_mean, dtype=torch.float64)  # type: ignore[arg-type]
        sums.append(_Sums(zeros.sum(), zeros, zeros.clone()))
        handles.append(norm.register_forward_pre_hook(functools.partial(_note, sums[-1])))
        norm.running_mean = norm.running_var = None  # in eval mode it then takes the batch's
    model.eval()
    try:
        with gathered(model), contextlib.suppress(StopEarly):  # processes go each at its own pace
            for batch in batches:
                forward(batch)
                done += 1
    finally:
        for norm, handle, (mean, variance) in zip(norms, handles, trailing, strict=True):
            handle.remove()
            norm.running_mean, norm.running_var = mean, variance
        model.train(was_training)
    agree()
    for norm, one in zip(norms, sums, strict=True):
        if distributed.world_size() > 1:
            for tensor in (one.count, one.first, one.second):
                torch.distributed.all_reduce(tensor)
        if not one.count:  # a part that did not run, or no batch at all
            continue
        mean = one.first / one.count
        variance = (one.second / one.count - mean.square()).clamp_min(0)
        assert isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return done


class PreciseStatistics:
    """What the training loop calls before an evaluation or a checkpoint.

    Args:
        batches: of the epoch's, at most.
        transform, task, device, autocast: as the training has them; erasing and mixing are left out.
    """

    def __init__(self, batches: int, transform: Any, task: Any, device: torch.device, autocast: Autocast) -> None:
        self.batches, self.transform, self.task = batches, transform, task
        self.device, self.autocast = device, autocast

    def update(self, state: TrainState, loader: Any, interrupt: InterruptFlag) -> None:
        """Give the model, and its average, the statistics of the epoch's first batches, which ``loader`` gives.

        Raises Interrupted in all processes, if a signal has come to any.
        """
        for model in [state.model] if state.ema is None else [state.model, state.ema.module]:
            loader.batch_sampler.set_position(state.epoch, 0)

            def forward(batch: dict[str, Any], model: nn.Module = model) -> None:
                interrupt.check_alone()
                if batch["id"]:  # not all of its clips were bad
                    inputs = {name: value.to(self.device) for name, value in batch["inputs"].items()}
                    moved = self.transform({**batch, "inputs": inputs}, training=False)
                    with self.autocast():
                        self.task.forward(model, moved["inputs"])

            with loader.asking(interrupt.check_alone) if isinstance(loader, Loader) else contextlib.nullcontext():
                done = use_precise_statistics(model, forward, islice(loader, self.batches), interrupt.check)
            if done and distributed.is_main():
                logger.info("batch norms: statistics of %d batches", done)


def build_precise(
    cfg: CfgNode, model: nn.Module, transform: Any, task: Any, device: torch.device, autocast: Autocast
) -> PreciseStatistics | None:
    """Return what BN.USE_PRECISE_STATS asks for; None where it is off, or the model has no batch norms."""
    if not cfg.BN.USE_PRECISE_STATS or not batch_norms(model):
        return None
    return PreciseStatistics(cfg.BN.NUM_BATCHES_PRECISE, transform, task, device, autocast)
