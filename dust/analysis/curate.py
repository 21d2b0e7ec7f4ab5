"""What is wrong in a data set, told from stored features: copies, labels that look wrong, clips that stand alone.

Nothing is changed: the findings are lists, and corrections in the form that DATA.CORRECTIONS reads.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.utils.errors import DataError

#: Rows that are compared with all others at a time.
CHUNK = 1024
NEIGHBOURS = 10
#: The share of labels that answers agree with where classes hardly overlap; below, most findings are right labels.
SURE = 0.9


@dataclass(frozen=True)
class LabelIssue:
    """A clip whose label looks wrong: ``given`` has the probability ``own``, ``suggested`` has ``other``, both 0..1."""

    index: int
    given: int
    suggested: int
    own: float
    other: float


def normalised(features: np.ndarray) -> np.ndarray:
    """Return features (N, ...) as rows (N, D) float32 of length 1 around their common mean.

    Without the mean the features of one network all point the same way, and everything looks alike.
    """
    rows = np.asarray(features, np.float32).reshape(len(features), -1)
    rows = rows - rows.mean(axis=0, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def near_duplicates(rows: np.ndarray, *, threshold: float = 0.95) -> list[tuple[int, int, float]]:
    """Find pairs (i, j, cosine), i < j, whose cosine is at least ``threshold``, the most alike first.

    Args:
        rows: (N, D) of length 1, see :func:`normalised`.
    """
    found = []
    for begin in range(0, len(rows), CHUNK):
        part = rows[begin : begin + CHUNK] @ rows[begin:].T
        for i, j in zip(*np.nonzero(part >= threshold), strict=True):
            if j > i:
                found.append((begin + int(i), begin + int(j), float(part[i, j])))
    return sorted(found, key=lambda pair: -pair[2])


def families(pairs: Sequence[tuple[int, int, float]], count: int) -> list[list[int]]:
    """Join pairs, the surest first, into families of copies; each is in ascending order, and those of one are left out.

    Two families become one where three in five of the pairs between them were found, so that a few wrong pairs join no
    recordings; one clip joins a family of which it has half.
    """
    family = list(range(count))
    members = {index: [index] for index in range(count)}
    between: dict[int, dict[int, int]] = {index: {} for index in range(count)}  # pairs found from family to family
    for i, j, _ in pairs:
        first, second = sorted((family[i], family[j]), key=lambda one: -len(members[one]))
        if first == second:
            continue
        links = between[first].get(second, 0) + 1
        between[first][second] = between[second][first] = links
        if links < (0.5 if len(members[second]) == 1 else 0.6) * len(members[first]) * len(members[second]):
            continue
        for index in members[second]:
            family[index] = first
        members[first] += members.pop(second)
        for other, count_ in between.pop(second).items():
            del between[other][second]
            if other != first:
                between[first][other] = between[other][first] = between[first].get(other, 0) + count_
    return sorted(sorted(found) for found in members.values() if len(found) > 1)


def out_of_fold(
    rows: np.ndarray, labels: np.ndarray, groups: Sequence[Hashable] | None = None, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Give probabilities (N, K) of a linear classifier that has not seen the clip, nor others of its group.

    Args:
        rows: (N, D) features.
        labels: (N,) class numbers from 0 to K - 1.
        groups: N names of what stays together; None: each clip by itself.

    Raises:
        DataError: fewer than two classes, or fewer clips (or groups) in the smallest class than folds need.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = int(labels.max()) + 1 if len(labels) else 0
    names = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    if len(np.unique(labels)) < 2:
        raise DataError("labels of one class only: none of them can look wrong")
    folds = min(folds, len(np.unique(names)))
    if folds < 2:
        raise DataError("all clips are of one group: no classifier can be trained without it")
    probabilities = np.zeros((len(labels), classes))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(rows, labels, names):
        if len(np.unique(labels[train])) < 2:
            raise DataError(f"the clips of {folds} folds without one hold a single class: there are too few clips")
        model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))
        model.fit(rows[train], labels[train])
        probabilities[np.ix_(test, model.classes_)] = model.predict_proba(rows[test])
    return probabilities


def agreement(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Give the share (0..1) of labels (N,) that have the largest of the probabilities (N, K)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def label_issues(probabilities: np.ndarray, labels: np.ndarray) -> list[LabelIssue]:
    """Find labels that are likely wrong by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021), the worst
    first.

    A class claims a clip whose probability of it reaches what clips labelled so have: their mean (the paper's), less
    one standard deviation where the answers agree with nine in ten labels. (Half of the clips do not reach the mean, so
    of two wrong labels one is counted, or none; but where classes overlap, each claim more is mostly a right label.) Of
    several claims the strongest counts. How many clips labelled i are claimed by j, scaled to all clips
    labelled i, says how many labels are wrong in that way: so many with the largest margin for j over i are named
    ("prune by noise rate").

    Args:
        probabilities: (N, K) of clips that the classifier has not seen, see :func:`out_of_fold`.
        labels: (N,) class numbers.
    """
    classes = probabilities.shape[1]
    at = np.arange(len(labels))
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[at, labels]
    mean, square = (np.bincount(labels, one, classes) / np.maximum(counts, 1) for one in (own, own**2))
    below = np.sqrt(np.maximum(square - mean**2, 0)) if agreement(probabilities, labels) >= SURE else 0.0
    thresholds = np.where(counts > 0, mean - below, np.inf)
    claimed = np.where(probabilities >= thresholds, probabilities, -1.0)
    known = claimed.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[known], claimed[known].argmax(axis=1)), 1)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]
    found: dict[int, LabelIssue] = {}
    for given in range(classes):
        mine = np.flatnonzero(labels == given)
        for other in range(classes):
            wanted = round(float(joint[given, other]))
            if other == given or not wanted:
                continue
            margins = probabilities[mine, other] - probabilities[mine, given]
            for place in np.argsort(-margins, kind="stable")[:wanted]:
                index = int(mine[place])
                issue = LabelIssue(index, given, other, float(own[index]), float(probabilities[index, other]))
                before = found.get(index)
                if margins[place] > 0 and (before is None or issue.other > before.other):
                    found[index] = issue
    return sorted(found.values(), key=lambda issue: issue.own - issue.other)


def outliers(rows: np.ndarray, *, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Give for each row (N,) how far (0..2) its nearest neighbours are on average: 1 - cosine."""
    count = min(neighbours, len(rows) - 1)
    if count < 1:
        return np.zeros(len(rows))
    distances = []
    for begin in range(0, len(rows), CHUNK):
        similarity = rows[begin : begin + CHUNK] @ rows.T
        similarity[np.arange(len(similarity)), begin + np.arange(len(similarity))] = -np.inf
        distances.append(1.0 - np.partition(similarity, -count, axis=1)[:, -count:].mean(axis=1))
    return np.concatenate(distances)


def label_next(rows: np.ndarray, known: np.ndarray, *, count: int) -> list[int]:
    """Choose what to label next so that everything is near something labelled: k-center greedy (Sener and Savarese,
    ICLR 2018). ``known`` (N,) bools; returns up to ``count`` indices of rows that are not known, the first first."""
    nearest = np.full(len(rows), np.inf, np.float32)
    for begin in range(0, int(known.sum()), CHUNK):
        centres = rows[np.flatnonzero(known)[begin : begin + CHUNK]]
        nearest = np.minimum(nearest, (1.0 - rows @ centres.T).min(axis=1))
    nearest[known] = -np.inf
    chosen: list[int] = []
    for _ in range(min(count, int((~known).sum()))):
        index = int(nearest.argmax())
        chosen.append(index)
        nearest = np.minimum(nearest, 1.0 - rows @ rows[index])
        nearest[index] = -np.inf
    return chosen


def least_sure(probabilities: np.ndarray) -> np.ndarray:
    """Order clips (N,) by the margin between their first two classes, the smallest first."""
    if probabilities.shape[1] < 2:
        return np.arange(len(probabilities))
    ordered = np.sort(probabilities, axis=1)
    return np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")
