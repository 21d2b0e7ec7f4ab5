"""How well timelines agree with what was annotated: detection-style figures, and those of temporal segmentation."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from dust.utils.errors import DataError
from dust.utils.segment_metrics import Segment, detection_map, edit_score, f1_at_overlaps, frame_accuracy

#: The label of what no segment covers.
BACKGROUND = ""

Timelines = Mapping[str, Sequence[Segment]]


def score_timelines(
    predicted: Timelines, true: Timelines, *, rate: float = 10.0, ignore_background: bool = True
) -> tuple[dict[str, float], list[str]]:
    """Measure predicted segments of videos against annotated ones.

    Args:
        predicted, true: video -> its segments, seconds. A video without a prediction has none found.
        rate: labels a second that frame accuracy, edit score and F1@{10,25,50} are taken from.
        ignore_background: what nobody annotated does not count in these; else it is a class of its own.

    Returns:
        ``map`` (tIoU 0.1 to 0.7) and ``map@...``; ``frame_acc``, over all frames; ``edit``, the mean of the videos;
        ``f1@10`` and so on. And what was left out.

    Raises:
        DataError: nothing is annotated, or the two have no video in common.
    """
    if not any(true.values()):
        raise DataError("nothing is annotated, so nothing can be measured")
    common = [video for video in true if video in predicted]
    if not common:
        raise DataError(
            f"no video of the predictions is annotated: {next(iter(predicted), 'nothing')!r} is predicted, "
            f"{next(iter(true))!r} is annotated"
        )
    notes = [f"{len(missing)} annotated videos have no prediction, {missing[0]} for one: all of theirs is missed"
             for missing in [[video for video in true if video not in predicted]] if missing]  # fmt: skip
    more = [video for video in predicted if video not in true]
    if more:
        notes.append(f"left out: {len(more)} predicted videos that nobody annotated, {more[0]} for one")
    figures = detection_map({video: predicted.get(video, ()) for video in true}, true)
    crossed = [video for video, segments in true.items() if _overlap(segments)]
    if crossed:
        notes.append(
            f"frame_acc, edit and f1@... are left out: annotations of {len(crossed)} videos overlap, of {crossed[0]} "
            "for one"
        )
        return figures, notes
    pairs = []
    for video, segments in true.items():
        length = max((one.end for one in [*segments, *predicted.get(video, ())]), default=0.0)
        pairs.append((_frames(predicted.get(video, ()), length, rate), _frames(segments, length, rate)))
    skipped = (BACKGROUND,) if ignore_background else ()
    counted = [(ours, theirs) for ours, theirs in pairs if not set(theirs) <= set(skipped)]
    weights = [sum(label not in skipped for label in theirs) for _, theirs in counted]
    accuracies = [frame_accuracy(ours, theirs, background=skipped) for ours, theirs in counted]
    figures["frame_acc"] = float(np.average(accuracies, weights=weights))
    figures["edit"] = float(np.mean([edit_score(ours, theirs, background=skipped) for ours, theirs in pairs]))
    return figures | f1_at_overlaps(pairs, background=skipped), notes


def _overlap(segments: Sequence[Segment]) -> bool:
    ordered = sorted(segments, key=lambda one: one.start)
    return any(one.end > other.start + 1e-6 for one, other in pairwise(ordered))


def _frames(segments: Sequence[Segment], length: float, rate: float) -> list[str]:
    """Return the label at the middle of every 1 / rate seconds; of several segments the surest."""
    times = (np.arange(max(1, round(length * rate))) + 0.5) / rate
    labels = np.full(len(times), BACKGROUND, object)
    for one in sorted(segments, key=lambda one: one.confidence):
        labels[(times >= one.start) & (times < one.end)] = one.label
    return labels.tolist()


def text_of(figures: Mapping[str, float]) -> str:
    """Say the figures in lines for a terminal."""
    width = max(map(len, figures))
    return "\n".join(f"{name:{width}}  {value:6.2f}" for name, value in figures.items())
