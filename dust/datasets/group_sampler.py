"""Training batches in which a few groups of classes have alike many clips each, as TSTL's selector is trained."""

from collections.abc import Iterator, Sequence

import numpy as np

from dust.datasets.loader import EpochBatchSampler
from dust.datasets.sample import Draw
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
    """An :class:`EpochBatchSampler` whose every batch of a rank has ``groups_per_batch`` groups, equally many samples
    of each.

    An epoch has as many batches as an ordinary one that drops its last; samples of small groups come more than once in
    it, others not at all.

    Args:
        labels: each sample's group.
        batch_size: samples per batch of one rank, a multiple of ``groups_per_batch``.

    Raises:
        ConfigError: it is not. DataError: fewer groups than that have samples.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        *,
        groups_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(labels), batch_size, seed=seed, rank=rank, world_size=world_size)
        if groups_per_batch < 1 or batch_size % groups_per_batch:
            raise ConfigError(
                f"TSTL.GROUPS_PER_BATCH {groups_per_batch}: must be above 0 and divide the {batch_size} clips that a "
                "process has in a batch (TRAIN.BATCH_SIZE)"
            )
        present = len(set(labels))
        if present < groups_per_batch:
            raise DataError(
                f"TSTL.GROUPS_PER_BATCH {groups_per_batch}: only {present} groups have training clips; write at most "
                f"{present}"
            )
        self.labels = list(labels)
        self.groups_per_batch = groups_per_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        per_group = self.global_batch // self.groups_per_batch
        order = group_balanced_order(
            self.labels,
            groups_per_batch=self.groups_per_batch,
            per_group=per_group,
            num_batches=self.num_batches,
            seed=self.seed,
            epoch=self.epoch,
        )
        # a rank takes its share of each group, so that the same samples meet on any number of ranks
        shared = np.reshape(order, (self.num_batches, self.groups_per_batch, self.world_size, -1))[:, :, self.rank]
        for batch in range(self.start, self.num_batches):
            yield [Draw(self.epoch, index) for index in shared[batch].flatten().tolist()]
