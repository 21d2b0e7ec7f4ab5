"""Figures of timelines: labels of every frame, and segments with a class and a confidence. NumPy only.

Frame accuracy, edit score and F1 at overlaps are those of temporal segmentation (Lea et al., Temporal Convolutional
Networks for Action Segmentation and Detection, CVPR 2017); mean average precision at temporal overlaps is that of
ActivityNet and THUMOS (Heilbron et al., CVPR 2015), with the interpolated precision of the former's evaluation.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.utils.errors import DataError
from dust.utils.numbers import as_figures, length_of

OVERLAPS = (0.10, 0.25, 0.50)
#: 0.1, 0.2 ... 0.7
DETECTION_OVERLAPS = tuple(round(0.1 * step, 1) for step in range(1, 8))


@dataclass(frozen=True)
class Segment:
    """Half-open, [start, end), in seconds or in frames. ``confidence`` ranks detections."""

    start: float
    end: float
    label: str
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.end > self.start):
            raise DataError(
                f"segment of {self.label!r} from {self.start} to {self.end}: its end must be above its start"
            )
        if not math.isfinite(self.confidence):
            raise DataError(f"segment of {self.label!r} from {self.start}: confidence {self.confidence} is no number")


def segments_of_frames(labels: Sequence[Any]) -> list[Segment]:
    """Join equal neighbours of a timeline, one label for each frame, into segments in frames.

    Here and below a timeline is a list, an array or a tensor (T,). Raises DataError for anything else, and for NaN.
    """
    labels = _timeline(labels)
    segments, start = [], 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[start]:
            segments.append(Segment(start, frame, labels[start]))
            start = frame
    return segments


def frame_accuracy(predicted: Sequence[Any], labels: Sequence[Any], *, background: Iterable[Any] = ()) -> float:
    """Give the percentage of frames with the right label; frames whose true label is ``background`` do not count.

    Raises:
        DataError: the two are no timelines or have other lengths, or no frame counts.
    """
    predicted, labels = _alike(predicted, labels)
    skipped = _labels(background)
    counted = [(p, y) for p, y in zip(predicted, labels, strict=True) if y not in skipped]
    if not counted:
        raise DataError("no frame counts: the timeline is empty, or background alone")
    return 100.0 * sum(p == y for p, y in counted) / len(counted)


def edit_score(predicted: Sequence[Any], labels: Sequence[Any], *, background: Iterable[Any] = ()) -> float:
    """Give 100 times one minus Levenshtein's distance of the two orders of segments, over the longer one's number.

    How long segments last does not count, nor does ``background``. Two timelines without any segment agree: 100.
    """
    predicted, labels = _alike(predicted, labels)
    skipped = _labels(background)
    first, second = (
        [one.label for one in segments_of_frames(timeline) if one.label not in skipped]
        for timeline in (predicted, labels)
    )
    longer = max(len(first), len(second))
    return 100.0 * (1 - _levenshtein(first, second) / longer) if longer else 100.0


def f1_at_overlaps(
    timelines: Iterable[tuple[Sequence[Any], Sequence[Any]]],
    *,
    overlaps: Sequence[float] = OVERLAPS,
    background: Iterable[Any] = (),
) -> dict[str, float]:
    """Give F1@{10,25,50}, percent, over several recordings.

    Args:
        timelines: of each recording what was predicted and what is true, a label for each frame.
        overlaps: a predicted segment is right if its overlap (intersection over union) with a true one of its class is
            at least this, and that one is not taken: by a segment that begins earlier.
        background: labels that are no segments.

    Raises:
        DataError: as :func:`frame_accuracy`, and for overlaps that are none of 0 to 1.
    """
    skipped, overlaps = _labels(background), _overlaps(overlaps)
    counts = np.zeros((len(overlaps), 3))
    for predicted, labels in timelines:
        predicted, labels = _alike(predicted, labels)
        first, second = (
            [one for one in segments_of_frames(timeline) if one.label not in skipped]
            for timeline in (predicted, labels)
        )
        counts += [_matches(first, second, overlap) for overlap in overlaps]
    names = [f"f1@{100 * overlap:g}" for overlap in overlaps]
    totals = (2 * counts[:, 0] + counts[:, 1] + counts[:, 2]).tolist()
    return {
        name: 200.0 * float(hit) / total if total else 100.0
        for name, hit, total in zip(names, counts[:, 0], totals, strict=True)
    }


def _matches(predicted: list[Segment], true: list[Segment], overlap: float) -> tuple[int, int, int]:
    """Return (right, wrong, missed) segments. Each predicted one asks for the true one that it overlaps most."""
    taken: set[int] = set()
    for one in predicted:
        best = max(range(len(true)), key=lambda index: _overlap(one, true[index]), default=None)
        if best is not None and best not in taken and _overlap(one, true[best]) >= overlap:
            taken.add(best)
    return len(taken), len(predicted) - len(taken), len(true) - len(taken)


def _overlap(a: Segment, b: Segment) -> float:
    """Return the intersection over union of two segments; -1 for other classes."""
    if a.label != b.label:
        return -1.0
    shared = min(a.end, b.end) - max(a.start, b.start)
    return max(0.0, shared) / (max(a.end, b.end) - min(a.start, b.start))


def detection_map(
    predicted: Mapping[str, Sequence[Segment]],
    true: Mapping[str, Sequence[Segment]],
    *,
    overlaps: Sequence[float] = DETECTION_OVERLAPS,
) -> dict[str, float]:
    """Give ``map@0.1`` ... and their mean ``map``, percent: the mean over the classes that occur in ``true``.

    Args:
        predicted, true: by video, segments in any order. Of equal confidences the one that is named first is first.
        overlaps: intersection over union from which a detection is right; each true segment is found once, by the most
            confident detection that overlaps it, and a detection takes the free one that it overlaps most.

    Raises:
        DataError: there is no true segment, or an overlap is none of 0 to 1.
    """
    overlaps = _overlaps(overlaps)
    classes = sorted({one.label for segments in true.values() for one in segments})
    if not classes:
        raise DataError("no true segment, so no detection can be measured")
    per_class = np.array([_average_precisions(name, predicted, true, overlaps) for name in classes])
    means = 100.0 * per_class.mean(axis=0)
    figures = {f"map@{overlap:g}": float(value) for overlap, value in zip(overlaps, means, strict=True)}
    return {**figures, "map": float(means.mean())}


def _average_precisions(
    label: str,
    predicted: Mapping[str, Sequence[Segment]],
    true: Mapping[str, Sequence[Segment]],
    overlaps: Sequence[float],
) -> list[float]:
    detections = [(video, one) for video, segments in predicted.items() for one in segments if one.label == label]
    detections.sort(key=lambda pair: -pair[1].confidence)
    wanted = {video: [one for one in segments if one.label == label] for video, segments in true.items()}
    total = sum(map(len, wanted.values()))
    values = []
    for overlap in overlaps:
        taken: set[tuple[str, int]] = set()
        right = np.zeros(len(detections))
        for index, (video, one) in enumerate(detections):
            found = [(_overlap(one, other), -place) for place, other in enumerate(wanted.get(video, ()))]
            for value, negative in sorted(found, reverse=True):
                if value < overlap:
                    break
                if (video, -negative) not in taken:
                    taken.add((video, -negative))
                    right[index] = 1
                    break
        values.append(_interpolated_precision(right, total))
    return values


def _interpolated_precision(right: np.ndarray, total: int) -> float:
    """Return the area under the curve of precision over recall, each precision being the best at that recall or
    above."""
    if not len(right):
        return 0.0
    hits = right.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float((precision * right).sum() / total)


def _levenshtein(first: Sequence[Any], second: Sequence[Any]) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def _timeline(labels: Any) -> list[Any]:
    """Return the labels as plain values, which are equal and found in a set, as tensors are not."""
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    if length_of(plain) < 0:
        raise DataError(f"a timeline is {labels!r}: it takes a label for each frame")
    plain = [one.item() if getattr(one, "ndim", 1) == 0 else one for one in plain]
    wrong = [one for one in plain if not isinstance(one, Hashable) or one != one]
    if wrong:
        raise DataError(f"a timeline holds {wrong[0]!r}: it takes one label for each frame")
    return plain


def _alike(predicted: Any, labels: Any) -> tuple[list[Any], list[Any]]:
    """Return both timelines. DataError where they have other lengths."""
    predicted, labels = _timeline(predicted), _timeline(labels)
    if len(predicted) != len(labels):
        raise DataError(
            f"{len(predicted)} predicted frames for {len(labels)} true ones: a timeline has a label for each"
        )
    return predicted, labels


def _labels(background: Any) -> set[Any]:
    """Return the labels of the background: several, or one (a text is one)."""
    plain = background.tolist() if hasattr(background, "tolist") else background
    several = isinstance(plain, Iterable) and not isinstance(plain, str)
    return set(_timeline(list(plain) if several else [plain]))


def _overlaps(overlaps: Any) -> list[float]:
    found = as_figures("overlaps", overlaps).tolist()
    if not found or not all(0 <= one <= 1 for one in found):
        raise DataError(f"overlaps {found}: they are shares from 0 to 1, at least one")
    return found
