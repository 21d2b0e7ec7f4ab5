"""Intervals: the figures of draws are scikit-learn's, and 95 of 100 intervals hold what they claim to."""

import numpy as np
import pytest

from dust.utils.errors import DataError
from dust.utils.metrics import classification_metrics, multilabel_metrics
from dust.utils.statistics import classification_intervals, mean_intervals, multilabel_intervals, wilson_interval
from dust.utils.statistics.intervals import classification_figures, draw_groups, multilabel_figures


def samples(rng, count=60, classes=6):
    scores = rng.normal(size=(count, classes)).round(1)  # with ties
    return scores, rng.integers(0, classes, count), rng.integers(0, 9, count)


def test_the_figures_of_a_draw_are_those_of_the_repeated_clips():
    rng = np.random.default_rng(0)
    scores, labels, groups = samples(rng)
    weights = next(draw_groups(9, 20, seed=1))
    found = classification_figures(scores, labels, groups, 9)(weights)
    for draw in range(20):
        rows = np.repeat(np.arange(60), weights[groups, draw].astype(int))
        expected = classification_metrics(scores[rows], labels[rows])
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert 100 * found[name][draw] == pytest.approx(value, abs=1e-4), name


def test_average_precision_of_a_draw_is_that_of_the_repeated_clips():
    rng = np.random.default_rng(1)
    scores, _, groups = samples(rng)
    labels = (rng.random(scores.shape) < 0.2).astype(int)
    labels[:, 3] = 0
    weights = next(draw_groups(9, 20, seed=1))
    found = multilabel_figures(scores, labels, groups, 9)(weights)["map"]
    for draw in range(20):
        rows = np.repeat(np.arange(60), weights[groups, draw].astype(int))
        assert 100 * found[draw] == pytest.approx(multilabel_metrics(scores[rows], labels[rows])["map"], abs=1e-4)


def coverage(accuracy, groups, rng, *, same=0.1, tests=1000):
    """How many of 1,000 simulated tests have the true accuracy in their interval. The accuracies of groups differ:
    ``same`` is the correlation of two clips of one group."""
    held = 0
    for _ in range(tests):
        sizes = rng.integers(5, 25, groups)
        shares = rng.beta(accuracy * (1 / same - 1), (1 - accuracy) * (1 / same - 1), groups)
        names = np.repeat(np.arange(groups), sizes)
        right = rng.random(sizes.sum()) < np.repeat(shares, sizes)
        scores = np.stack([right, ~right], axis=1).astype(float)
        found = classification_intervals(scores, np.zeros(len(names), int), names, resamples=300)["top1_acc"]
        held += found.low <= 100 * accuracy <= found.high
    return held / tests


@pytest.mark.parametrize(("accuracy", "groups"), [(0.5, 20), (0.8, 20), (0.9, 30), (0.95, 40), (0.95, 100)])
def test_95_of_100_intervals_hold_the_true_accuracy(accuracy, groups):
    assert 0.93 <= coverage(accuracy, groups, np.random.default_rng(groups)) <= 0.97


def test_percentiles_would_not():
    """Why they are not used: a simple bootstrap of 20 groups at 95 % holds it far too seldom."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        shares = rng.beta(0.95 * 9, 0.05 * 9, 20)
        right = rng.binomial(10, shares)
        low, high = np.quantile(right[rng.integers(0, 20, (400, 20))].mean(axis=1) / 10, [0.025, 0.975])
        held += low <= 0.95 <= high
    assert held / 300 < 0.92


def test_clips_that_stand_alone_have_wilsons_interval():
    """Figures of Wilson's own formula, worked out by hand: 8 of 10, z = 1.959964."""
    scores = np.array([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 2)
    found = classification_intervals(scores, np.zeros(10, int))["top1_acc"]
    assert (found.low, found.high, found.method) == (
        pytest.approx(49.02, abs=0.01),
        pytest.approx(94.33, abs=0.01),
        "wilson",
    )


def test_all_right_is_not_certain():
    scores = np.tile([1.0, 0.0], (45, 1))
    for groups in (None, np.arange(45) % 5, np.zeros(45, int)):
        for name, found in classification_intervals(scores, np.zeros(45, int), groups, resamples=50).items():
            assert found.low < 95 and found.high == 100, (name, groups)
    alone = classification_intervals(scores, np.zeros(45, int), resamples=50)["top1_acc"]
    grouped = classification_intervals(scores, np.zeros(45, int), np.arange(45) % 5, resamples=50)["top1_acc"]
    assert grouped.low < alone.low


def test_one_seed_gives_one_answer_and_names_of_groups_do_not_matter():
    rng = np.random.default_rng(3)
    scores, labels, groups = samples(rng)
    first = classification_intervals(scores, labels, groups, resamples=200)
    assert first == classification_intervals(scores, labels, [f"person {g}" for g in groups], resamples=200)
    assert first != classification_intervals(scores, labels, groups, resamples=200, seed=1)


def test_dependent_clips_widen_the_interval():
    """Ten copies of a clip are one clip."""
    rng = np.random.default_rng(4)
    scores, labels, _ = samples(rng, count=40)
    once = classification_intervals(scores, labels)["macro_f1"]
    copies = [np.repeat(array, 10, axis=0) for array in (scores, labels, np.arange(40))]
    assert classification_intervals(*copies)["macro_f1"] == once


def test_means_of_recordings():
    rng = np.random.default_rng(5)
    values = rng.normal(3.0, 1.0, 25)
    found = mean_intervals(values, resamples=4000)
    half = 2.0639 * values.std(ddof=1) / 5  # Student's interval, 24 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.low + found.high == pytest.approx(2 * values.mean())
    assert mean_intervals(np.ones(8), upper=1.0).low < 0.9
    bounded = mean_intervals(np.array([0.9, 1.0, 1.0, 0.95, 1.0]), upper=1.0)
    assert 0.5 < bounded.low < 0.97 < bounded.high < 1.0


def test_multilabel_has_an_interval_around_its_figure():
    rng = np.random.default_rng(6)
    labels = (rng.random((80, 5)) < 0.3).astype(int)
    scores = rng.normal(size=(80, 5)) + labels
    found = multilabel_intervals(scores, labels, resamples=300)["map"]
    assert found.low < multilabel_metrics(scores, labels)["map"] < found.high
    assert multilabel_intervals(scores, 0 * labels) == {}


def test_wrong_groups_are_named():
    scores = np.eye(3)
    with pytest.raises(DataError, match="2 groups for 3 samples"):
        classification_intervals(scores, np.arange(3), ["a", "b"])
    with pytest.raises(DataError, match="no samples"):
        classification_intervals(np.empty((0, 3)), np.empty(0, int))


def test_wilson_of_none_and_all():
    assert wilson_interval(0.0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson_interval(1.0, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)
