"""The quickstarts of SlowFast, X3D and MViT tell four directions of motion apart; V-JEPA 2 learns verbs and nouns."""

import pytest
import torch

from dust.engine import run_net
from dust.models.vjepa2 import VJEPA2
from dust.synthetic.motion import generate_motion
from dust.utils.checkpoint import find_latest
from tests.helpers import ROOT, metrics_of
from tests.models.test_vjepa2 import authors_files
from tests.runs import write_noise

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
    return metrics_of(out)["top1_acc"]


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


def test_v_jepa_2_learns_verbs_and_nouns_of_joined_clips(tmp_path):
    """configs/VJEPA2/epic.yaml in small, with the authors' form of an encoder's file, to the figures of its test."""
    data = tmp_path / "epic"
    (data / "videos").mkdir(parents=True)
    rows = []
    for index in range(4):
        write_noise(data / "videos" / f"P01_01_{index}.mp4", 60 if index % 2 else 190, seed=index)
        rows.append(f"P01_01_{index},{index % 2},{index % 3}\n")
    for split in ("train", "val", "test"):
        (data / f"{split}.csv").write_text("clip_id,verb,noun\n" + "".join(rows))
    sizes = {"PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 2, "NUM_HEADS": 2, "PROBE_HEADS": 4, "PROBE_DEPTH": 2}
    model = VJEPA2(**{key.lower(): value for key, value in sizes.items()}, num_classes=2)
    words = {f"VJEPA2.{key}": value for key, value in sizes.items()} | {"CAST.NUM_VERBS": 2, "CAST.NUM_NOUNS": 3}
    words |= {"VJEPA2.ENCODER_FROM": authors_files(tmp_path, model)["encoder"], "DATA.PATH_TO_DATA_DIR": data}
    words |= {"DATA.TRAIN_CROP_SIZE": 16, "DATA.TEST_CROP_SIZE": 16, "DATA.TRAIN_JITTER_SCALES": "[16,16]"}
    words |= {"DATA.NUM_FRAMES": 2, "DATA.SAMPLING_RATE": 2, "MODEL.NUM_CLASSES": 5, "SOLVER.MAX_EPOCH": 1}
    words |= {"TRAIN.BATCH_SIZE": 4, "TRAIN.MIXED_PRECISION": False, "DATA_LOADER.NUM_WORKERS": 0, "NUM_GPUS": 0}
    words |= {"OUTPUT_DIR": tmp_path / "run"}
    recipe = str(ROOT / "configs" / "VJEPA2" / "epic.yaml")
    assert run_net.main(["--cfg", recipe, *(str(word) for pair in words.items() for word in pair)]) == 0
    measured = metrics_of(tmp_path / "run")
    assert {"verb_top1_acc", "noun_top1_acc", "action_top1_acc"} <= set(measured)
    _, saved = find_latest(tmp_path / "run" / "checkpoints")
    trained = saved["model_state"]
    assert trained["head.noun.weight"].shape == (3, 32) and trained["pooler.query_tokens"].shape == (1, 2, 32)
    frozen = model.encoder.state_dict()
    assert all(torch.equal(trained[f"encoder.{key}"], value) for key, value in frozen.items())
