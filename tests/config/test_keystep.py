"""KeyStep's keys: their defaults are allowed, and what does not go together is named."""

import pytest

from dust.config import get_cfg
from dust.config.keystep import check


@pytest.fixture
def cfg():
    root = get_cfg()
    root.MODEL.MODEL_NAME = "TemporalEncoder"
    return root


def test_defaults_are_allowed(cfg):
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
