"""What a training run is at one moment, and how it is written, found and taken up again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dust.config import accumulation_steps
from dust.datasets.loader import EpochBatchSampler
from dust.engine.run_dir import RunDir, differing_keys
from dust.engine.saver import Saver
from dust.engine.setup import prepare_for_several
from dust.engine.sharding import layout_of, load_optimizer
from dust.engine.weights import load_parts, restore, weights_file, weights_to_save
from dust.models.optimizer import construct_optimizer
from dust.utils import distributed
from dust.utils.checkpoint import (
    checkpoint_name,
    find_latest,
    is_checkpoint_name,
    load_checkpoint,
    load_weights,
    remove_checkpoint,
    remove_leftovers,
)
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)


def no_statistics() -> dict[str, Any]:
    """The state of a training meter that has seen nothing."""
    return {"sums": {}, "samples": {}}


@dataclass
class TrainState:
    """Position, weights, optimizer and records. ``iteration`` counts the batches done of ``epoch`` (both from 0).

    ``global_batch``, the clips of an optimizer step, and ``shards``, the nodes that SOLVER.BASE_LR_SCALE_NUM_SHARDS
    counts, are those with which the run began, on however many processes it goes on; ``accumulate`` is the
    number of batches that a step takes now.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    global_batch: int
    shards: int
    saver: Saver = field(default_factory=Saver)
    ema: Any = None
    accumulate: int = 1
    epoch: int = 0
    iteration: int = 0
    updates: int = 0
    pending_weight: float = 0.0
    bad_clips: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    least_errors: dict[str, float] = field(default_factory=dict)
    meter: dict[str, Any] = field(default_factory=no_statistics)
    written: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fresh(cls, cfg, model: nn.Module, device: torch.device) -> "TrainState":
        """Random weights, an optimizer that has done nothing, and the average of the weights where one is kept; shared
        out over the processes as TRAIN.PARALLEL says."""
        ema = None
        if cfg.EMA.ENABLED:
            from timm.utils import ModelEmaV3

            ema = ModelEmaV3(model, decay=cfg.EMA.DECAY, use_warmup=cfg.EMA.WARMUP)
            prepare_for_several(cfg, ema.module, device)
        prepare_for_several(cfg, model, device)
        scaled = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16"
        return cls(
            model,
            construct_optimizer(model, cfg),
            torch.amp.GradScaler(device.type, enabled=scaled),
            global_batch=cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * accumulation_steps(cfg),
            shards=cfg.NUM_SHARDS,
            saver=Saver(sharded=cfg.TRAIN.CHECKPOINT_FORMAT == "sharded", background=cfg.TRAIN.CHECKPOINT_ASYNC),
            ema=ema,
        )

    @property
    def step(self) -> int:
        """Optimizer steps done of this epoch; whole wherever a checkpoint is written."""
        return -(-self.iteration // self.accumulate)

    def next_epoch(self) -> None:
        self.epoch, self.iteration, self.bad_clips = self.epoch + 1, 0, 0
        self.meter = no_statistics()

    def note_metric(self, name: str, value: float, higher_is_better: bool) -> bool:
        """Record an evaluation (of the epoch that is closing); True if it is the best so far."""
        best = self.best.get("value")
        better = best is None or (value > best if higher_is_better else value < best)
        if better:
            self.best = {"metric": name, "value": float(value), "epoch": self.epoch + 1, "stale": 0}
        else:
            self.best["stale"] += 1
        return better

    def save(self, run: RunDir, meter: dict[str, Any] | None = None, *, name: str = "", keep_last: int = 0) -> Path:
        """Write a checkpoint. At the start of an epoch it is that of the finished epoch before, as SlowFast names it.

        With ``keep_last`` only the newest so many of those that this run wrote stay; a mid-epoch checkpoint of this
        run goes once a later one is safe.
        """
        complete = self.iteration == 0 and self.epoch > 0
        epoch = self.epoch - 1 if complete else self.epoch
        numbered = not name
        if numbered:
            name = checkpoint_name(epoch, None if complete else self.step, self.saver.suffix)
            self.written = [*(old for old in self.written if old != name), name]
        contents = self._contents(epoch, complete, meter or self.meter)
        gone: list[str] = []
        if numbered:
            keep = _kept(self.written, keep_last)
            gone = [old for old in self.written if old not in keep]
            self.written = [old for old in self.written if old in keep]

        def prune() -> None:
            for old in gone:
                remove_checkpoint(run.checkpoints, old)

        self.saver.write(run.checkpoints / name, contents, prune)
        return run.checkpoints / name

    def _contents(self, epoch: int, complete: bool, meter: dict[str, Any]) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "iteration": self.facts["iters_per_epoch"] if complete else self.iteration,
            "step": self.facts["steps_per_epoch"] if complete else self.step,
            "complete": complete,
            **weights_to_save(self.model),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.scaler.state_dict(),
            "ema_state": weights_to_save(self.ema.module)["model_state"] if self.ema is not None else {},
            "updates": self.updates,
            "bad_clips": int(distributed.total(self.bad_clips)),
            "best": self.best,
            "least_errors": self.least_errors,
            "meter": meter,
            "written": self.written,
            "world_size": distributed.world_size(),
            "accumulate": self.accumulate,
            "global_batch": self.global_batch,
            "shards": self.shards,
            **self.facts,
        }

    def restore(self, cfg, saved: dict[str, Any], source: str) -> None:
        """Become the run that wrote ``saved`` (one of our checkpoints)."""
        restore(cfg, self.model, saved["model_state"], source)
        load_optimizer(self.optimizer, saved["optimizer_state"])
        self.scaler.load_state_dict(saved["scaler_state"])
        if self.ema is not None:
            self.ema.set(self.model)
            restore(cfg, self.ema.module, saved["ema_state"] or saved["model_state"], source, parts=False)
        self.epoch, self.iteration = saved["epoch"], saved["iteration"]
        self.updates = saved["updates"]
        self.bad_clips = saved["bad_clips"] if distributed.is_main() else 0
        self.best, self.least_errors = saved["best"], saved["least_errors"]
        self.meter = saved["meter"]
        self.written = [name for name in saved["written"] if is_checkpoint_name(name)]
        self.global_batch, self.shards = saved.get("global_batch", self.global_batch), saved.get("shards", self.shards)
        if saved["complete"]:
            self.next_epoch()


def _kept(written: Sequence[str], keep_last: int) -> set[str]:
    """Which of a run's checkpoints stay: the newest, and of the complete ones all or the last so many."""
    complete = [name for name in written if "_iter_" not in name]
    return {written[-1], *(complete[-keep_last:] if keep_last else complete)}


def initialise(cfg, run: RunDir, state: TrainState, sampler: EpochBatchSampler) -> None:
    """Give a fresh state its weights: those of this OUTPUT_DIR (resume), of a file, or the random ones it has.

    Order: AUTO_RESUME and a checkpoint in OUTPUT_DIR (also of a FINETUNE run); TRAIN.CHECKPOINT_FILE_PATH, with its
    optimizer and epoch unless FINETUNE or CHECKPOINT_EPOCH_RESET; MODEL.PRETRAINED; the other stages that the model's
    ``init_from`` names; from scratch. A resumed run keeps its global batch; ``sampler`` is told.
    """
    if distributed.is_main():
        remove_leftovers(run.checkpoints)
        if not cfg.TRAIN.AUTO_RESUME:
            run.set_checkpoints_aside()
    distributed.barrier()
    if cfg.TRAIN.AUTO_RESUME:
        found = find_latest(run.checkpoints, layout_of(state.model, state.optimizer))
        if found is not None:
            _resume(cfg, state, sampler, *found)
            return
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        _start_from_file(cfg, state, weights_file(cfg, cfg.TRAIN.CHECKPOINT_FILE_PATH, "TRAIN.CHECKPOINT_FILE_PATH"))
    elif cfg.MODEL.PRETRAINED:
        load_weights(state.model, weights_file(cfg, cfg.MODEL.PRETRAINED, "MODEL.PRETRAINED"))
    elif not load_parts(cfg, state.model):
        logger.info("training from scratch: no checkpoint in %s and no weights given", run.checkpoints)
    if state.ema is not None:
        state.ema.set(state.model)


def _resume(cfg, state: TrainState, sampler: EpochBatchSampler, path: Path, saved: dict[str, Any]) -> None:
    advice = "Choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to begin anew (the old ones are kept aside)."
    if "written" not in saved:
        raise CheckpointError(f"{path} was not written by dust, so it cannot be resumed. {advice}")
    differing = differing_keys(saved["cfg"], state.facts["cfg"])
    asked = state.global_batch
    if saved.get("global_batch") == asked:  # whatever makes it up
        differing = [line for line in differing if not line.startswith(("TRAIN.BATCH_SIZE:", "GLOBAL_BATCH_SIZE:"))]
    if differing:
        listed = "\n  ".join(differing)
        raise CheckpointError(f"{path} belongs to another configuration:\n  {listed}\n{advice}")
    for fact in ("data_sha256", "class_names"):
        if saved[fact] != state.facts[fact]:
            raise CheckpointError(
                f"{path} was trained on other data: the training split's clips, labels or their number have changed "
                f"since ({fact}). {advice}"
            )
    for key, digest in saved.get("sources", {}).items():
        if state.facts["sources"].get(key, digest) != digest:
            raise CheckpointError(f"{path} began from another checkpoint of {key} than is there now. {advice}")
    state.restore(cfg, saved, str(path))
    sampler.set_global_batch(state.global_batch)
    state.accumulate = sampler.accumulate
    now = (distributed.world_size(), state.accumulate)
    before = (saved.get("world_size", 1), saved.get("accumulate", state.accumulate))
    if "step" in saved and not saved["complete"]:
        state.iteration = min(saved["step"] * state.accumulate, len(sampler))
    if before != now and distributed.is_main():
        logger.warning(
            "the checkpoint was written by %d processes (%d batches per step), now there are %d (%d): every optimizer "
            "step takes the same %d clips, but dropout, mixing and rounding differ, so the run is not identical to "
            "one that went on as before",
            *before, *now, state.global_batch,
        )  # fmt: skip
    if state.global_batch != asked and distributed.is_main():
        logger.warning(
            "TRAIN.BATCH_SIZE %d x NUM_SHARDS %d: the run began with %d clips per optimizer step and keeps them, and "
            "its learning rates", cfg.TRAIN.BATCH_SIZE, cfg.NUM_SHARDS, state.global_batch,
        )  # fmt: skip
    logger.info("resumed from %s: epoch %d, iteration %d", path, state.epoch + 1, state.iteration)


def _start_from_file(cfg, state: TrainState, path: str) -> None:
    """SlowFast's rule for TRAIN.CHECKPOINT_FILE_PATH."""
    saved = load_checkpoint(path)
    weights: Any = path
    if cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN:
        weights = _without(saved.get("model_state", saved), cfg.TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN)
    report = load_weights(state.model, weights)
    if cfg.TRAIN.FINETUNE or cfg.TRAIN.CHECKPOINT_EPOCH_RESET or "optimizer_state" not in saved:
        return
    way_out = "set TRAIN.FINETUNE True to take its weights only"
    if not report.complete:
        raise CheckpointError(f"{path} does not fit the model whole, so its optimizer cannot be continued; {way_out}.")
    if saved.get("epoch", 0) + 1 >= cfg.SOLVER.MAX_EPOCH:
        raise CheckpointError(
            f"{path} has finished epoch {saved['epoch'] + 1} of SOLVER.MAX_EPOCH {cfg.SOLVER.MAX_EPOCH}: nothing is "
            f"left to train. Raise SOLVER.MAX_EPOCH, or {way_out}."
        )
    try:
        load_optimizer(state.optimizer, saved["optimizer_state"])
    except ValueError as error:
        raise CheckpointError(f"{path}: its optimizer does not fit ({error}); {way_out}.") from error
    state.epoch = saved.get("epoch", -1) + 1
    logger.info("continuing %s at epoch %d", path, state.epoch + 1)


def _without(weights: dict[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """The weights with these substrings cut out of their names."""
    renamed = {}
    for name, value in weights.items():
        for pattern in patterns:
            name = name.replace(pattern, "")
        renamed[name] = value
    return renamed
