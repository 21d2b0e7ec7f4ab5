"""How far several people agree on the classes of what they saw."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """What :func:`measure_agreement` found.

    Attributes:
        items: those that two people or more have judged.
        people: fewest and most of them for one item.
        percent: of the pairs of people who judged one item, in the mean over items, how many say the same.
        kappa: Fleiss' kappa: 1 where all agree, 0 where they agree as often as by chance; NaN where there is one class.
        tied: items of which two classes or more were said most often.
    """

    items: int
    people: tuple[int, int]
    percent: float
    kappa: float
    tied: int


def measure_agreement(items: Iterable[Mapping[int, int]]) -> Agreement | None:
    """Measure agreement as Fleiss does, "Measuring nominal scale agreement among many raters", Psychological Bulletin
    76, 1971.

    Where items have different numbers of people, each item weighs alike, and each judgement in the classes' shares.

    Args:
        items: of each, class -> how many people said it. Those of fewer than two people are left out.

    Returns:
        None if no item is left.
    """
    agreeing, classes, sizes, tied = [], dict[int, int](), [], 0
    for item in items:
        people = sum(item.values())
        if people < 2:
            continue
        sizes.append(people)
        agreeing.append(sum(count * (count - 1) for count in item.values()) / (people * (people - 1)))
        tied += list(item.values()).count(max(item.values())) > 1
        for number, count in item.items():
            classes[number] = classes.get(number, 0) + count
    if not sizes:
        return None
    observed = math.fsum(agreeing) / len(agreeing)
    chance = math.fsum((count / sum(sizes)) ** 2 for count in classes.values())
    kappa = (observed - chance) / (1 - chance) if len(classes) > 1 else math.nan
    return Agreement(len(sizes), (min(sizes), max(sizes)), 100.0 * observed, kappa, tied)
