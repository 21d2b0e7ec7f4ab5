"""What a training run is at one moment, and how it is written, found and taken up again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dust.engine.run_dir import RunDir, differing_keys
from dust.engine.weights import load_parts, restore, weights_file, weights_to_save
from dust.utils import distributed
from dust.utils.checkpoint import (
    checkpoint_name,
    find_latest,
    load_checkpoint,
    load_weights,
    remove_leftovers,
    save_checkpoint,
)
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)


def no_statistics() -> dict[str, Any]:
    """The state of a training meter that has seen nothing."""
    return {"sums": {}, "samples": {}}


@dataclass
class TrainState:
    """Position, weights, optimizer and records. ``iteration`` counts the batches done of ``epoch`` (both from 0)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Any = None
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
    def fresh(cls, cfg, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> "TrainState":
        scaled = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16"
        state = cls(model, optimizer, torch.amp.GradScaler(device.type, enabled=scaled))
        if cfg.EMA.ENABLED:
            from timm.utils import ModelEmaV3

            state.ema = ModelEmaV3(model, decay=cfg.EMA.DECAY, use_warmup=cfg.EMA.WARMUP)
        return state

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
        name = name or (checkpoint_name(epoch) if complete else checkpoint_name(epoch, self.iteration))
        path = run.checkpoints / name
        numbered = name != "checkpoint_best.pyth"
        written = [*(old for old in self.written if old != name), *([name] if numbered else [])]
        bad_clips = int(distributed.total(self.bad_clips))
        if not distributed.is_main():
            return path
        save_checkpoint(
            path,
            {
                "epoch": epoch,
                "iteration": self.facts["iters_per_epoch"] if complete else self.iteration,
                "complete": complete,
                **weights_to_save(self.model),
                "optimizer_state": self.optimizer.state_dict(),
                "scaler_state": self.scaler.state_dict(),
                "ema_state": weights_to_save(self.ema.module)["model_state"] if self.ema is not None else {},
                "updates": self.updates,
                "bad_clips": bad_clips,
                "best": self.best,
                "least_errors": self.least_errors,
                "meter": meter or self.meter,
                "written": written,
                "world_size": distributed.world_size(),
                **self.facts,
            },
        )
        self.written = written
        if numbered:
            self._prune(run, keep_last)
        return path

    def _prune(self, run: RunDir, keep_last: int) -> None:
        newest = self.written[-1]
        keep = {newest} if "_iter_" in newest else set()
        complete = [name for name in self.written if "_iter_" not in name]
        keep |= set(complete[-keep_last:] if keep_last else complete)
        for name in [name for name in self.written if name not in keep]:
            (run.checkpoints / name).unlink(missing_ok=True)
            (run.checkpoints / f"{name}.sha256").unlink(missing_ok=True)
        self.written = [name for name in self.written if name in keep]

    def restore(self, cfg, saved: dict[str, Any], source: str) -> None:
        """Become the run that wrote ``saved`` (one of our checkpoints)."""
        restore(cfg, self.model, saved["model_state"], source)
        self.optimizer.load_state_dict(saved["optimizer_state"])
        self.scaler.load_state_dict(saved["scaler_state"])
        if self.ema is not None:
            self.ema.set(self.model)
            restore(cfg, self.ema.module, saved["ema_state"] or saved["model_state"], source, parts=False)
        self.epoch, self.iteration = saved["epoch"], saved["iteration"]
        self.updates = saved["updates"]
        self.bad_clips = saved["bad_clips"] if distributed.is_main() else 0
        self.best, self.least_errors = saved["best"], saved["least_errors"]
        self.meter, self.written = saved["meter"], saved["written"]
        if saved["complete"]:
            self.next_epoch()


def initialise(cfg, run: RunDir, state: TrainState) -> None:
    """Give a fresh state its weights: those of this OUTPUT_DIR (resume), of a file, or the random ones it has.

    Order: AUTO_RESUME and a checkpoint in OUTPUT_DIR (also of a FINETUNE run); TRAIN.CHECKPOINT_FILE_PATH, with its
    optimizer and epoch unless FINETUNE or CHECKPOINT_EPOCH_RESET; MODEL.PRETRAINED; the other stages that the model's
    ``parts_from`` names; from scratch.
    """
    if distributed.is_main():
        remove_leftovers(run.checkpoints)
        if not cfg.TRAIN.AUTO_RESUME:
            run.set_checkpoints_aside()
    distributed.barrier()
    if cfg.TRAIN.AUTO_RESUME:
        found = find_latest(run.checkpoints)
        if found is not None:
            _resume(cfg, state, *found)
            return
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        _start_from_file(cfg, state, weights_file(cfg, cfg.TRAIN.CHECKPOINT_FILE_PATH, "TRAIN.CHECKPOINT_FILE_PATH"))
    elif cfg.MODEL.PRETRAINED:
        load_weights(state.model, weights_file(cfg, cfg.MODEL.PRETRAINED, "MODEL.PRETRAINED"))
    elif not load_parts(cfg, state.model):
        logger.info("training from scratch: no checkpoint in %s and no weights given", run.checkpoints)
    if state.ema is not None:
        state.ema.set(state.model)


def _resume(cfg, state: TrainState, path: Path, saved: dict[str, Any]) -> None:
    advice = "Choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to begin anew (the old ones are kept aside)."
    if "written" not in saved:
        raise CheckpointError(f"{path} was not written by dust, so it cannot be resumed. {advice}")
    differing = differing_keys(saved["cfg"], state.facts["cfg"])
    if differing:
        listed = "\n  ".join(differing)
        raise CheckpointError(f"{path} belongs to another configuration:\n  {listed}\n{advice}")
    for fact in ("data_sha256", "class_names", "iters_per_epoch"):
        if saved[fact] != state.facts[fact]:
            raise CheckpointError(
                f"{path} was trained on other data: the training split's clips, labels or their number have changed "
                f"since ({fact}). {advice}"
            )
    for key, digest in saved.get("sources", {}).items():
        if state.facts["sources"].get(key, digest) != digest:
            raise CheckpointError(f"{path} began from another checkpoint of {key} than is there now. {advice}")
    world = saved.get("world_size", 1)
    if world != distributed.world_size():
        logger.warning(
            "the checkpoint was written by %d processes, now there are %d: the same samples meet in every global "
            "batch, but dropout and rounding differ, so the run is not identical to one that went on with %d",
            world, distributed.world_size(), world,
        )  # fmt: skip
    state.restore(cfg, saved, str(path))
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
        state.optimizer.load_state_dict(saved["optimizer_state"])
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
