"""Batches of a few groups, equally many clips of each."""

from collections import Counter

import numpy as np
import pytest
import torch

from dust.datasets.sample import AGAIN
from dust.datasets.samplers import (
    DrawnBatchSampler,
    EpochBatchSampler,
    GroupBalancedSampler,
    _kind,
    block_order,
    group_balanced_order,
    sample_weights,
)
from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import torch_generator

LABELS = np.random.RandomState(0).permutation([0] * 10 + [1] * 30 + [2] * 5 + [3] * 20 + [4] * 15).tolist()


def batches(epoch=0, start=0, batch_size=8, **where):
    sampler = GroupBalancedSampler(LABELS, batch_size, groups_per_batch=4, seed=3, **where)
    sampler.set_position(epoch, start)
    found = [[draw.sample for draw in batch] for batch in sampler]
    assert len(sampler) == len(found) + start and all(draw.epoch == epoch for batch in sampler for draw in batch)
    return found


def test_every_batch_has_four_groups_with_two_clips_each():
    found = batches()
    assert len(found) == len(LABELS) // 8
    for batch in found:
        assert sorted(Counter(LABELS[index] for index in batch).values()) == [2, 2, 2, 2]
        assert len(set(batch)) == 8


def test_groups_come_equally_often_and_samples_in_turn():
    order = group_balanced_order(LABELS, groups_per_batch=4, per_group=2, num_batches=25, seed=0, epoch=0)
    groups = Counter(LABELS[index] for index in order)
    assert max(groups.values()) - min(groups.values()) <= 2  # one turn of two samples
    seen = Counter(order)
    for group in range(5):
        counts = [seen[index] for index, label in enumerate(LABELS) if label == group]
        assert max(counts) - min(counts) <= 1


def test_an_order_of_its_own_per_epoch_that_can_begin_anywhere():
    assert batches() == batches() != batches(epoch=1)
    assert batches(start=4) == batches()[4:]


@pytest.mark.parametrize("world", [2])
def test_ranks_share_the_global_batches_of_one_process(world):
    ranks = [batches(rank=rank, world_size=world) for rank in range(world)]
    for whole, *parts in zip(batches(), *ranks, strict=True):
        assert sorted(whole) == sorted(sum(parts, []))
        for part in parts:
            assert sorted(Counter(LABELS[index] for index in part).values()) == [1, 1, 1, 1]


def test_a_step_of_several_batches_takes_what_one_takes():
    whole = batches(batch_size=16)
    parts = batches(batch_size=8, global_batch=16)
    assert len(parts) == 2 * len(whole)
    for step, first, second in zip(whole, parts[::2], parts[1::2], strict=True):
        assert sorted(step) == sorted(first + second)
        assert sorted(Counter(LABELS[index] for index in first).values()) == [2, 2, 2, 2]


def test_groups_smaller_than_their_share_repeat():
    sampler = GroupBalancedSampler([0, 1, 1, 1], 8, groups_per_batch=2, seed=0)
    (batch,) = [[draw.sample for draw in one] for one in sampler]
    assert Counter(batch)[0] == 4 and len(batch) == 8


@pytest.mark.parametrize(
    ("labels", "size", "groups", "error", "words"),
    [
        (LABELS, 9, 4, ConfigError, "GROUPS_PER_BATCH 4: .*divide the clips that a process has in a batch, 9 "),
        (LABELS, 8, 0, ConfigError, "must be above 0"),
        ([0, 1, 0, 1], 8, 4, DataError, "only 2 groups have training clips"),
    ],
)
def test_impossible_batches(labels, size, groups, error, words):
    with pytest.raises(error, match=words):
        GroupBalancedSampler(labels, size, groups_per_batch=groups, seed=0)


@pytest.mark.parametrize("world", [1, 2])
def test_drawn_batches_stay_whole(world):
    """Each batch that a dataset draws is asked for in full by one rank, in the shuffled order of single samples."""
    where = {"seed": 3, "global_batch": 2}
    ranks = [DrawnBatchSampler(7, 5, 2, **where, rank=rank, world_size=world) for rank in range(world)]
    plain = [EpochBatchSampler(7, 2, **where, rank=rank, world_size=world) for rank in range(world)]
    for ours, theirs in zip(ranks, plain, strict=True):
        assert len(ours) == len(theirs) == 3 and ours.length == 7
        for one in (ours, theirs):
            one.set_position(4, 1)
        wanted = [[5 * drawn.sample + i for drawn in batch for i in range(5)] for batch in theirs]
        assert [[request.sample for request in batch] for batch in ours] == wanted
        assert {request.epoch for batch in ours for request in batch} == {4}


# ------------------------------------------------------------------------------------------------ weighted draws

RARE = [0] * 90 + [1] * 9 + [2]


def draws(epoch=0, start=0, batch_size=10, **where):
    weights = sample_weights(RARE, [0] * 100, balanced=True)
    sampler = EpochBatchSampler(len(RARE), batch_size, seed=3, weights=weights, **where)
    sampler.set_position(epoch, start)
    return [list(batch) for batch in sampler]


def test_classes_of_a_balanced_epoch_come_equally_often():
    found = Counter(RARE[draw.sample] for epoch in range(60) for batch in draws(epoch) for draw in batch)
    assert sum(found.values()) == 6000
    for label in range(3):  # 2000 of 6000, sigma 37
        assert abs(found[label] - 2000) < 5 * 37


def test_a_sample_that_comes_again_has_draws_of_its_own():
    seen = Counter()
    for batch in draws():
        for draw in batch:
            assert draw.epoch == seen[draw.sample] * AGAIN
            seen[draw.sample] += 1
    assert max(seen.values()) > 10, "the only sample of its class"


def test_a_balanced_epoch_is_a_function_of_seed_and_epoch_and_can_begin_anywhere():
    assert draws() == draws() != draws(epoch=1)
    assert draws(start=4) == draws()[4:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_balanced_epoch(world):
    ranks = [draws(rank=rank, world_size=world) for rank in range(world)]
    assert draws() == [sum(parts, []) for parts in zip(*ranks, strict=True)]


def test_weights_by_formula():
    labels, parts = [0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1]
    slow = np.array([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(sample_weights(labels, parts, balanced=True), slow / slow.sum())
    np.testing.assert_allclose(sample_weights(labels, parts, part_weights=[1, 3]), np.repeat([1 / 12, 3 / 12], 3))
    both = sample_weights(labels, parts, balanced=True, part_weights=[1, 3])
    np.testing.assert_allclose([both[:3].sum(), both[3:].sum()], [0.25, 0.75])
    np.testing.assert_allclose(both[:3] / both[0], slow[:3] / slow[0])


@pytest.mark.parametrize(
    ("labels", "parts", "options", "words"),
    [
        ([0, (0, 1)], [0, 0], {"balanced": True}, "clips of one class each"),
        ([0, None], [0, 0], {"balanced": True}, "clips of one class each"),
        ([0, 1], [0, 1], {"part_weights": [1]}, "weight for each folder"),
        ([0, 1], [0, 0], {"part_weights": [1, 2]}, "weight for each folder"),
    ],
)
def test_weights_that_cannot_be(labels, parts, options, words):
    with pytest.raises(DataError, match=words):
        sample_weights(labels, parts, **options)


@pytest.mark.parametrize("weights", [None, np.arange(1, 51)])
def test_an_order_has_four_bytes_for_each_sample(weights):
    """The order is that of torch's permutation in 64 bits, of which earlier runs were made."""
    sampler = EpochBatchSampler(50, 8, seed=5, weights=weights)
    sampler.set_position(2)
    order = sampler._order()
    assert order.dtype == np.int32 and group_order().dtype == np.int32
    if weights is None:
        wide = torch.randperm(50, generator=torch_generator(5, "shuffle", 2))
        assert order.tolist() == wide.tolist()
    seen = Counter()
    for batch in sampler:
        for epoch, sample in batch:
            assert epoch == 2 + seen[sample] * AGAIN
            seen[sample] += 1
    assert (max(seen.values()) > 1) == (weights is not None)


def group_order():
    return group_balanced_order(LABELS, groups_per_batch=4, per_group=2, num_batches=5, seed=0, epoch=0)


def test_more_than_two_thousand_million_samples_take_eight_bytes():
    assert [_kind(number) for number in (1, (1 << 31) - 1, 1 << 31)] == [np.int32, np.int32, np.int64]


@pytest.mark.parametrize(("length", "block", "mixed"), [(100, 8, 3), (7, 8, 3), (64, 1, 1), (50, 10, 99), (1, 1, 1)])
def test_blocks_keep_neighbours_together(length, block, mixed):
    order = block_order(length, block, mixed, seed=5, epoch=2).tolist()
    assert sorted(order) == list(range(length))
    assert order == block_order(length, block, mixed, seed=5, epoch=2).tolist()
    runs, at = [], 0
    while at < length:  # each run of the order is so many whole blocks
        blocks = {place // block for place in order[at : at + 1]}
        size = 0
        while at + size < length and len(blocks | {order[at + size] // block}) <= mixed:
            blocks.add(order[at + size] // block)
            size += 1
        assert size == sum(min(block, length - number * block) for number in blocks)
        runs.append(order[at : at + size])
        at += size
    if length == 100:
        assert order != block_order(length, block, mixed, seed=5, epoch=3).tolist()
        assert any(run != sorted(run) for run in runs)


def test_an_epoch_of_blocks_begins_anywhere_on_any_number_of_ranks():
    def read(epoch=1, start=0, batch_size=10, **where):
        sampler = EpochBatchSampler(95, batch_size, seed=3, global_batch=10, blocks=(8, 3), drop_last=False, **where)
        sampler.set_position(epoch, start)
        return [[draw.sample for draw in batch] for batch in sampler]

    whole = read()
    assert sum(whole, []) == block_order(95, 8, 3, seed=3, epoch=1).tolist()
    assert read(start=4) == whole[4:]
    halves = [read(rank=rank, world_size=2) for rank in range(2)]
    assert [sum(parts, []) for parts in zip(*halves, strict=True)] == whole
    assert sum(read(batch_size=5), []) == sum(whole, [])
