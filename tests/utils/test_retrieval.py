"""Retrieval figures against cases worked by hand, an obvious loop and their laws."""

import math

import numpy as np
import pytest
import torch

from dust.utils import retrieval
from dust.utils.retrieval import nearest_agrees, retrieval_metrics


def at_angles(*degrees):
    return np.stack([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def slow(embeddings, labels, ignore=None, groups=None):
    first, average = [], []
    for q in range(len(labels)):
        others = [j for j in range(len(labels)) if (j != q if groups is None else groups[j] != groups[q])]
        total = sum(labels[j] == labels[q] for j in others)
        if labels[q] == ignore or not total:
            continue
        cosine = {j: embeddings[j] @ embeddings[q] / np.linalg.norm(embeddings[j]) for j in others}
        hits = [labels[j] == labels[q] for j in sorted(others, key=lambda j: -cosine[j])[:total]]
        first.append(hits[0])
        average.append(sum(sum(hits[: r + 1]) / (r + 1) for r in range(total) if hits[r]) / total)
    return 100 * np.mean(first), 100 * np.mean(average), len(first)


def test_by_hand():
    """Rows at 0, 10, 15 and 90 degrees, of classes 1, 1, 2, 1."""
    found = retrieval_metrics(at_angles(0, 10, 15, 90), np.array([1, 1, 2, 1]))
    # 0: neighbours 10 (hit), 15: 1/2 * 1;  10: 15, 0 (hit): 1/2 * 1/2;  90: 15, 10 (hit): 1/2 * 1/2;  15 has no other
    assert found["precision_at_1"] == pytest.approx(100 / 3)
    assert found["map_at_r"] == pytest.approx(100 * (1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert found["queries"] == 3


@pytest.mark.parametrize("ignore", [None, 0])
@pytest.mark.parametrize("grouped", [False, True])
def test_as_the_slow_loop(ignore, grouped, monkeypatch):
    rng = np.random.RandomState(0)
    monkeypatch.setattr(retrieval, "CHUNK", 7)
    embeddings, labels = rng.randn(60, 5), rng.randint(0, 6, 60)
    groups = rng.randint(0, 4, 60) if grouped else None
    found = retrieval_metrics(embeddings, labels, ignore=ignore, groups=groups)
    expected = slow(embeddings, labels, ignore, groups)
    assert (found["precision_at_1"], found["map_at_r"], found["queries"]) == pytest.approx(expected)


def test_the_nearest_alone_as_among_all_ranks():
    rng = np.random.RandomState(3)
    embeddings, labels = rng.randn(40, 5), np.append(rng.randint(0, 6, 39), 6)  # the last has nobody
    hit, asked = nearest_agrees(torch.from_numpy(embeddings), torch.from_numpy(labels))
    found = retrieval_metrics(embeddings, labels)
    assert not asked[-1] and int(asked.sum()) == found["queries"]
    assert 100 * (hit & asked).sum().item() / asked.sum().item() == pytest.approx(found["precision_at_1"])


def test_scale_of_an_embedding_does_not_matter_and_perfect_is_hundred():
    rng = np.random.RandomState(1)
    labels = np.repeat(np.arange(4), 5)
    embeddings = np.eye(4)[labels] + 0.01 * rng.randn(20, 4)
    perfect = retrieval_metrics(embeddings, labels)
    assert perfect["precision_at_1"] == perfect["map_at_r"] == 100
    mixed = rng.randn(20, 4)
    assert retrieval_metrics(mixed * rng.uniform(1, 9, (20, 1)), labels) == pytest.approx(
        retrieval_metrics(mixed, labels)
    )


def test_no_query():
    found = retrieval_metrics(np.eye(3), np.array([1, 2, 3]))
    assert math.isnan(found["precision_at_1"]) and math.isnan(found["map_at_r"]) and found["queries"] == 0
