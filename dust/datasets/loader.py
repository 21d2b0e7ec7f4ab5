"""Batches: how samples are put together, and by which processes."""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dust.config import accumulation_steps
from dust.datasets.build import build_dataset
from dust.datasets.manifest.clips import Clips
from dust.datasets.protocol import HasPart, OrdersTraining, SharesGroups
from dust.datasets.sample import BadClip
from dust.datasets.samplers import EpochBatchSampler, EvaluationSampler, sample_weights
from dust.datasets.workers import ReportingContext, Waiting, WorkersIterator, refuse_exhaustion
from dust.utils import distributed
from dust.utils.errors import ConfigError, DataError
from dust.utils.registry import log_once
from dust.utils.rng import torch_generator
from dust.utils.signals import block_signals, mind_only_the_parent

logger = logging.getLogger(__name__)


def collate_training(items: Sequence[Any]) -> dict[str, Any]:
    """Stack samples (lists of views are flattened) and set bad clips aside.

    Returns ``{"inputs": {name: (B, ...)}, "label", "id", "path", "bad"}``; without ``inputs`` if all clips were bad.
    """
    refuse_exhaustion(items)
    bad = [item for item in items if isinstance(item, BadClip)]
    samples = [sample for item in items if not isinstance(item, BadClip) for sample in item]
    batch: dict[str, Any] = {"bad": bad, "id": [s["id"] for s in samples], "path": [s["path"] for s in samples]}
    if samples:
        batch["inputs"] = {
            name: torch.stack([sample["inputs"][name] for sample in samples]) for name in samples[0]["inputs"]
        }
        batch["label"] = _stack_labels([sample["label"] for sample in samples])
    return batch


def _stack_labels(labels: list[Any]) -> Any:
    """Map numbers -> (B,) int64, tensors -> (B, K), dicts of either -> a dict."""
    first = labels[0]
    if isinstance(first, dict):
        return {key: _stack_labels([label[key] for label in labels]) for key in first}
    return torch.stack(labels) if isinstance(first, torch.Tensor) else torch.tensor(labels)


class EvaluationItem(dict[str, Any]):
    """An item of which only the inputs go to the device. The detections of a recording are a hundred thousand tuples,
    and a loader that pins memory would copy them one by one."""

    def pin_memory(self) -> "EvaluationItem":
        """Return the same with its inputs in pinned memory; torch's loader asks for it."""
        return EvaluationItem(self, inputs={name: value.pin_memory() for name, value in self["inputs"].items()})


def collate_evaluation(items: Sequence[Any]) -> Any:
    """Unpack the one video of an item: nothing to stack."""
    refuse_exhaustion(items)
    (item,) = items
    return EvaluationItem(item) if isinstance(item, dict) else item


class Loader(DataLoader[Any]):
    """A DataLoader whose workers no signal reaches before they have said which ones they mind, and that waits for none
    of them without end (:mod:`dust.datasets.workers`).

    Args:
        limit_s: seconds that a batch of the workers may take; 0 = no bound.
        options: a DataLoader's.
    """

    def __init__(self, dataset: Dataset[Any], *, limit_s: float = 0.0, **options: Any) -> None:
        self.waiting = Waiting(limit_s)
        super().__init__(dataset, **options)

    def __iter__(self) -> Any:
        with block_signals():
            return super().__iter__()

    def _get_iterator(self) -> Any:
        return WorkersIterator(self) if self.num_workers else super()._get_iterator()

    @contextlib.contextmanager
    def asking(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Call ``on_wait`` about once a second while a batch is waited for; it may raise."""
        before, self.waiting.on_wait = self.waiting.on_wait, on_wait
        try:
            yield
        finally:
            self.waiting.on_wait = before

    def close(self) -> None:
        """End the workers that are kept from one epoch to the next; the next iteration starts others.

        Left to the garbage collector, which takes the queues away first, each of them is waited for 5 seconds.
        """
        iterator, self._iterator = self._iterator, None
        if isinstance(iterator, WorkersIterator):
            iterator.close()


def _start_worker(_: int) -> None:
    # Ctrl-C and Slurm's signals reach all processes; the main process decides what to do and ends the workers itself
    mind_only_the_parent()
    gc.enable()  # a training collects at set steps only, and is what this was forked from
    torch.set_num_threads(1)


def num_workers(wanted: int) -> int:
    """Return the workers that a process starts: no more than it has cores, and that is said."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted > cores:
        message = "DATA_LOADER.NUM_WORKERS %d: there are %d cores here, and so many workers are started"
        log_once(logger, logging.WARNING, message, wanted, cores)
    return min(wanted, cores)


def _common(cfg, **kwargs: Any) -> dict[str, Any]:
    workers = num_workers(cfg.DATA_LOADER.NUM_WORKERS)
    options: dict[str, Any] = {
        "num_workers": workers,
        # of a run on the CPU it would make a CUDA context in every process, half a gigabyte
        "pin_memory": cfg.DATA_LOADER.PIN_MEMORY and cfg.NUM_GPUS > 0 and torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
        # the loader draws a base seed at every start; from a stream of its own, not from the global one
        "generator": torch_generator(cfg.RNG_SEED, "loader"),
        "limit_s": cfg.DATA_LOADER.TIMEOUT,
    }
    if workers:
        if sys.platform == "linux":  # also in a process that was itself spawned: such a one would spawn its workers
            options["multiprocessing_context"] = ReportingContext()
        options["prefetch_factor"] = cfg.DATA_LOADER.PREFETCH_FACTOR
    return {**options, **kwargs}


def evaluation_loader(cfg, dataset: Dataset[Any], *, shared: bool = True) -> Loader:
    """Return each item of ``dataset``, once, in order, not stacked; ``shared`` out over the ranks, or all for this
    one."""
    where = {"rank": distributed.rank(), "world_size": distributed.world_size()} if shared else {}
    groups = dataset.group_starts() if isinstance(dataset, SharesGroups) else None
    order = EvaluationSampler(len(dataset), **where, groups=groups)  # type: ignore[arg-type]
    return Loader(dataset, **_common(cfg, sampler=order, collate_fn=collate_evaluation))


def build_weights(cfg, dataset: Any) -> np.ndarray | None:
    """Return how likely each training sample is to be drawn; None where each comes once an epoch."""
    balanced, part_weights = cfg.DATA_LOADER.SAMPLER == "balanced", cfg.DATA.DATASET_WEIGHTS
    if not balanced and not part_weights:
        return None
    clips = dataset.clips
    labels: Any
    parts: Any
    if isinstance(clips, Clips):
        labels, parts = clips.classes(), clips.parts()
    else:
        labels = [clip.label for clip in clips]
        parts = [clip.part if isinstance(clip, HasPart) else 0 for clip in clips]
    return sample_weights(labels, parts, balanced=balanced, part_weights=part_weights)


def build_blocks(cfg) -> tuple[int, int] | None:
    """Return (clips of a block, blocks that are mixed) of the order of training; None where it has no blocks."""
    if cfg.DATA_LOADER.SAMPLER != "blocks":
        return None
    if cfg.DATA.DATASET_WEIGHTS:
        raise ConfigError("DATA_LOADER.SAMPLER blocks reads each clip once an epoch: set DATA.DATASET_WEIGHTS []")
    return cfg.DATA_LOADER.BLOCK_CLIPS, cfg.DATA_LOADER.BLOCKS_MIXED


def construct_loader(
    cfg,
    split: str,
    class_names: Sequence[str] | None = None,
    *,
    views: str | None = None,
    fitted: Mapping[str, Any] | None = None,
) -> DataLoader[Any]:
    """Return the loader of ``train`` (batches of ``cfg.TRAIN.BATCH_SIZE``), ``val`` or ``test`` (one sample per item).

    A training loader's ``batch_sampler`` is an :class:`EpochBatchSampler`: set its position before iterating. Its
    batches are those of TRAIN.BATCH_SIZE x NUM_SHARDS clips, its steps those of GLOBAL_BATCH_SIZE.

    Args:
        split, class_names, views, fitted: see :func:`dust.datasets.build.build_dataset`.
    """
    views = views or split
    name = cfg.TEST.DATASET if views == "test" else cfg.TRAIN.DATASET
    dataset: Dataset[Any] = build_dataset(name, cfg, split, class_names, views=views, fitted=fitted)
    size = len(dataset)  # type: ignore[arg-type]
    if size == 0:
        raise DataError(f"the {split} split of {cfg.DATA.PATH_TO_DATA_DIR} is empty: check DATA.PATH_TO_DATA_DIR")
    if views != "train":
        return evaluation_loader(cfg, dataset)
    batch_size = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    where: dict[str, Any] = {
        "seed": cfg.RNG_SEED,
        "global_batch": batch_size * accumulation_steps(cfg),
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
    }
    sampler = dataset.training_sampler(batch_size, **where) if isinstance(dataset, OrdersTraining) else None
    weights, blocks = build_weights(cfg, dataset), build_blocks(cfg)
    if sampler is None:
        how: dict[str, Any] = {"drop_last": cfg.DATA_LOADER.DROP_LAST, "weights": weights, "blocks": blocks}
        sampler = EpochBatchSampler(size, batch_size, **how, **where)
    elif weights is not None or blocks is not None:
        raise ConfigError(f"{name} draws its own batches: set DATA_LOADER.SAMPLER shuffle and DATA.DATASET_WEIGHTS []")
    if sampler.length < sampler.global_batch:
        key = "GLOBAL_BATCH_SIZE" if sampler.global_batch > batch_size else "TRAIN.BATCH_SIZE"
        logger.warning(
            "%s: an optimizer step wants %d clips, and the training split has %d: each epoch is one smaller step",
            key, sampler.global_batch, sampler.length,
        )  # fmt: skip
    options = _common(cfg, batch_sampler=sampler, collate_fn=collate_training)
    return Loader(dataset, **options, persistent_workers=options["num_workers"] > 0)
