"""POS, F1 and delay against what the published programs gave, and by their laws."""

import itertools
import random
from functools import lru_cache

import pytest

from dust.procedure.metrics import (
    delay_curve,
    edit_distance,
    f1,
    has_errors,
    match_steps,
    pos,
    reorder_within_window,
    score_recording,
    summarize,
)
from dust.utils.errors import ConfigError, DataError
from tests.helpers import golden_json

GOLDEN = golden_json("psr_metrics")
COLUMNS = {
    "paper_definition": {"mode": "paper"},
    "industreal": {"mode": "industreal"},
    "storm_win_none": {"mode": "storm"},
    "storm_win_256": {"mode": "storm", "window": 256},
}


@pytest.mark.parametrize("case", GOLDEN["pos_only"])
def test_pos_of_ids(case):
    assert edit_distance(case["gt"], case["pred"]) == case["distance"]
    assert pos(case["gt"], case["pred"]) == case["pos"]


@pytest.mark.parametrize("case", GOLDEN["f1_only"])
def test_f1_of_counts(case):
    assert f1(case["tp"], case["fp"], case["fn"]) == pytest.approx(case["f1"], abs=1e-15)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", GOLDEN["cases"] + GOLDEN["quirks"], ids=lambda case: case["name"])
def test_recordings(case, column):
    score = score_recording(case["gt"], case["pred"], fps=10, **COLUMNS[column])
    wanted = case[column]
    assert score.pos == pytest.approx(wanted["pos"], abs=1e-12)
    perfect = column == "paper_definition" and not wanted["fp"] and not wanted["fn"]
    assert score.f1 == (1.0 if perfect else pytest.approx(wanted["f1"], abs=1e-12))
    if wanted["avg_delay"] is None:
        assert score.tau_s is None
    else:
        assert score.tau_s == pytest.approx(wanted["avg_delay"] / 10, abs=1e-12)
    prefix = "" if column == "paper_definition" else "system_"
    for key in ("tp", "fp", "fn"):
        assert getattr(score, key) == wanted[prefix + (key if not prefix else key.upper() + "s")]
    if prefix:
        assert (score.perception_fp, score.perception_fn) == (wanted["perception_FPs"], wanted["perception_FNs"])
    if "delays" in wanted:
        assert [10 * delay for delay in score.delays_s if delay is not None] == pytest.approx(wanted["delays"])


def test_distance_is_the_cheapest_series_of_edits():
    """Against a search over edits: strings of up to 4 of 3 symbols, whose transpositions may enclose other symbols."""

    @lru_cache
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        best = min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + 2 * (a[0] != b[0]))
        for i, j in itertools.product(range(1, len(a)), range(1, len(b))):  # a[0] goes to b[j], a[i] to b[0]
            if a[0] == b[j] and a[i] == b[0]:
                best = min(best, slow(a[i + 1 :], b[j + 1 :]) + (i - 1) + (j - 1) + 1)
        return best

    words = [word for length in range(5) for word in itertools.product((3, 6, 9), repeat=length)]
    for a, b in itertools.product(words[::2], words):
        assert edit_distance(a, b) == slow(a, b) == edit_distance(b, a)


def test_pos_without_completed_steps():
    assert pos([], []) == 1.0 and pos([], [3]) == 0.0


def test_pos_refuses_steps_with_frames():
    with pytest.raises(DataError, match="pred_ids.*without their frames"):
        pos([3], [(100, 3)])


def test_every_prediction_and_every_completion_is_counted_once():
    rng = random.Random(0)
    for _ in range(300):
        gt, pred = (
            sorted((rng.randrange(30), 3 * rng.randrange(3)) for _ in range(rng.randrange(7))) for _ in range(2)
        )
        matches = match_steps(gt, pred)
        assert matches.tp + matches.fp == len(pred)
        assert matches.tp + matches.fn <= len(gt)  # an early prediction is no missing completion
        assert len(matches.delays) == matches.tp and all(delay >= 0 for delay in matches.delays.values())
        assert matches.tp == _most_pairs(gt, pred)
        for mode in ("industreal", "storm"):
            published = match_steps(gt, pred, mode)
            assert published.fn == matches.fn and published.tp + published.fp == len(pred)


def _most_pairs(gt, pred):
    """The largest one-to-one matching, by trying everything."""
    if not gt:
        return 0
    (frame, step), rest = gt[0], gt[1:]
    fits = [i for i, (t, s) in enumerate(pred) if s == step and t >= frame]
    return max([_most_pairs(rest, pred)] + [1 + _most_pairs(rest, pred[:i] + pred[i + 1 :]) for i in fits])


def test_storm_puts_the_first_predictions_in_the_order_of_the_truth():
    gt = [(5, 9), (8, 3), (9, 6), (50, 12)]
    assert reorder_within_window(gt, [(20, 3), (20, 6), (20, 9), (60, 12)], 1) == [9, 3, 6, 12]
    assert reorder_within_window(gt, [(20, 3), (20, 6), (60, 9)], 1) == [3, 6, 9]  # other steps: left alone
    # as published, all ids are overwritten then, also those predicted later, for the common length
    assert reorder_within_window(gt, [(20, 3), (20, 6), (20, 9), (60, 15), (70, 18)], 1) == [9, 3, 6, 12, 18]
    assert reorder_within_window(gt, [(5, 9), (9, 12), (10, 0)], 1) == [9, 3, 6]


def test_a_perfect_recording_has_one_and_an_empty_one_what_the_formula_says():
    gt = [(5, 9), (8, 3)]
    assert score_recording(gt, [(6, 9), (9, 3)], fps=10).f1 == 1.0
    assert score_recording(gt, [(6, 9)], fps=10).f1 < 1.0
    assert score_recording(gt, [(6, 9), (9, 3)], fps=10, mode="industreal").f1 == pytest.approx(0.9999995, abs=1e-9)
    empty = score_recording([], [], fps=10)
    assert empty.f1 == pytest.approx(2e-6 / 3, rel=1e-6) and empty.pos == 1.0 and empty.tau_s is None


def test_storm_swaps_neighbours_closer_than_the_window():
    gt, pred = [(0, 3), (0, 6)], [(100, 6), (400, 3)]
    assert reorder_within_window(gt, pred, 300) == [6, 3] and reorder_within_window(gt, pred, 301) == [3, 6]
    # a swapped prediction takes its frame along: 6 of frame 10 is then 180 frames from 9, not 90
    gt, pred = [(0, 3), (1, 6), (2, 9), (3, 6)], [(10, 6), (100, 3), (190, 9)]
    assert reorder_within_window(gt, pred, 150) == [3, 6, 9] and reorder_within_window(gt, pred, 181) == [3, 9, 6]


def test_bad_steps_and_modes():
    with pytest.raises(DataError, match=r"predicted steps .*order.*\[9, 4\]"):
        match_steps([(1, 3)], [(9, 3), (4, 6)])
    with pytest.raises(DataError, match="completed steps .*from 0"):
        match_steps([(-1, 3)], [])
    with pytest.raises(ConfigError, match="'papers'.*paper, industreal, storm"):
        match_steps([], [], "papers")
    with pytest.raises(DataError, match="0 frames per second"):
        score_recording([], [], fps=0)


def test_summary_is_a_mean_of_recordings_and_a_sum_of_counts():
    gt = [(0, 3), (10, 6)]
    scores = {
        "good": score_recording(gt, [(20, 3), (30, 6)], fps=10),
        "half": score_recording(gt, [(50, 3)], fps=10),
        "none": score_recording(gt, [], fps=10),
    }
    result = summarize(scores, {"good": False, "half": True, "none": True})
    assert result["pos"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert result["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-5)
    assert result["tau_s"] == pytest.approx((2.0 + 5.0) / 2)  # of the recordings that have one
    assert (result["tp"], result["fp"], result["fn"], result["recordings"]) == (3, 0, 3, 3)
    assert result["no_errors"]["pos"] == 1 and result["no_errors"]["recordings"] == 1
    assert result["errors"]["pos"] == 0.25 and result["errors"]["tau_s"] == 5.0
    assert summarize({"none": scores["none"]})["tau_s"] is None and "errors" not in summarize(scores)
    with pytest.raises(DataError, match="half, none"):
        summarize(scores, {"good": False})


def test_errors_are_missing_steps_and_wrong_installations():
    assert not has_errors([3, 6], [3], [(0, 0), (1, 0), (1, 1)])
    assert has_errors([6], [3], [(0, 0)])
    assert has_errors([3], [3], [(0, 0), (-1, 0), (1, 0)])


def test_delay_curve_counts_what_was_missed():
    score = score_recording([(0, 3), (10, 6), (20, 9), (30, 12)], [(0, 3), (30, 6), (60, 9)], fps=10)
    assert delay_curve([score], [0, 1, 2, 4, 100]) == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert delay_curve([], [1]) == [None]
