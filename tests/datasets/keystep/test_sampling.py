"""Windows, labels and key-clip aware sampling of KeyStep: the published code's numbers, slow versions, laws."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from dust.datasets.keystep.sampling import kcas_density, kcas_problems, sample_last_frame
from dust.procedure.windows import clip_indices, state_changes, window_ends, window_labels, window_span
from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import numpy_rng
from tests.helpers import golden_file, golden_json

GOLDEN = golden_json("psr_windows_kcas")
STATES = [(frame, state) for frame, state in GOLDEN["raw_states"]]
CASES = GOLDEN["kcas"]["cases"]


def changes_of(labels):
    return {int(frame): digits for frame, digits in labels.items()}


# ------------------------------------------------------------------------------------------------- windows, labels


def test_mistakes_have_digits_of_their_own():
    """A part that is put on wrongly is no change, but a mistake, and two of them in a window do not cancel out."""
    states = [(0, (0, 0)), (5, (1, 0)), (9, (1, -1)), (12, (1, 0)), (15, (1, -1)), (18, (1, 1)), (20, (0, 1))]
    changes = state_changes(states, "mistakes")
    assert {frame: change.tolist() for frame, change in changes.items()} == {
        5: [1, 0, 0, 0], 9: [0, 0, 0, 1], 12: [0, 0, 0, 0], 15: [0, 0, 0, 1], 18: [0, 1, 0, 0], 20: [1, 0, 0, 0],
    }  # fmt: skip
    found = window_labels(changes, np.array([0, 6, 0]), np.array([9, 16, 20]), 4, toggles=2)
    assert found.tolist() == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 1]]


@pytest.mark.parametrize("case", GOLDEN["windows"], ids=lambda case: f"{case['N']}x{case['skip_factor'] + 1}")
def test_published_windows(case):
    n, skip, length = case["N"], case["skip_factor"], case["num_frames"]
    changes = state_changes(STATES)
    assert {str(frame): digits.tolist() for frame, digits in changes.items()} == case["diff"]
    ends = window_ends(length, n, skip)
    assert ends.tolist() == case["end_frames"]
    clips = [clip_indices(end, n, skip, length) for end in ends]
    assert [frames.tolist() for frames, _ in clips] == case["frame_index"]
    assert not any(padded for _, padded in clips)
    labels = window_labels(changes, ends - window_span(n, skip) + 1, ends, 4)
    assert labels.tolist() == case["labels"]


def test_changes_with_errors_count_every_change():
    changes = state_changes(STATES, "errors")
    assert {frame: digits.tolist() for frame, digits in changes.items()} == {
        6: [0, 1, 0, 0],
        9: [0, 0, 1, 0],
        14: [0, 0, 1, 0],
        15: [0, 1, 1, 0],
        22: [0, 1, 0, 1],
    }
    assert state_changes([(0, [-1]), (4, [1])], "errors")[4].tolist() == [1]


def test_labels_are_the_xor_of_the_changes_inside():
    rng = np.random.RandomState(0)
    changes = {int(frame): rng.randint(0, 2, 5) for frame in rng.choice(200, 30, replace=False)}
    first = rng.randint(0, 150, 60)
    last = first + rng.randint(0, 50, 60)
    wanted = np.zeros((60, 5), dtype=int)
    for i in range(60):
        for frame in range(first[i], last[i] + 1):
            wanted[i] ^= changes.get(frame, np.zeros(5, dtype=int))
    np.testing.assert_array_equal(window_labels(changes, first, last, 5), wanted)
    assert window_labels({}, first, last, 5).shape == (60, 5)


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_all_phases_are_the_first_phase_moved(skip):
    every = window_ends(60, 5, skip, phases="all")
    assert every.tolist() == list(range(window_span(5, skip) - 1, 60))
    assert every[:: skip + 1].tolist() == window_ends(60, 5, skip).tolist()


def test_clips_stay_inside_the_video():
    for last in range(-5, 40):
        frames, padded = clip_indices(last, 5, 2, 30)
        assert padded == 0 and frames[0] >= 0 and frames[-1] <= 29 and (np.diff(frames) == 3).all()
        if 12 <= last < 30:
            assert frames[-1] == last


def test_a_short_video_is_padded_on_the_left_and_says_so():
    frames, padded = clip_indices(3, 5, 1, 6)
    assert frames.tolist() == [0, 0, 1, 3, 5] and padded == 2
    assert window_ends(6, 5, 1).tolist() == window_ends(6, 5, 1, phases="all").tolist() == [5]
    frames, padded = clip_indices(0, 4, 0, 1)
    assert frames.tolist() == [0, 0, 0, 0] and padded == 3


# ------------------------------------------------------------------------------------------------------------ KCAS


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['mode']}")
def test_published_densities(case):
    density = kcas_density(changes_of(case["labels"]), case["num_frames"], case["mode"])
    assert density.sum() == pytest.approx(1, abs=1e-12)
    for frame, value in case["samples"].items():
        assert density[int(frame)] == pytest.approx(value, rel=1e-9)
    assert -(density * np.log(density)).sum() == pytest.approx(case["entropy"], abs=1e-9)
    assert density[case["argmax"]] == pytest.approx(density.max(), rel=1e-12)


@pytest.mark.parametrize("mode", ["gaussian", "bimodal"])
def test_whole_published_densities(mode):
    tensors = load_file(golden_file("psr_kcas.safetensors"))
    case = next(case for case in CASES if case["name"] == "three_events" and case["mode"] == mode)
    density = kcas_density(changes_of(case["labels"]), case["num_frames"], mode)
    np.testing.assert_allclose(density, tensors[f"{mode}.three_events"], rtol=1e-9)


def test_uniform_and_no_change():
    np.testing.assert_allclose(kcas_density({50: [1]}, 100, "uniform"), 0.01)
    np.testing.assert_allclose(kcas_density({}, 100, "bimodal"), 0.01)
    np.testing.assert_allclose(kcas_density({50: [0]}, 100, "gaussian"), 0.01)


def test_poisson_sums_to_one_inside_and_is_cut_at_the_border():
    def weight(event):  # of the event's own hump, over eps
        density = kcas_density({event: [1]}, 200, "poisson", eps=1e-3)
        return density[199] / 1e-3  # = 1 / (200 eps + hump)

    assert 1 / weight(100) == pytest.approx(0.2 + 1, abs=1e-9)
    assert 0.2 < 1 / weight(3) < 0.2 + 1


def test_draws_follow_the_density():
    """Chi-square over 20 bins; a fixed stream, so that this never fails by chance."""
    density = kcas_density({120: [1], 300: [1]}, 400)
    rng = numpy_rng(0, "kcas")
    drawn = np.bincount([sample_last_frame(density, rng) for _ in range(4000)], minlength=400)
    expected = 4000 * density.reshape(20, 20).sum(axis=1)
    bins = drawn.reshape(20, 20).sum(axis=1)
    kept = expected > 5
    statistic = ((bins[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert statistic < 2 * kept.sum()
    assert bins[~kept].sum() <= 20
    assert sample_last_frame(density, numpy_rng(5)) == sample_last_frame(density, numpy_rng(5))


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_separation_wider_than_the_window_is_refused():
    good = {"sigma": 15, "sep": 80, "eps": 1e-8}
    assert kcas_problems("bimodal", window_span(65, 3), **good) == []
    (problem,) = kcas_problems("bimodal", window_span(65, 0), **good)
    assert "separation 80" in problem and "span 65 frames" in problem
    assert kcas_problems("gaussian", 65, **good) == []  # which has none
    problems = kcas_problems("bimodel", 65, sigma=0, sep=-1, eps=0)
    assert len(problems) == 4 and "'bimodel'" in problems[0]


def test_bad_states_are_named_all_at_once():
    with pytest.raises(DataError) as caught:
        state_changes([(0, [0, 1]), (5, [0, 2]), (5, [1, 1]), (9, [1])])
    for part in ("row 1: states [0, 2]", "row 2: frame 5 follows frame 5", "row 3: 1 components"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="'error'.*no_error, errors"):
        state_changes([], "error")


def test_other_bad_input():
    with pytest.raises(DataError, match="frame 100, but the recording has 100 frames"):
        kcas_density({100: [1]}, 100)
    with pytest.raises(ConfigError, match="'normal'.*sigma 0"):
        kcas_density({}, 100, "normal", sigma=0)
    for call in (lambda: clip_indices(0, 4, 0, 0), lambda: window_ends(0, 4), lambda: kcas_density({}, 0)):
        with pytest.raises(DataError, match="0 frames has no window"):
            call()
    with pytest.raises(ConfigError, match="0 frames with skip -1"):
        window_span(0, -1)
    with pytest.raises(ConfigError, match="'last': choose first or all"):
        window_ends(9, 4, phases="last")
