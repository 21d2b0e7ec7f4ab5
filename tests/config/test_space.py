"""TUNE.SPACE: what it says, and what is wrong with it."""

import pytest

from dust.config import load_config
from dust.config.space import Dimension, read_space, words_of_values
from dust.utils.errors import ConfigError


def test_ranges_and_choices_take_the_type_of_their_key():
    cfg = load_config(
        None,
        [
            "TUNE.SPACE",
            "[{SOLVER.BASE_LR: {low: 1e-4, high: 1, log: true}, AUG.ENABLE: [True, off]}, "
            "{SOLVER.STEPS: [[0, 1], [0]]}, {SOLVER.MAX_EPOCH: {low: 2, high: 5}}]",
        ],
    )
    rate, augment, steps, epochs = read_space(cfg.TUNE.SPACE)[0]
    assert rate == Dimension("SOLVER.BASE_LR", (), 0.0001, 1.0, log=True)
    assert augment.choices == (True, False)
    assert steps.choices == ("[0, 1]", "[0]")
    assert epochs.grid() == (2, 3, 4, 5) and rate.grid() == ()
    assert Dimension("X", (), 0.1, 0.75, step=0.3).grid() == pytest.approx((0.1, 0.4, 0.7))


def test_values_come_back_exactly():
    values = {"SOLVER.BASE_LR": 0.1 + 0.2, "AUG.ENABLE": True, "SOLVER.STEPS": "[0, 1]", "SOLVER.CLIP_GRAD_VAL": None}
    cfg = load_config(None, words_of_values(values))
    assert cfg.SOLVER.BASE_LR == 0.1 + 0.2 and cfg.AUG.ENABLE is True and cfg.SOLVER.STEPS == [0.0, 1.0]
    assert cfg.SOLVER.CLIP_GRAD_VAL is None


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ("[{SOLVER.BASE_LR: {low: 1, high: 0.1}}]", "low must be less than high"),
        ("[{SOLVER.BASE_LR: {low: 0, high: 1, log: True}}]", "low must be above 0"),
        ("[{SOLVER.BASE_LR: {low: 0, high: 1, step: 0}}]", "step must be above 0"),
        ("[{SOLVER.BASE_LR: {lo: 0, high: 1}}]", "write {KEY:"),
        ("[{SOLVER.BASE_LR: {low: a, high: 1}}]", "are numbers"),
        ("[{SOLVER.BASE_LR: 0.1}]", "write {KEY:"),
        ("[{SOLVER.BASE_LR: [-1, 1]}]", "must be at least 0"),
        ("[{SOLVER.BASE_LR: [1, 1]}]", "stands there twice"),
        ("[{SOLVER.BASE_LR: [1]}, {SOLVER.BASE_LR: [2]}]", "SOLVER.BASE_LR twice"),
        ("[{SOLVER.BASE_LRR: [1, 2]}]", "did you mean SOLVER.BASE_LR"),
        ("[{SOLVER.MAX_EPOCH: {low: 1, high: 2.5}}]", "whole number"),
        ("[{SOLVER.LR_POLICY: {low: 1, high: 2}}]", "list its values"),
        ("[{OUTPUT_DIR: [a, b]}]", "same in all trials"),
        ("[{TUNE.TRIALS: [1, 2]}]", "same in all trials"),
        ("[SOLVER.BASE_LR]", "write {KEY:"),
    ],
)
def test_what_is_wrong_is_said(space, text):
    with pytest.raises(ConfigError, match="TUNE.SPACE") as error:
        load_config(None, ["TUNE.SPACE", space])
    assert text in str(error.value)


def test_a_grid_needs_ends_and_a_pruner_validations():
    space = ["TUNE.SPACE", "[{SOLVER.BASE_LR: {low: 0.1, high: 1}}]", "TUNE.SAMPLER", "grid"]
    with pytest.raises(ConfigError, match=r"SOLVER.BASE_LR has no end(.|\n)*TRAIN.EVAL_PERIOD"):
        load_config(None, [*space, "TUNE.PRUNER", "median", "TRAIN.EVAL_PERIOD", "0"])


@pytest.mark.parametrize("values", [{"low": 1, "high": float("inf")}, {"low": float("nan"), "high": 2},
                                    {"low": 1, "high": 2, "step": float("nan")}])  # fmt: skip
def test_numbers_without_an_end(values):
    dimensions, problems = read_space([{"SOLVER.MAX_EPOCH": values}])
    assert not dimensions and "are numbers, and finite" in problems[0]
