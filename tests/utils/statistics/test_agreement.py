"""Agreement of several people, against scikit-learn where two judge, and against the formula written out slowly."""

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from dust.utils.statistics import measure_agreement


def counted(judgements):
    return [{int(one): list(row).count(one) for one in row} for row in judgements]


def test_two_people_as_scikit_learn_has_it():
    rng = np.random.RandomState(0)
    one = rng.randint(0, 4, 200)
    other = np.where(rng.rand(200) < 0.6, one, rng.randint(0, 4, 200))
    found = measure_agreement(counted(np.stack([one, other], axis=1)))
    # Fleiss' kappa does not know who is who: it is Cohen's where each judges in both roles
    both = cohen_kappa_score(np.append(one, other), np.append(other, one))
    assert found.kappa == pytest.approx(both, abs=1e-12)
    assert found.percent == pytest.approx(100 * np.mean(one == other))
    assert found.items == 200 and found.people == (2, 2) and found.tied == (one != other).sum()


def test_the_example_of_the_paper():
    """Fourteen raters, ten subjects, five categories: the table that most texts on it show; kappa 0.210."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    found = measure_agreement([{place: count for place, count in enumerate(row) if count} for row in table])
    assert found.kappa == pytest.approx(0.210, abs=5e-4) and found.percent == pytest.approx(37.8, abs=0.05)


def test_different_numbers_of_people_by_all_pairs():
    rng = np.random.RandomState(1)
    rows = [rng.randint(0, 3, rng.randint(1, 6)).tolist() for _ in range(60)]
    several = [row for row in rows if len(row) > 1]
    pairs = [[a == b for a, b in combinations(row, 2)] for row in several]
    observed = np.mean([np.mean(one) for one in pairs])
    said = [one for row in several for one in row]
    chance = sum((said.count(k) / len(said)) ** 2 for k in range(3))
    found = measure_agreement(counted(rows))
    assert found.items == len(several) < len(rows)
    assert found.percent == pytest.approx(100 * observed) and found.kappa == pytest.approx(
        (observed - chance) / (1 - chance)
    )


def test_what_cannot_be_said():
    assert measure_agreement([{0: 1}, {}]) is None
    alike = measure_agreement([{3: 2}, {3: 4}])
    assert alike.percent == 100 and math.isnan(alike.kappa) and alike.tied == 0
    assert measure_agreement([{0: 2}, {1: 2}]).kappa == 1
