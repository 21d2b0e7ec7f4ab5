"""One optimizer step: the gradients of one batch or of several, on one process or on many; no data and no keys."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dust.engine.overlap import Readback
from dust.utils import distributed
from dust.utils.errors import DustError

#: ``grad_sync(last)``: the context of one batch's forward and backward; gradients are exchanged if it is the ``last``
#: of an optimizer step.
GradSync = Callable[[bool], contextlib.AbstractContextManager[Any]]


#: A scale of float16's losses below which no step will hold any more.
MIN_SCALE = 1e-4


class Diverged(DustError):
    """A loss or a gradient is NaN or infinite; weights and optimizer are as before. ``losses``: what each of them was
    in the first batch that had one; none where only gradients were."""

    def __init__(self, message: str, losses: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.losses = losses or {}


@dataclass(frozen=True)
class BatchName:
    """What an error says of a batch: ``where`` it was met ("epoch 1, iteration 2"), and the ``ids`` of its clips."""

    where: str = ""
    ids: Sequence[str] = ()


#: Of one batch.
NamedLosses = tuple[dict[str, Tensor], BatchName]


@dataclass(frozen=True)
class _Unread:
    """What says, on the device, whether a step was one.

    Attributes:
        flag: (), 1.0 where something was not finite, else 0.0.
        norms: (P,), of the gradient of each of ``parameters``.
        batches: losses and names of the batches of the step.
    """

    flag: Readback
    norms: Tensor
    parameters: list[nn.Parameter]
    batches: list[NamedLosses]


class Abandoned(Exception):
    """A process could not take part in the optimizer step; none has made it."""


class OptimizerStep:
    """Accumulates the gradients of batches and steps with their mean, in which every sample weighs alike.

    For each batch :meth:`backward`, after the last of a step :meth:`step`:

    >>> losses = optimizer_step.backward(lambda: {"loss": criterion(model(x), y)}, samples=len(x), last=True)
    >>> stats = optimizer_step.step()

    A loss or gradient that is not finite reaches neither the weights nor the optimizer, in any process. Where reading
    that would make the device wait, the optimizer is told on the device, and :class:`Diverged` is raised by the next
    :meth:`step`, or by :meth:`check`, which stands before whatever is made of the weights.

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
    ``request`` gives what this process asks of all of them, a number up to :data:`distributed.HIGHEST`, 0 for nothing;
    ``requested`` is the highest of all processes' when the last step began. It travels with the weight of the step's
    batches, in one message that is sent once the backward pass is queued.
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
        self.request: Callable[[], int] = lambda: 0
        self.requested = 0
        self._weight = 0.0  # of what was accumulated in this process since the last step
        self._said_by_all: Callable[[], tuple[float, int]] = lambda: (0.0, 0)  # sum of weights, highest request
        self._batches: list[NamedLosses] = []  # of the step
        self._finite: list[Tensor] = []  # whether their losses are
        self._unread: _Unread | None = None

    @property
    def weighted(self) -> bool:
        """Whether batches count by their samples; alone, a batch is the whole of its step."""
        return self.accumulate > 1 or distributed.world_size() > 1

    def backward(
        self,
        compute: Callable[[], dict[str, Tensor]],
        samples: int,
        *,
        last: bool,
        abandon: bool = False,
        name: BatchName = BatchName(),
    ) -> dict[str, Tensor]:
        """Add the gradient of one batch.

        Args:
            compute: forward pass and losses (scalars by name), of which the sum counts.
            samples: of this process in the batch. 0: with other processes, ``compute`` runs over samples that stand
                in, and counts for nothing; alone, nothing is computed.
            last: the batch is the last of its optimizer step.
            abandon: with other processes: this one has no batch, and no process shall make the step.
            name: of the batch, for an error.

        Returns:
            The losses; none for 0 samples alone.

        Raises:
            Diverged: alone on a CPU: the sum of the losses is NaN or infinite; no gradient was added. Other processes
                would wait for this one, and reading it would make a GPU wait: there :meth:`step` says so.
        """
        # every sample counts alike, also those of a batch that bad clips made shorter, or of a process with fewer
        weight = samples / self.batch_size if self.weighted else float(samples > 0)
        losses: dict[str, Tensor] = {}
        if samples or distributed.world_size() > 1:
            losses = self._add_gradient(compute, weight, last, name)
        self._weight += weight
        if last:
            said = math.nan if abandon else self._weight
            self._said_by_all = distributed.sum_and_highest_begun(said, self.request())
        return losses

    def _add_gradient(
        self, compute: Callable[[], dict[str, Tensor]], weight: float, last: bool, name: BatchName
    ) -> dict[str, Tensor]:
        with self.grad_sync(last):
            losses = compute()
        total = torch.stack([value.float() for value in losses.values()]).sum()
        finite = torch.isfinite(total.detach())
        self._batches.append(({loss: value.detach() for loss, value in losses.items()}, name))
        if distributed.world_size() == 1 and finite.device.type == "cpu" and not finite:
            raise self._diverged(self._batches)
        self._finite.append(finite)
        # a loss that is not finite may have gradients that are; with these, all processes hear of it
        factor = torch.where(finite, weight, math.nan)
        with self.grad_sync(last):
            self.scaler.scale(total * factor).backward()
        return losses

    def step(self) -> dict[str, Tensor]:
        """Step with the mean gradient of what was accumulated. Nothing was: no step.

        Returns:
            ``grad_norm``, (), that of all gradients before they were clipped by it, with ``clip_norm``. Nothing for a
            step that overflowed in float16: the next one has a smaller scale.

        Raises:
            Abandoned: in all processes, if one of them asked for it; weights and optimizer are as before.
            Diverged: in all processes: a loss or gradient of any, of this step or the one before, is NaN or infinite.
        """
        self.check()
        total, self.requested = self._said_by_all()
        pending = total / distributed.world_size()  # gradients are means over the processes, so this is too
        batches, finite, self._batches, self._finite = self._batches, self._finite, [], []
        if not pending:
            return {}
        if math.isnan(pending):
            raise Abandoned
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.weighted:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], pending)
        self._refuse(parameters, batches, finite)
        stats = {}
        if self.clip_value:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm:
            norm: Any = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            stats["grad_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.scaler.is_enabled():
            self.optimizer.__dict__.pop("found_inf", None)
        self.optimizer.zero_grad(set_to_none=True)
        self._weight = 0.0
        if self.scaler.get_scale() < scale:
            if self.scaler.get_scale() < MIN_SCALE:
                raise Diverged("the gradients are not finite in float16, however small the scale of the losses is")
            return {}
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        return stats

    def _refuse(self, parameters: list[nn.Parameter], batches: list[NamedLosses], finite: list[Tensor]) -> None:
        """Let no step be made of what is not finite: raise Diverged, or, where that would wait, tell the optimizer."""
        gradients = [_own_part(parameter.grad) for parameter in parameters]
        held = [index for index, gradient in enumerate(gradients) if gradient.numel()]
        norms = torch.zeros(0)
        good = torch.stack(finite).all()
        if held and not self.scaler.is_enabled():  # which looks for itself, and continues with a smaller scale
            # the quickest sum that NaN and infinity show in; one of more than 1e19 counts as infinite too
            each = torch._foreach_norm([gradients[index] for index in held], 2)
            norms = torch.stack([value.float() for value in each])
            good = good & torch.isfinite(norms).all()
        flag = (~good).float()
        if distributed.world_size() > 1 and (self.scaler.is_enabled() or _cut(parameters)):
            dist.all_reduce(flag, dist.ReduceOp.MAX)  # elsewhere all processes have the same gradients
        step = _Unread(Readback(flag), norms, [parameters[index] for index in held], batches)
        if not self._defers(flag):
            self._read(step)
        else:
            if not self.scaler.is_enabled():
                self.optimizer.found_inf = flag  # type: ignore[attr-defined]
            self._unread = step

    def _defers(self, flag: Tensor) -> bool:
        """Tell whether reading the flag would wait, and the optimizer can skip its step by itself."""
        return flag.device.type != "cpu" and bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))

    def check(self) -> None:
        """Raise Diverged, in all processes, if the step before was none. Nothing is made of weights before this."""
        step, self._unread = self._unread, None
        if step is not None:
            self._read(step)

    def _read(self, step: _Unread) -> None:
        if step.flag.read().item():
            raise self._diverged(step.batches, step)

    def _diverged(
        self, batches: Sequence[tuple[dict[str, Tensor], BatchName]], step: _Unread | None = None
    ) -> Diverged:
        """Return the error, which says the same in all processes: in each of them is the step that all have made."""
        values = [({loss: value.item() for loss, value in losses.items()}, name) for losses, name in batches]
        wrong = [one for one in values if not all(map(math.isfinite, one[0].values()))]
        wrong = wrong if wrong or step else values[-1:]  # only their sum overflows
        names = []
        if step is not None and not wrong:
            names_of = {id(parameter): name for name, parameter in self.model.named_parameters()}
            bad = (~torch.isfinite(step.norms)).nonzero().flatten().tolist()
            names = [names_of.get(id(step.parameters[index]), "?") for index in bad]
        own = (wrong, names, [name for _, name in values])
        known = distributed.all_gather_objects(own) if step else [own]
        losses, name = next((one for wrong, _, _ in known for one in wrong), ({}, None))
        if name is not None:
            return Diverged(f"the loss is not finite{_at(name)}: {losses}{_clips([name])}", losses)
        names = list(dict.fromkeys(name for _, names, _ in known for name in names))
        all_batches = [name for _, _, batches in known for name in batches]
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        where = _at(all_batches[0]) if all_batches else ""
        return Diverged(f"the gradients are not finite{where}: those of {listed}{_clips(all_batches)}")


def _own_part(gradient: Any) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _cut(parameters: Sequence[nn.Parameter]) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def _at(name: BatchName) -> str:
    return f" at {name.where}" if name.where else ""


def _clips(names: Sequence[BatchName]) -> str:
    ids = [clip for name in names for clip in name.ids]
    return f"; clips: {', '.join(ids[:16])}{', ...' if len(ids) > 16 else ''}" if ids else ""
