"""Training: one loop over (epoch, iteration), which can begin at any of its points."""

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dust.datasets import construct_loader
from dust.datasets.loader import EpochBatchSampler
from dust.datasets.manifest.manifest import write_class_list
from dust.datasets.protocol import HasIdentity, fitted_of
from dust.engine.evaluator import evaluate
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import autocast_of, build_for, device_of, device_transform_of, parallel
from dust.engine.sharding import gathered, whole_tensors
from dust.engine.stages import sources
from dust.engine.state import TrainState, initialise, no_statistics
from dust.launch.signals import Interrupted, InterruptFlag
from dust.models.optimizer import set_lr
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils import distributed
from dust.utils.errors import CheckpointError, DataError, DustError
from dust.utils.logging import progress
from dust.utils.lr_policy import LRSchedule
from dust.utils.meters import TrainMeter, ValMeter
from dust.utils.rng import derive_seed
from dust.visualization.writer import Writer

logger = logging.getLogger(__name__)


class Diverged(DustError):
    """The loss is NaN or infinite."""


class Trainer:
    """Everything of one training run. ``fit`` trains from where the state stands to the last epoch."""

    def __init__(self, cfg, run: RunDir) -> None:
        self.cfg = cfg
        self.run = run
        self.device = device_of(cfg)
        self.interrupt = InterruptFlag()

        self.loader = construct_loader(cfg, "train")
        dataset: Any = self.loader.dataset
        fitted = fitted_of(dataset)
        self.val_loader = None
        if cfg.TRAIN.EVAL_PERIOD:
            self.val_loader = construct_loader(cfg, "val", dataset.class_names, fitted=fitted)
        if distributed.is_main():
            write_class_list(run.path / "classes.txt", dataset.class_names)
        facts = DataInfo(dataset.class_names, dataset.class_counts(), fitted)
        self.task = build_task(cfg, facts).to(self.device)
        self.metric = cfg.TRAIN.BEST_METRIC or self.task.best_metric

        model = build_for(cfg, self.device)
        self.state = TrainState.fresh(cfg, model, self.device)
        sampler: Any = self.loader.batch_sampler
        self.sampler: EpochBatchSampler = sampler
        self.state.accumulate = sampler.accumulate
        self.state.facts = {
            "class_names": list(dataset.class_names),
            "data_sha256": _fingerprint(dataset, fitted),
            "fitted": fitted,
            "sources": sources(cfg),
            "cfg": cfg.dump(),
        }
        initialise(cfg, run, self.state, sampler)
        self.iters, self.accumulate = len(sampler), sampler.accumulate
        self.state.facts.update(iters_per_epoch=self.iters, steps_per_epoch=sampler.num_steps)
        self.model, self.grad_sync = parallel(
            model, self.device, compiled=cfg.TRAIN.COMPILE, static_graph=self.accumulate == 1
        )
        self.weighted = self.accumulate > 1 or distributed.world_size() > 1
        self.weight_of_all: Callable[[], float] = lambda: 0.0
        self.placeholder_batch: dict[str, Any] | None = None  # a batch for a step in which this process has no clip

        self.transform = device_transform_of(cfg, self.task.label_classes)
        self.autocast = autocast_of(cfg, self.device)
        self.schedule = LRSchedule.from_config(cfg, self.state.shards)
        self.meter = TrainMeter(self.iters, cfg.SOLVER.MAX_EPOCH, cfg.LOG_PERIOD)
        if distributed.is_main():  # it then speaks for all
            self.meter.load_state_dict(self.state.meter)
        self.val_meter = ValMeter(cfg.SOLVER.MAX_EPOCH, cfg.LOG_PERIOD)
        self.val_meter.best = dict(self.state.least_errors)
        limit = cfg.DATA.MAX_BAD_FRACTION * len(dataset)
        self.bad_clips = BadClipLog(run.path / "bad_clips.csv", "train", cfg.TRAIN.ON_BAD_CLIP, limit=limit)
        self.writer = Writer.from_config(cfg, run.path)

    def fit(self) -> None:
        """Train, evaluate and save. Raises Interrupted after a signal, with the state saved."""
        state, last = self.state, self.cfg.SOLVER.MAX_EPOCH
        if state.epoch >= last:
            logger.info("epoch %d of %d is done: nothing to train", state.epoch, last)
        with self.interrupt.listening(), self.writer:
            try:
                while state.epoch < last and not self._stale():
                    self._train_epoch()
                    self._close_epoch()
                state.saver.wait()
            except Interrupted:
                try:
                    state.saver.wait()
                except CheckpointError as error:  # the one before: it is no reason not to try this one
                    logger.error("%s", error)
                path = state.save(self.run, self._meter_of_all())
                state.saver.wait()
                if distributed.is_main():
                    logger.warning(
                        "stopped at epoch %d, iteration %d; saved %s", state.epoch + 1, state.iteration, path
                    )
                raise

    def _train_epoch(self) -> None:
        state, cfg = self.state, self.cfg
        self.sampler.set_position(state.epoch, state.iteration)
        self.bad_clips.start_epoch(state.bad_clips)
        self.saved_at = state.iteration
        self.model.train()
        batches = progress(self.loader, total=self.iters, initial=state.iteration, desc=f"epoch {state.epoch + 1}")
        for batch in batches:
            self.meter.watch.data_ready()
            for bad in batch["bad"]:
                self.bad_clips(bad)
            state.bad_clips = self.bad_clips.count
            lr = self.schedule.at_iteration(state.epoch, state.iteration // self.accumulate, self.sampler.num_steps)
            set_lr(state.optimizer, lr)
            stats = self._micro_step(batch)
            state.iteration += 1
            at_boundary = state.iteration % self.accumulate == 0 or state.iteration == self.iters
            if at_boundary:
                stop_if_asked = self.interrupt.check_begun()
                stats.update(self._optimizer_step())
            self.meter.watch.step_done()
            if batch["id"]:
                self.meter.update(stats, lr, len(batch["id"]))
            self.meter.log_iter(state.epoch, state.iteration - 1)
            if state.iteration % cfg.LOG_PERIOD == 0:
                self.writer.scalars("Train", {**stats, "lr": lr}, state.epoch * self.iters + state.iteration)
            if at_boundary:
                stop_if_asked()
                if state.step % cfg.LOG_PERIOD == 0 or state.iteration == self.iters:
                    self.bad_clips.check(int(distributed.total(self.bad_clips.count)))
                self._save_within_epoch()

    def _save_within_epoch(self) -> None:
        """Save if TRAIN.CHECKPOINT_PERIOD_ITERS iterations have gone by; gradients of earlier batches are all used."""
        period, state = self.cfg.TRAIN.CHECKPOINT_PERIOD_ITERS, self.state
        if period and state.iteration - self.saved_at >= period and state.iteration < self.iters:
            state.save(self.run, self._meter_of_all())
            self.saved_at = state.iteration

    def _meter_of_all(self) -> dict[str, Any]:
        """The statistics of the epoch so far, over all processes."""
        merged = no_statistics()
        for state in distributed.all_gather_objects(self.meter.state_dict()):
            for part, values in state.items():
                for name, value in values.items():
                    merged[part][name] = merged[part].get(name, 0) + value
        return merged

    def _micro_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """Forward and backward of one loaded batch. A batch whose clips were all bad adds nothing."""
        state, cfg = self.state, self.cfg
        step = state.epoch * self.iters + state.iteration
        words = (cfg.RNG_SEED, "step", step, distributed.rank())
        torch.manual_seed(derive_seed(*words))  # dropout and drop-path of this step
        samples = len(batch["id"])
        last = (state.iteration + 1) % self.accumulate == 0 or state.iteration + 1 == self.iters
        # every sample counts alike, also those of a batch that bad clips made shorter, or of a process with fewer
        weight = samples / cfg.TRAIN.BATCH_SIZE if self.weighted else float(samples > 0)
        if last:
            self.weight_of_all = distributed.total_begun(state.pending_weight + weight)
        if samples:
            batch = self.transform(_to_device(batch, self.device), training=True, seed_words=words)
            self.placeholder_batch = batch if distributed.world_size() > 1 else None
        elif distributed.world_size() == 1:
            return {}
        else:
            batch = self._placeholder()
        with self.grad_sync(last), self.autocast():
            outputs = self.task.forward(self.model, batch["inputs"])
            losses = self.task.losses(outputs, batch)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        if not torch.isfinite(total):
            self._stop_diverged(losses, batch)
        with self.grad_sync(last):
            state.scaler.scale(total * weight).backward()
        state.pending_weight += weight
        if not samples:
            return {}
        stats = {name: value.item() for name, value in losses.items()}
        return {**stats, **self.task.stats(outputs, batch)}

    def _placeholder(self) -> dict[str, Any]:
        """What a process without a readable clip computes, for nothing, so that the others need not wait for it."""
        if self.placeholder_batch is None:
            raise DataError(
                f"none of the first clips of process {distributed.rank()} could be read; see {self.bad_clips.path}"
            )
        return self.placeholder_batch

    def _optimizer_step(self) -> dict[str, float]:
        """Step with the mean gradient of what was accumulated. Nothing was: no step."""
        state, solver = self.state, self.cfg.SOLVER
        # gradients are means over the processes, so this is too
        pending = self.weight_of_all() / distributed.world_size()
        if not pending:
            return {}
        state.scaler.unscale_(state.optimizer)
        parameters = [p for p in state.model.parameters() if p.grad is not None]
        if self.weighted:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], pending)
        stats = {}
        if solver.CLIP_GRAD_VAL:
            torch.nn.utils.clip_grad_value_(parameters, solver.CLIP_GRAD_VAL)
        if solver.CLIP_GRAD_L2NORM:
            norm = torch.nn.utils.clip_grad_norm_(parameters, solver.CLIP_GRAD_L2NORM)
            stats["grad_norm"] = whole_tensors(norm).item()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.pending_weight = 0.0
        state.updates += 1
        if state.ema is not None:
            state.ema.update(state.model, step=state.updates)
        return stats

    def _close_epoch(self) -> None:
        """Log, evaluate and save as their periods say; then the next epoch begins."""
        state, cfg = self.state, self.cfg
        done = state.epoch + 1
        last = done == cfg.SOLVER.MAX_EPOCH
        if distributed.world_size() > 1:
            merged = self._meter_of_all()
            self.meter.sums, self.meter.samples = merged["sums"], merged["samples"]
        means = self.meter.log_epoch(state.epoch, {"bad_clips": state.bad_clips} if state.bad_clips else None)
        self.writer.scalars("Train_epoch", means, done)
        improved = False
        if self.val_loader is not None and (last or done % cfg.TRAIN.EVAL_PERIOD == 0):
            improved = self._validate()
        self.meter.reset()
        state.next_epoch()
        if improved and cfg.TRAIN.SAVE_BEST:
            state.save(self.run, name="checkpoint_best.pyth")
        stopping = last or self._stale()
        if stopping or (cfg.TRAIN.CHECKPOINT_PERIOD and done % cfg.TRAIN.CHECKPOINT_PERIOD == 0):
            state.save(self.run, keep_last=cfg.TRAIN.CHECKPOINT_KEEP_LAST)
        if self._stale() and not last:
            logger.info("no better %s in %d evaluations: stopping early", self.metric, state.best["stale"])

    def _validate(self) -> bool:
        """Evaluate on the validation split; True if it is the best so far."""
        state, cfg = self.state, self.cfg
        assert self.val_loader is not None
        self.val_meter.start()
        model = state.ema.module if state.ema is not None else state.model
        with gathered(model):  # processes evaluate each at its own pace
            evaluation, _ = evaluate(
                cfg,
                model,
                self.task,
                self.val_loader,
                split="val",
                device=self.device,
                transform=self.transform,
                bad_clips=BadClipLog(self.run.path / "bad_clips.csv", "val", cfg.TEST.ON_BAD_CLIP),
                on_sample=lambda n, total: self.val_meter.log_iter(state.epoch, n, total),
                interrupt=self.interrupt,
            )
        metrics = evaluation.metrics()
        self.val_meter.log_epoch(state.epoch, metrics)
        state.least_errors = dict(self.val_meter.best)
        self.writer.scalars("Val", metrics, state.epoch + 1)
        self.writer.evaluation(evaluation, self.val_loader, state.epoch + 1)
        if self.metric not in metrics:
            raise DustError(f"TRAIN.BEST_METRIC {self.metric!r} is not measured; choose one of {', '.join(metrics)}")
        return state.note_metric(self.metric, metrics[self.metric], self.task.higher_is_better)

    def _stale(self) -> bool:
        patience = self.cfg.TRAIN.EARLY_STOPPING_PATIENCE
        return bool(patience) and self.state.best.get("stale", 0) >= patience

    def _stop_diverged(self, losses: dict[str, Tensor], batch: dict[str, Any]) -> None:
        values = {name: value.item() for name, value in losses.items()}
        ids = ", ".join(batch["id"][:16]) + (", ..." if len(batch["id"]) > 16 else "")
        raise Diverged(
            f"the loss is not finite at epoch {self.state.epoch + 1}, iteration {self.state.iteration + 1}: {values}; "
            f"clips: {ids}. Checkpoints in {self.run.checkpoints} are as they were. Lower SOLVER.BASE_LR, lengthen the "
            "warm-up, set SOLVER.CLIP_GRAD_L2NORM, or use TRAIN.AMP_DTYPE bfloat16."
        )


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        return value

    return {key: move(value) for key, value in batch.items()}


def _fingerprint(dataset: Any, fitted: dict[str, Any]) -> str:
    """Identity of the training samples and labels, wherever they lie on disk, and of what was learnt of them."""
    digest = hashlib.sha256()
    for clip in dataset.clips:
        digest.update(f"{clip.id}\x1f{clip.label}\x1e".encode())
    identity = dataset.identity if isinstance(dataset, HasIdentity) else None  # what else it says of its samples
    for extra in (fitted, identity):
        digest.update(json.dumps(extra, sort_keys=True).encode() if extra else b"")
    return digest.hexdigest()


def train(cfg, run: RunDir) -> None:
    """Train as cfg says, into ``run``."""
    Trainer(cfg, run).fit()
