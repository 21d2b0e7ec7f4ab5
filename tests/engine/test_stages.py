"""What a stage takes over from another, and what makes it finished."""

from functools import partial

import pytest
import torch

from dust.config import flatten, load_config, with_values
from dust.engine.checkpoints import build_checkpoint_to_extract, build_checkpoint_to_test
from dust.engine.extract import features_config
from dust.engine.run_dir import RunDir
from dust.engine.stages import build_inherited, build_stage, upstream
from dust.engine.stages import finished as is_finished
from dust.engine.test import run_stage as run_test
from dust.engine.train import run_stage as train
from dust.models import build_model
from dust.utils.checkpoint import file_sha256, save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError
from dust.utils.features import FeatureWriter
from dust.utils.stages import StageToCome, expect_stages, stage_checkpoint, stage_features, stage_path

SERIES = {"SERIES_SWIN.EMBED_DIM": 12, "SERIES_SWIN.DEPTHS": [1, 1], "SERIES_SWIN.NUM_HEADS": [2, 2]}


def sources(cfg):
    return upstream(flatten(cfg), cfg.OUTPUT_DIR)


def finished(cfg):
    return is_finished(partial(build_stage, cfg), cfg.OUTPUT_DIR)


def config(tmp_path, output="stage4", **more):
    values = {"OUTPUT_DIR": str(tmp_path / output), "NUM_GPUS": 0}
    return load_config(None, {**values, **{key.replace("__", "."): value for key, value in more.items()}})


@pytest.fixture
def stage2(tmp_path):
    """A finished epoch of another stage, with its configuration."""
    cfg = load_config(None, {**SERIES, "MODEL.MODEL_NAME": "SeriesSwin", "SERIES_SWIN.DROP_PATH_RATE": 0.4})
    path = tmp_path / "stage2" / "checkpoints" / "checkpoint_epoch_00003.pyth"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict(), "cfg": cfg.dump(), "epoch": 2})
    return path


def test_the_widths_of_the_other_stage_are_taken_over_but_not_its_dropout(tmp_path, stage2):
    cfg = config(tmp_path, FUSION__SERIES_FROM="stage2", SERIES_SWIN__DROP_PATH_RATE=0.2)
    settled = build_inherited(cfg)
    assert (settled.SERIES_SWIN.EMBED_DIM, settled.SERIES_SWIN.DEPTHS) == (12, [1, 1])
    assert settled.SERIES_SWIN.DROP_PATH_RATE == 0.2 and settled.is_frozen()
    assert cfg.SERIES_SWIN.EMBED_DIM == 64, "what was given stays as it is"
    assert build_inherited(settled) == settled
    assert sources(cfg) == {"FUSION.SERIES_FROM": file_sha256(stage2)}


def test_stored_features_count_by_the_checkpoint_that_made_them(tmp_path):
    writer = FeatureWriter(
        tmp_path / "stage3" / "features", "train", ["a"], (2,), "float32", {"checkpoint_sha256": "ab"}
    )
    writer.write(0, torch.zeros(1, 2).numpy())
    writer.finish()
    assert sources(config(tmp_path, FUSION__FEATURES_FROM="stage3")) == {"FUSION.FEATURES_FROM": "ab"}
    assert sources(config(tmp_path, FUSION__FEATURES_FROM="elsewhere")) == {}


def test_a_file_of_weights_alone_changes_nothing(tmp_path):
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "final_1d.pth")
    cfg = config(tmp_path, FUSION__SERIES_FROM=str(tmp_path / "final_1d.pth"))
    assert build_inherited(cfg) == cfg


def test_a_stage_that_is_gone(tmp_path, stage2):
    cfg = config(tmp_path, FUSION__SERIES_FROM="stage2")
    own = tmp_path / "stage4" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    settled = build_inherited(cfg)
    stage2.parent.parent.rename(tmp_path / "away")
    with pytest.raises(ConfigError, match=r"FUSION\.SERIES_FROM stage2: there is no .*stage2 and no "):
        build_inherited(cfg)
    own.parent.mkdir(parents=True)
    save_checkpoint(own, {"model_state": {"w": torch.zeros(1)}, "cfg": settled.dump(), "epoch": 0})
    assert build_inherited(cfg).SERIES_SWIN.EMBED_DIM == 12, "this run's own checkpoint remembers"
    assert sources(cfg) == {}


def test_names_of_stages(tmp_path, stage2):
    out = tmp_path / "stage4"
    assert stage_path("stage2", out) == tmp_path / "stage2" == stage_path(str(tmp_path / "stage2"), "/elsewhere/x")
    assert stage_checkpoint("stage2", out) == stage2 == stage_checkpoint(str(stage2), out)
    assert stage_features("stage2", out) == tmp_path / "stage2" / "features"
    (stage2.parent / "checkpoint_epoch_00004_iter_0000002.pyth").write_bytes(b"an unfinished epoch")
    assert stage_checkpoint("stage2", out) == stage2
    stage2.unlink()
    with pytest.raises(CheckpointError, match="KEY stage2: .* holds no finished epoch. Run that stage first"):
        stage_checkpoint("stage2", out, "KEY")


def test_finished_is_all_that_is_enabled_with_this_very_configuration(tiny):
    cfg = tiny(SOLVER__MAX_EPOCH=1, TEST__ENABLE=True)
    run = RunDir(cfg.OUTPUT_DIR)
    assert not finished(cfg)
    train(cfg, run)
    assert not finished(cfg)
    run_test(cfg, run)
    assert finished(cfg)
    for change in ({"SOLVER__MAX_EPOCH": 2}, {"SOLVER__BASE_LR": 0.5}, {"TEST__NUM_ENSEMBLE_VIEWS": 1}):
        assert not finished(tiny(**{"SOLVER__MAX_EPOCH": 1, **change})), change
    assert not finished(tiny(SOLVER__MAX_EPOCH=1, TRAIN__AUTO_RESUME=False))
    assert not finished(tiny(SOLVER__MAX_EPOCH=1, FEATURES__ENABLE=True))
    (run.checkpoints / "checkpoint_epoch_00001.pyth").write_bytes(b"damaged")
    assert not finished(cfg)


@pytest.mark.parametrize(
    ("checkpoint", "patience", "best"),
    [("auto", 0, False), ("auto", 3, True), ("best", 0, True), ("last", 3, False)],
)
def test_who_names_a_stage_takes_what_its_test_takes(tmp_path, checkpoint, patience, best):
    values = {"TEST.CHECKPOINT": checkpoint, "TRAIN.EARLY_STOPPING_PATIENCE": patience}
    cfg = with_values(config(tmp_path, "stage2"), values)
    folder = tmp_path / "stage2" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "stage2" / "config.yaml").write_text(cfg.dump())
    for name in ("checkpoint_epoch_00003.pyth", "checkpoint_best.pyth"):
        save_checkpoint(folder / name, {"model_state": {"w": torch.zeros(1)}, "epoch": 2})
    wanted = folder / ("checkpoint_best.pyth" if best else "checkpoint_epoch_00003.pyth")
    assert stage_checkpoint("stage2", tmp_path / "stage4") == wanted
    assert build_checkpoint_to_test(cfg).path() == wanted, "which is what TEST takes"
    assert build_checkpoint_to_extract(with_values(cfg, {"FEATURES.CHECKPOINT_FILE_PATH": "stage2"})).path() == wanted


def test_auto_is_the_default_and_changes_no_stored_features(tmp_path):
    cfg = config(tmp_path)
    assert cfg.TEST.CHECKPOINT == "auto"
    values = flatten(cfg)
    assert features_config(values) == features_config({**values, "TEST.CHECKPOINT": "last"})
    early = {**values, "TRAIN.EARLY_STOPPING_PATIENCE": 2}
    assert features_config(early) == features_config({**early, "TEST.CHECKPOINT": "best"})


def test_a_stage_to_come_is_told_from_one_that_is_missing(tmp_path, stage2):
    values = {"OUTPUT_DIR": str(tmp_path / "stage2"), "SERIES_SWIN.EMBED_DIM": 24}
    with expect_stages({tmp_path / "stage2": values}):
        with pytest.raises(StageToCome) as caught:
            stage_checkpoint("stage2", tmp_path / "stage4", "FUSION.SERIES_FROM")
        assert (caught.value.key, caught.value.values) == ("FUSION.SERIES_FROM", values)
        cfg = config(tmp_path, FUSION__SERIES_FROM="stage2")
        assert build_inherited(cfg).SERIES_SWIN.EMBED_DIM == 24, "of its configuration, not of what lies there"
        with pytest.raises(ConfigError, match="there is no"):
            stage_checkpoint("stage3", tmp_path / "stage4")
    assert stage_checkpoint("stage2", tmp_path / "stage4") == stage2
