"""KeyStep's keys: their defaults are allowed, and what does not go together is named."""

import pytest
from yacs.config import CfgNode

from dust.config import flatten
from dust.config.keystep import CHOICES, RANGES, add_keystep, check


@pytest.fixture
def cfg():
    root = CfgNode(
        {
            "TRAIN": {"ENABLE": True, "EVAL_PERIOD": 1},
            "TEST": {"ENABLE": True},
            "MODEL": {"MODEL_NAME": "TemporalEncoder", "NUM_CLASSES": 11, "ACT_CHECKPOINT": False},
        }
    )
    add_keystep(root)
    return root


def test_defaults_are_allowed(cfg):
    flat = flatten(cfg)
    assert all(flat[key] in choices for key, choices in CHOICES.items())
    assert all(low <= flat[key] <= high for key, (low, high, _, _) in RANGES.items())
    assert check(cfg) == []


def test_a_separation_wider_than_the_window(cfg):
    cfg.KEYSTEP.SKIP_FACTOR = 0
    (problem,) = check(cfg)
    assert "SEP 80" in problem.text and "span 65 frames" in problem.text and "KEYSTEP.SAMPLER.SEP" in problem.keys
    cfg.KEYSTEP.SAMPLER.STRATEGY = "gaussian"
    assert check(cfg) == []
    cfg.KEYSTEP.SAMPLER.STRATEGY, cfg.MODEL.MODEL_NAME = "bimodal", "TimeSformer"
    assert check(cfg) == []


def test_contrast(cfg):
    cfg.KEYSTEP.CONTRAST.BG_OFFSET, cfg.KEYSTEP.CONTRAST.LOSS = [6, 7], "simclr"
    cfg.KEYSTEP.CONTRAST.EXCLUDE_BG = True
    assert [problem.keys[0] for problem in check(cfg)] == [
        "KEYSTEP.CONTRAST.BG_OFFSET",
        "KEYSTEP.CONTRAST.EXCLUDE_BG",
    ]
    cfg.KEYSTEP.CONTRAST.BG_OFFSET = [7]
    assert "[7]: must be [from, to]" in check(cfg)[0].text
