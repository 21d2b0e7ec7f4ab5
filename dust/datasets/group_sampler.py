"""Training batches in which a few groups of classes have alike many clips each, as TSTL's selector is trained."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dust.datasets.loader import EpochBatchSampler
from dust.datasets.sample import SampleRequest
from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import numpy_rng


def group_balanced_order(
    labels: Sequence[int], *, groups_per_batch: int, per_group: int, num_batches: int, seed: int, epoch: int
) -> list[int]:
    """The samples of an epoch, ``num_batches`` runs of ``groups_per_batch`` groups x ``per_group`` samples.

    ``labels[i]`` is the group of sample i. Groups come in turn, each as often as any other (but one), the order drawn
    anew each round; so do the samples of a group, of which no other comes twice before all came once. The same (seed,
    epoch) gives the same order.
    """
    rng = numpy_rng(seed, "groups", epoch)
    decks = {g: np.flatnonzero(np.asarray(labels) == g).tolist() for g in sorted(set(labels))}
    left: dict[int, list[int]] = {group: [] for group in decks}
    groups: list[int] = []
    order: list[int] = []
    for _ in range(num_batches):
        chosen = _deal(groups, list(decks), groups_per_batch, rng)
        for group in chosen:
            order += _deal(left[group], decks[group], per_group, rng)
    return order


def _deal(left: list[int], deck: Sequence[int], count: int, rng: np.random.RandomState) -> list[int]:
    """Take ``count`` from ``left``, in place; where it runs short the deck is shuffled and comes behind it, what is
    still left last, so that nothing is dealt twice at once unless the deck is smaller than that."""
    while len(left) < count:
        shuffled = [deck[index] for index in rng.permutation(len(deck))]
        left += sorted(shuffled, key=set(left).__contains__)
    dealt = left[:count]
    del left[:count]
    return dealt


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

    def __init__(self, labels: Sequence[int], batch_size: int, *, groups_per_batch: int, **where: Any) -> None:
        self.groups_per_batch = groups_per_batch
        super().__init__(len(labels), batch_size, **where)
        present = len(set(labels))
        if present < groups_per_batch:
            raise DataError(
                f"TSTL.GROUPS_PER_BATCH {groups_per_batch}: only {present} groups have training clips; write at most "
                f"{present}"
            )
        self.labels = list(labels)

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
