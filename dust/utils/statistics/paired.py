"""Two models on the same samples: is the difference more than chance?

An interval of a difference of answers that are right or wrong is at least as wide as the score interval where
nothing differs, z^2 / (n + z^2) of n clips (Tango, Statistics in Medicine 17, 1998): draws of samples of which few
differ hardly vary. Where nothing differs at all, graded figures (F1 of a recording) too, n is the number of groups:
nobody saw whether the clips of one change together, and [0, 0] would say that the two never differ anywhere. As soon as
something differs, the draws of groups tell that, and a limit by groups would hide what each of them shows.
"""

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dust.utils.errors import DataError
from dust.utils.numbers import as_figures, as_numbers, as_samples
from dust.utils.statistics.intervals import (
    RESAMPLES,
    Figures,
    classification_figures,
    draw_groups,
    group_numbers,
    multilabel_figures,
    wilson_interval,
)

#: Up to so many groups, all ways to exchange two models' answers are tried; above, so many of them by chance.
EXACT_GROUPS = 12
PERMUTATIONS = 10_000
#: Percent points by which two figures of float32 may differ and be one: an exchange that changes nothing is as large.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Difference:
    """A metric of two models, in its units; ``difference`` is b - a with its interval, ``p`` that of the permutation
    test: how often exchanging the models' answers, group by group, gives a difference as large."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def compare_scores(
    a: np.ndarray,
    b: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare the figures of two models' scores of the same samples, in percent.

    Args:
        a, b: (N, K) scores, in the same order of samples and classes.
        labels: (N,) class numbers, or (N, K) zeros and ones for multi-label.
        groups: N names of what is drawn and exchanged as a whole; None: each sample by itself.

    Raises:
        DataError: the two do not have the same shape, or there are no samples.
    """
    a, b, labels = as_numbers("scores", a), as_numbers("scores", b), as_numbers("labels", labels)
    if a.shape != b.shape or a.shape[:1] != labels.shape[:1]:
        raise DataError(f"scores {a.shape} and {b.shape} with labels {labels.shape}: all must be of the same samples")
    a, labels = as_samples(a, labels)
    numbers, sizes = group_numbers(groups, len(a))
    total = len(sizes)
    make = classification_figures if labels.ndim == 1 else multilabel_figures
    both = make(
        np.concatenate([a, b]), np.concatenate([labels] * 2), np.concatenate([numbers, numbers + total]), 2 * total
    )
    return _compare(both, sizes, resamples, confidence, seed, bound=100.0, graded=labels.ndim != 1)


def compare_means(
    a: np.ndarray,
    b: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    bound: float = math.inf,
) -> Difference:
    """Compare the means of two models' figures (N,) of the same samples, recordings for one; no difference is larger
    than ``bound``. Where all are 0 or ``bound``, they are taken for right or wrong."""
    a, b = as_figures("figures", a), as_figures("figures", b)
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} figures: both must be of the same samples")
    numbers, sizes = group_numbers(groups, len(a))
    sums = np.stack([np.bincount(numbers, weights=values, minlength=len(sizes)) for values in (a, b)]).ravel()
    counts = np.concatenate([sizes, sizes])

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": sums @ weights / np.maximum(counts @ weights, 1) / 100.0}

    graded = not np.isin(np.concatenate([a, b]), (0, bound)).all()
    return _compare(mean, sizes, resamples, confidence, seed, bound=bound, graded=graded)["mean"]


def mcnemar_p(a_right: np.ndarray, b_right: np.ndarray) -> float:
    """Give the exact two-sided p of McNemar's test: which of two models is right where only one of them is.

    Samples count as independent; where they come in groups, :class:`Difference` has the p that respects them.
    """
    a_right, b_right = (as_figures("answers", answers).astype(bool) for answers in (a_right, b_right))
    if a_right.shape != b_right.shape:
        raise DataError(f"{len(a_right)} and {len(b_right)} answers: both must be of the same samples")
    first = int((a_right & ~b_right).sum())
    second = int((b_right & ~a_right).sum())
    count, fewer = first + second, min(first, second)
    if not count:
        return 1.0
    logs = [_log_choose(count, k) - count * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(one) for one in logs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the order
    given."""
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _compare(
    figures: Figures, sizes: np.ndarray, resamples: int, confidence: float, seed: int, *, bound: float, graded: bool
) -> dict[str, Difference]:
    """Compare two answers. ``figures`` take weights of a's groups and behind them of b's."""
    from scipy.special import stdtrit

    total = len(sizes)

    def difference(of_a: np.ndarray, of_b: np.ndarray) -> dict[str, np.ndarray]:
        first, second = figures(np.concatenate([of_a, of_b])), figures(np.concatenate([of_b, of_a]))
        return {name: 100.0 * (second[name] - first[name]) for name in first}

    ones, zeros = np.ones((total, 1)), np.zeros((total, 1))
    values = [figures(np.concatenate(pair)) for pair in ((ones, zeros), (zeros, ones))]
    drawn = [difference(weights, np.zeros_like(weights)) for weights in draw_groups(total, resamples, seed)]
    swapped = [difference(1 - swap, swap) for swap in _exchanges(total, seed)]
    effective = float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum())
    found = {}
    for name in values[0]:
        a, b = (100.0 * float(one[name][0]) for one in values)
        draws = np.concatenate([one[name] for one in drawn])
        reach = math.inf
        if effective - 1 > 1e-9:
            deviation = float(draws.std()) * math.sqrt(effective / (effective - 1))
            reach = float(stdtrit(effective - 1, (1 + confidence) / 2)) * deviation
            same = deviation < ROUNDING and abs(b - a) < ROUNDING
            if same or not graded:
                count = effective if same else float(sizes.sum())
                reach = max(reach, bound * wilson_interval(0, count, confidence=confidence)[1])
        chance = np.abs(np.concatenate([one[name] for one in swapped])) >= abs(b - a) - ROUNDING
        p = float(chance.mean()) if total <= EXACT_GROUPS else (1 + int(chance.sum())) / (1 + len(chance))
        low, high = b - a - reach, b - a + reach
        if math.isfinite(reach):  # else nobody knows them
            low, high = max(low, -bound), min(high, bound)
        found[name] = Difference(a, b, b - a, low, high, p)
    return found


def _exchanges(total: int, seed: int) -> Iterator[np.ndarray]:
    """Yield which groups are exchanged, (total, some) of zeros and ones."""
    if total <= EXACT_GROUPS:
        yield np.array(list(itertools.product((0, 1), repeat=total)), np.float32).T
        return
    rng = np.random.default_rng([seed, total, 1])
    step = max(1, min(PERMUTATIONS, 5_000_000 // total))
    for start in range(0, PERMUTATIONS, step):
        yield rng.integers(0, 2, size=(total, min(step, PERMUTATIONS - start))).astype(np.float32)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
