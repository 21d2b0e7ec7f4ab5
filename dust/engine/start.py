"""With which weights a training run starts: its own checkpoint's, a file's, other stages', or random ones."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust.config import CfgNode
from dust.datasets.loader import EpochBatchSampler
from dust.engine.run_dir import RunDir, differing_keys
from dust.engine.sharding import layout_of, load_optimizer
from dust.engine.state import TrainState, malformed
from dust.engine.weights import load_parts, weights_file
from dust.launch.requeue import begun_by_this_job
from dust.utils import distributed
from dust.utils.checkpoint import list_checkpoints, load_weights, remove_leftovers
from dust.utils.checkpoint.sharded import Layout
from dust.utils.checkpoint.store import load_for_all, newest_of, reading_together
from dust.utils.checkpoint.tensors import find_tensors
from dust.utils.errors import CheckpointError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartOptions:
    """Where a run's weights come from.

    Attributes:
        output_dir: of the run; names of other stages are those of folders beside it.
        auto_resume: continue from the newest checkpoint there: by TRAIN.AUTO_RESUME, or because an earlier life of this
            Slurm job has begun the run.
        checkpoint: TRAIN.CHECKPOINT_FILE_PATH: weights, optimizer and epoch; "" for none.
        weights_only: of ``checkpoint`` take the weights alone.
        cut_from_names: substrings that are cut out of the names in ``checkpoint``.
        pretrained: MODEL.PRETRAINED: weights, where there is no ``checkpoint``; "" for none.
        weights: MODEL.WEIGHTS: which of them, where a file has raw and averaged ones.
        fine_tunes: what says that the recipe is for weights that were trained before; "" where nothing does.
        max_epoch: epochs of the run.
        batch_size, num_shards: clips of a batch on one node, and nodes, as the run is started now.
    """

    output_dir: str
    auto_resume: bool
    checkpoint: str
    weights_only: bool
    cut_from_names: Sequence[str]
    pretrained: str
    weights: str
    fine_tunes: str
    max_epoch: int
    batch_size: int
    num_shards: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        train = cfg.TRAIN
        signs = {
            "MODEL.EXPECT_PRETRAINED True": cfg.MODEL.EXPECT_PRETRAINED,
            f"SOLVER.LAYER_DECAY {cfg.SOLVER.LAYER_DECAY:g}": cfg.SOLVER.LAYER_DECAY < 1,
            f"SOLVER.BACKBONE_LR_SCALE {cfg.SOLVER.BACKBONE_LR_SCALE:g}": cfg.SOLVER.BACKBONE_LR_SCALE < 1,
        }
        return {
            "output_dir": cfg.OUTPUT_DIR,
            "auto_resume": train.AUTO_RESUME or begun_by_this_job(cfg.OUTPUT_DIR),
            "checkpoint": train.CHECKPOINT_FILE_PATH,
            "weights_only": train.FINETUNE or train.CHECKPOINT_EPOCH_RESET,
            "cut_from_names": tuple(train.CHECKPOINT_CLEAR_NAME_PATTERN),
            "pretrained": cfg.MODEL.PRETRAINED,
            "weights": cfg.MODEL.WEIGHTS,
            "fine_tunes": " and ".join(name for name, sign in signs.items() if sign),
            "max_epoch": cfg.SOLVER.MAX_EPOCH,
            "batch_size": train.BATCH_SIZE,
            "num_shards": cfg.NUM_SHARDS,
        }


def initialise(state: TrainState, run: RunDir, sampler: EpochBatchSampler, options: StartOptions) -> None:
    """Give a fresh state its weights: those of this OUTPUT_DIR (resume), of a file, or the random ones it has.

    Order: AUTO_RESUME and a checkpoint in OUTPUT_DIR (also of a FINETUNE run); TRAIN.CHECKPOINT_FILE_PATH, with its
    optimizer and epoch unless FINETUNE or CHECKPOINT_EPOCH_RESET; MODEL.PRETRAINED; the other stages that the model's
    ``init_from`` names; from scratch. A resumed run keeps its global batch; ``sampler`` is told.
    """
    if distributed.is_main():
        remove_leftovers(run.checkpoints)
    distributed.barrier()
    with reading_together():
        resumed = _set_weights(state, run, sampler, options)
    if state.ema is not None and not resumed:
        state.ema.set(state.model)


def _set_weights(state: TrainState, run: RunDir, sampler: EpochBatchSampler, options: StartOptions) -> bool:
    """Tell whether the run continues from a checkpoint of its own, which sets its average, too."""
    if options.auto_resume:
        newest = newest_checkpoint(run.checkpoints, layout_of(state.model, state.optimizer))
        if newest is not None:
            _resume(state, sampler, options, *newest)
            return True
    if options.checkpoint:
        path = weights_file(options.checkpoint, options.output_dir, "TRAIN.CHECKPOINT_FILE_PATH")
        _start_from_file(state, path, options)
    elif options.pretrained:
        path = weights_file(options.pretrained, options.output_dir, "MODEL.PRETRAINED")
        load_weights(state.model, path, weights=options.weights)
    elif not load_parts(state.model, options.output_dir):
        logger.info("training from scratch: no checkpoint in %s and no weights given", run.checkpoints)
        if options.fine_tunes:
            logger.warning(
                "this configuration fine-tunes (%s), and begins from random weights: name pre-trained ones in "
                "MODEL.PRETRAINED, such as zoo://NAME (dust zoo list)", options.fine_tunes,
            )  # fmt: skip
    return False


def newest_checkpoint(folder: Path, layout: Layout) -> tuple[Path, dict[str, Any]] | None:
    """Call :func:`dust.utils.checkpoint.find_latest` for all processes together, with the same answer, or error, for
    all.

    See :func:`dust.utils.checkpoint.store.load_for_all`.
    """
    paths = distributed.from_main(lambda: list_checkpoints(folder))
    return newest_of(folder, paths, lambda path: load_for_all(path, layout))


def _resume(
    state: TrainState, sampler: EpochBatchSampler, options: StartOptions, path: Path, saved: dict[str, Any]
) -> None:
    asked = state.global_batch
    _refuse_another_run(state, path, saved)
    state.restore(saved, str(path), options.output_dir)
    sampler.set_global_batch(state.global_batch)
    state.optimizer_step.accumulate = sampler.accumulate
    now = (distributed.world_size(), state.accumulate)
    before = (saved.get("world_size", 1), saved.get("accumulate", state.accumulate))
    if "step" in saved and not saved["complete"]:
        state.iteration = min(saved["step"] * state.accumulate, len(sampler))
    if before != now and distributed.is_main():
        logger.warning(
            "the checkpoint was written by %d processes (%d batches per step), now there are %d (%d): every optimizer "
            "step takes the same %d clips, but dropout, mixing and rounding differ, so the run is not identical to "
            "one that continued as before",
            *before, *now, state.global_batch,
        )  # fmt: skip
    if state.global_batch != asked and distributed.is_main():
        logger.warning(
            "TRAIN.BATCH_SIZE %d x NUM_SHARDS %d: the run began with %d clips per optimizer step and keeps them, and "
            "its learning rates", options.batch_size, options.num_shards, state.global_batch,
        )  # fmt: skip
    logger.info("resumed from %s: epoch %d, iteration %d", path, state.epoch + 1, state.iteration)


def _refuse_another_run(state: TrainState, path: Path, saved: dict[str, Any]) -> None:
    """Raise CheckpointError unless ``saved`` belongs to this configuration, this data and these earlier stages."""
    advice = (
        "Choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to begin from the start (the old ones are renamed)."
    )
    if "written" not in saved:
        raise CheckpointError(f"{path} was not written by dust, so it cannot be resumed. {advice}")
    if wrong := malformed(saved):
        raise CheckpointError(f"{path} holds no {', '.join(wrong)} of the kind that a run writes. {advice}")
    try:
        differing = differing_keys(saved["cfg"], state.metadata["cfg"])
    except DataError as error:
        raise CheckpointError(f"{path}: {error}. {advice}") from error
    if saved.get("global_batch") == state.global_batch:  # whatever makes it up
        differing = [line for line in differing if not line.startswith(("TRAIN.BATCH_SIZE:", "GLOBAL_BATCH_SIZE:"))]
    if differing:
        listed = "\n  ".join(differing)
        raise CheckpointError(f"{path} belongs to another configuration:\n  {listed}\n  {advice}")
    for name in ("data_sha256", "class_names"):
        if saved[name] != state.metadata[name]:
            raise CheckpointError(
                f"{path} was trained on other data: the training split's clips, labels or their number have changed "
                f"since ({name}). {advice}"
            )
    for key, digest in saved.get("sources", {}).items():
        if state.metadata["sources"].get(key, digest) != digest:
            raise CheckpointError(f"{path} began from another checkpoint of {key} than is there now. {advice}")


def _start_from_file(state: TrainState, path: str, options: StartOptions) -> None:
    """Follow SlowFast's rule for TRAIN.CHECKPOINT_FILE_PATH."""
    saved = load_for_all(path, optimizer=not options.weights_only)
    if options.cut_from_names:
        weights = _without(find_tensors(path, saved, [], options.weights), options.cut_from_names)
        report = load_weights(state.model, weights)
    else:
        report = load_weights(state.model, saved, weights=options.weights, source=path)
    if options.weights_only or "optimizer_state" not in saved:
        return
    way_out = "set TRAIN.FINETUNE True to take its weights only"
    if not report.complete:
        raise CheckpointError(f"{path} does not fit the model whole, so its optimizer cannot be continued; {way_out}.")
    if type(saved.get("epoch", 0)) is not int:
        raise CheckpointError(f"{path}: its epoch is no number, so it cannot be continued; {way_out}.")
    if saved.get("epoch", 0) + 1 >= options.max_epoch:
        raise CheckpointError(
            f"{path} has finished epoch {saved['epoch'] + 1} of SOLVER.MAX_EPOCH {options.max_epoch}: nothing is "
            f"left to train. Raise SOLVER.MAX_EPOCH, or {way_out}."
        )
    try:
        load_optimizer(state.optimizer, saved["optimizer_state"], path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {way_out}.") from error
    state.epoch = saved.get("epoch", -1) + 1
    logger.info("continuing %s at epoch %d", path, state.epoch + 1)


def _without(weights: dict[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Return the weights with these substrings cut out of their names."""
    renamed = {}
    for name, value in weights.items():
        for pattern in patterns:
            name = name.replace(pattern, "")
        renamed[name] = value
    return renamed
