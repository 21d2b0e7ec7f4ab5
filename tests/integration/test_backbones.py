"""The quickstarts of SlowFast, X3D and MViT tell four directions of motion apart, as their pages say."""

import json

import pytest

from dust.engine import run_net
from dust.synthetic.motion import generate_motion
from tests.helpers import ROOT

SMALLER = ["DATA_LOADER.NUM_WORKERS", "0", "TRAIN.EVAL_PERIOD", "0"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    root = tmp_path_factory.mktemp("motion") / "data"
    generate_motion(root, classes=4, clips=40, seed=0)
    return root


def accuracy(name, motion, out, *overrides):
    config = str(ROOT / "configs" / "quickstart" / f"{name}.yaml")
    words = ["DATA.PATH_TO_DATA_DIR", str(motion), "OUTPUT_DIR", str(out), *SMALLER, *overrides]
    assert run_net.main(["--cfg", config, *words]) == 0
    return json.loads((out / "results" / "test.json").read_text())["metrics"]["top1_acc"]


@pytest.mark.quickstart
@pytest.mark.parametrize("name", ["slowfast", "x3d", "mvit"])
def test_the_quickstart_reaches_ninety_percent(name, motion, tmp_path):
    assert accuracy(name, motion, tmp_path) >= 90.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slowfast", "mvit"])
def test_a_shorter_way_through_learns_and_tests(name, motion, tmp_path):
    """An epoch of training with precise statistics where there are batch norms, a checkpoint, a test on whole clips."""
    few = ["SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0", "BN.NUM_BATCHES_PRECISE", "2"]
    assert 0.0 <= accuracy(name, motion, tmp_path, *few, "TEST.NUM_SPATIAL_CROPS", "3") <= 100.0
    assert (tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth").is_file()
