"""Sharded models and checkpoints: the same numbers as whole ones, on any number of processes, written at once or behind."""

import shutil

import pytest
import torch

from dust.engine.sharding import blocks_of
from dust.models.build import MODEL_REGISTRY
from dust.utils.checkpoint import load_checkpoint, verify_checkpoint
from tests.engine.test_launch import PLAIN, epochs, run, weights
from tests.engine.test_resume import assert_same

FSDP = {"TRAIN__PARALLEL": "fsdp", "SOLVER__CLIP_GRAD_L2NORM": 1.0, "TEST__ENABLE": False}


@pytest.fixture(scope="module")
def replicated(clips, tmp_path_factory):
    return run(clips, tmp_path_factory.mktemp("ddp") / "run", 2, **{**FSDP, "TRAIN__PARALLEL": "ddp"})


def assert_close(one, two):
    for part in ("model_state", "ema_state"):
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"GLOBAL_BATCH_SIZE": 8}], ids=["plain", "accumulated"])
def test_a_sharded_model_learns_what_a_replicated_one_does(clips, tmp_path, replicated, more):
    """10 clips in batches of 4 and 4 for evaluation, weights averaged, gradients clipped."""
    reference = run(clips, tmp_path / "ddp", 2, **{**FSDP, **more, "TRAIN__PARALLEL": "ddp"}) if more else replicated
    sharded = run(clips, tmp_path / "fsdp", 2, **FSDP, **more)
    assert_close(weights(reference), weights(sharded))
    for first, second in zip(epochs(reference), epochs(sharded), strict=True):
        assert second == pytest.approx(first, abs=1.1e-5)
