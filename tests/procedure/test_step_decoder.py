"""One face for all decoders: as their own functions, on a recording and frame by frame."""

import numpy as np
import pytest

from dust.procedure.decoders import (
    decode_b1,
    decode_b2,
    decode_b3,
    decode_dual,
    decode_dual_published,
    decode_temporal,
    decode_temporal_naive,
)
from dust.procedure.step_decoder import MODES, StepDecoder
from dust.procedure.table import Procedure
from dust.utils.errors import ConfigError, DataError

PROCEDURE = Procedure(frozenset({0, 3, 6, 2, 5, 8}), (0, 0, 0))
STATES = {1: (0, 0, 0), 2: (1, 0, 0), 3: (1, 1, 0), 4: (1, 1, 1), 5: (0, 1, 1)}


def recording(length=200, phases=2, seed=0):
    """Detections of every frame, and a window in every frame from 20 on, both following the same states with noise."""
    rng = np.random.RandomState(seed)
    truth = np.minimum(1 + np.arange(length) // 40, 5)
    seen = np.where(rng.rand(length) < 0.15, rng.choice(list(STATES), length), truth)
    detections = [[] if rng.rand() < 0.1 else [(int(state), rng.uniform(0.4, 1))] for state in seen]
    last = np.arange(20, length)
    changed = np.stack([np.abs(np.subtract(STATES[truth[t]], STATES[truth[t - 20]])) for t in last])
    probabilities = np.clip(changed * 0.8 + rng.uniform(-0.1, 0.4, changed.shape), 0.01, 0.99).astype(np.float32)
    return detections, last, probabilities


def expected(mode, detections, last, probabilities, phases):
    windows = [(int(t), (p > 0.5).astype(int), p) for t, p in zip(last, probabilities, strict=True)]
    if mode == "b1":
        return decode_b1(detections, STATES)
    if mode == "b2":
        return decode_b2(detections, STATES)
    if mode == "b3":
        return decode_b3(detections, STATES, PROCEDURE)
    if mode == "temporal":
        return decode_temporal(windows, PROCEDURE, window=20, phases=phases)
    if mode == "temporal_naive":
        return decode_temporal_naive(windows, PROCEDURE, window=20)
    if mode == "dual":
        return decode_dual(detections, windows, STATES, PROCEDURE, window=20, weight=0.3, phases=phases)
    return decode_dual_published(detections, windows, STATES, PROCEDURE, window=20, weight=0.3)[2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("phases", [1, 3])
def test_is_the_decoders_own_function(mode, phases):
    if mode == "dual_published" and phases > 1:
        with pytest.raises(ConfigError, match="PHASES first only"):
            StepDecoder(mode=mode, phases=phases)
        return
    detections, last, probabilities = recording()
    decoder = StepDecoder(mode=mode, window=20, weight=0.3, phases=phases)
    found = decoder.decode(PROCEDURE, STATES, detections, last, probabilities)
    assert found and found == expected(mode, detections, last, probabilities, phases)
    if mode == "dual_published":
        with pytest.raises(ConfigError, match="cannot be streamed; choose dual"):
            decoder.start(PROCEDURE, STATES)


def test_thresholds_are_the_published_ones_unless_given():
    assert [StepDecoder(mode=mode).threshold for mode in ("b2", "b3", "temporal", "dual")] == [8, 8, 6, 6]
    assert StepDecoder(mode="b3", cum_conf=2.5).threshold == 2.5
    detections, last, probabilities = recording()
    late, early = (
        StepDecoder(window=20, cum_conf=value).decode(PROCEDURE, {}, detections, last, probabilities)
        for value in (9.0, 1.0)
    )
    assert early and late and all(a > b for (a, _), (b, _) in zip(late, early, strict=False))


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="'b4': choose one of temporal"):
        StepDecoder(mode="b4")
    with pytest.raises(DataError, match="names of the object detector's states"):
        StepDecoder(mode="b3").start(PROCEDURE, {})
