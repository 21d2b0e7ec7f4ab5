"""What happens around the training loop, at three moments: after a step, after an evaluation, after an epoch.

The loop computes; everything else subscribes. The order at each moment is fixed:

1. :class:`Meters`: the log's lines.
2. :class:`Curves`: TensorBoard and Weights & Biases; on a terminal the table of epochs (dust/engine/epoch_table.py).
3. the hooks that ``TRAIN.HOOKS`` names, in that order.
4. :class:`StopOnSignal`: ends a run that was asked to stop.
5. :class:`BadClipPolicy`: ends a run in which too many clips cannot be read.
6. :class:`Saving`: checkpoints.

So what a hook of the user's has seen when a checkpoint is written is what the checkpoint holds, and a resumed run
calls it for what comes after. Before each evaluation a checkpoint is written too: a run that ends in one, however that
comes, evaluates again, and no hook has heard of the first attempt.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dust.config import CfgNode
from dust.engine.run_dir import BadClipLog
from dust.engine.state import TrainState
from dust.engine.step import OptimizerStep
from dust.launch.signals import InterruptFlag
from dust.utils import distributed
from dust.utils.errors import ConfigError
from dust.utils.meters import TrainMeter, ValMeter
from dust.utils.registry import Registry, build
from dust.visualization.writer import Writer

logger = logging.getLogger(__name__)

HOOK_REGISTRY = Registry("hook")


@dataclass(frozen=True)
class StepEnd:
    """A batch has been learnt from.

    Attributes:
        iteration: batches done of the epoch, this one included; the epoch has ``iters``.
        stats: losses and other figures, means over the samples of this process; none where no clip could be read. On
            a GPU the first look at them waits for it: look every so many steps, or a step later.
        lr: of this step, before any per-group scale.
        samples: of this process.
        stepped: the optimizer has stepped: the batch was the last of its step.
    """

    iteration: int
    iters: int
    stats: Mapping[str, float]
    lr: float
    samples: int
    stepped: bool


@dataclass(frozen=True)
class EvaluationEnd:
    """The validation split was evaluated after the last step of an epoch.

    Attributes:
        metrics: as the task names them.
        improved: the run's best so far.
        evaluation, loader: the task's evaluation, in the first process with all records, and what it was made of.
        bad_clips: clips that were left out.
    """

    metrics: Mapping[str, float]
    improved: bool
    evaluation: Any
    loader: Any
    bad_clips: int = 0


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is over, its evaluation included where it had one; ``state`` stands at the beginning of the next.

    Attributes:
        epoch: its number, from 1.
        improved: its evaluation was the best so far.
        last: the run ends with it.
    """

    epoch: int
    improved: bool
    last: bool


class Hook:
    """Subscribes to the moments of a training run; every method does nothing until it is overridden.

    Register a class by ``@HOOK_REGISTRY.register()`` and name it in ``TRAIN.HOOKS``. It is built from the keyword
    arguments that ``from_config`` returns, in every process. What :meth:`state_dict` returns is kept in every
    checkpoint, so that a resumed run continues exactly: plain values, lists, dicts and tensors. With several processes
    it is that of the first one, and all get it back.

    ``state`` is the run at that moment (:class:`dust.engine.state.TrainState`): ``model``, ``optimizer``, ``ema``,
    ``epoch`` (from 0), ``iteration``, ``updates``. A hook may read all of it, and change weights or gradients if that
    is its purpose; it must not move the global random streams.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments; cfg stays outside of it."""
        return {}

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        """Act when a batch has been learnt from (``step.stepped``: the optimizer has stepped)."""

    def after_evaluation(self, state: TrainState, result: EvaluationEnd) -> None:
        """Act when the validation split has been evaluated; ``state.epoch`` is still that of the epoch."""

    def after_epoch(self, state: TrainState, end: EpochEnd) -> None:
        """Act when an epoch is over; where it had an evaluation, :meth:`after_evaluation` came before."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the hook must know to continue in a resumed run."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned when the checkpoint was written."""


def build_hooks(cfg: CfgNode) -> dict[str, Hook]:
    """Return the hooks that TRAIN.HOOKS names, by their names, in order.

    Raises:
        ConfigError: a name that is not registered, or twice there.
    """
    names = list(cfg.TRAIN.HOOKS)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"TRAIN.HOOKS names {', '.join(twice)} more than once; each hook is called once")
    return {name: build(HOOK_REGISTRY.get(name), cfg) for name in names}


def continue_hooks(hooks: Mapping[str, Hook], state: TrainState) -> None:
    """Give hooks what a checkpoint kept of them. One that it does not know begins now."""
    for name, hook in hooks.items():
        if name in state.hooks:
            hook.load_state_dict(state.hooks[name])
    gone = sorted(state.hooks.keys() - hooks.keys())
    if gone:
        logger.warning("the checkpoint keeps hooks that TRAIN.HOOKS no longer names: %s", ", ".join(gone))


class Meters(Hook):
    """SlowFast's ``json_stats`` lines of iterations, epochs and evaluations; an epoch's line comes with its last step.

    Args:
        train, val: the meters.
        statistics_of_all: of the epoch so far, over all processes, as ``train.state_dict()`` gives them.
    """

    def __init__(self, train: TrainMeter, val: ValMeter, statistics_of_all: Callable[[], dict[str, Any]]) -> None:
        self.train, self.val, self.statistics_of_all = train, val, statistics_of_all

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        if step.samples:
            self.train.update(step.stats, step.lr, step.samples)
        self.train.log_iter(state.epoch, step.iteration - 1)
        if step.iteration == step.iters:
            if distributed.world_size() > 1:
                self.train.load_state_dict(self.statistics_of_all())
            self.train.log_epoch(state.epoch, _bad(state.bad_clips))

    def after_evaluation(self, state: TrainState, result: EvaluationEnd) -> None:
        self.val.log_epoch(state.epoch, dict(result.metrics), _bad(result.bad_clips))
        state.least_errors = dict(self.val.best)

    def after_epoch(self, state: TrainState, end: EpochEnd) -> None:
        self.train.reset()


def _bad(count: int) -> dict[str, int] | None:
    return {"bad_clips": count} if count else None


class Curves(Hook):
    """Scalars, figures and clips for TensorBoard and Weights & Biases, where they are on.

    Args:
        means: of the epoch so far, asked for at its last step.
        period: iterations between points.
    """

    def __init__(self, writer: Writer, means: Callable[[], dict[str, float]], period: int) -> None:
        self.writer, self.means, self.period = writer, means, period

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        if step.iteration % self.period == 0:
            self.writer.scalars("Train", {**step.stats, "lr": step.lr}, state.epoch * step.iters + step.iteration)
        if step.iteration == step.iters:
            self.writer.scalars("Train_epoch", self.means(), state.epoch + 1)

    def after_evaluation(self, state: TrainState, result: EvaluationEnd) -> None:
        self.writer.scalars("Val", dict(result.metrics), state.epoch + 1)
        self.writer.evaluation(result.evaluation, result.loader, state.epoch + 1)


class StopOnSignal(Hook):
    """Raises :class:`dust.launch.signals.Interrupted` after the step in which a signal came to any process. They tell
    each other with the step; a single one looks only afterwards."""

    def __init__(self, interrupt: InterruptFlag, optimizer_step: OptimizerStep) -> None:
        self.interrupt, self.optimizer_step = interrupt, optimizer_step
        optimizer_step.request = lambda: interrupt.urgency

    def answer(self) -> None:
        """Raise Interrupted, in all processes, if one of them has asked for it with the last step."""
        several = distributed.world_size() > 1
        self.interrupt.stop_if(self.optimizer_step.requested if several else self.interrupt.urgency)

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        if step.stepped:
            self.answer()


class BadClipPolicy(Hook):
    """Stops a run in which more clips of an epoch are bad, over all processes, than ``bad_clips`` allows.

    Args:
        period: optimizer steps from one look to the next; the end of an epoch is one too.
    """

    def __init__(self, bad_clips: BadClipLog, period: int) -> None:
        self.bad_clips, self.period = bad_clips, period

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        if step.stepped and (state.step % self.period == 0 or step.iteration == step.iters):
            self.bad_clips.check(int(distributed.total(self.bad_clips.count)))


@dataclass(frozen=True)
class SaveOptions:
    """When a run saves.

    Attributes:
        period: epochs between checkpoints; 0 = only after the last.
        period_iters: iterations between checkpoints within an epoch; 0 = none.
        keep_last: of the run's finished epochs only the newest so many stay; 0 = all.
        best: keep the best evaluation's weights as checkpoint_best.pyth.
    """

    period: int = 10
    period_iters: int = 0
    keep_last: int = 0
    best: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        train = cfg.TRAIN
        return {
            "period": train.CHECKPOINT_PERIOD,
            "period_iters": train.CHECKPOINT_PERIOD_ITERS,
            "keep_last": train.CHECKPOINT_KEEP_LAST,
            "best": train.SAVE_BEST,
        }

    def due(self, epoch: int) -> bool:
        """Tell whether the run saves after this epoch (from 1), be it the last or not."""
        return bool(self.period) and epoch % self.period == 0


class Saving(Hook):
    """Writes checkpoints as their periods say.

    Args:
        save: ``save(name=..., keep_last=...)`` writes the run as it stands.
        begun_at: the iteration at which this start of the run began.
    """

    def __init__(self, save: Callable[..., Any], options: SaveOptions, begun_at: int = 0) -> None:
        self.save, self.options, self.saved_at = save, options, begun_at

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        """Save, within an epoch only where the optimizer has stepped: the gradients of earlier batches are all used."""
        period = self.options.period_iters
        if step.stepped and period and step.iteration < step.iters and step.iteration - self.saved_at >= period:
            self.save()
            self.saved_at = step.iteration

    def after_epoch(self, state: TrainState, end: EpochEnd) -> None:
        self.saved_at = 0
        if end.improved and self.options.best:
            self.save(name="checkpoint_best.pyth")
        if end.last or self.options.due(end.epoch):
            self.save(keep_last=self.options.keep_last)
