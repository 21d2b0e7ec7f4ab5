"""Where a model's settings and weights are found: a run, a moved one, a root, a checkpoint, the zoo."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch

import dust
from dust.cli import convert_checkpoint
from dust.config import load_config
from dust.datasets.video.tstl_groups import GROUPING
from dust.deploy.loading import build_carried, find_origin
from dust.models.vjepa2 import VJEPA2
from dust.utils.checkpoint import load_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import randomised
from tests.models.test_vjepa2 import authors_files
from tests.runs import TINY

LAST = "checkpoint_epoch_00001.pyth"


def same(a, b, clips):
    clip = clips / "clip_15.mp4"
    np.testing.assert_array_equal(a(clip).logits, b(clip).logits)
    return True


def test_a_run_or_its_checkpoint_wherever_it_lies(run, model, clips, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    monkeypatch.chdir(tmp_path)
    for source in (moved, moved / "checkpoints" / LAST, "elsewhere"):
        assert same(dust.load(source, device="cpu"), model, clips)
    shutil.copy(run / "checkpoints" / LAST, tmp_path / "alone.pyth")
    alone = dust.load("alone.pyth", device="cpu")
    assert alone.classes == ["bright", "dark"] and same(alone, model, clips)


def test_the_data_folder_is_not_asked_for(run, model, clips, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    text = (copy / "config.yaml").read_text()
    assert str(clips) in text
    (copy / "config.yaml").write_text(text.replace(str(clips), "/nowhere/at/all"))
    assert same(dust.load(copy, device="cpu"), model, clips)


def test_a_root_is_its_last_stage_that_answers(run, model, clips, tmp_path, caplog):
    for number, name in enumerate(("stage1", "stage2", "stage3")):
        shutil.copytree(run, tmp_path / name)
        os.utime(tmp_path / name / "config.yaml", (1e9 - number, 1e9 - number))
    # stage 2 stands on stage 3, which therefore is not the last; stage 1 only extracts
    for name, old, new in (
        ("stage2", "PRETRAINED: ''", "PRETRAINED: stage3"),
        ("stage1", "TASK: Classification", "TASK: Masked"),
    ):
        file = tmp_path / name / "config.yaml"
        text = file.read_text()
        assert old in text
        times = file.stat()
        file.write_text(text.replace(old, new, 1))
        os.utime(file, (times.st_atime, times.st_mtime))
    assert find_origin(str(tmp_path)).output_dir == str(tmp_path / "stage2")
    assert "ran last" not in caplog.text


def test_of_several_that_answer_the_one_that_ran_last_is_named(run, tmp_path, caplog):
    for number, name in enumerate(("a", "b")):
        shutil.copytree(run, tmp_path / name)
        os.utime(tmp_path / name / "config.yaml", (1e9 - number, 1e9 - number))
    assert find_origin(str(tmp_path)).output_dir == str(tmp_path / "a")
    assert "a ran last and is taken" in caplog.text


def test_foreign_weights_need_a_configuration(run, model, clips, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(load_checkpoint(run / "checkpoints" / LAST)["model_state"], file)
    with pytest.raises(CheckpointError, match="no configuration"):
        dust.load(file)
    other = dust.load(file, config=run / "config.yaml", device="cpu")
    assert other.classes == ["0", "1"] and same(other, model, clips)
    assert dust.load(file, config=run / "config.yaml", class_names=["a", "b"]).classes == ["a", "b"]


def test_keys_of_another_version_are_left_out(run, model, clips, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text + "LATER: {KEY: 7}\n")
    with caplog.at_level("INFO", logger="dust"):
        assert same(dust.load(copy, device="cpu"), model, clips)
    assert "LATER.KEY" in caplog.text


@pytest.mark.parametrize("source", ["nowhere", "zoo://no_such_name"])
def test_what_is_not_there(source):
    with pytest.raises(DustError, match=r"no such run|no weights named"):
        dust.load(source)


def test_an_empty_folder_and_a_stage_without_answers(run, tmp_path):
    with pytest.raises(ConfigError, match="no stage with a config.yaml"):
        dust.load(tmp_path)
    copy = tmp_path / "root" / "stage"
    shutil.copytree(run, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("TASK: Classification", "TASK: Contrastive"))
    with pytest.raises(ConfigError, match="it holds stage"):
        dust.load(tmp_path / "root")


def test_overrides_are_checked(run):
    with pytest.raises(ConfigError, match=r"did you mean TEST.NUM_SPATIAL_CROPS"):
        dust.load(run, overrides={"TEST.NUM_SPATIAL_CROP": 1})
    with pytest.raises(ConfigError, match="pairs"):
        dust.load(run, overrides=["TEST.NUM_SPATIAL_CROPS"])
    assert dust.load(run, overrides=["TEST.NUM_SPATIAL_CROPS", "1"]).preprocess["views"] == 2


def test_a_probe_in_the_zoo_brings_its_encoder(clips, tmp_path, monkeypatch):
    from dust import zoo

    sizes = {"PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 2, "NUM_HEADS": 2, "PROBE_HEADS": 4, "PROBE_DEPTH": 2}
    torch.manual_seed(0)
    source = randomised(VJEPA2(**{key.lower(): value for key, value in sizes.items()}, num_classes=3))
    files = authors_files(tmp_path, source)
    values = {**TINY, "MODEL.MODEL_NAME": "VJEPA2", "MODEL.NUM_CLASSES": 3, "VJEPA2.ENCODER_FROM": "zoo://encoder"}
    values |= {f"VJEPA2.{key}": value for key, value in sizes.items()}
    (tmp_path / "tiny.yaml").write_text(load_config(None, values).dump())
    entry = zoo.Entry(
        "probe", "MIT", "noise", "vjepa2", "here", 2, 16, urls=("https://nowhere/p.pt",),
        config=str(tmp_path / "tiny.yaml"), options="VJEPA2.PROBE_FROM zoo://probe",
    )  # fmt: skip
    monkeypatch.setitem(zoo.ENTRIES, "probe", entry)
    monkeypatch.setattr(zoo, "resolve", lambda name: str(files[name.removeprefix("zoo://")]))
    found = dust.load("zoo://probe", device="cpu")(str(clips / "clip_14.mp4"))
    assert found.ok and len(found.probabilities) == 3


def test_a_name_in_the_zoo(run, model, clips, tmp_path, monkeypatch):
    from dust import zoo

    entry = zoo.Entry(
        "tiny", "MIT", "noise", "dust", "here", 2, 16, urls=("https://nowhere/x.pyth",), config=str(run / "config.yaml")
    )
    monkeypatch.setitem(zoo.ENTRIES, "tiny", entry)
    monkeypatch.setattr(zoo, "resolve", lambda name: str(run / "checkpoints" / LAST))
    found = dust.load("zoo://tiny", device="cpu")
    assert found.classes == ["bright", "dark"] and same(found, model, clips)
    weights = load_checkpoint(run / "checkpoints" / LAST)["model_state"]
    torch.save(weights, tmp_path / "weights.pth")  # as others publish them: no names in it
    monkeypatch.setattr(zoo, "resolve", lambda name: str(tmp_path / "weights.pth"))
    assert dust.load("zoo://tiny", device="cpu").classes == ["0", "1"]
    (tmp_path / "names.txt").write_text("night\nday\n")
    listed = dataclasses.replace(entry, class_list=str(tmp_path / "names.txt"))
    monkeypatch.setitem(zoo.ENTRIES, "tiny", listed)
    assert dust.load("zoo://tiny", device="cpu").classes == ["night", "day"]


@pytest.mark.parametrize("name", ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00001.dcp"])
@pytest.mark.parametrize("entry", ["carried", "files"])
def test_files_that_a_checkpoint_carries(tmp_path, name, entry):
    """In both forms; and by the name that they had before, which a folder has for its own files."""
    state = {"epoch": 0, "model_state": {"a": torch.ones(2)}, entry: {GROUPING: "{}"}}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save_checkpoint(tmp_path / "one.pyth", state)
    assert convert_checkpoint.main([str(tmp_path / "one.pyth"), str(folder / name)]) == 0
    cfg = load_config(None, {"OUTPUT_DIR": str(tmp_path)})
    with build_carried(cfg) as (carried, files):
        assert files == {GROUPING: "{}"} and carried.TSTL.GROUPING == GROUPING
        assert os.listdir(carried.DATA.PATH_TO_DATA_DIR) == [GROUPING]
    if entry == "files" and name.endswith(".pyth"):
        shutil.copy(tmp_path / "one.pyth", folder / "checkpoint_epoch_00002.pyth")
        with build_carried(cfg) as (_, files):
            assert files == {GROUPING: "{}"}
