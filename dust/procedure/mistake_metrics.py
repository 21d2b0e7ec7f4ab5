"""How well alarms agree with the mistakes that were made: recall, precision, false alarms per hour, delay, AUC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.procedure.metrics import match_steps
from dust.procedure.mistakes import KINDS, Mistake
from dust.utils.numbers import as_numbers


@dataclass(frozen=True)
class MistakeScore:
    """One recording. ``pairs``: index of a mistake -> that of its alarm; ``seconds`` long."""

    true: tuple[Mistake, ...]
    alarms: tuple[Mistake, ...]
    pairs: Mapping[int, int]
    fps: float
    seconds: float

    def delay_s(self, index: int) -> float | None:
        """Return the seconds from mistake number ``index`` to its alarm; None without one."""
        if index not in self.pairs:
            return None
        return (self.alarms[self.pairs[index]].frame - self.true[index].frame) / self.fps


def score_mistakes(true: Sequence[Mistake], alarms: Sequence[Mistake], *, fps: float, num_frames: int) -> MistakeScore:
    """Match alarms to mistakes of their kind and step, one to one; an alarm is right at or after its mistake.

    As :func:`dust.procedure.metrics.match_steps` in ``paper`` mode matches steps.
    """
    true, alarms = (sorted(found, key=lambda one: one.frame) for found in (true, alarms))
    pairs: dict[int, int] = {}
    for kind in KINDS:
        mine = [i for i, one in enumerate(true) if one.kind == kind]
        theirs = [i for i, one in enumerate(alarms) if one.kind == kind]
        delays = match_steps([_step(true[i]) for i in mine], [_step(alarms[i]) for i in theirs]).delays
        free = set(theirs)
        for index, delay in delays.items():
            wanted = (true[mine[index]].frame + delay, true[mine[index]].step)
            found = next(i for i in theirs if i in free and _step(alarms[i]) == wanted)
            free.remove(found)
            pairs[mine[index]] = found
    return MistakeScore(tuple(true), tuple(alarms), pairs, fps, num_frames / fps)


def _step(one: Mistake) -> tuple[int, int]:
    return one.frame, one.step


def summarize_mistakes(scores: Sequence[MistakeScore]) -> dict[str, Any]:
    """Return figures over all recordings, and of each kind.

    ``mistakes``, ``alarms``, ``found``: numbers; ``recall``, ``precision``: 0..1; ``false_alarms_per_hour`` of all
    recordings together, which are ``hours`` long; ``delay_s``: mean over what was found. What has no denominator is
    None.
    """
    hours = sum(score.seconds for score in scores) / 3600
    found = {"hours": hours, **_figures(scores, KINDS, hours)}
    return {**found, "kinds": {kind: _figures(scores, (kind,), hours) for kind in KINDS}}


def _figures(scores: Sequence[MistakeScore], kinds: Sequence[str], hours: float) -> dict[str, Any]:
    true = sum(one.kind in kinds for score in scores for one in score.true)
    alarms = sum(one.kind in kinds for score in scores for one in score.alarms)
    delays = [
        score.delay_s(index) or 0.0 for score in scores for index in score.pairs if score.true[index].kind in kinds
    ]
    return {
        "mistakes": true,
        "alarms": alarms,
        "found": len(delays),
        "recall": len(delays) / true if true else None,
        "precision": len(delays) / alarms if alarms else None,
        "false_alarms": alarms - len(delays),
        "false_alarms_per_hour": (alarms - len(delays)) / hours if hours else None,
        "delay_s": float(np.mean(delays)) if delays else None,
    }


def auc(scores: Any, labels: Any) -> float | None:
    """Return the area under the ROC curve: how often a positive has the higher score, ties count one half. None where
    all labels are alike. ``scores`` and ``labels`` (0 or 1) of any shape. DataError for NaN."""
    values, positive = as_numbers("scores", scores).ravel(), np.asarray(labels).ravel() > 0
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal ones, from 1
    return float((ranks[inverse][positive].sum() - many * (many + 1) / 2) / (many * few))
