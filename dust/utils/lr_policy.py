"""Learning-rate schedules: pure functions of the position in training.

Sources: PySlowFast's policies (cosine, steps with relative rates, linear warm-up), VideoMAE's per-iteration cosine,
DUST's per-epoch line and cosine.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dust.utils.errors import ArgumentError
from dust.utils.numbers import as_numbers, finite, whole


def cosine(epoch: float, *, base_lr: float, end_lr: float, max_epoch: float, offset: float = 0.0) -> float:
    """Follow half a cosine from ``base_lr`` at epoch ``offset`` to ``end_lr`` at ``max_epoch`` (epochs, fractions
    allowed).

    Raises ArgumentError where no line leads from one to the other: ``max_epoch`` is not above ``offset``."""
    finite("epoch", epoch)
    finite("max_epoch", max_epoch, above=finite("offset", offset))
    return end_lr + (base_lr - end_lr) * 0.5 * (1.0 + math.cos(math.pi * (epoch - offset) / (max_epoch - offset)))


def cosine_restart(epoch: float, *, base_lr: float, end_lr: float, period: float, offset: float = 0.0) -> float:
    """Follow cosines of ``period`` epochs one behind the other, from epoch ``offset`` on; each goes from ``base_lr``
    towards ``end_lr`` (SGDR, https://arxiv.org/abs/1608.03983, with periods of one length, as STORM-PSR has them).

    Raises ArgumentError for a period that is not above 0."""
    finite("period", period, above=0)
    passed = (finite("epoch", epoch) - finite("offset", offset)) % period
    return cosine(passed, base_lr=base_lr, end_lr=end_lr, max_epoch=period)


def steps_with_relative_lrs(epoch: float, *, base_lr: float, steps: Sequence[float], lrs: Sequence[float]) -> float:
    """Return ``lrs[k] * base_lr`` for ``steps[k] <= epoch < steps[k + 1]``; ``steps`` are epochs and begin at 0.

    Raises ArgumentError for steps that do not begin at 0 and rise, or not as many ``lrs``."""
    finite("epoch", epoch)
    steps, lrs = (as_numbers(name, values, ndim=1).tolist() for name, values in (("steps", steps), ("lrs", lrs)))
    if not steps or len(steps) != len(lrs) or steps[0] != 0 or list(steps) != sorted(set(steps)):
        raise ArgumentError(f"steps {steps} and lrs {lrs}: steps begin at 0 and rise, one factor for each")
    return lrs[max(bisect_right(steps, epoch) - 1, 0)] * base_lr


def videomae_cosine(
    step: int, *, base_lr: float, end_lr: float, total_steps: int, warmup_steps: int, warmup_start_lr: float
) -> float:
    """Follow VideoMAE's schedule, per iteration: ``warmup_steps`` values from start to base **inclusive**, then a
    cosine."""
    whole("step", step, low=0)
    if step < warmup_steps:
        return warmup_start_lr + (base_lr - warmup_start_lr) * step / max(warmup_steps - 1, 1)
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return end_lr + 0.5 * (base_lr - end_lr) * (1.0 + math.cos(math.pi * progress))


def dust_linear_cosine(epoch: int, *, base_lr: float, end_lr: float, max_epoch: float, linear_epochs: float) -> float:
    """Follow DUST's schedule, one rate per epoch: a line down towards zero over ``linear_epochs``, then a cosine that
    begins again at ``base_lr``. (The published name is linear decay; a warm-up was probably meant. See ``cosine`` with
    ``cosine_after_warmup`` for that.)"""
    if epoch < linear_epochs:
        return base_lr * (1.0 - epoch / linear_epochs)
    return cosine(epoch, base_lr=base_lr, end_lr=end_lr, max_epoch=max_epoch, offset=linear_epochs)


@dataclass(frozen=True, kw_only=True)
class LRSchedule:
    """The learning rate of every iteration. Epochs may be fractions; rates are before any per-group scale.

    Args:
        policy: ``cosine`` | ``cosine_restart`` | ``steps_with_relative_lrs`` | ``videomae_cosine`` |
            ``dust_linear_cosine`` (its line is as long as the warm-up).
        base_lr, end_lr: the highest rate, and where a cosine ends.
        max_epoch, warmup_epochs: lengths in epochs.
        warmup_start_lr: the rate of the very first iteration when there is a warm-up.
        steps, lrs: for ``steps_with_relative_lrs``, epochs and factors.
        cosine_after_warmup: the cosine begins where the warm-up ends instead of at epoch 0.
        period: for ``cosine_restart``, epochs from one start to the next.
    """

    policy: str
    base_lr: float
    max_epoch: float
    end_lr: float = 0.0
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 0.0
    steps: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    cosine_after_warmup: bool = False
    period: float = 0.0

    @classmethod
    def from_config(cls, cfg: Any, shards: int = 0) -> dict[str, Any]:
        """Return the schedule's arguments. ``shards``: the nodes that SOLVER.BASE_LR_SCALE_NUM_SHARDS counts; 0 =
        NUM_SHARDS."""
        solver = cfg.SOLVER
        scale = shards or cfg.NUM_SHARDS if solver.BASE_LR_SCALE_NUM_SHARDS else 1
        return {
            "policy": solver.LR_POLICY,
            "base_lr": solver.BASE_LR * scale,
            "max_epoch": solver.MAX_EPOCH,
            "end_lr": solver.COSINE_END_LR * scale,
            "warmup_epochs": solver.WARMUP_EPOCHS,
            "warmup_start_lr": solver.WARMUP_START_LR * scale,
            "steps": tuple(solver.STEPS),
            "lrs": tuple(solver.LRS),
            "cosine_after_warmup": solver.COSINE_AFTER_WARMUP,
            "period": solver.T_0,
        }

    def at(self, epoch: float) -> float:
        """Return the rate at a position in epochs, by SlowFast's rule: warm-up is a line to the policy's value at its
        end."""
        finite("epoch", epoch)
        if epoch < self.warmup_epochs:
            slope = (self._policy(self.warmup_epochs) - self.warmup_start_lr) / self.warmup_epochs
            return self.warmup_start_lr + epoch * slope
        return self._policy(epoch)

    def at_iteration(self, epoch: int, iteration: int, iters_per_epoch: int) -> float:
        """Return the rate of optimizer step ``iteration`` (from 0) of ``epoch`` (from 0).

        Raises ArgumentError for negative or fractional ones, and for epochs without an iteration."""
        whole("iters_per_epoch", iters_per_epoch, low=1)
        whole("epoch", epoch, low=0), whole("iteration", iteration, low=0)
        if self.policy == "videomae_cosine":
            return videomae_cosine(
                epoch * iters_per_epoch + iteration,
                base_lr=self.base_lr,
                end_lr=self.end_lr,
                total_steps=int(self.max_epoch * iters_per_epoch),
                warmup_steps=int(self.warmup_epochs * iters_per_epoch),
                warmup_start_lr=self.warmup_start_lr,
            )
        if self.policy == "dust_linear_cosine":
            return dust_linear_cosine(
                epoch,
                base_lr=self.base_lr,
                end_lr=self.end_lr,
                max_epoch=self.max_epoch,
                linear_epochs=self.warmup_epochs,
            )
        return self.at(epoch + iteration / iters_per_epoch)

    def _policy(self, epoch: float) -> float:
        if self.policy == "steps_with_relative_lrs":
            return steps_with_relative_lrs(epoch, base_lr=self.base_lr, steps=self.steps, lrs=self.lrs)
        offset = self.warmup_epochs if self.cosine_after_warmup else 0.0
        if self.policy == "cosine":
            return cosine(epoch, base_lr=self.base_lr, end_lr=self.end_lr, max_epoch=self.max_epoch, offset=offset)
        if self.policy == "cosine_restart":
            return cosine_restart(epoch, base_lr=self.base_lr, end_lr=self.end_lr, period=self.period, offset=offset)
        raise ArgumentError(
            f"LR policy {self.policy!r}: choose cosine, cosine_restart, steps_with_relative_lrs or videomae_cosine"
        )
