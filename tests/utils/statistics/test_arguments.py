"""Whatever holds the numbers, a list, an array or a tensor, the answer is one; what holds none is refused by name."""

import math

import numpy as np
import pytest
import torch

from dust.utils.errors import DataError
from dust.utils.metrics import topk_correct
from dust.utils.statistics.calibration import coverage_risk, fit_temperature, measure_calibration
from dust.utils.statistics.intervals import classification_intervals, mean_intervals, multilabel_intervals
from dust.utils.statistics.paired import compare_means, compare_scores, mcnemar_p

# quarters and eighths, which every type below holds exactly
SCORES = np.array([[0.75, 0.125, 0.125], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
LABELS, SEVERAL, RIGHT = np.array([0, 1, 2, 0]), np.eye(3, dtype=int)[[0, 1, 2, 0]], np.array([1, 1, 1, 0])
FUNCTIONS = {
    "topk": lambda scores, labels: [hit.tolist() for hit in topk_correct(scores, labels, [1, 2])],
    "calibration": measure_calibration,
    "temperature": fit_temperature,
    "intervals": lambda scores, labels: classification_intervals(scores, labels, resamples=20),
    "several": lambda scores, labels: multilabel_intervals(scores, labels, resamples=20),
    "paired": lambda scores, labels: compare_scores(scores, scores, labels, resamples=20),
}
KINDS = {
    "list": lambda values: values.tolist(),
    "tensor": torch.from_numpy,
    "gradient": lambda values: torch.from_numpy(values).double().requires_grad_(),
    "bfloat16": lambda values: torch.from_numpy(values).bfloat16(),
    "float8": lambda values: torch.from_numpy(values).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_lists_and_tensors_give_what_arrays_do(name, kind):
    labels = SEVERAL if name == "several" else LABELS
    assert FUNCTIONS[name](KINDS[kind](SCORES), KINDS[kind](labels)) == FUNCTIONS[name](SCORES, labels)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [(SCORES, LABELS + 1), (SCORES, LABELS + 0.5), (SCORES, LABELS[:3]), (SCORES, LABELS[:, None]), (SCORES[0], LABELS),
     (SCORES, [0, 1, math.nan, 0]), (SCORES.astype(str), LABELS), (SCORES, list("abca")), (None, LABELS),
     (SCORES, None), ([[0.5, 0.5], [1.0]], [0, 1]), (SCORES + 0j, LABELS),
     (torch.from_numpy(SCORES).to_sparse(), LABELS), (np.ma.masked_equal(SCORES, 0.5), LABELS)],
)  # fmt: skip
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_sample_is_refused(name, scores, labels):
    with pytest.raises(DataError):
        FUNCTIONS[name](scores, labels)


def test_figures_of_samples():
    for kind in (list, torch.tensor):
        assert mean_intervals(kind(RIGHT), resamples=20) == mean_intervals(RIGHT, resamples=20)
        assert compare_means(kind(RIGHT), kind(1 - RIGHT), resamples=20) == compare_means(
            RIGHT, 1 - RIGHT, resamples=20
        )
        assert mcnemar_p(kind(RIGHT), kind(1 - RIGHT)) == mcnemar_p(RIGHT > 0, RIGHT < 1)
        assert coverage_risk(kind(RIGHT), kind(RIGHT)) == coverage_risk(RIGHT, RIGHT > 0)
    for function in (mcnemar_p, coverage_risk, compare_means):
        with pytest.raises(DataError):
            function(RIGHT, RIGHT[:3])
    for function in (mean_intervals, lambda values: compare_means(values, values)):
        with pytest.raises(DataError, match="1 of 2 are not finite"):
            function([1.0, math.nan])
