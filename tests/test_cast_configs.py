"""The configurations of VideoMAE, CAST and TSTL say the published recipes."""

import re

import pytest

from dust.config import get_cfg, load_config
from dust.config.expand import expand
from dust.utils.tstl_grouping import read_grouping
from tests.helpers import ROOT

#: file -> total batch, published rate per 256 clips, lowest rate per 256, epochs, layer decay, drop path, views
RECIPES = {
    "VideoMAE/finetune_k400_small": (384, 5e-4, 1e-6, 150, 0.75, 0.1, (5, 3)),
    "VideoMAE/finetune_k400_base": (384, 5e-4, 1e-6, 75, 0.75, 0.1, (5, 3)),
    "VideoMAE/finetune_k400_large": (128, 2e-3, 1e-6, 35, 0.75, 0.1, (5, 3)),
    "VideoMAE/finetune_k400_huge": (512, 1e-3, 1e-5, 50, 0.75, 0.2, (5, 3)),
    "VideoMAE/finetune_ssv2_base": (384, 5e-4, 1e-6, 30, 0.75, 0.1, (2, 3)),
    "VideoMAE/finetune_ssv2_small": (384, 1e-3, 1e-6, 40, 0.7, 0.1, (2, 3)),
    "VideoMAE/finetune_ucf101_base": (128, 5e-4, 1e-5, 100, 0.7, 0.2, (5, 3)),
    "CAST/ssv2": (384, 1e-3, 1e-6, 50, 0.75, 0.3, (2, 3)),
    "CAST/k400": (576, 1e-3, 1e-6, 70, 0.75, 0.2, (5, 3)),
    "CAST/epic": (384, 1e-3, 1e-6, 50, 0.75, 0.2, (2, 3)),
    "CAST/ucf101": (384, 1e-3, 1e-6, 30, 0.75, 0.2, (5, 3)),
}
MIXUP_PROB = {"CAST/ssv2": 0.9, "CAST/epic": 0.9, "CAST/k400": 0.5, "CAST/ucf101": 0.5}


def load(name):
    return load_config(ROOT / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_fine_tuning(name):
    total, rate, least, epochs, layer_decay, drop_path, views = RECIPES[name]
    cfg, cast = load(name), name.startswith("CAST")
    solver, aug, mixup, data = cfg.SOLVER, cfg.AUG, cfg.MIXUP, cfg.DATA
    assert total == cfg.GLOBAL_BATCH_SIZE and total % cfg.TRAIN.BATCH_SIZE == 0
    assert pytest.approx(rate * total / 256) == solver.BASE_LR
    assert pytest.approx(least * total / 256) == solver.COSINE_END_LR
    assert (epochs, layer_decay, 0.05) == (solver.MAX_EPOCH, solver.LAYER_DECAY, solver.WEIGHT_DECAY)
    assert (solver.LR_POLICY, solver.WARMUP_EPOCHS, solver.WARMUP_START_LR) == ("videomae_cosine", 5, 0)
    assert (solver.OPTIMIZING_METHOD, tuple(solver.BETAS), solver.ZERO_WD_1D_PARAM) == ("adamw", (0.9, 0.999), True)
    assert drop_path == (cfg.CAST if cast else cfg.VIDEOMAE).DROP_PATH_RATE
    assert views == (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) and cfg.TEST.ENSEMBLE_SPACE == "probs"
    assert (
        "rand-m7-n4-mstd0.5-inc1",
        1 if cast else 2,
        0 if cast else 0.25,
    ) == (aug.AA_TYPE, aug.NUM_SAMPLE, aug.RE_PROB)
    assert (mixup.ALPHA, mixup.CUTMIX_ALPHA, mixup.LABEL_SMOOTH_VALUE) == (0.8, 1.0, 0.1)
    assert (MIXUP_PROB.get(name, 1.0), 0.0 if cast else 0.5) == (mixup.PROB, mixup.SWITCH_PROB)
    assert (data.NUM_FRAMES, data.TRAIN_CROP_SIZE, data.TRAIN_JITTER_SCALES_RELATIVE) == (16, 224, [0.08, 1.0])
    assert ("ssv2" not in name) == data.RANDOM_FLIP and data.MEAN == [0.485, 0.456, 0.406]
    assert cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "bfloat16"


@pytest.mark.parametrize(
    ("name", "rate", "epochs", "ratio", "step"),
    [("k400", 1.5e-4, 1600, 0.9, 4), ("ssv2", 1.5e-4, 2400, 0.9, 2), ("ucf101", 3e-4, 3200, 0.75, 4)],
)
def test_pre_training(name, rate, epochs, ratio, step):
    cfg = load(f"VideoMAE/pretrain_{name}")
    assert (epochs, ratio, step) == (cfg.SOLVER.MAX_EPOCH, cfg.VIDEOMAE.MASK_RATIO, cfg.DATA.SAMPLING_RATE)
    assert pytest.approx(rate * cfg.GLOBAL_BATCH_SIZE / 256) == cfg.SOLVER.BASE_LR
    assert pytest.approx(1e-5 * cfg.GLOBAL_BATCH_SIZE / 256) == cfg.SOLVER.COSINE_END_LR
    assert (cfg.TASK, tuple(cfg.SOLVER.BETAS), cfg.SOLVER.WARMUP_EPOCHS) == ("Masked", (0.9, 0.95), 40)
    assert not (cfg.AUG.ENABLE or cfg.MIXUP.ENABLE or cfg.DATA.RANDOM_FLIP) and cfg.VIDEOMAE.DROP_PATH_RATE == 0


@pytest.mark.parametrize("name", ["ssv2", "ucf101"])
def test_tstl_is_cast_in_two_stages(name):
    cast = load(f"CAST/{name}")
    for stage in ("selector", "experts", "test"):
        cfg = load(f"TSTL/{name}_{stage}")
        assert cfg.TEST.DATASET == "GroupedVideo" and name == cfg.DATA.FORMAT
        assert cfg.TRAIN.DATASET == "GroupedVideo" or not cfg.TRAIN.ENABLE
        for section in ("CAST", "SOLVER", "MIXUP", "AUG"):
            assert cfg[section] == cast[section], (stage, section)
        for key in ("SAMPLING", "RANDOM_FLIP", "PATH_TO_DATA_DIR"):
            assert cfg.DATA[key] == cast.DATA[key]
        if stage == "test":
            assert (f"{name}_selector", f"{name}_experts") == (cfg.TSTL.SELECTOR_FROM, cfg.TSTL.EXPERTS_FROM)


def test_fifteen_experts_of_ssv2():
    runs = expand(load("TSTL/ssv2_experts"))
    assert [run.MODEL.NUM_CLASSES for run in runs] == [12] * 9 + [11] * 6
    assert runs[14].OUTPUT_DIR.endswith("ssv2_experts/experts/group_14")
    grouping = read_grouping(ROOT / "configs" / "TSTL" / "ssv2_class_grouping.json")
    selector = load("TSTL/ssv2_selector")
    assert grouping.num_groups == selector.MODEL.NUM_CLASSES
    per_gpu = selector.TRAIN.BATCH_SIZE // selector.NUM_GPUS
    assert per_gpu % selector.TSTL.GROUPS_PER_BATCH == 0


def test_every_key_that_the_page_names_exists():
    page = (ROOT / "docs" / "CAST.md").read_text(encoding="utf-8")
    names = set(re.findall(r"\b[A-Z][A-Z_]+(?:\.[A-Z0-9_]+)+\b", page))
    known = get_cfg()
    lacking = []
    for name in names:
        section, _, key = name.partition(".")
        if section not in known or key not in known[section]:
            lacking.append(name)
    assert len(names) > 70 and not lacking
