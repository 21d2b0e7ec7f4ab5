"""What a training run is at one moment, and how it is written and taken up again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dust.config import CfgNode, accumulation_steps
from dust.engine.run_dir import RunDir
from dust.engine.saver import Saver
from dust.engine.setup import prepare_for_several
from dust.engine.sharding import load_optimizer
from dust.engine.step import OptimizerStep
from dust.engine.weights import restore, weights_to_save
from dust.models.optimizer import construct_optimizer
from dust.utils import distributed
from dust.utils.checkpoint import checkpoint_name, is_checkpoint_name, remove_checkpoint
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

#: Clips on a GPU below which a step costs what its launches do.
FEW_CLIPS = 4


def no_statistics() -> dict[str, Any]:
    """Return the state of a training meter that has seen nothing."""
    return {"sums": {}, "samples": {}}


@dataclass
class TrainState:
    """Position, weights, optimizer and records. ``iteration`` counts the batches done of ``epoch`` (both from 0).

    ``global_batch``, the clips of an optimizer step, and ``shards``, the nodes that SOLVER.BASE_LR_SCALE_NUM_SHARDS
    counts, are those with which the run began, on however many processes it continues; ``accumulate`` is the
    number of batches that a step takes now. ``metadata`` is what every checkpoint says of the run, and ``hooks`` what
    the hooks that the user named keep, by their names.
    """

    optimizer_step: OptimizerStep
    global_batch: int
    shards: int
    saver: Saver = field(default_factory=Saver)
    epoch: int = 0
    iteration: int = 0
    bad_clips: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    least_errors: dict[str, float] = field(default_factory=dict)
    meter: dict[str, Any] = field(default_factory=no_statistics)
    hooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.optimizer_step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer_step.optimizer

    @property
    def ema(self) -> Any:
        """What :func:`average_of` made, or None."""
        return self.optimizer_step.ema

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.optimizer_step.updates

    @property
    def accumulate(self) -> int:
        return self.optimizer_step.accumulate

    @property
    def step(self) -> int:
        """Optimizer steps done of this epoch; whole wherever a checkpoint is written."""
        return -(-self.iteration // self.accumulate)

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch."""
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
        self.optimizer_step.check()
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
            "iteration": self.metadata["iters_per_epoch"] if complete else self.iteration,
            "step": self.metadata["steps_per_epoch"] if complete else self.step,
            "complete": complete,
            **weights_to_save(self.model),
            "optimizer_state": self.optimizer.state_dict(),
            "scaler_state": self.optimizer_step.scaler.state_dict(),
            "ema_state": weights_to_save(self.ema.module)["model_state"] if self.ema is not None else {},
            "updates": self.updates,
            "bad_clips": int(distributed.total(self.bad_clips)),
            "best": self.best,
            "least_errors": self.least_errors,
            "meter": meter,
            "hooks": self.hooks,
            "written": self.written,
            "world_size": distributed.world_size(),
            "accumulate": self.accumulate,
            "global_batch": self.global_batch,
            "shards": self.shards,
            **self.metadata,
        }

    def restore(self, saved: dict[str, Any], source: str, output_dir: str) -> None:
        """Become the run that wrote ``saved`` (one of our checkpoints, read from ``source``)."""
        restore(self.model, saved["model_state"], source, output_dir)
        load_optimizer(self.optimizer, saved["optimizer_state"], source)
        try:
            self.optimizer_step.scaler.load_state_dict(saved["scaler_state"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{source}: holds no state of AMP's scaler ({error}): take another file") from error
        if self.ema is not None:
            self.ema.set(self.model)
            restore(self.ema.module, saved["ema_state"] or saved["model_state"], source, output_dir, parts=False)
        self.epoch, self.iteration = saved["epoch"], saved["iteration"]
        self.optimizer_step.updates = saved["updates"]
        self.bad_clips = saved["bad_clips"] if distributed.is_main() else 0
        self.best, self.least_errors = saved["best"], saved["least_errors"]
        self.meter = saved["meter"]
        self.written = [name for name in saved["written"] if is_checkpoint_name(name)]
        self.hooks = saved.get("hooks", {})
        self.global_batch, self.shards = saved.get("global_batch", self.global_batch), saved.get("shards", self.shards)
        if saved["complete"]:
            self.next_epoch()


def malformed(saved: Mapping[str, Any]) -> list[str]:
    """Return the names of what in a checkpoint is not of the kind that :meth:`TrainState.save` writes; tensors are
    looked at where they are put back."""

    def is_count(value: Any, low: int = 0) -> bool:
        return type(value) is int and low <= value < 1 << 40

    def is_number(value: Any) -> bool:
        return type(value) in (int, float)

    counts = {"epoch": 0, "iteration": 0, "updates": 0, "bad_clips": 0}
    later = {"step": 0, "world_size": 1, "accumulate": 1, "global_batch": 1, "shards": 1}  # which older ones lack
    wrong = [name for name, low in counts.items() if not is_count(saved.get(name), low)]
    wrong += [name for name, low in later.items() if not is_count(saved.get(name, low), low)]
    tables = ("model_state", "optimizer_state", "scaler_state", "ema_state", "best", "least_errors", "meter")
    wrong += [name for name in tables if not isinstance(saved.get(name), dict)]
    wrong += [name for name in ("hooks", "sources") if not isinstance(saved.get(name, {}), dict)]
    wrong += [] if type(saved.get("complete")) is bool else ["complete"]
    kinds = {"written": list, "class_names": list, "data_sha256": str, "cfg": str}
    wrong += [name for name, kind in kinds.items() if not isinstance(saved.get(name), kind)]
    if wrong:
        return wrong
    best, parts = saved["best"], [saved["meter"].get(name) for name in no_statistics()]
    if best and not (is_number(best.get("value")) and is_count(best.get("stale", 0))):
        wrong.append("best")
    if not all(map(is_number, saved["least_errors"].values())):
        wrong.append("least_errors")
    if not all(isinstance(part, dict) and all(map(is_number, part.values())) for part in parts):
        wrong.append("meter")
    return wrong


def _kept(written: Sequence[str], keep_last: int) -> set[str]:
    """Return which of a run's checkpoints stay: the newest, and of the complete ones all or the last so many."""
    complete = [name for name in written if "_iter_" not in name]
    return {written[-1], *(complete[-keep_last:] if keep_last else complete)}


def say_share(clips: float, accumulate: int) -> None:
    """Log how many clips a GPU gets at a time, and warn where it is kept waiting by launches of its kernels."""
    logger.info("%g clips on a GPU at a time, %d batches in an optimizer step", clips, accumulate)
    if clips < FEW_CLIPS and accumulate > 1:
        logger.warning(
            "a GPU gets %g clips at a time, and spends more time on launches than on arithmetic: a larger "
            "TRAIN.BATCH_SIZE of the same GLOBAL_BATCH_SIZE takes the same steps faster, as far as memory goes", clips
        )  # fmt: skip


def average_of(model: nn.Module, *, decay: float, warmup: bool) -> Any:
    """Return timm's ModelEmaV3, which leaves alone what does not learn: that is the model's own already, bit for bit,
    and the hash of frozen weights stays what it is."""
    from timm.utils import ModelEmaV3

    class Average(ModelEmaV3):
        learnt: frozenset[str] = frozenset()  # what learns now, or did: a hook may freeze it later

        def apply_update_(self, model: nn.Module, decay: float) -> None:
            self.learnt |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            fixed = {name for name, _ in model.named_parameters()} - self.learnt
            theirs = model.state_dict()
            pairs = [(own, theirs[name]) for name, own in self.module.state_dict().items() if name not in fixed]
            averaged = [(own, value) for own, value in pairs if own.is_floating_point()]
            if averaged:
                lerp = getattr(self, "_foreach_lerp_", torch._foreach_lerp_)  # newer ones round bfloat16 at random
                lerp([own for own, _ in averaged], [value for _, value in averaged], weight=1.0 - decay)
            for own, value in pairs:
                if not own.is_floating_point():
                    own.copy_(value)

    average = Average(model, decay=decay, use_warmup=warmup)
    # also what a hook of a resumed run freezes before its first step: its average had not come to the end
    average.learnt = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return average


def build_state(cfg: CfgNode, model: nn.Module, device: torch.device) -> TrainState:
    """Return a run that has not begun: the weights that ``model`` has, an optimizer that has done nothing, and the
    average of the weights where one is kept; shared out over the processes as TRAIN.PARALLEL says."""
    several = {"sharded": cfg.TRAIN.PARALLEL == "fsdp", "reduced": cfg.TRAIN.MIXED_PRECISION}
    ema = None
    if cfg.EMA.ENABLED:
        ema = average_of(model, decay=cfg.EMA.DECAY, warmup=cfg.EMA.WARMUP)
        prepare_for_several(ema.module, device, **several)
    prepare_for_several(model, device, **several)
    if device.type == "cuda" and distributed.is_main():
        say_share(cfg.TRAIN.BATCH_SIZE / max(cfg.NUM_GPUS, 1), accumulation_steps(cfg))
    scaled = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16"
    optimizer_step = OptimizerStep(
        model,
        construct_optimizer(model, cfg),
        batch_size=cfg.TRAIN.BATCH_SIZE,
        scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        ema=ema,
        clip_value=cfg.SOLVER.CLIP_GRAD_VAL,
        clip_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
    )
    return TrainState(
        optimizer_step,
        global_batch=cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * accumulation_steps(cfg),
        shards=cfg.NUM_SHARDS,
        saver=Saver(sharded=cfg.TRAIN.CHECKPOINT_FORMAT == "sharded", background=cfg.TRAIN.CHECKPOINT_ASYNC),
    )
