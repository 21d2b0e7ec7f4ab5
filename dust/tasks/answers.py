"""Records of a classification, read a block at a time, and what its figures need of them: some 60 bytes a sample."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.utils.metrics import average_precisions, per_class_report
from dust.utils.ranks import Ranks, joined_ranks, ranks_of
from dust.utils.statistics import CalibrationTerms, joined_terms, terms_of

logger = logging.getLogger(__name__)

#: Scores (samples times classes) that are looked at together.
BLOCK_CELLS = 1 << 20
#: Scores of a multi-label test above which intervals and calibration, which need all at once, are left out.
MOST_CELLS = 1 << 24
#: Groups above which no intervals are made: 2000 draws of them take minutes, and they would be narrow.
MOST_GROUPS = 1_000_000

#: Reads all records, whenever it is called.
Reader = Callable[[], Iterable[Mapping[str, Any]]]
#: What is meant of a record: (K,) scores, or those of all its views (V, K).
Pick = Callable[[Mapping[str, Any]], np.ndarray]


def in_blocks(records: Iterable[Mapping[str, Any]], classes: int) -> Iterator[list[Mapping[str, Any]]]:
    """Yield lists of records that have about BLOCK_CELLS scores together; none is empty."""
    most, block = max(1, BLOCK_CELLS // max(classes, 1)), []
    for record in records:
        block.append(record)
        if len(block) == most:
            yield block
            block = []
    if block:
        yield block


def group_numbers(names: Iterable[Sequence[str]]) -> np.ndarray | None:
    """Return (N,) the number of each sample's group, of names that come in blocks; None, and a line in the log, where
    there are more than MOST_GROUPS."""
    known: dict[str, int] = {}
    numbers = [np.empty(0, int)]
    for block in names:
        numbers.append(np.array([known.setdefault(name, len(known)) for name in block]))
        if len(known) > MOST_GROUPS:
            logger.warning("more than %d groups of clips: the figures get no intervals", MOST_GROUPS)
            return None
    return np.concatenate(numbers)


def stacked(block: Sequence[Mapping[str, Any]], pick: Pick) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, K) scores and the labels (n,), or (n, K) for multi-label, of records; a view has its record's
    label."""
    scores, labels = [pick(record) for record in block], np.array([record["label"] for record in block])
    if scores[0].ndim == 2:
        return np.concatenate(scores), np.repeat(labels, [len(one) for one in scores], axis=0)
    return np.stack(scores), labels


@dataclass(frozen=True)
class Answers:
    """What single-label figures are made of, of N labelled samples.

    Attributes:
        ranks: by the scores.
        terms: by the probabilities.
        others: ranks by each other output of the model.
        views: ranks of all views by themselves, and how many each sample has; None where these are not measured.
    """

    ranks: Ranks
    terms: CalibrationTerms
    others: Mapping[str, Ranks]
    views: tuple[Ranks, np.ndarray] | None = None


def answers_of(records: Iterable[Mapping[str, Any]], classes: int, *, views: bool = False) -> Answers | None:
    """Return the answers of labelled records, of which there may be any number; None of none."""
    parts = []
    for block in in_blocks(records, classes):
        scores, labels = stacked(block, lambda record: record["scores"])
        probabilities, _ = stacked(block, lambda record: record["probabilities"])
        others = {}
        for name in block[0]["others"]:
            others[name] = ranks_of(*stacked(block, lambda record, name=name: record["others"][name]))  # type: ignore[misc]
        alone = None
        if views:
            counts = np.array([len(record["views"]) for record in block])
            alone = ranks_of(*stacked(block, lambda record: record["views"])), counts
        parts.append(Answers(ranks_of(scores, labels), _terms(probabilities, labels), others, alone))
    return joined_answers(parts) if parts else None


def _terms(probabilities: np.ndarray, labels: np.ndarray) -> CalibrationTerms:
    """Return the terms. A label that is none of the classes is said with the accuracies, which come first."""
    return terms_of(probabilities, np.clip(labels, 0, probabilities.shape[1] - 1))


def joined_answers(parts: Sequence[Answers]) -> Answers:
    """Put the answers of one part behind those of the other; at least one."""
    views = [part.views for part in parts if part.views is not None]
    alone = None
    if views:
        alone = joined_ranks(ranks for ranks, _ in views), np.concatenate([counts for _, counts in views])
    others = {name: joined_ranks(part.others[name] for part in parts) for name in parts[0].others}
    return Answers(
        joined_ranks(part.ranks for part in parts), joined_terms(part.terms for part in parts), others, alone
    )


# ------------------------------------------------------------------------------------------------------- multi-label


def by_class(read: Reader, pick: Pick, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield scores (N, some) and labels (N, some) of all labelled records, some classes at a time: one piece, where
    there are few records."""
    count = sum(1 for _ in read())
    width = max(1, MOST_CELLS // max(count, 1))
    for start in range(0, classes, width):
        columns = slice(start, start + width)
        pieces = []
        for block in in_blocks(read(), classes):
            scores, labels = stacked(block, pick)
            pieces.append((scores[:, columns].copy(), labels[:, columns].astype(np.int8)))  # the rest is let go
        yield np.concatenate([scores for scores, _ in pieces]), np.concatenate([labels for _, labels in pieces])


def mean_average_precision(read: Reader, pick: Pick, classes: int) -> dict[str, float]:
    """Return ``map`` as of :func:`dust.utils.metrics.multilabel_metrics`."""
    found = [average_precisions(scores, labels) for scores, labels in by_class(read, pick, classes)]
    each = np.concatenate(found)
    return {"map": 100.0 * float(np.mean(each)) if len(each) else float("nan")}


def multilabel_report(read: Reader, classes: int) -> dict[str, np.ndarray]:
    """Return :func:`dust.utils.metrics.per_class_report` of what is said to be there: a probability of at least 0.5."""
    parts = [
        per_class_report((probabilities >= 0.5).astype(int), labels, labels.shape[1])
        for probabilities, labels in by_class(read, lambda record: record["probabilities"], classes)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
