import pickle

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from dust.datasets import loader
from dust.datasets.loader import EpochBatchSampler, EvaluationSampler, collate_evaluation, collate_training
from dust.datasets.sample import BadClip


def order(sampler, epoch, start=0):
    sampler.set_position(epoch, start)
    return [[draw.sample for draw in batch] for batch in sampler]


def test_every_sample_once_in_an_order_of_its_own_per_epoch():
    sampler = EpochBatchSampler(10, 3, seed=0, drop_last=False)
    first, second = order(sampler, 0), order(sampler, 1)
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(10))
    assert first != second
    assert order(EpochBatchSampler(10, 3, seed=0, drop_last=False), 0) == first
    assert order(EpochBatchSampler(10, 3, seed=1, drop_last=False), 0) != first


def test_an_epoch_can_begin_at_any_batch():
    sampler = EpochBatchSampler(10, 3, seed=0, drop_last=False)
    whole = order(sampler, 4)
    for start in range(5):
        assert order(sampler, 4, start) == whole[start:]
        assert len(sampler) == 4


def test_drop_last_but_never_everything():
    assert [len(batch) for batch in order(EpochBatchSampler(10, 3, seed=0), 0)] == [3, 3, 3]
    assert [len(batch) for batch in order(EpochBatchSampler(9, 3, seed=0), 0)] == [3, 3, 3]
    assert [len(batch) for batch in order(EpochBatchSampler(2, 3, seed=0), 0)] == [2]


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_the_global_batches_of_one_process(drop_last):
    one = order(EpochBatchSampler(22, 8, seed=5, drop_last=drop_last), 2)
    for world in (2, 3, 4):
        ranks = [
            order(EpochBatchSampler(22, 8, seed=5, drop_last=drop_last, rank=r, world_size=world), 2)
            for r in range(world)
        ]
        assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == one
        sizes = [[len(part) for part in parts] for parts in zip(*ranks, strict=True)]
        assert all(max(one) - min(one) <= 1 for one in sizes)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 4, 8, 12, 20])
def test_a_step_takes_the_same_samples_in_batches_of_any_size(batch, drop_last):
    """A run that goes on with other numbers of processes and batches keeps its steps."""
    steps = order(EpochBatchSampler(45, 12, seed=5, drop_last=drop_last), 1)
    sampler = EpochBatchSampler(45, batch, global_batch=12, seed=5, drop_last=drop_last)
    assert sampler.num_steps == len(steps) == 3 + (not drop_last) and len(sampler) == sampler.num_batches
    sampler.set_position(1)
    batches = [[draw.sample for draw in drawn] for drawn in sampler]
    assert len(batches) == len(sampler) and max(map(len, batches)) == min(batch, 12)
    size = sampler.accumulate
    assert [sum(batches[i : i + size], []) for i in range(0, len(batches), size)] == steps
    later = EpochBatchSampler(45, batch, seed=5, drop_last=drop_last)
    later.set_global_batch(12)
    later.set_position(1, size)
    assert [[draw.sample for draw in drawn] for drawn in later] == batches[size:]


@pytest.mark.parametrize("length", [0, 1, 5, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_takes_every_sample_once(length, world):
    shares = [list(EvaluationSampler(length, rank=rank, world_size=world)) for rank in range(world)]
    assert sum(shares, []) == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(EvaluationSampler(length, rank=rank, world_size=world)) for rank in range(world)] == list(
        map(len, shares)
    )


@pytest.mark.parametrize("groups", [[0], [0, 1, 2, 5], [0, 4, 5, 11], [0, 3, 6, 9]])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_groups_of_items_stay_together(groups, world):
    shares = [list(EvaluationSampler(12, rank=rank, world_size=world, groups=groups)) for rank in range(world)]
    assert sum(shares, []) == list(range(12))
    assert all(share[0] in groups for share in shares if share)
    assert list(EvaluationSampler(12, start=4, groups=groups)) == list(range(4, 12))


def sample(name, label):
    return {"inputs": {"video": torch.zeros(3, 2, 4, 4, dtype=torch.uint8)}, "label": label, "id": name, "path": name}


def test_collate_flattens_views_and_sets_bad_clips_aside():
    bad = BadClip("x", "x.mp4", "broken")
    batch = collate_training([[sample("a", 1), sample("a", 1)], bad, [sample("b", 0)]])
    assert batch["inputs"]["video"].shape == (3, 3, 2, 4, 4) and batch["inputs"]["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [1, 1, 0] and batch["id"] == ["a", "a", "b"] and batch["bad"] == [bad]
    assert "inputs" not in collate_training([bad])


def test_labels_may_be_vectors_or_dicts():
    vectors = collate_training([[sample("a", torch.tensor([1.0, 0.0]))], [sample("b", torch.tensor([1.0, 1.0]))]])
    assert vectors["label"].tolist() == [[1, 0], [1, 1]]
    dicts = collate_training([[sample("a", {"verb": 1, "noun": 5})], [sample("b", {"verb": 0, "noun": 7})]])
    assert dicts["label"]["noun"].tolist() == [5, 7]


def test_eight_clips_cross_the_worker_boundary_as_9_mib():
    clip = {**sample("a", 0), "inputs": {"video": torch.zeros(3, 8, 224, 224, dtype=torch.uint8)}}
    video = collate_training([[clip]] * 8)["inputs"]["video"]
    assert video.numel() * video.element_size() / 2**20 == pytest.approx(9.1875)


def test_no_more_workers_than_cores(monkeypatch, caplog):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr("dust.utils.registry._SAID", set())
    assert [loader.num_workers(wanted) for wanted in (0, 3, 8, 8)] == [0, 3, 3, 3]
    assert caplog.text.count("DATA_LOADER.NUM_WORKERS 8: there are 3 cores here") == 1


class Asked(dict):
    """A dict that can pin itself."""

    def pin_memory(self):
        return "asked"


def test_of_an_evaluation_item_only_the_inputs_are_pinned(monkeypatch):
    """As torch's loader asks for it on a machine with a GPU; facts of a recording stay the objects that they are."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor + 1)
    facts = {"detections": [(0, 0.5)], "steps": [(1, 2)]}
    item = collate_evaluation([{"inputs": {"video": torch.zeros(2)}, "label": torch.zeros(1), "facts": facts}])
    pinned = item.pin_memory()
    assert pinned["inputs"]["video"].tolist() == [1, 1] and pinned["label"].tolist() == [0]
    assert pinned["facts"] is facts and item["inputs"]["video"].tolist() == [0, 0]
    through_loader = pin_memory(item)
    assert through_loader["inputs"]["video"].tolist() == [1, 1] and through_loader["facts"] == facts
    if pin_memory(Asked()) == "asked":  # torch 2.10 walks through every dict, and does not ask it
        assert through_loader["facts"] is facts
    assert pickle.loads(pickle.dumps(item)).keys() == item.keys(), "it comes from a worker"
    bad = BadClip("a", "a.mp4", "gone")
    assert collate_evaluation([bad]) is bad
