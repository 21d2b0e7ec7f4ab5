"""Calibration against slow loops and against data whose temperature is known."""

import math

import numpy as np
import pytest

from dust.utils.errors import DataError
from dust.utils.statistics import (
    apply_temperature,
    coverage_risk,
    expected_calibration_error,
    fit_temperature,
    measure_calibration,
)


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_brier_and_likelihood_by_a_slow_loop():
    rng = np.random.default_rng(0)
    probabilities, labels = softmax(rng.normal(size=(30, 4))), rng.integers(0, 4, 30)
    brier = sum((p - (k == y)) ** 2 for row, y in zip(probabilities, labels, strict=True) for k, p in enumerate(row))
    nll = -sum(math.log(row[y]) for row, y in zip(probabilities, labels, strict=True))
    found = measure_calibration(probabilities, labels)
    assert (found.brier, found.nll) == (pytest.approx(brier / 30), pytest.approx(nll / 30))


def test_calibration_error_of_bins_by_hand():
    """Fifteen bins of two: each claims 0.8; in ten bins both are right, in five none is."""
    right = np.repeat([True] * 10 + [False] * 5, 2)
    confidence = 0.8 + np.arange(30) * 1e-9
    assert expected_calibration_error(confidence, right) == pytest.approx((10 * 0.2 + 5 * 0.8) / 15, abs=1e-6)
    equal = np.full(30, 0.8)
    assert expected_calibration_error(equal, right) == pytest.approx(0.8 - 2 / 3)
    assert expected_calibration_error(equal, right[::-1]) == pytest.approx(0.8 - 2 / 3), "the order changes nothing"


def test_honest_probabilities_have_a_small_error_and_sure_ones_a_large_one():
    rng = np.random.default_rng(1)
    probabilities = softmax(2 * rng.normal(size=(20_000, 5)))
    labels = (probabilities.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert measure_calibration(probabilities, labels).ece < 0.015
    assert measure_calibration(apply_temperature(probabilities, 0.3), labels).ece > 0.15


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(true):
    rng = np.random.default_rng(2)
    honest = softmax(1.5 * rng.normal(size=(20_000, 4)))
    labels = (honest.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    sharpened = apply_temperature(honest, 1 / true)
    found = fit_temperature(sharpened, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert measure_calibration(apply_temperature(sharpened, found), labels).ece < 0.015


def test_temperature_of_several_labels_each():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(20_000, 3))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    found = fit_temperature(1 / (1 + np.exp(-2 * logits)), labels)
    assert found == pytest.approx(2.0, rel=0.05)


def test_a_temperature_is_that_of_the_logits():
    logits = np.random.default_rng(4).normal(size=(10, 3))
    assert np.allclose(apply_temperature(softmax(logits), 3.0), softmax(logits / 3.0))
    single = 1 / (1 + np.exp(-logits))
    assert np.allclose(apply_temperature(single, 3.0, multi_label=True), 1 / (1 + np.exp(-logits / 3.0)))


def test_what_answering_only_above_a_threshold_gives():
    rows = coverage_risk(np.array([0.5, 0.7, 0.9, 0.95]), np.array([False, True, True, False]), [0.6, 0.99])
    assert rows[0] == {"threshold": 0.6, "answered": 3, "coverage": 75.0, "accuracy": pytest.approx(200 / 3)}
    assert rows[1] == {"threshold": 0.99, "answered": 0, "coverage": 0.0, "accuracy": None}


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        ([[0.5, 0.5]], [2], "label 2 is none of the 2 classes"),
        ([[1.5, -0.5]], [0], "no probabilities"),
        ([[float("nan"), 1.0]], [0], "no probabilities"),
        ([[0.5, 0.5]], [0, 1], "N labels"),
        (np.empty((0, 2)), [], "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said(probabilities, labels, says):
    with pytest.raises(DataError, match=says):
        measure_calibration(np.array(probabilities), np.array(labels))
