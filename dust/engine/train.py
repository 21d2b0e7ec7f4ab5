"""Training: one loop over (epoch, iteration), which can begin at any of its points."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from dust.config import CfgNode, dump, flatten
from dust.datasets.loader import EpochBatchSampler, Loader, construct_loader
from dust.datasets.manifest.labels import write_class_list
from dust.datasets.protocol import files_of, fitted_of
from dust.datasets.sample import counted_from_one, unlearnt_classes
from dust.datasets.transforms.device import DeviceTransform
from dust.datasets.workers import WorkerError
from dust.engine.batch_norm import PreciseStatistics, build_precise
from dust.engine.data_lists import fingerprint, record_training_list
from dust.engine.epoch_table import build_epoch_table
from dust.engine.evaluator import Evaluator, build_evaluator
from dust.engine.hooks import (
    BadClipPolicy,
    Curves,
    EpochEnd,
    EvaluationEnd,
    Hook,
    Meters,
    SaveOptions,
    Saving,
    StopOnSignal,
    build_hooks,
    continue_hooks,
)
from dust.engine.learner import Learner, LearnOptions
from dust.engine.leaving import Leaving
from dust.engine.overlap import Garbage
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_compiled, build_device, build_device_transform, build_for, parallel
from dust.engine.sharding import gathered
from dust.engine.stages import upstream
from dust.engine.start import StartOptions, initialise
from dust.engine.state import TrainState, build_state, no_statistics
from dust.engine.step import Abandoned, Diverged
from dust.launch.signals import Interrupted, InterruptFlag
from dust.models.protocol import ChoosesByValidation
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils import distributed
from dust.utils.errors import DustError
from dust.utils.logging import progress
from dust.utils.lr_policy import LRSchedule
from dust.utils.meters import TrainMeter, ValMeter
from dust.utils.registry import build
from dust.visualization.writer import Writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What the loop itself must know.

    Attributes:
        max_epoch: epochs of the run.
        seed: from which each step's dropout and mixing derive.
        log_period: iterations between log lines.
        eval_period: epochs between evaluations; the last epoch has one too.
        metric: the one that says which evaluation is the best; "" for the task's own.
        patience: evaluations without a better one after which the run stops; 0 = never.
        on_bad_clip: skip | raise: a clip of training or validation that cannot be read.
        max_bad_fraction: of an epoch's clips; the run stops when more are bad.
        compiled: the model compiles when it meets batches of a new size.
    """

    max_epoch: int
    seed: int
    log_period: int = 10
    eval_period: int = 0
    metric: str = ""
    patience: int = 0
    on_bad_clip: str = "skip"
    max_bad_fraction: float = 0.05
    compiled: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "max_epoch": cfg.SOLVER.MAX_EPOCH,
            "seed": cfg.RNG_SEED,
            "log_period": cfg.LOG_PERIOD,
            "eval_period": cfg.TRAIN.EVAL_PERIOD,
            "metric": cfg.TRAIN.BEST_METRIC,
            "patience": cfg.TRAIN.EARLY_STOPPING_PATIENCE,
            "on_bad_clip": cfg.TRAIN.ON_BAD_CLIP,
            "max_bad_fraction": cfg.DATA.MAX_BAD_FRACTION,
            "compiled": cfg.TRAIN.COMPILE,
        }


class Trainer:
    """The training loop. ``fit`` trains from where the state stands to the last epoch; hooks do the rest
    (:mod:`dust.engine.hooks`).

    Args:
        run: where checkpoints and lists are written.
        state: what is trained, and where it stands.
        model: ``state.model`` as all processes run it together (wrapped, compiled).
        loader: training batches; its ``batch_sampler`` is an EpochBatchSampler.
        evaluator: of the task that is learnt.
        transform: turns a batch into what the model takes, on the evaluator's device.
        schedule: the learning rates.
        options, save: see there.
        val_loader: of the validation split; None to evaluate never.
        writer: of curves.
        hooks: the user's, by their names, in order.
        precise: sets batch norms' statistics before evaluations and checkpoints; None: they keep trailing averages.
    """

    def __init__(
        self,
        run: RunDir,
        state: TrainState,
        model: nn.Module,
        loader: DataLoader[Any],
        evaluator: Evaluator,
        transform: DeviceTransform,
        schedule: LRSchedule,
        options: TrainOptions,
        save: SaveOptions,
        *,
        val_loader: DataLoader[Any] | None = None,
        writer: Writer | None = None,
        hooks: Mapping[str, Hook] | None = None,
        precise: PreciseStatistics | None = None,
    ) -> None:
        self.precise, self.save_options = precise, save
        self.run, self.state, self.model, self.options = run, state, model, options
        self.loader, self.val_loader, self.evaluator = loader, val_loader, evaluator
        self.task = evaluator.task
        sampler: Any = loader.batch_sampler
        self.sampler: EpochBatchSampler = sampler
        self.iters = len(sampler)
        self.metric = options.metric or self.task.best_metric
        self.interrupt, self.garbage = InterruptFlag(), Garbage()
        self.bad_clips = BadClipLog(
            run.path / "bad_clips.csv", "train", options.on_bad_clip, limit=options.max_bad_fraction,
            total=len(loader.dataset),  # type: ignore[arg-type]
        )  # fmt: skip
        self.learner = Learner(
            *(state, model, evaluator, transform, schedule, sampler, self.bad_clips),
            LearnOptions(options.seed, options.log_period, options.compiled),
            compiling=self._compiling,
        )
        self.meter = TrainMeter(self.iters, options.max_epoch, options.log_period)
        if distributed.is_main():  # it then speaks for all
            self.meter.load_state_dict(state.meter)
        self.val_meter = ValMeter(options.max_epoch, options.log_period)
        self.val_meter.best = dict(state.least_errors)
        self.writer = Writer() if writer is None else writer
        self.user_hooks = dict(hooks or {})
        continue_hooks(self.user_hooks, state)
        self.stop_on_signal = StopOnSignal(self.interrupt, state.optimizer_step)
        self.leaving = Leaving(
            *(state, self.bad_clips, self.meter, self.user_hooks, self.stop_on_signal, self._save_with),
            always=options.compiled,
        )
        self.hooks: list[Hook] = [
            Meters(self.meter, self.val_meter, self._statistics_of_all),
            Curves(self.writer, self.meter.means, options.log_period),
            *build_epoch_table(self.meter, self.metric),
            *self.user_hooks.values(),
            self.stop_on_signal,
            BadClipPolicy(self.bad_clips, options.log_period),
            Saving(self.save, save, begun_at=state.iteration),
        ]

    def close(self) -> None:
        """End the loaders' workers."""
        for loader in (self.loader, self.val_loader):
            if isinstance(loader, Loader):
                loader.close()

    def fit(self) -> None:
        """Train, evaluate and save.

        Raises:
            Interrupted: after a signal, with the state saved.
            WorkerError: a loader worker cannot deliver; the state is saved likewise.
        """
        state, last = self.state, self.options.max_epoch
        if state.epoch >= last:
            logger.info("epoch %d of %d is done: nothing to train", state.epoch, last)
        self.leaving.begin()
        asking: Any = contextlib.nullcontext()
        if isinstance(self.loader, Loader):  # a process that waits for it hears of signals
            asking = self.loader.asking(self.interrupt.check_waiting)
        with self.interrupt.listening(), self.writer, asking, self._advising(), self.garbage.frozen():
            try:
                while state.epoch < last and not self._stale():
                    with self.garbage.at_set_steps():
                        self._train_epoch()
                    self._close_epoch()
                state.saver.wait()
            except Interrupted:
                self.leaving.save()
                raise
            finally:
                self.leaving.settle()

    def save(self, *, name: str = "", keep_last: int = 0) -> Any:
        """Write the run as it stands; see :meth:`TrainState.save`. Returns the path."""
        return self._save_with(None, name=name, keep_last=keep_last)

    def _save_with(self, hooks: Mapping[str, Any] | None, **how: Any) -> Any:
        """Save the state. ``hooks``: states of the user's hooks; None for what they are now."""
        own = {key: hook.state_dict() for key, hook in self.user_hooks.items()}
        self.state.hooks = own if hooks is None else dict(hooks)
        statistics = self._statistics_of_all() if self.state.iteration else None
        return self.state.save(self.run, statistics, **how)

    def _train_epoch(self) -> None:
        state = self.state
        self.sampler.set_position(state.epoch, state.iteration)
        self.bad_clips.start_epoch(state.bad_clips)
        self.model.train()
        batches = iter(
            progress(self.loader, total=self.iters, initial=state.iteration, desc=f"epoch {state.epoch + 1}")
        )
        while True:
            self.leaving.mark()
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                self.meter.watch.data_ready()
                end = self.learner.learn(batch)
                self.meter.watch.step_done()
            except (Abandoned, Interrupted, WorkerError) as error:
                self.leaving.leave(error, self.learner.abandon)
            for hook in self.hooks:
                hook.after_step(state, end)
            if end.stepped:
                self.garbage.step_done(state.step)

    def _compiling(self) -> contextlib.AbstractContextManager[Any]:
        """Let a signal break a compilation off where no other process waits for this one."""
        breakable = distributed.world_size() == 1 or self.leaving.nothing_new
        return self.interrupt.breakable() if breakable else contextlib.nullcontext()

    def _close_epoch(self) -> None:
        """Evaluate where it is time; then the next epoch begins."""
        state, options = self.state, self.options
        done = state.epoch + 1
        last = done == options.max_epoch
        evaluates = self.val_loader is not None and (last or done % options.eval_period == 0)
        precise = self.precise if evaluates or last or self.save_options.due(done) else None
        if evaluates or precise:
            if self.leaving.position != self.leaving.begun_at:
                self.save()  # what fails now, or is killed, costs no epoch
            # workers are forked now: a lock that is held by the thread that writes would be held in them for ever
            state.saver.wait()
        if precise:
            precise.update(state, self.loader, self.interrupt)
        improved = self._validate() if evaluates else False
        state.next_epoch()
        end = EpochEnd(done, improved, last or self._stale())
        for hook in self.hooks:
            hook.after_epoch(state, end)
        if self._stale() and not last:
            logger.info("no better %s in %d evaluations: stopping early", self.metric, state.best["stale"])

    def _validate(self) -> bool:
        """Evaluate on the validation split; True if it is the best so far."""
        state = self.state
        assert self.val_loader is not None
        self.val_meter.start()
        model = state.ema.module if state.ema is not None else state.model
        with gathered(model):  # processes evaluate each at its own pace
            evaluation, counts = self.evaluator.evaluate(
                model,
                self.val_loader,
                split="val",
                bad_clips=BadClipLog(self.run.path / "bad_clips.csv", "val", self.options.on_bad_clip),
                on_sample=lambda n, total: self.val_meter.log_iter(state.epoch, n, total),
                interrupt=self.interrupt,
            )
        metrics = distributed.from_main(evaluation.metrics)
        if self.metric not in metrics:
            raise DustError(f"TRAIN.BEST_METRIC {self.metric!r} is not measured; choose one of {', '.join(metrics)}")
        if isinstance(state.model, ChoosesByValidation):
            state.model.choose(metrics)
        improved = state.note_metric(self.metric, metrics[self.metric], self.task.higher_is_better)
        end = EvaluationEnd(metrics, improved, evaluation, self.val_loader, counts["bad_clips"])
        for hook in self.hooks:
            hook.after_evaluation(state, end)
        return improved

    def _stale(self) -> bool:
        patience = self.options.patience
        return bool(patience) and self.state.best.get("stale", 0) >= patience

    def _statistics_of_all(self) -> dict[str, Any]:
        """Return the statistics of the epoch so far, over all processes."""
        merged = no_statistics()
        for state in distributed.all_gather_objects(self.meter.state_dict()):
            for part, values in state.items():
                for name, value in values.items():
                    merged[part][name] = merged[part].get(name, 0) + value
        return merged

    @contextlib.contextmanager
    def _advising(self) -> Iterator[None]:
        """Say what can be done where the training diverges."""
        try:
            yield
        except Diverged as error:
            raise Diverged(
                f"{error}. Checkpoints in {self.run.checkpoints} are as they were. Lower SOLVER.BASE_LR, lengthen the "
                "warm-up, set SOLVER.CLIP_GRAD_L2NORM, or use TRAIN.AMP_DTYPE bfloat16.", error.losses,
            ) from error  # fmt: skip


def build_trainer(cfg: CfgNode, run: RunDir) -> Trainer:
    """Return the training that cfg describes, into ``run``, at the point where it begins or continues."""
    device = build_device(cfg)
    loader = construct_loader(cfg, "train")
    dataset: Any = loader.dataset
    fitted = fitted_of(dataset)
    for note in counted_from_one(dataset.class_names, dataset.class_counts()):
        logger.warning("%s", note)
    val_loader = None
    if cfg.TRAIN.EVAL_PERIOD:
        val_loader = construct_loader(cfg, "val", dataset.class_names, fitted=fitted)
        val: Any = val_loader.dataset
        for note in unlearnt_classes(dataset.class_names, dataset.class_counts(), val.class_counts(), "val"):
            logger.warning("%s", note)
    task = build_task(cfg, DataInfo(dataset.class_names, dataset.class_counts(), fitted)).to(device)
    hooks = build_hooks(cfg)

    model = build_for(cfg, device)
    state = build_state(cfg, model, device)
    sampler: Any = loader.batch_sampler
    state.optimizer_step.accumulate = sampler.accumulate
    state.metadata = {
        "class_names": list(dataset.class_names),
        "data_sha256": distributed.from_main(lambda: fingerprint(dataset, fitted)),
        "fitted": fitted,
        "carried": files_of(dataset),
        "sources": distributed.from_main(lambda: upstream(flatten(cfg), cfg.OUTPUT_DIR)),
        "cfg": dump(cfg),
    }
    start = build(StartOptions, cfg)
    initialise(state, run, sampler, start)
    state.metadata.update(iters_per_epoch=len(sampler), steps_per_epoch=sampler.num_steps)
    wrapped, state.optimizer_step.grad_sync = parallel(
        model, build_compiled(cfg, model), device, static_graph=state.accumulate == 1, dtype=cfg.TRAIN.DDP_DTYPE
    )
    evaluator, transform = build_evaluator(cfg, task, device), build_device_transform(cfg, task.label_classes)
    trainer = Trainer(
        *(run, state, wrapped, loader, evaluator, transform),
        build(LRSchedule, cfg, state.shards),
        build(TrainOptions, cfg),
        build(SaveOptions, cfg),
        val_loader=val_loader,
        writer=build(Writer, cfg, run.path),
        hooks=hooks,
        precise=build_precise(cfg, model, transform, task, device, evaluator.autocast),
    )
    if distributed.is_main():
        run.begin(dump(cfg), from_start=not start.auto_resume)
        write_class_list(run.path / "classes.txt", dataset.class_names)
        record_training_list(run.path, dataset.clips, None if val_loader is None else val_loader.dataset)
    distributed.barrier()  # nobody saves before earlier checkpoints are aside
    return trainer


def run_stage(cfg: CfgNode, run: RunDir) -> None:
    """Train as cfg says, into ``run``."""
    trainer = build_trainer(cfg, run)
    try:
        trainer.fit()
    finally:
        trainer.close()
