"""One optimizer step: the gradients of one batch or of several, on one process or on many; no data and no keys."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dust.engine.sharding import whole_tensors
from dust.utils import distributed
from dust.utils.errors import DustError

#: ``grad_sync(last)``: the context of one batch's forward and backward; gradients are exchanged if it is the ``last``
#: of an optimizer step.
GradSync = Callable[[bool], contextlib.AbstractContextManager[Any]]


class Diverged(DustError):
    """The loss is NaN or infinite. ``losses``: what each of them was."""

    def __init__(self, message: str, losses: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.losses = losses or {}


class Abandoned(Exception):
    """A process could not take part in the optimizer step; none has made it."""


class OptimizerStep:
    """Accumulates the gradients of batches and steps with their mean, in which every sample weighs alike.

    For each batch :meth:`backward`, after the last of a step :meth:`step`:

    >>> losses = optimizer_step.backward(lambda: {"loss": criterion(model(x), y)}, samples=len(x), last=True)
    >>> stats = optimizer_step.step()

    Args:
        model: whose gradients are clipped and whose weights ``ema`` averages; what ``compute`` runs may be a wrapped
            or compiled form of it.
        optimizer: over ``model``'s parameters.
        batch_size: samples of a full batch over all processes of a node, by which a batch's weight is counted.
        scaler: of float16's losses; None for none.
        ema: timm's ModelEmaV3 over ``model``, or None.
        clip_value: every gradient is clipped to this absolute value; None = off.
        clip_norm: the norm of all gradients is clipped to this; None = off.

    ``accumulate`` (batches per step) and ``grad_sync`` (see :data:`GradSync`) are set once they are known: a resumed
    run keeps its global batch, and a model is wrapped after it was restored. ``updates`` counts the steps made.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        scaler: torch.amp.GradScaler | None = None,
        ema: Any = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.model, self.optimizer, self.ema = model, optimizer, ema
        self.scaler = torch.amp.GradScaler(enabled=False) if scaler is None else scaler
        self.batch_size, self.clip_value, self.clip_norm = batch_size, clip_value, clip_norm
        self.accumulate = 1
        self.grad_sync: GradSync = lambda last: contextlib.nullcontext()
        self.updates = 0
        self._weight = 0.0  # of what was accumulated in this process since the last step
        self._weight_of_all: Callable[[], float] = lambda: 0.0

    @property
    def weighted(self) -> bool:
        """Whether batches count by their samples; alone, a batch is the whole of its step."""
        return self.accumulate > 1 or distributed.world_size() > 1

    def backward(
        self, compute: Callable[[], dict[str, Tensor]], samples: int, *, last: bool, abandon: bool = False
    ) -> dict[str, Tensor]:
        """Add the gradient of one batch.

        Args:
            compute: forward pass and losses (scalars by name), of which the sum counts.
            samples: of this process in the batch. 0: with other processes, ``compute`` runs over samples that stand
                in, and counts for nothing; alone, nothing is computed.
            last: the batch is the last of its optimizer step.
            abandon: with other processes: this one has no batch, and no process shall make the step.

        Returns:
            The losses; none for 0 samples alone.

        Raises:
            Diverged: the sum of the losses is NaN or infinite; no gradient was added.
        """
        # every sample counts alike, also those of a batch that bad clips made shorter, or of a process with fewer
        weight = samples / self.batch_size if self.weighted else float(samples > 0)
        if last:
            self._weight_of_all = distributed.total_begun(math.nan if abandon else self._weight + weight)
        if not samples and distributed.world_size() == 1:
            return {}
        with self.grad_sync(last):
            losses = compute()
        total = torch.stack([value.float() for value in losses.values()]).sum()
        if not torch.isfinite(total):
            values = {name: value.item() for name, value in losses.items()}
            raise Diverged(f"the loss is not finite: {values}", values)
        with self.grad_sync(last):
            self.scaler.scale(total * weight).backward()
        self._weight += weight
        return losses

    def step(self) -> dict[str, float]:
        """Step with the mean gradient of what was accumulated. Nothing was: no step.

        Returns:
            ``grad_norm``, that of all gradients before they were clipped by it, with ``clip_norm``.

        Raises:
            Abandoned: in all processes, if one of them asked for it; weights and optimizer are as before.
        """
        # gradients are means over the processes, so this is too
        pending = self._weight_of_all() / distributed.world_size()
        if not pending:
            return {}
        if math.isnan(pending):
            raise Abandoned
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.weighted:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], pending)
        stats = {}
        if self.clip_value:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            stats["grad_norm"] = whole_tensors(norm).item()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._weight = 0.0
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        return stats
