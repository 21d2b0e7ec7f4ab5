"""Every YAML in configs/ loads, names registered classes, and builds its model; those of the issue's table exist."""

from pathlib import Path

import pytest
import torch
import yaml

from dust.config import accumulation_steps, load_config, notes, with_values
from dust.datasets import DATASET_REGISTRY
from dust.models import MODEL_REGISTRY, build_model
from dust.tasks import TASK_REGISTRY
from dust.utils.errors import ConfigError
from dust.utils.lr_policy import LRSchedule
from dust.utils.registry import build
from dust.utils.tstl_grouping import Grouping, write_grouping
from dust.zoo.entries import ENTRIES
from tests.helpers import ROOT, golden_json

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT / "configs")) for path in CONFIGS]

#: file -> (frames, rate, jitter, crop, attention, classes, batch), from TimeSformer's published recipes; batches are
#: ours, of steps of 64 clips as published.
K, HR = [256, 320], [448, 512]
DIVIDED, JOINT, SPACE = "divided_space_time", "joint_space_time", "space_only"
RECIPES = {
    "Kinetics/TimeSformer_divST_8x32_224": (8, 32, K, 224, DIVIDED, 400, 64),
    "Kinetics/TimeSformer_divST_8x32_224_4gpus": (8, 32, K, 224, DIVIDED, 400, 32),
    "Kinetics/TimeSformer_divST_8x32_224_TEST": (8, 32, K, 224, DIVIDED, 400, 64),
    "Kinetics/TimeSformer_divST_16x16_448": (16, 16, HR, 448, DIVIDED, 400, 16),
    "Kinetics/TimeSformer_divST_96x4_224": (96, 4, K, 224, DIVIDED, 400, 8),
    "Kinetics/TimeSformer_jointST_8x32_224": (8, 32, K, 224, JOINT, 400, 64),
    "Kinetics/TimeSformer_spaceOnly_8x32_224": (8, 32, K, 224, SPACE, 400, 64),
    "Kinetics/vn": (8, 32, K, 224, DIVIDED, 12, 4),
    "MuWiGes/TimeSformer": (8, 32, K, 224, DIVIDED, 12, 4),
    "SSv2/TimeSformer_divST_8_224": (8, None, K, 224, DIVIDED, 174, 64),
    "SSv2/TimeSformer_divST_16_448": (16, None, HR, 448, DIVIDED, 174, 16),
    "SSv2/TimeSformer_divST_64_224": (64, None, K, 224, DIVIDED, 174, 16),
    "HowTo100M/TimeSformer_divST_8x32_224": (8, 32, K, 224, DIVIDED, 1059, 64),
    "HowTo100M/TimeSformer_divST_32x32_224": (32, 32, K, 224, DIVIDED, 1059, 32),
    "HowTo100M/TimeSformer_divST_64x32_224": (64, 32, K, 224, DIVIDED, 1059, 32),
    "HowTo100M/TimeSformer_divST_96x32_224": (96, 32, K, 224, DIVIDED, 1059, 32),
}


def load(name: str):
    return load_config(ROOT / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_loads_and_names_registered_classes(path: Path):
    cfg = load_config(path)
    assert cfg.MODEL.MODEL_NAME in MODEL_REGISTRY
    assert cfg.TASK in TASK_REGISTRY
    for section in ("TRAIN", "TEST"):
        assert cfg[section].DATASET in DATASET_REGISTRY
    assert not [note for note in notes(cfg) if "->" in note or "no effect" in note], "ours use our own names and keys"


def overrides_for(path: Path, folder: Path) -> dict:
    """What only earlier stages and the data know: the width of stored features, the classes and a grouping of them."""
    cfg = load_config(path)
    known = {"MODEL.NUM_CLASSES": 12} if cfg.MODEL.NUM_CLASSES < 0 else {}
    if cfg.MODEL.MODEL_NAME == "DualSwinFusion":
        return {**known, "FUSION.FEATURE_DIM": 1024}
    if cfg.MODEL.MODEL_NAME == "TSTL" and not Path(cfg.TSTL.GROUPING).is_file():
        groups = tuple(tuple(range(k, known.get("MODEL.NUM_CLASSES", cfg.MODEL.NUM_CLASSES), 4)) for k in range(4))
        write_grouping(folder / "class_grouping.json", Grouping(groups))
        return {**known, "TSTL.GROUPING": str(folder / "class_grouping.json")}
    return known


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_builds_its_model(path: Path, tmp_path: Path):
    cfg = load_config(path, overrides_for(path, tmp_path))
    with torch.device("meta"):
        model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.MODEL_NAME
    if getattr(model, "num_classes", 0) and cfg.TASK != "VerbNoun":  # a classifier of one set of classes
        assert model.num_classes == cfg.MODEL.NUM_CLASSES
    if cfg.MODEL.MODEL_NAME != "TimeSformer":
        return
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert (cfg.MODEL.NUM_CLASSES, cfg.TIMESFORMER.EMBED_DIM) in shapes.values()
    patches = (cfg.DATA.TRAIN_CROP_SIZE // cfg.TIMESFORMER.PATCH_SIZE) ** 2
    assert shapes["pos_embed"] == (1, patches + 1, cfg.TIMESFORMER.EMBED_DIM)
    if cfg.TIMESFORMER.ATTENTION_TYPE != SPACE:
        assert shapes["time_embed"] == (1, cfg.DATA.NUM_FRAMES, cfg.TIMESFORMER.EMBED_DIM)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name):
    frames, rate, jitter, crop, attention, classes, batch = RECIPES[name]
    cfg = load(name)
    assert frames == cfg.DATA.NUM_FRAMES
    assert rate is None or rate == cfg.DATA.SAMPLING_RATE
    assert jitter == cfg.DATA.TRAIN_JITTER_SCALES
    assert crop == cfg.DATA.TRAIN_CROP_SIZE == cfg.DATA.TEST_CROP_SIZE
    assert attention == cfg.TIMESFORMER.ATTENTION_TYPE
    assert classes == cfg.MODEL.NUM_CLASSES
    assert batch == cfg.TRAIN.BATCH_SIZE
    assert accumulation_steps(cfg) == 64 // batch
    assert cfg.TEST.NUM_SPATIAL_CROPS == 3
    solver = cfg.SOLVER
    assert (solver.OPTIMIZING_METHOD, solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == ("sgd", 0.005, 0.9, 1e-4)
    assert (solver.LR_POLICY, solver.STEPS, solver.LRS) == ("steps_with_relative_lrs", [0, 11, 14], [1, 0.1, 0.01])
    assert solver.MAX_EPOCH == 15
    assert cfg.TRAIN.MIXED_PRECISION
    assert (not name.endswith("TEST")) == cfg.TRAIN.ENABLE


@pytest.mark.parametrize("name", ["TimeSformer_divST_8_224", "TimeSformer_divST_16_448", "TimeSformer_divST_64_224"])
def test_ssv2(name):
    cfg = load(f"SSv2/{name}")
    assert (cfg.TRAIN.DATASET, cfg.TEST.DATASET, cfg.TEST.NUM_ENSEMBLE_VIEWS) == ("SSv2", "SSv2", 1)
    assert (cfg.DATA.INV_UNIFORM_SAMPLE, cfg.DATA.RANDOM_FLIP, cfg.DATA.REVERSE_INPUT_CHANNEL) == (True, False, True)


def test_muwiges():
    for name in ("MuWiGes/TimeSformer", "MuWiGes/LightTimeSformer"):
        assert load(name).DATA.RANDOM_FLIP is False
    light = load("MuWiGes/LightTimeSformer")
    assert (light.DATA.SAMPLING, light.MODEL.NUM_CLASSES, light.TEST.NUM_ENSEMBLE_VIEWS) == ("whole_clip", 12, 1)
    assert "OURS" in (ROOT / "configs" / "MuWiGes" / "LightTimeSformer.yaml").read_text()
    vn = load("Kinetics/vn")
    assert (vn.DATA.PATH_LABEL_SEPARATOR, vn.NUM_GPUS, vn.TENSORBOARD.ENABLE) == (",", 1, True)


def test_quickstarts_take_the_classes_of_any_data():
    for path in CONFIGS:
        if path.parent.name == "quickstart":
            assert load_config(path).MODEL.NUM_CLASSES == -1, path


def test_quickstart_runs_on_a_cpu_and_serves_any_folder():
    path = ROOT / "configs" / "quickstart" / "video.yaml"
    cfg = load_config(path, ["DATA.PATH_TO_DATA_DIR", "my clips"])
    with pytest.raises(ConfigError, match="MODEL.NUM_CLASSES -1: as many as the data has"):
        build_model(cfg)
    cfg = with_values(cfg, {"MODEL.NUM_CLASSES": 7})
    assert (cfg.NUM_GPUS, cfg.DATA.RANDOM_FLIP, cfg.DATA.PATH_TO_DATA_DIR) == (0, False, "my clips")
    model = build_model(cfg)
    clip = torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    assert model(clip).shape == (1, 7)


@pytest.mark.parametrize("folder", ["DUST", "DUST_paper"])
def test_dust_stages_are_the_published_recipe(folder):
    video, series, features, fusion = (
        load(f"{folder}/{name}") for name in ("stage1_video", "stage2_series", "stage3_features", "stage4_fusion")
    )
    assert [cfg.TRAIN.BATCH_SIZE for cfg in (video, series, fusion)] == [9, 2000, 2000]
    assert features.FEATURES.BATCH_SIZE == 80 and features.FEATURES.ENABLE and not features.TRAIN.ENABLE
    assert [cfg.SOLVER.MAX_EPOCH for cfg in (video, series, fusion)] == [100, 200, 200]
    assert [cfg.SOLVER.BASE_LR for cfg in (video, series, fusion)] == [0.001, 0.0003, 0.0003]
    assert [cfg.SOLVER.OPTIMIZING_METHOD for cfg in (video, series, fusion)] == ["adamw", "adam", "adam"]
    assert [cfg.TRAIN.EVAL_PERIOD for cfg in (video, series, fusion)] == [3, 1, 1]
    for cfg in (video, series, features, fusion):
        assert (cfg.RNG_SEED, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE) == (93728645, 77, 224)
        assert (cfg.SERIES.LENGTH, cfg.SERIES.NUM_CHANNELS, cfg.SOLVER.WEIGHT_DECAY) == (51, 3, 0.02)
    rates = [build(LRSchedule, video).at_iteration(epoch, 0, 4) for epoch in range(100)]
    assert rates == pytest.approx(golden_json("dust_lr_schedule")["lr_per_epoch"])
    later = [build(LRSchedule, series).at_iteration(epoch, 0, 1) for epoch in (99, 100)]
    assert later == pytest.approx([3e-4, 3e-5])
    with torch.device("meta"):
        millions = [sum(p.numel() for p in build_model(cfg).parameters()) / 1e6 for cfg in (video, series)]
    assert millions == pytest.approx([87.64, 189.71 if folder == "DUST_paper" else 11.89], abs=0.005)
    assert ("legacy" if folder == "DUST_paper" else "exact") == series.SERIES_SWIN.MASK


def test_runs_do_not_share_a_folder():
    folders = [load_config(path).OUTPUT_DIR for path in CONFIGS if "base" not in path.name]
    assert len(set(folders)) == len(folders)


def test_weights_that_are_named_exist_in_the_zoo():
    named = {word.strip("(),.") for path in CONFIGS for word in path.read_text().split() if word.startswith("zoo://")}
    assert named
    assert {name.removeprefix("zoo://") for name in named} <= set(ENTRIES)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_is_plain_yaml_with_at_most_one_base(path: Path):
    content = yaml.safe_load(path.read_text())
    assert isinstance(content.get("_BASE_", ""), str)
