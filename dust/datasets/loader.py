"""Batches: which samples in which order, and how they are put together.

The order of an epoch depends on (seed, epoch) alone. Optimizer step s takes the s-th run of ``global_batch`` samples of
that order, however many ranks share it and in however many batches, so a run may go on with other numbers of both.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dust.config import accumulation_steps
from dust.datasets.build import build_dataset
from dust.datasets.protocol import OrdersTraining
from dust.datasets.sample import BadClip, SampleRequest
from dust.utils import distributed
from dust.utils.errors import DataError
from dust.utils.rng import torch_generator
from dust.utils.signals import block_signals, mind_only_the_parent

logger = logging.getLogger(__name__)
T = TypeVar("T")


class EpochBatchSampler(Sampler[list[SampleRequest]]):
    """Shuffled training batches that can begin at any batch of any epoch.

    Args:
        length: number of samples.
        batch_size: samples of one batch over all ranks, which share it as evenly as can be.
        global_batch: samples per optimizer step, in several batches where it is larger; None: one batch.
        drop_last: leave out a last step that is not full. Where the whole set is smaller than one step it is kept.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        global_batch: int | None = None,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length = length
        self.limit = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0
        self.set_global_batch(global_batch or batch_size)

    def set_global_batch(self, global_batch: int) -> None:
        """Take so many samples per optimizer step, in as many batches of at most ``batch_size`` as that needs."""
        self.global_batch = global_batch
        self.batch_size = min(self.limit, global_batch)
        self.accumulate = -(-global_batch // self.batch_size)
        full, rest = divmod(self.length, global_batch)
        if full and self.drop_last:
            rest = 0
        self.num_steps = full + (rest > 0)
        self.num_batches = full * self.accumulate + -(-rest // self.batch_size)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """The next iteration is over ``epoch``, from batch ``start`` on."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next iteration begins."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for batch in islice(self._batches(), self.start, self.num_batches):
            yield [SampleRequest(self.epoch, index) for index in share(batch, self.rank, self.world_size)]

    def _batches(self) -> Iterator[list[int]]:
        """The samples of each batch of the epoch, over all ranks."""
        order = torch.randperm(self.length, generator=torch_generator(self.seed, "shuffle", self.epoch)).tolist()
        for step in range(self.num_steps):
            samples = order[step * self.global_batch : (step + 1) * self.global_batch]
            for start in range(0, len(samples), self.batch_size):
                yield samples[start : start + self.batch_size]


def share(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """The rank's contiguous part of ``items``; parts differ by at most one item, the first ranks have it more."""
    first, last = (-(-len(items) * index // world_size) for index in (rank, rank + 1))
    return items[first:last]


class EvaluationSampler(Sampler[int]):
    """Every sample from ``start`` on exactly once: rank r of W takes one contiguous share, shares differ by at most
    one."""

    def __init__(self, length: int, *, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        count = length - start
        self.indices = range(start + count * rank // world_size, start + count * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def collate_training(items: Sequence[Any]) -> dict[str, Any]:
    """Stack samples (lists of views are flattened) and set bad clips aside.

    Returns ``{"inputs": {name: (B, ...)}, "label", "id", "path", "bad"}``; without ``inputs`` if all clips were bad.
    """
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
    """Numbers -> (B,) int64, tensors -> (B, K), dicts of either -> a dict."""
    first = labels[0]
    if isinstance(first, dict):
        return {key: _stack_labels([label[key] for label in labels]) for key in first}
    return torch.stack(labels) if isinstance(first, torch.Tensor) else torch.tensor(labels)


def collate_evaluation(items: Sequence[Any]) -> Any:
    """One video per item: nothing to stack."""
    (item,) = items
    return item


class Loader(DataLoader[Any]):
    """A DataLoader whose workers no signal reaches before they have said which ones they mind."""

    def __iter__(self) -> Any:
        with block_signals():
            return super().__iter__()


def _start_worker(_: int) -> None:
    # Ctrl-C and Slurm's signals reach all processes; the main process decides what to do and ends the workers itself
    mind_only_the_parent()
    torch.set_num_threads(1)


def _common(cfg, **kwargs: Any) -> dict[str, Any]:
    workers = cfg.DATA_LOADER.NUM_WORKERS
    options: dict[str, Any] = {
        "num_workers": workers,
        "pin_memory": cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        "worker_init_fn": _start_worker,
        # the loader draws a base seed at every start; from a stream of its own, not from the global one
        "generator": torch_generator(cfg.RNG_SEED, "loader"),
    }
    if workers:
        if sys.platform == "linux":  # also in a process that was itself spawned: such a one would spawn its workers
            options["multiprocessing_context"] = "fork"
        options["prefetch_factor"] = cfg.DATA_LOADER.PREFETCH_FACTOR
    return {**options, **kwargs}


def evaluation_loader(cfg, dataset: Dataset[Any], *, start: int = 0) -> DataLoader[Any]:
    """Each item of ``dataset`` from ``start`` on, once, in order, not stacked; shared out over the ranks."""
    where = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    order = EvaluationSampler(len(dataset), start=start, **where)  # type: ignore[arg-type]
    return Loader(dataset, **_common(cfg, sampler=order, collate_fn=collate_evaluation))


def construct_loader(
    cfg,
    split: str,
    class_names: Sequence[str] | None = None,
    *,
    views: str | None = None,
    fitted: Mapping[str, Any] | None = None,
) -> DataLoader[Any]:
    """The loader of ``train`` (batches of ``cfg.TRAIN.BATCH_SIZE``), ``val`` or ``test`` (one sample per item).

    A training loader's ``batch_sampler`` is an :class:`EpochBatchSampler`: set its position before iterating. Its
    batches are those of TRAIN.BATCH_SIZE x NUM_SHARDS clips, its steps those of GLOBAL_BATCH_SIZE.

    Args:
        split, class_names, views, fitted: see :func:`dust.datasets.build.build_dataset`.
    """
    views = views or split
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    dataset: Dataset[Any] = build_dataset(name, cfg, split, class_names, views=views, fitted=fitted)
    size = len(dataset)  # type: ignore[arg-type]
    if size == 0:
        raise DataError(f"the {split} split of {cfg.DATA.PATH_TO_DATA_DIR} is empty")
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
    if sampler is None:
        sampler = EpochBatchSampler(size, batch_size, drop_last=cfg.DATA_LOADER.DROP_LAST, **where)
    if size < sampler.global_batch:
        logger.warning("the training split has %d clips, less than one batch of %d", size, sampler.global_batch)
    options = _common(cfg, batch_sampler=sampler, collate_fn=collate_training)
    return Loader(dataset, **options, persistent_workers=cfg.DATA_LOADER.NUM_WORKERS > 0)
