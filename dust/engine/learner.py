"""Learning from one loaded batch: to the device, forward and backward pass, and the optimizer's step where it is due.

Nothing here waits for a device, but for a log line, and where the optimizer cannot skip a step by itself.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dust.datasets.loader import EpochBatchSampler
from dust.engine.backends import AttentionLog
from dust.engine.evaluator import Evaluator
from dust.engine.hooks import StepEnd
from dust.engine.overlap import Feed, Figures, seed_step
from dust.engine.run_dir import BadClipLog
from dust.engine.state import TrainState
from dust.engine.step import BatchName
from dust.models.optimizer import set_lr
from dust.tasks.task import Outputs
from dust.utils import distributed
from dust.utils.errors import DataError
from dust.utils.lr_policy import LRSchedule
from dust.utils.rng import derive_seed


@dataclass(frozen=True)
class LearnOptions:
    """How batches are learnt from.

    Attributes:
        seed: from which each step's dropout and mixing derive.
        log_period: iterations between log lines.
        compiled: the model compiles when it meets batches of a new size.
    """

    seed: int
    log_period: int = 10
    compiled: bool = False


class Learner:
    """Learns from loaded batches, at the position where ``state`` stands.

    Args:
        state: what is trained; its iteration moves on with each batch.
        model: ``state.model`` as all processes run it together (wrapped, compiled).
        evaluator: whose task is learnt, on whose device and in whose precision.
        transform: turns a batch into what the model takes.
        schedule: the learning rates.
        sampler: the loader's.
        bad_clips: is told of clips that could not be read.
        compiling: a context for a pass in which the model compiles.
    """

    def __init__(
        self,
        state: TrainState,
        model: nn.Module,
        evaluator: Evaluator,
        transform: Callable[..., dict[str, Any]],
        schedule: LRSchedule,
        sampler: EpochBatchSampler,
        bad_clips: BadClipLog,
        options: LearnOptions,
        *,
        compiling: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.state, self.model, self.transform, self.schedule = state, model, transform, schedule
        self.task, self.device, self.autocast = evaluator.task, evaluator.device, evaluator.autocast
        self.sampler, self.iters, self.bad_clips, self.options = sampler, len(sampler), bad_clips, options
        self.feed = Feed(self.device)
        self.attention = AttentionLog(wanted=self.device.type == "cuda" and not options.compiled)
        self.placeholder_batch: dict[str, Any] | None = None  # a batch for a step in which this process has no clip
        self._compiling = compiling
        self._compiled_for: set[int] = set()  # sizes of batches

    def learn(self, batch: dict[str, Any]) -> StepEnd:
        """Learn from one loaded batch; the optimizer steps where it is the last of its step.

        Raises:
            Abandoned, Diverged: see :class:`dust.engine.step.OptimizerStep`.
        """
        state = self.state
        for bad in batch["bad"]:
            self.bad_clips(bad)
        state.bad_clips = self.bad_clips.count
        lr = self.schedule.at_iteration(state.epoch, state.iteration // state.accumulate, self.sampler.num_steps)
        set_lr(state.optimizer, lr)
        figures, measured = self._micro_step(batch)
        state.iteration += 1
        stepped = self._closes_step(state.iteration)
        if stepped:
            figures |= state.optimizer_step.step()
        stats = Figures(figures, measured)
        if state.iteration % self.options.log_period == 0 or state.iteration == self.iters:
            state.optimizer_step.check()  # what is waited for anyway, before a line is made of it
        return StepEnd(state.iteration, self.iters, stats, lr, len(batch["id"]), stepped)

    def abandon(self) -> None:
        """Take part in what is left of this step, so that no process makes it."""
        batch, iteration, last = self._placeholder(), self.state.iteration, False
        while not last:
            iteration += 1
            last = self._closes_step(iteration)
            self.state.optimizer_step.backward(
                lambda: self.task.losses(self.task.forward(self.model, batch["inputs"]), batch),
                samples=0, last=last, abandon=last,
            )  # fmt: skip

    def _closes_step(self, iteration: int) -> bool:
        return iteration % self.state.accumulate == 0 or iteration == self.iters

    def _micro_step(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor | float], Collection[str]]:
        """Run forward and backward of one loaded batch. Return its figures, and the names of those that the task has
        measured. A batch whose clips were all bad adds nothing."""
        state = self.state
        number = state.epoch * self.iters + state.iteration
        words = (self.options.seed, "step", number, distributed.rank())
        seed_step(derive_seed(*words), self.device)  # dropout and drop-path of this step
        samples, several = len(batch["id"]), distributed.world_size() > 1
        if samples:
            batch = self.transform(self.feed(batch), training=True, seed_words=words)
            self.placeholder_batch = batch if several else None
        elif several:
            batch = self._placeholder()
        outputs: Outputs = {}
        compiles = self.options.compiled and samples not in self._compiled_for

        def compute() -> dict[str, Tensor]:
            nonlocal outputs
            with self.autocast(), self.attention.once():
                outputs = self.task.forward(self.model, batch["inputs"])
                return self.task.losses(outputs, batch)

        last = self._closes_step(state.iteration + 1)
        name = BatchName(f"epoch {state.epoch + 1}, iteration {state.iteration + 1}", batch["id"])
        with self._compiling() if compiles else contextlib.nullcontext():
            losses = state.optimizer_step.backward(compute, samples, last=last, name=name)
        self._compiled_for.add(samples)
        if not samples:
            return {}, ()
        measured = self.task.stats(outputs, batch)
        return {**losses, **measured}, measured.keys()

    def _placeholder(self) -> dict[str, Any]:
        """Return what a process without a readable clip computes, for nothing, so that the others need not wait for
        it."""
        if self.placeholder_batch is None:
            raise DataError(
                f"none of the first clips of process {distributed.rank()} could be read; see {self.bad_clips.path}"
            )
        return self.placeholder_batch
