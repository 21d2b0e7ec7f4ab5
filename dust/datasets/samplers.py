"""Which samples in which order: of training, and of an evaluation that several processes share.

The order of an epoch depends on (seed, epoch) alone. Optimizer step s takes the s-th run of ``global_batch`` samples of
that order, however many ranks share it and in however many batches, so a run may continue with other numbers of both.
An order is an array of 4 bytes for each sample; 8 only where there are more than 2^31.
"""

import bisect
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from dust.datasets.sample import AGAIN, SampleRequest
from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import numpy_rng, torch_generator

T = TypeVar("T")


class EpochBatchSampler(Sampler[list[SampleRequest]]):
    """Shuffled training batches that can begin at any batch of any epoch.

    Args:
        length: number of samples.
        batch_size: samples of one batch over all ranks, which share it as evenly as can be.
        global_batch: samples per optimizer step, in several batches where it is larger; None: one batch.
        drop_last: leave out a last step that is not full. Where the whole set is smaller than one step it is kept.
        weights: how likely each sample is to be drawn; an epoch is then as many draws as there are samples, each of any
            sample, and one that comes again has its own augmentation. None: each sample once, shuffled.
        blocks: (neighbours of a block, blocks that are mixed), see :func:`block_order`; None shuffles all of them.
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
        weights: Sequence[float] | np.ndarray | None = None,
        blocks: tuple[int, int] | None = None,
    ) -> None:
        self.length = length
        self.blocks = blocks
        self.bounds = None if weights is None else np.cumsum(np.asarray(weights, np.float64))
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
        """Let the next iteration go over ``epoch``, from batch ``start`` on."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, wherever the next iteration begins."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        order = self._order()
        came = None if self.bounds is None else _came_before(order)
        for batch in islice(self._batches(), self.start, self.num_batches):
            own: Any = share(batch, self.rank, self.world_size)
            samples = order[own.start : own.stop].tolist()
            before = [0] * len(samples) if came is None else came[own.start : own.stop].tolist()
            yield [
                SampleRequest(self.epoch + times * AGAIN, sample) for sample, times in zip(samples, before, strict=True)
            ]

    def _order(self) -> np.ndarray:
        """Return (length,) the samples of the epoch, one behind the other."""
        if self.blocks is not None:
            return block_order(self.length, *self.blocks, seed=self.seed, epoch=self.epoch)
        if self.bounds is None:
            generator = torch_generator(self.seed, "shuffle", self.epoch)
            kind = torch.int32 if self.length < _MOST else torch.int64  # the same order in both
            return torch.randperm(self.length, generator=generator, dtype=kind).numpy()
        places = numpy_rng(self.seed, "weighted", self.epoch).random_sample(self.length) * self.bounds[-1]
        found = np.searchsorted(self.bounds, places, side="right")
        return np.minimum(found, self.length - 1, out=found).astype(_kind(self.length))

    def _batches(self) -> Iterator[range]:
        """Yield the places in the order that each batch of the epoch takes, over all ranks."""
        for step in range(self.num_steps):
            end = min((step + 1) * self.global_batch, self.length)
            for start in range(step * self.global_batch, end, self.batch_size):
                yield range(start, min(start + self.batch_size, end))


_MOST = 1 << 31


def _kind(length: int) -> type:
    """Return what the numbers of so many samples fit in."""
    return np.int32 if length < _MOST else np.int64


def _came_before(order: np.ndarray) -> np.ndarray:
    """Return (N,) how often what stands in each place stands before it."""
    places = np.argsort(order, kind="stable")
    ordered = order[places]
    begins = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    counts = np.diff(np.append(begins, len(order)))
    came = np.empty_like(order)
    came[places] = np.arange(len(order)) - np.repeat(begins, counts)
    return came


def block_order(length: int, block: int, mixed: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the samples of an epoch, (length,), such that neighbours of the list are read at about the same time.

    Samples 0 to ``block - 1`` are a block, and so on. The blocks are shuffled; of each ``mixed`` of them, one after the
    other, the samples are shuffled together. The same (seed, epoch) gives the same order.
    """
    rng = numpy_rng(seed, "blocks", epoch)
    starts = rng.permutation(-(-length // block)) * block
    order: np.ndarray = np.empty(length, _kind(length))
    at = 0
    for first in range(0, len(starts), mixed):
        parts = [np.arange(start, min(start + block, length)) for start in starts[first : first + mixed].tolist()]
        drawn = rng.permutation(np.concatenate(parts))
        order[at : at + len(drawn)] = drawn
        at += len(drawn)
    return order


def share(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Return the rank's contiguous part of ``items``; parts differ by at most one item, the first ranks have it
    more."""
    first, last = (-(-len(items) * index // world_size) for index in (rank, rank + 1))
    return items[first:last]


class DrawnBatchSampler(EpochBatchSampler):
    """Batches that a dataset draws as a whole, each of ``size`` samples: batch b of an epoch has the numbers
    ``b * size`` to ``b * size + size - 1``. What they are the dataset says; here they are shuffled, shared and counted.

    Args:
        batches: how many are drawn in an epoch.
        size: samples of one.
        batch_size: such batches in one of the loader over all ranks, as ``global_batch`` counts them too.
    """

    def __init__(self, batches: int, size: int, batch_size: int, **where: Any) -> None:
        self.size = size
        super().__init__(batches, batch_size, **where)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for drawn in super().__iter__():
            numbers = (request.sample * self.size + place for request in drawn for place in range(self.size))
            yield [SampleRequest(self.epoch, number) for number in numbers]


def sample_weights(
    labels: Sequence[Any] | np.ndarray,
    parts: Sequence[int] | np.ndarray,
    *,
    balanced: bool = False,
    part_weights: Sequence[float] = (),
) -> np.ndarray:
    """Return how likely each sample is to be drawn, (N,), in sum 1.

    Args:
        labels: each sample's class; of what has none, or several, anything but a number from 0 on.
        parts: each sample's data set, 0, 1, ...
        balanced: a sample's weight is one over the number of samples of its class, so that classes are equally likely.
        part_weights: of each data set; it is drawn in this proportion, whatever its size. Empty: sizes decide.

    Raises:
        DataError: labels that are no single classes, a weight of a data set without samples.
    """
    weights = np.ones(len(labels))
    if balanced:
        single = isinstance(labels, np.ndarray) or all(isinstance(label, int) for label in labels)
        if not single or np.min(labels) < 0:
            raise DataError("DATA_LOADER.SAMPLER balanced: is for clips of one class each; set it to shuffle")
        weights = 1.0 / np.bincount(labels)[np.asarray(labels)]
    if len(part_weights):
        sums = np.bincount(parts, weights=weights, minlength=len(part_weights))
        if len(sums) > len(part_weights) or not sums.all():
            raise DataError(
                f"DATA.DATASET_WEIGHTS {list(part_weights)}: the folders have {np.bincount(parts).tolist()} clips: one "
                "weight for each folder, all of which have some"
            )
        weights = weights * (np.asarray(part_weights, np.float64) / sums)[np.asarray(parts)]
    return weights / weights.sum()


def group_balanced_order(
    labels: Sequence[int] | np.ndarray,
    *,
    groups_per_batch: int,
    per_group: int,
    num_batches: int,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Return the samples of an epoch, ``num_batches`` runs of ``groups_per_batch`` groups x ``per_group`` samples.

    ``labels[i]`` is the group of sample i. Groups come in turn, each as often as any other (but one), the order drawn
    again each round; so do the samples of a group, of which no other comes twice before all came once. The same (seed,
    epoch) gives the same order.
    """
    rng = numpy_rng(seed, "groups", epoch)
    kind = _kind(len(labels))
    names, sizes = np.unique(labels, return_counts=True)
    decks: list[np.ndarray] = np.split(np.argsort(labels, kind="stable").astype(kind), np.cumsum(sizes)[:-1])
    left: list[np.ndarray] = [np.zeros(0, kind) for _ in decks]
    groups = np.zeros(0, np.int64)
    order: np.ndarray = np.empty((num_batches, groups_per_batch, per_group), kind)
    for batch in order:
        chosen, groups = _deal(groups, np.arange(len(names)), groups_per_batch, rng)
        for place, group in enumerate(chosen.tolist()):
            batch[place], left[group] = _deal(left[group], decks[group], per_group, rng)
    return order.reshape(-1)


def _deal(
    left: np.ndarray, deck: np.ndarray, count: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (``count`` of ``left``, what is left then). Where it runs short the deck is shuffled and comes behind it,
    what is still left last, so that nothing is dealt twice at once unless the deck is smaller than that."""
    while len(left) < count:
        shuffled = deck[rng.permutation(len(deck))]
        again = np.isin(shuffled, left)
        left = np.concatenate([left, shuffled[~again], shuffled[again]])
    return left[:count], left[count:]


class GroupBalancedSampler(EpochBatchSampler):
    """An :class:`EpochBatchSampler` whose every optimizer step has ``groups_per_batch`` groups, and every batch of
    every rank equally many samples of each.

    An epoch has as many steps as an ordinary one that drops its last; samples of small groups come more than once in
    it, others not at all.

    Args:
        labels: each sample's group.
        batch_size: samples of one batch over all ranks.
        where: ``seed``, ``global_batch``, ``rank``, ``world_size``.

    Raises:
        ConfigError: a rank's part of a batch is no multiple of ``groups_per_batch``. DataError: fewer groups than that
            have samples.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray, batch_size: int, *, groups_per_batch: int, **where: Any
    ) -> None:  # fmt: skip
        self.groups_per_batch = groups_per_batch
        super().__init__(len(labels), batch_size, **where)
        self.labels = np.asarray(labels, np.int32)
        present = len(np.unique(self.labels))
        if present < groups_per_batch:
            raise DataError(
                f"TSTL.GROUPS_PER_BATCH {groups_per_batch}: only {present} groups have training clips; write at most "
                f"{present}"
            )

    def set_global_batch(self, global_batch: int) -> None:
        super().set_global_batch(global_batch)
        part, rest = divmod(global_batch, self.accumulate * self.world_size)
        if self.groups_per_batch < 1 or rest or part % self.groups_per_batch:
            raise ConfigError(
                f"TSTL.GROUPS_PER_BATCH {self.groups_per_batch}: must be above 0 and divide the clips that a process "
                f"has in a batch, {global_batch} / ({self.accumulate} batches x {self.world_size} processes) "
                "(TRAIN.BATCH_SIZE, GLOBAL_BATCH_SIZE)"
            )
        self.num_steps = max(self.length // global_batch, 1)
        self.num_batches = self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        order = group_balanced_order(
            self.labels,
            groups_per_batch=self.groups_per_batch,
            per_group=self.global_batch // self.groups_per_batch,
            num_batches=self.num_steps,
            seed=self.seed,
            epoch=self.epoch,
        )
        # each batch of each rank takes its share of each group, so that the same samples meet in a step on any number
        parts = np.reshape(order, (self.num_steps, self.groups_per_batch, self.accumulate, self.world_size, -1))
        own = parts[:, :, :, self.rank].swapaxes(1, 2).reshape(self.num_batches, -1)
        for batch in own[self.start :]:
            yield [SampleRequest(self.epoch, index) for index in batch.tolist()]


class EvaluationSampler(Sampler[int]):
    """Every item from ``start`` on exactly once: rank r of W takes one contiguous share, shares differ by at most one.

    With ``groups``, the numbers of items that begin a group, a share begins with the next group, so that the items of
    one stay together.
    """

    def __init__(
        self, length: int, *, start: int = 0, rank: int = 0, world_size: int = 1, groups: Sequence[int] | None = None
    ) -> None:
        begin, end = (start + (length - start) * number // world_size for number in (rank, rank + 1))
        if groups is not None:
            bounds = [*groups, length]
            begin, end = (bounds[bisect.bisect_left(bounds, bound)] for bound in (begin, end))
        self.indices = range(start if rank == 0 else begin, end)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
