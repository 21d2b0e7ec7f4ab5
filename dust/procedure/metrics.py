"""How well recognised steps agree with the steps that were done: POS, F1 and delay of procedure step recognition.

IndustReal (https://arxiv.org/abs/2310.17323) defines the three measures, STORM-PSR (https://arxiv.org/abs/2510.12385)
uses them. The published programs depart from the written definitions, so that there are three modes:

* ``paper``: the definitions as written. A prediction at or after its step's completion is right.
* ``industreal``, ``storm``: what the two programs compute, for comparison with published tables only. They count a
  prediction at exactly the frame of completion as wrong, and compare some predictions with unrelated steps.

A step is ``(frame, step id)``; lists of steps are in the order of their frames.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from dust.utils.errors import ArgumentError, ConfigError, DataError
from dust.utils.numbers import as_numbers, length_of, whole

Step = tuple[int, int]
MODES = ("paper", "industreal", "storm")
F1_EPS = 1e-6
NO_DELAY = {"paper": None, "industreal": 100.0, "storm": 0.0}  # frames that stand for "nothing was recognised"
TAKEN = 1e9  # what the published matchers write over a time that is no candidate


def as_steps(name: str, steps: Any) -> list[Step]:
    """Return (frame, step id) pairs of whole numbers from a list, an array or a tensor (N, 2).

    Raises:
        DataError: other shapes, fractions of frames, NaN.
    """
    table = as_numbers(name, steps, ndim=2)
    if len(table) and table.shape[1] != 2:
        raise DataError(f"{name}: shape {table.shape}; steps are pairs of frame and step id")
    wrong = ~(np.isfinite(table) & (table == np.floor(table)))
    if wrong.any():
        raise DataError(f"{name}: {table[wrong.any(axis=1)][0].tolist()}; both are whole numbers")
    return [(int(frame), int(step)) for frame, step in table]


# ------------------------------------------------------------------------------------------------------------- POS


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the Damerau-Levenshtein distance without the restriction to adjacent symbols (Lowrance and Wagner, JACM
    1975).

    Insertion, deletion and transposition cost 1, substitution 2; symbols between two transposed ones are inserted or
    deleted at their price. Symmetric.
    """
    cost = np.zeros((len(first) + 1, len(second) + 1), dtype=np.int64)
    cost[:, 0] = np.arange(len(first) + 1)
    cost[0] = np.arange(len(second) + 1)
    last_row: dict[int, int] = {}  # row at which each symbol of ``first`` was seen last
    for i, a in enumerate(first, start=1):
        last_column = 0  # column at which ``a`` was seen last in ``second``
        for j, b in enumerate(second, start=1):
            best = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (0 if a == b else 2))
            row, column = last_row.get(b, 0), last_column
            if row and column:
                best = min(best, cost[row - 1, column - 1] + (i - row - 1) + 1 + (j - column - 1))
            cost[i, j] = best
            if a == b:
                last_column = j
        last_row[a] = i
    return int(cost[-1, -1])


def pos(gt_ids: Sequence[int], pred_ids: Sequence[int]) -> float:
    """Return the procedure order similarity of two sequences of step ids, 0..1: ``1 - min(edit distance / len(gt),
    1)``.

    Without any completed step it is 1 where nothing was predicted, else 0.
    """
    lists = []
    for name, ids in (("gt_ids", gt_ids), ("pred_ids", pred_ids)):
        plain = ids.tolist() if hasattr(ids, "tolist") else ids
        if length_of(plain) < 0:
            raise DataError(f"pos: {name} is {plain!r}; it takes step ids in their order")
        wrong = [step for step in plain if not isinstance(step, int | np.integer)]
        if wrong:
            raise DataError(f"pos: {name} holds {wrong[0]!r}; it takes step ids alone, without their frames")
        lists.append(plain)
    gt_ids, pred_ids = lists
    if not len(gt_ids):
        return 0.0 if len(pred_ids) else 1.0
    return 1.0 - min(edit_distance(gt_ids, pred_ids) / len(gt_ids), 1.0)


def reorder_within_window(gt: Sequence[Step], pred: Sequence[Step], window: int) -> list[int]:
    """Return predicted ids after STORM-PSR's correction of order, which precedes its POS.

    Steps that become visible in one window of ``window`` frames have no order of their own, so predictions closer
    than that are swapped into the ground truth's order. Kept with its side effects, for comparison with published
    tables: a right order may be swapped too, and where the first predictions are the steps completed until then, every
    predicted id is overwritten by the ground truth's, for as long as both lists are.
    """
    gt, steps = as_steps("completed steps", gt), as_steps("predicted steps", pred)
    window = whole("window", window, low=0)
    if any(frame for frame, _ in steps):
        now = steps[0][0]
        first = [i for i, (frame, _) in enumerate(steps) if frame == now]
        head = [step for _, step in steps[: first[-1] + 1]]
        done = [step for frame, step in gt if frame <= now]
        if set(head) == set(done):
            for i, (_, step) in enumerate(gt[: len(steps)]):  # of all, not of the first ones only
                steps[i] = (steps[i][0], step)
    gt_pairs = {(a[1], b[1]) for a, b in itertools.pairwise(gt)}
    for i in range(1, len(steps)):
        before, after = steps[i - 1], steps[i]
        if (after[1], before[1]) in gt_pairs and abs(after[0] - before[0]) < window:
            steps[i - 1], steps[i] = after, before
    return [step for _, step in steps]


# ---------------------------------------------------------------------------------------------------- F1 and delay


def f1(tp: int, fp: int, fn: int) -> float:
    """Return ``2PR / (P + R + 1e-6)``, 0..1, as the published programs compute it: a perfect score is 0.9999995. P or R
    is 1e-6 where its denominator is 0, so that a recording without any step, done or predicted, has 6.7e-7. Raises
    ArgumentError for counts below 0 or that are none."""
    tp, fp, fn = (whole(name, count, low=0) for name, count in (("tp", tp), ("fp", fp), ("fn", fn)))
    precision = tp / (tp + fp) if tp + fp else F1_EPS
    recall = tp / (tp + fn) if tp + fn else F1_EPS
    return 2 * precision * recall / (precision + recall + F1_EPS)


@dataclass(frozen=True)
class Matches:
    """Predictions of one recording matched to its completed steps.

    ``tp``, ``fp``, ``fn`` are at system level. ``perception_fp`` and ``perception_fn`` count by id alone: predictions
    beyond, and completions short of, the number of the other. ``delays`` maps an index into the ground truth to the
    frames from completion to prediction.
    """

    tp: int
    fp: int
    fn: int
    perception_fp: int
    perception_fn: int
    delays: dict[int, int] = field(default_factory=dict)


def match_steps(gt: Sequence[Step], pred: Sequence[Step], mode: str = "paper") -> Matches:
    """Match predicted to completed steps, lists of (frame, step id) in the order of frames.

    In ``paper`` mode a true positive is a prediction at or after its own step's completion, one to one: the latest
    completion chooses first and takes the earliest free prediction. Every other prediction is a false positive;
    completions that outnumber the predictions of their id are false negatives. So an early prediction costs once.

    Raises DataError for steps out of order, fractions of frames and NaN, ConfigError for an unknown mode.
    """
    _check_mode(mode)
    gt, pred = as_steps("completed steps", gt), as_steps("predicted steps", pred)
    for name, steps in (("completed", gt), ("predicted", pred)):
        frames = [frame for frame, _ in steps]
        if frames != sorted(frames) or (frames and frames[0] < 0):
            raise DataError(f"{name} steps must be in the order of their frames, which count from 0; got {frames}")
    n_gt, n_pred = Counter(step for _, step in gt), Counter(step for _, step in pred)
    missing, surplus = (n_gt - n_pred).total(), (n_pred - n_gt).total()
    if mode == "paper":
        delays = _match_paper(gt, pred)
        tp = len(delays)
    else:
        delays, early = _match_published(gt, pred, absolute=mode == "storm")
        tp = len(pred) - surplus - early
    return Matches(tp, len(pred) - tp, missing, surplus, missing, dict(sorted(delays.items())))


def _match_paper(gt: Sequence[Step], pred: Sequence[Step]) -> dict[int, int]:
    delays: dict[int, int] = {}
    free = [True] * len(pred)
    for index in reversed(range(len(gt))):
        done, step = gt[index]
        for i, (frame, predicted) in enumerate(pred):
            if free[i] and predicted == step and frame >= done:
                free[i], delays[index] = False, frame - done
                break
    return delays


def _match_published(gt: Sequence[Step], pred: Sequence[Step], *, absolute: bool) -> tuple[dict[int, int], int]:
    """Return (delays, number of pairs that count as early). Each event of the shorter list of an id looks for a later
    event in the longer list; ``absolute`` (STORM): for the nearest one. Without any, it gets the first unrelated
    event."""
    delays: dict[int, int] = {}
    early = 0
    for step in sorted({s for _, s in gt} & {s for _, s in pred}):
        gt_index = [i for i, (_, s) in enumerate(gt) if s == step]
        pred_index = [i for i, (_, s) in enumerate(pred) if s == step]
        from_pred = len(pred_index) >= len(gt_index)  # the longer list is searched; predictions on a tie
        searched, seekers = (pred, gt_index) if from_pred else (gt, pred_index)
        times = np.array([frame if s == step else TAKEN for frame, s in searched], dtype=np.float64)
        for seeker in seekers:
            difference = times - (gt if from_pred else pred)[seeker][0]
            if absolute:
                difference = np.abs(difference)
            difference[difference <= 0] = np.inf
            found = int(difference.argmin())
            times[found] = TAKEN
            i_gt, i_pred = (seeker, found) if from_pred else (found, seeker)
            delay = pred[i_pred][0] - gt[i_gt][0]
            if delay < 0:
                early += 1
            else:
                delays[i_gt] = delay
    return delays, early


# -------------------------------------------------------------------------------------- a recording, and all of them


@dataclass(frozen=True)
class StepScore:
    """One recording. ``tau_s``: mean delay of the true positives, seconds, None without any. ``delays_s``: for each
    completed step, the seconds until it was recognised, None where it was not."""

    pos: float
    f1: float
    tau_s: float | None
    tp: int
    fp: int
    fn: int
    perception_fp: int
    perception_fn: int
    delays_s: tuple[float | None, ...]


def score_recording(
    gt: Sequence[Step], pred: Sequence[Step], *, fps: float, mode: str = "paper", window: int | None = None
) -> StepScore:
    """Return POS, F1 and delay of one recording.

    Args:
        gt, pred: completed and predicted steps, (frame, step id) in the order of frames; lists, arrays or tensors.
        fps: frames per second of the recording, > 0.
        mode: ``paper`` | ``industreal`` | ``storm``. The F1 of a perfect recording is 1 in ``paper`` and 0.9999995 in
            the others.
        window: frames within which ``storm`` corrects the order before POS; None does not. Other modes ignore it.

    A recording in which nothing was completed and nothing predicted has POS 1 and, by the published F1, 6.7e-7.
    """
    if not isinstance(fps, Real) or not 0 < fps < np.inf:
        raise DataError(f"a recording at {fps} frames per second has no delay in seconds: give its fps, above 0")
    gt, pred = as_steps("completed steps", gt), as_steps("predicted steps", pred)
    matches = match_steps(gt, pred, mode)
    pred_ids = [step for _, step in pred]
    if mode == "storm" and window is not None:
        pred_ids = reorder_within_window(gt, pred, window)
    frames = float(np.mean(list(matches.delays.values()))) if matches.delays else NO_DELAY[mode]
    perfect = mode == "paper" and matches.tp > 0 and not matches.fp and not matches.fn
    delays = (matches.delays.get(index) for index in range(len(gt)))
    return StepScore(
        pos=pos([step for _, step in gt], pred_ids),
        f1=1.0 if perfect else f1(matches.tp, matches.fp, matches.fn),
        tau_s=None if frames is None else frames / fps,
        tp=matches.tp,
        fp=matches.fp,
        fn=matches.fn,
        perception_fp=matches.perception_fp,
        perception_fn=matches.perception_fn,
        delays_s=tuple(None if delay is None else delay / fps for delay in delays),
    )


def summarize(scores: Mapping[str, StepScore], with_errors: Mapping[str, bool] | None = None) -> dict[str, Any]:
    """Return figures of a data set: ``pos``, ``f1`` (0..1) and ``tau_s`` are means over recordings (tau over those that
    have one), ``tp``, ``fp``, ``fn`` are sums, ``recordings`` is their number.

    With ``with_errors`` (recording name -> whether something went wrong in it, see :func:`has_errors`) the same stands
    again under ``errors`` and ``no_errors``. A mean over no recording is None.
    """
    result = _summarize_group(list(scores.values()))
    if with_errors is None:
        return result
    unknown = sorted(set(scores) - set(with_errors))
    if unknown:
        raise DataError(f"it is not said whether these recordings have errors: {', '.join(unknown)}")
    for key, wanted in (("errors", True), ("no_errors", False)):
        result[key] = _summarize_group([score for name, score in scores.items() if with_errors[name] == wanted])
    return result


def _summarize_group(scores: Sequence[StepScore]) -> dict[str, Any]:
    taus = [score.tau_s for score in scores if score.tau_s is not None]
    return {
        "pos": _mean([score.pos for score in scores]),
        "f1": _mean([score.f1 for score in scores]),
        "tau_s": _mean(taus),
        "tp": sum(score.tp for score in scores),
        "fp": sum(score.fp for score in scores),
        "fn": sum(score.fn for score in scores),
        "recordings": len(scores),
    }


def has_errors(gt_ids: Iterable[int], expected_ids: Iterable[int], states: Iterable[Sequence[int]]) -> bool:
    """Tell whether a recording counts as one with errors: an expected step is missing, or a component was installed
    wrongly (-1 in a state) at any time."""
    return bool(set(expected_ids) - set(gt_ids)) or any(-1 in state for state in states)


def delay_curve(scores: Sequence[StepScore], seconds: Sequence[float]) -> list[float | None]:
    """Return for each number of seconds, the share (0..1) of all completed steps that were recognised within it. None
    without any completed step."""
    seconds = as_numbers("seconds", seconds, ndim=1).tolist()
    if any(limit != limit for limit in seconds):
        raise ArgumentError("seconds holds NaN")
    delays = [delay for score in scores for delay in score.delays_s]
    return [_mean([delay is not None and delay <= limit for delay in delays]) for limit in seconds]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ConfigError(f"metric mode {mode!r}: choose one of {', '.join(MODES)}")
