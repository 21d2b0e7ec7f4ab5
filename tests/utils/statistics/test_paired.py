"""Paired comparison: no difference is found where there is none, and a real one is."""

import numpy as np
import pytest

from dust.utils.errors import DataError
from dust.utils.metrics import classification_metrics
from dust.utils.statistics import compare_means, compare_scores, holm, mcnemar_p


def scores_of(labels, right, classes, rng):
    """(N, K) scores whose highest is the label where ``right``."""
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    scores = rng.random((len(labels), classes)) * 0.1
    scores[np.arange(len(labels)), np.where(right, labels, wrong)] += 1
    return scores


def test_figures_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 50)
    a, b = (scores_of(labels, rng.random(50) < share, 6, rng) for share in (0.7, 0.8))
    found = compare_scores(a, b, labels, np.arange(50) % 20, resamples=100)
    first, second = classification_metrics(a, labels), classification_metrics(b, labels)
    assert set(found) == set(first)
    for name, one in found.items():
        assert (one.a, one.b) == (pytest.approx(first[name], abs=1e-4), pytest.approx(second[name], abs=1e-4))
        assert one.difference == pytest.approx(one.b - one.a) and one.low <= one.difference <= one.high


def test_the_exact_permutation_test_by_a_slow_loop():
    rng = np.random.default_rng(1)
    a, b = rng.random(6), rng.random(6) + 0.3
    found = compare_means(a, b)
    large = 0
    for number in range(64):
        signs = np.array([1 if number >> bit & 1 else -1 for bit in range(6)])
        large += abs((signs * (b - a)).mean()) >= abs((b - a).mean()) - 1e-12
    assert found.p == pytest.approx(large / 64)
    assert found.difference == pytest.approx((b - a).mean())


@pytest.mark.parametrize("count", [30, 60, 150])
def test_two_clips_that_changed_are_no_finding(count):
    """Of their four exchanges two give the same difference: p is about a half, and never the rounding of a sum."""
    labels = np.arange(count) % 4
    a = np.eye(4)[labels]
    a[[2, 6]] = a[[3, 7]]
    for name, one in compare_scores(a, np.eye(4)[labels], labels, resamples=50).items():
        assert 0.47 < one.p < 0.53, name


def test_a_real_difference_is_found_and_chance_is_not():
    rng = np.random.default_rng(2)
    found, chance = 0, 0
    for _ in range(40):
        labels = rng.integers(0, 3, 120)
        base = rng.random(120) < 0.7
        better = base | (rng.random(120) < 0.5)
        other = rng.random(120) < 0.7
        a, b, c = (scores_of(labels, right, 3, rng) for right in (base, better, other))
        groups = np.arange(120) // 4
        found += compare_scores(a, b, labels, groups, resamples=100)["top1_acc"].p < 0.05
        chance += compare_scores(a, c, labels, groups, resamples=100)["top1_acc"].p < 0.05
    assert found >= 38 and chance <= 5


def test_the_same_answers_differ_in_nothing():
    labels = np.arange(30) % 3
    scores = np.eye(3)[labels]
    for one in compare_scores(scores, scores, labels, resamples=50).values():
        assert (one.difference, one.p) == (0.0, 1.0)
        assert -one.low == one.high == pytest.approx(100 * 3.8415 / (30 + 3.8415), abs=0.01), "Tango's of 0 in 30"
    recordings = np.linspace(0, 100, 30)
    assert compare_means(recordings, recordings, bound=100.0).high == pytest.approx(11.35, abs=0.01)
    assert compare_means(recordings, recordings).high == np.inf, "of what has no end nobody knows it"
    assert compare_means(recordings, recordings + np.arange(30) / 30, bound=100.0).high < 1, "but graded ones tell"


def test_intervals_of_rare_changes_hold_the_true_difference():
    """Model b mends one answer in 50. In a third of the tests of 50 clips nothing changes: [0, 0] would miss it."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        mended = rng.random(50) < 0.02
        one = compare_means(np.where(mended, 0.0, 100.0), np.full(50, 100.0), bound=100.0, resamples=100)
        held += one.low <= 2 <= one.high
    assert held >= 190


@pytest.mark.parametrize(("groups", "clips"), [(20, 10), (12, 100)])
@pytest.mark.parametrize("gain", [0.0, 0.005, 0.03, 0.05])
def test_intervals_of_groups_of_clips_hold_the_true_difference_and_are_no_wider_than_needed(groups, clips, gain):
    """Of all clips 2 % change by chance, to right or to wrong, and ``gain`` are mended: the half width is about
    Student's quantile times the deviation of the mean, sqrt(gain + 0.02) / sqrt(clips)."""
    rng = np.random.default_rng([groups, int(1000 * gain)])
    count, held, reach = groups * clips, 0, []
    for _ in range(150):
        luck = rng.random(count)
        change = 100.0 * ((luck < gain + 0.01).astype(float) - (luck > 0.99))
        first = np.where(change > 0, 0.0, 100.0)
        one = compare_means(first, first + change, np.arange(count) % groups, bound=100.0, resamples=100)
        held += one.low <= 100 * gain <= one.high
        reach.append((one.high - one.low) / 2)
        assert one.p > 0.01 or not one.low <= 0 <= one.high, "the two do not contradict each other"
    assert held >= 0.9 * 150
    assert np.median(reach) < 1.5 * 2.2 * 100 * np.sqrt((gain + 0.02) / count)


def test_what_all_groups_show_is_in_the_interval_too():
    """Twelve recordings of 100 clips, each 4 to 6 points better, and ten graded ones that all gain 10."""
    gains = np.array([4, 5, 6] * 4)
    second = (np.arange(100) < 50 + gains[:, None]).ravel()
    scores = [np.eye(2)[right.astype(int)] for right in (np.tile(np.arange(100) < 50, 12), second)]
    one = compare_scores(*scores, np.ones(1200, int), np.repeat(np.arange(12), 100))["top1_acc"]
    assert one.p < 0.001 and 4 < one.low < one.difference < one.high < 6
    graded = compare_means(np.full(10, 50.0), np.full(10, 60.0), bound=100.0)
    assert graded.p < 0.01 and 9 < graded.low <= 10 <= graded.high < 11
    alike = compare_means(np.zeros(1200), np.zeros(1200), np.repeat(np.arange(12), 100), bound=100.0)
    assert alike.p == 1 and alike.high == pytest.approx(100 * 3.8415 / (12 + 3.8415), abs=0.01), "groups are counted"


def test_exchanging_the_models_turns_the_sign():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 40)
    a, b = (scores_of(labels, rng.random(40) < share, 4, rng) for share in (0.6, 0.8))
    one, other = (compare_scores(*pair, labels, resamples=200)["macro_f1"] for pair in ((a, b), (b, a)))
    assert one.p == other.p
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))


def test_mcnemar_is_a_sign_test():
    """9 to 2 of 11 that differ: twice the tail of a fair coin, (1 + 11 + 55) / 2048 * 2."""
    a = np.array([True] * 9 + [False] * 2 + [True] * 5)
    b = np.array([False] * 9 + [True] * 2 + [True] * 5)
    assert mcnemar_p(a, b) == pytest.approx(2 * 67 / 2048)
    assert mcnemar_p(a, a) == 1.0
    many = np.arange(5000) < 2600
    assert 0 < mcnemar_p(many, ~many) < 0.01, "large counts do not overflow"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_other_samples_are_refused():
    with pytest.raises(DataError, match="same samples"):
        compare_scores(np.eye(3), np.eye(2), np.arange(3))
    with pytest.raises(DataError, match="3 and 2 figures"):
        compare_means(np.ones(3), np.ones(2))
