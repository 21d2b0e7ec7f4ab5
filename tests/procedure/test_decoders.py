"""Step decoders against what the published programs gave, by hand-made cases, and by laws."""

import copy

import numpy as np
import pytest

from dust.procedure.decoders import (
    DualStreamDecoder,
    EvidenceDecoder,
    TemporalDecoder,
    decode_b1,
    decode_b2,
    decode_b3,
    decode_dual,
    decode_dual_published,
    decode_temporal,
    decode_temporal_naive,
    merge_published,
)
from dust.procedure.table import Procedure, state_vectors
from dust.utils.errors import ConfigError, DataError
from tests.helpers import golden_json

TABLE = golden_json("psr_procedure")
STATES = state_vectors(TABLE["states"])
PROCEDURES = {
    name: Procedure.from_table(TABLE["procedure"], start, name)
    for name, start in {"assy": "10000000000", "main": "11110111111"}.items()
}
ASD = golden_json("psr_asd_decoders")["cases"]
TEMPORAL = golden_json("psr_temporal_decoder")["cases"]
FUSION = golden_json("psr_fusion")["cases"]
named = {"ids": lambda case: case["name"]}


def pairs(steps):
    return [list(step) for step in steps]


# a little procedure of three components; class 0 is background, 1.. are states
LITTLE = state_vectors(["background", "000", "100", "110", "111", "error_state"])
ALL_IN_ORDER = Procedure(frozenset({0, 3, 6}), (0, 0, 0))


# --------------------------------------------------------------------------------------------------- object states


@pytest.mark.parametrize("case", ASD, **named)
def test_object_states(case):
    assert pairs(decode_b1(case["preds"], STATES)) == case["naive"]
    assert pairs(decode_b2(case["preds"], STATES)) == case["confidence"]
    assert pairs(decode_b3(case["preds"], STATES, PROCEDURES[case["procedure"]])) == case["expected"]


def test_b1_starts_from_the_first_detection_whatever_its_confidence_and_knows_nothing_of_background():
    seen = [[(0, 0.9)], [(3, 0.1)], [(2, 0.6)], [(5, 0.9)], [(0, 0.9), (4, 0.8)], [(1, 0.4), (4, 0.7)]]
    assert decode_b1(seen, LITTLE) == [(2, 5), (5, 3), (5, 6)]  # 110, then 100, then 111
    assert decode_b1([[(1, 0.2), (3, 0.3)], [(3, 0.9)], [(4, 0.5)]], LITTLE) == []  # the best one; 0.5 is not above


def test_b2_starts_from_the_first_detection_and_b3_from_the_procedure():
    seen = [[]] + [[(2, 0.3)]] * 20
    assert decode_b2(seen, LITTLE, cum_threshold=2) == []
    assert decode_b3(seen, LITTLE, ALL_IN_ORDER, cum_threshold=2) == [(7, 0)]  # 0.3 each: no floor; 7 make 2.1


def test_the_first_detection_counts_not_the_best():
    assert decode_b3([[(2, 0.4), (4, 0.9)]] * 6, LITTLE, ALL_IN_ORDER, cum_threshold=1.5) == [(3, 0)]


def test_evidence_crosses_strictly_and_starts_again():
    decoder = EvidenceDecoder(LITTLE, ALL_IN_ORDER, cum_threshold=1.0)
    assert decoder.update(0, [(3, 0.5)]) == [] and decoder.update(1, [(3, 0.5)]) == []  # exactly 1: not yet
    assert decoder.update(2, [(3, 0.5)]) == [(2, 0), (2, 3)]  # both at once, ascending
    assert not decoder.cum.any() and decoder.state.tolist() == [1, 1, 0]


@pytest.mark.parametrize("nothing", [[], [(0, 0.9)], [(5, 0.9)]], ids=["empty", "background", "error_state"])
def test_every_frame_without_a_suggestion_decays(nothing):
    decoder = EvidenceDecoder(LITTLE, ALL_IN_ORDER)
    decoder.update(0, [(2, 0.8)])
    decoder.update(1, nothing)
    assert decoder.cum[0] == pytest.approx(0.6) and decoder.cum.sum() == pytest.approx(0.6)


def test_an_unexpected_step_is_zeroed_and_changes_nothing():
    decoder = EvidenceDecoder(LITTLE, Procedure(frozenset({0}), (0, 0, 0)), cum_threshold=1.0)
    decoder.update(0, [(3, 0.9)])
    assert decoder.update(1, [(3, 0.9)]) == [(1, 0)]
    assert not decoder.cum.any() and decoder.state.tolist() == [1, 0, 0]


# -------------------------------------------------------------------------------------------------- temporal stream


@pytest.mark.parametrize("case", TEMPORAL, **named)
def test_temporal_stream(case):
    procedure, window = PROCEDURES[case["procedure"]], case["sampling_win_size"]
    steps = decode_temporal(
        case["windows"],
        procedure,
        window=window,
        cum_threshold=case["cum_conf_threshold"],
        decay=case["cum_decay"],
    )
    assert pairs(steps) == case["temporal_b3"]
    assert pairs(decode_temporal_naive(case["windows"], procedure, window=window)) == case["temporal_naive"]


def windows_of(changes, num_frames, span, num_components=3):
    """Perfect windows at stride 1: (last frame, digits, confidences), with change frame -> component."""
    for last in range(span - 1, num_frames):
        digits = [0] * num_components
        for frame, component in changes.items():
            if last - span < frame <= last:
                digits[component] ^= 1
        yield last, digits, [0.9 * digit for digit in digits]


def test_a_removal_is_emitted_after_the_change_left_the_view():
    windows = list(windows_of({30: 0, 80: 0}, 140, 20))
    procedure = Procedure(frozenset({0, 2}), (0, 0, 0))
    assert decode_temporal(windows, procedure, window=20, cum_threshold=4) == [(34, 0), (84, 2)]


def test_decay_spares_what_gained_since_the_last_empty_window():
    decoder = TemporalDecoder(ALL_IN_ORDER, window=20)
    decoder.update(0, [1, 0, 0], [0.8, 0, 0])
    decoder.update(1, [0, 0, 0], [0, 0, 0])
    assert decoder.cum[0, 0] == pytest.approx(0.8)
    decoder.update(2, [0, 1, 0], [0, 0.5, 0])  # a positive digit elsewhere: no decay at all
    assert decoder.cum[0, 0] == pytest.approx(0.8)
    decoder.update(3, [0, 0, 0], [0, 0, 0])
    assert decoder.cum[0, 0] == pytest.approx(0.6) and decoder.cum[0, 3] == pytest.approx(0.5)


def one_digit(decoder, frame, k):
    """A window that is sure of one change, and that alone crosses the threshold of 0.5."""
    return decoder.update(frame, [int(i == k) for i in range(3)], [0.6] * 3)


def test_an_emission_is_in_view_for_less_than_a_window():
    decoder = TemporalDecoder(Procedure(frozenset({0, 2}), (0, 0, 0)), window=10, cum_threshold=0.5)
    steps = [step for frame in range(11) for step in one_digit(decoder, frame, 0)]
    assert steps == [(0, 0), (10, 2)]


@pytest.mark.parametrize(("second", "seen"), [(10, []), (11, [(12, 2)])])
def test_an_earlier_emission_stays_in_view_if_it_is_at_most_a_window_older(second, seen):
    decoder = TemporalDecoder(Procedure(frozenset({0, 2, 3}), (0, 0, 0)), window=10, cum_threshold=0.5)
    assert one_digit(decoder, 0, 0) == [(0, 0)] and one_digit(decoder, second, 1) == [(second, 3)]
    assert one_digit(decoder, 12, 0) == seen


def test_an_emission_hides_the_unexpected_steps_that_crossed_with_it():
    decoder = TemporalDecoder(Procedure(frozenset({0}), (0, 0, 0)), window=10, cum_threshold=0.5)
    assert decoder.update(0, [1, 1, 0], [0.6, 0.6, 0]) == [(0, 0)]
    decoder.update(1, [0, 1, 1], [0, 0.3, 0.3])
    assert decoder.cum[0, 3] == 0 and decoder.cum[0, 6] == 0.3


def test_phases_emit_each_step_once_and_sooner_than_their_number_of_frames():
    changes = {50: 0, 90: 1, 100: 2}
    windows = list(windows_of(changes, 220, 40))
    one_phase = decode_temporal(windows[::4], ALL_IN_ORDER, window=40, cum_threshold=3.0)
    phases = decode_temporal(windows, ALL_IN_ORDER, window=40, cum_threshold=3.0, phases=4)
    assert [step for _, step in phases] == [step for _, step in one_phase] == [0, 3, 6]
    # four positive windows of one phase are needed; the first phase to see the change begins at once
    assert [frame for frame, _ in phases] == [frame + 12 for frame in changes]
    assert all(first <= single for (first, _), (single, _) in zip(phases, one_phase, strict=True))


def test_each_phase_alone_is_a_decoder_of_its_own_until_one_emits():
    windows = list(windows_of({50: 0}, 70, 40))
    rng = np.random.RandomState(0)
    windows = [(last, digits, (rng.rand(3) * digits).tolist()) for last, digits, _ in windows]
    together = TemporalDecoder(ALL_IN_ORDER, window=40, cum_threshold=1e9, phases=3)
    alone = [TemporalDecoder(ALL_IN_ORDER, window=40, cum_threshold=1e9) for _ in range(3)]
    for i, window in enumerate(windows):
        together.update(*window, phase=i % 3)
        alone[i % 3].update(*window)
    np.testing.assert_array_equal(together.cum, np.concatenate([decoder.cum for decoder in alone]))
    assert together.cum[:, 0].min() > 0


# ------------------------------------------------------------------------------------------------------ dual stream


@pytest.mark.parametrize("case", FUSION, ids=lambda case: str(case["soft_voting_w"]))
def test_published_fusion(case):
    fused = decode_dual_published(
        ASD[0]["preds"], case["windows"], STATES, PROCEDURES["assy"], window=30, weight=case["soft_voting_w"]
    )
    assert [pairs(steps) for steps in fused] == [case["asd"], case["temporal"], case["merged"]]


def test_published_merge_keeps_a_repeat_only_after_install_and_remove():
    assert merge_published([(10, 3), (30, 5), (50, 3)], [(10, 6), (60, 9)]) == [(10, 3), (30, 5), (50, 3), (60, 9)]
    assert merge_published([(10, 3), (50, 3)], [(20, 3)]) == [(10, 3)]
    assert merge_published([(10, 5), (20, 3), (50, 5)], []) == [(10, 5), (20, 3)]


def test_fusion_ends_are_the_two_streams():
    detections, windows = ASD[0]["preds"], FUSION[0]["windows"]
    fused = {
        weight: decode_dual(detections, windows, STATES, PROCEDURES["assy"], window=30, weight=weight)
        for weight in (0, 0.25, 0.5, 0.75, 1)
    }
    assert fused[0] == decode_b3(detections, STATES, PROCEDURES["assy"], cum_threshold=6)
    assert fused[1] == decode_temporal(windows, PROCEDURES["assy"], window=30)
    assert len({tuple(steps) for steps in fused.values()}) == 5  # the weight counts


def test_fusion_is_where_the_weighted_evidence_crosses():
    """Both streams see installing component 0 at every frame: after n frames they have 0.8 n and 0.4 n."""
    for weight in (0.0, 0.25, 0.6, 1.0):
        decoder = DualStreamDecoder(LITTLE, ALL_IN_ORDER, window=50, weight=weight, cum_threshold=3.0)
        steps = [step for frame in range(12) for step in decoder.update(frame, [(2, 0.8)], [1, 0, 0], [0.4, 0, 0])]
        crossing = next(n for n in range(12) if ((1 - weight) * 0.8 + weight * 0.4) * (n + 1) > 3)
        assert steps == [(crossing, 0)]


def test_a_decoder_can_be_stopped_and_copied_in_the_middle():
    detections, windows = ASD[0]["preds"], {window[0]: window[1:] for window in FUSION[0]["windows"]}
    decoder = DualStreamDecoder(STATES, PROCEDURES["assy"], window=30)
    steps = []
    for frame, seen in enumerate(detections):
        if frame == 100:
            decoder = copy.deepcopy(decoder)
        steps += decoder.update(frame, seen, *windows.get(frame, (None, ())))
    assert steps == decode_dual(detections, FUSION[0]["windows"], STATES, PROCEDURES["assy"], window=30)


# -------------------------------------------------------------------------------------------------------- bad input


def test_tables_of_procedures():
    assert sorted(PROCEDURES["main"].expected) == [11, 12, 15, 17, 18, 20, 30, 32]
    meccano = golden_json("psr_procedure_meccano")
    procedure = Procedure.from_table(meccano["procedure"], meccano["start_state"])
    assert procedure.num_components == 17 and procedure.expected == set(range(0, 51, 3))


def test_a_table_that_breaks_the_rule_is_refused_with_every_problem():
    table = copy.deepcopy(TABLE["procedure"])
    table[4]["state_idx"] = 7
    del table[9]["install"]
    with pytest.raises(DataError) as caught:
        Procedure.from_table(table, "1000x", "assy")
    for part in ("'1000x'", "33 rows for 5 components", "row 4 is id 4, state_idx 7", "row 9 has no install"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="expected_in_maintenance"):
        Procedure.from_table(TABLE["procedure"], "10000000000", "maintenance")


def test_states_of_different_length_are_refused():
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        state_vectors(["background", "10", "110"])
    with pytest.raises(DataError, match="states have 11 components, the procedure has 3"):
        decode_b3([], STATES, ALL_IN_ORDER)


def test_wrong_settings_and_windows_are_refused():
    with pytest.raises(ConfigError, match="confidence 0: .*decay 2: "):
        EvidenceDecoder(LITTLE, cum_threshold=0, decay=2)
    with pytest.raises(ConfigError, match="weight of the temporal stream 1.5"):
        DualStreamDecoder(LITTLE, ALL_IN_ORDER, window=5, weight=1.5)
    with pytest.raises(ConfigError, match="window 0 and 1 phases"):
        TemporalDecoder(ALL_IN_ORDER, window=0)
    with pytest.raises(DataError, match="frame 7 has 2 digits and 3 confidences; the procedure has 3"):
        TemporalDecoder(ALL_IN_ORDER, window=9).update(7, [0, 1], [0, 1, 0])
    with pytest.raises(DataError, match="ends in frame 4, but there are detections of 3 frames"):
        decode_dual([[]] * 3, [(4, [0, 0, 0], [0, 0, 0])], LITTLE, ALL_IN_ORDER, window=2)
