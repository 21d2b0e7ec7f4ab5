"""The FEATURES stage: each sample once, in order, by id; interrupted and resumed = uninterrupted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dust.config import flatten
from dust.datasets import construct_loader
from dust.decode.reader import VideoReader
from dust.engine import extract as module
from dust.engine.extract import layer_output
from dust.engine.extract import run_stage as extract
from dust.engine.run_dir import RunDir
from dust.engine.setup import build_device_transform, build_for
from dust.engine.train import run_stage as train
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import file_sha256, load_weights
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureStore
from tests.helpers import contents
from tests.processes import zygote
from tests.runs import words

FEATURES = {"FEATURES__ENABLE": True, "TRAIN__ENABLE": False, "TEST__ENABLE": False, "FEATURES__BATCH_SIZE": 3}


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A checkpoint of one epoch."""
    from dust.config import load_config
    from tests.runs import TINY

    out = tmp_path_factory.mktemp("trained")
    values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(out), "SOLVER.MAX_EPOCH": 1}
    train(load_config(None, values), RunDir(out))
    return out


@pytest.fixture
def settings(tiny, trained):
    return lambda output="features", **more: tiny(
        output, **{**FEATURES, "FEATURES__CHECKPOINT_FILE_PATH": str(trained), **more}
    )


def plain(cfg, split, trained, layer="pooled"):
    """The obvious slow version: one centre view at a time."""
    model = build_for(cfg, torch.device("cpu")).eval()
    load_weights(model, trained / "checkpoints" / "checkpoint_epoch_00001.pyth")
    transform, rows = build_device_transform(cfg), {}
    for item in construct_loader(cfg, split, views="val"):
        inputs = transform({"inputs": item["inputs"]}, training=False)["inputs"]
        with torch.no_grad():
            tokens = model.forward_features(**inputs)
            rows[item["id"]] = (model.forward_head(tokens, pre_logits=True) if layer == "pooled" else tokens)[0].numpy()
    return rows


@pytest.mark.parametrize("layer", ["pooled", "map"])
@pytest.mark.parametrize("fmt", ["memmap", "npz"])
def test_features_are_those_of_each_clip_alone(settings, trained, fmt, layer):
    cfg = settings(FEATURES__FORMAT=fmt, FEATURES__LAYER=layer)
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    for split, count in (("train", 10), ("val", 4), ("test", 4)):
        store = FeatureStore.open(RunDir(cfg.OUTPUT_DIR).features, split)
        wanted = plain(cfg, split, trained, layer)
        assert store.ids == list(wanted) and len(store) == count
        for sample_id, row in wanted.items():
            np.testing.assert_allclose(store.get(sample_id), row, atol=1e-5)
        assert store.meta["checkpoint_sha256"] == file_sha256(trained / "checkpoints" / "checkpoint_epoch_00001.pyth")
        assert "MODEL.MODEL_NAME: TimeSformer" in store.meta["config"]


def test_views_and_crops_are_averaged(settings):
    one, many = settings("one"), settings("many", FEATURES__NUM_VIEWS=2, FEATURES__NUM_CROPS=3)
    for cfg in (one, many):
        extract(cfg, RunDir(cfg.OUTPUT_DIR))
    first, second = (FeatureStore.open(RunDir(cfg.OUTPUT_DIR).features, "val") for cfg in (one, many))
    assert first.ids == second.ids and second.meta["views"] == 6
    assert not np.allclose(first.features, second.features)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_interrupted_and_resumed_is_uninterrupted(settings, monkeypatch, stop):
    whole, broken = settings("whole"), settings("broken")
    extract(whole, RunDir(whole.OUTPUT_DIR))
    calls = []
    with monkeypatch.context() as patch:

        def check(self):
            calls.append(1)
            if len(calls) > stop:
                raise Interrupted(15)

        patch.setattr(module.InterruptFlag, "check", check)
        with pytest.raises(Interrupted):
            extract(broken, RunDir(broken.OUTPUT_DIR))
    with pytest.raises(DataError, match="not finished|no features"):
        FeatureStore.open(RunDir(broken.OUTPUT_DIR).features, "train" if stop < 4 else "val")
    again = settings("broken", LOG_PERIOD=7, RNG_SEED=11)  # what has no effect on features may change meanwhile
    extract(again, RunDir(again.OUTPUT_DIR))
    for split in ("train", "val", "test"):
        files = [RunDir(cfg.OUTPUT_DIR).features / f"{split}.npy" for cfg in (whole, again)]
        assert files[0].read_bytes() == files[1].read_bytes()


#: The process of that number is killed as it has written so many times.
KILLED = """
import os, signal
from dust.utils import distributed
from dust.utils.features.writer import FeatureWriter
real, left = FeatureWriter.write, [{times}]

def write(self, start, features):
    real(self, start, features)
    left[0] -= distributed.rank() == {rank}
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

FeatureWriter.write = write
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fmt", "lives"), [("memmap", [(2, 3), (2, 2, 1)]), ("per_video", [(2, 1)])])
def test_killed_with_two_processes_and_resumed_with_three_or_one_is_uninterrupted(clips, trained, tmp_path, fmt, lives):
    """``lives``: processes of each start. The last clip of training cannot be read; a block is 3 clips."""
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "clip_9.mp4").write_bytes(b"no video")
    keys = {**FEATURES, "FEATURES__CHECKPOINT_FILE_PATH": trained, "FEATURES__FORMAT": fmt, "TEST__ON_BAD_CLIP": "skip"}
    keys |= {"FEATURES__STRIDE": 3} if fmt == "per_video" else {}

    def started(out, count, rank=0, times=-1):
        load = tmp_path / f"{rank}_{times}.py"
        load.write_text(KILLED.format(rank=rank, times=times))
        line = words(tmp_path / "clips", out, NUM_PROCS_PER_NODE=count, **keys)
        return zygote().start(line, load=str(load))

    whole = started(tmp_path / "whole", 1)
    assert whole.wait() == 0, whole.said[-3000:]
    wanted = contents(tmp_path / "whole" / "features")
    assert any(name.startswith("train") for name in wanted) and len(wanted) >= 6
    for counts in lives:
        out = tmp_path / f"{len(counts)}"
        for number, count in enumerate(counts[:-1]):
            assert started(out, count, rank=1 - number, times=1).wait() != 0
            assert list((out / "features").glob("*.partial"))
        last = started(out, counts[-1])
        assert last.wait() == 0, last.said[-3000:]
        assert contents(out / "features") == wanted


def test_a_second_run_computes_nothing(settings, monkeypatch):
    cfg = settings()
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    monkeypatch.setattr(module, "evaluation_loader", None)
    extract(cfg, RunDir(cfg.OUTPUT_DIR))


def test_another_checkpoint_is_not_mixed_in(settings, trained, tiny):
    cfg = settings()
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    other = tiny("other", SOLVER__MAX_EPOCH=1, RNG_SEED=8)
    train(other, RunDir(other.OUTPUT_DIR))
    with pytest.raises(DataError, match="meta.checkpoint_sha256"):
        extract(settings(FEATURES__CHECKPOINT_FILE_PATH="other"), RunDir(cfg.OUTPUT_DIR))


def test_windows_of_every_video(settings, trained):
    """12 frames at 12 fps, clips of 2 frames 2 apart at 30 fps: 1.6 frames long, so a stride of 3 gives 4 windows."""
    cfg = settings(FEATURES__FORMAT="per_video", FEATURES__STRIDE=3)
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    store = FeatureStore.open(RunDir(cfg.OUTPUT_DIR).features, "val")
    assert [store.get(sample_id).shape for sample_id in store.ids] == [(4, 16)] * 4
    assert len(np.load(store.path / f"{store.ids[0]}.npy")) == 4


def test_a_bad_clip_stops_or_is_recorded(settings, clips, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    lines = (clips / "val.csv").read_text().splitlines()
    (broken / "bad.mp4").write_bytes(b"no video")
    rows = [lines[0], f"{clips}/{lines[1]}", "bad.mp4,dark", f"{clips}/{lines[2]}", "bad.mp4x,dark"]
    (broken / "val.csv").write_text("\n".join(rows[:4]) + "\n")
    (broken / "train.csv").write_text("\n".join([lines[0], *(f"{clips}/{line}" for line in lines[1:])]) + "\n")
    common = {"DATA__PATH_TO_DATA_DIR": str(broken), "FEATURES__SPLITS": ["val"]}
    raising = settings(**common)
    run = RunDir(raising.OUTPUT_DIR)
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 clip .*bad\.mp4.*unfinished.*TEST\.ON_BAD_CLIP skip"):
            extract(raising, run)
    with pytest.raises(DataError, match="not finished|no features"):
        FeatureStore.open(run.features, "val")
    cfg = settings("skip", **common, TEST__ON_BAD_CLIP="skip")
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    store = FeatureStore.open(RunDir(cfg.OUTPUT_DIR).features, "val")
    assert store.missing == [store.ids[1]] and np.isfinite(store.get(store.ids[2])).all()
    assert json.loads((RunDir(cfg.OUTPUT_DIR).features / "val.json").read_text())["missing"]


@pytest.mark.parametrize("fmt", ["memmap", "npz", "per_video"])
def test_a_clip_that_was_mended_is_extracted_alone(settings, clips, tmp_path, monkeypatch, fmt):
    data = tmp_path / "data"
    data.mkdir()
    lines = (clips / "val.csv").read_text().splitlines()
    names = [line.split(",")[0] for line in lines[1:]]
    for name in names:
        (data / name).write_bytes((clips / name).read_bytes() if name != names[1] else b"no video")
    for split in ("train", "val"):
        (data / f"{split}.csv").write_text("\n".join(lines) + "\n")
    more = {"FEATURES__SPLITS": ["val"], "FEATURES__FORMAT": fmt, "FEATURES__STRIDE": 3 if fmt == "per_video" else 0}
    whole = settings("whole", **more)
    extract(whole, RunDir(whole.OUTPUT_DIR))
    cfg = settings("mended", DATA__PATH_TO_DATA_DIR=str(data), **more)
    with pytest.raises(DataError, match=names[1]):
        extract(cfg, RunDir(cfg.OUTPUT_DIR))
    (data / names[1]).write_bytes((clips / names[1]).read_bytes())
    opened, original = [], VideoReader.__init__
    monkeypatch.setattr(
        VideoReader, "__init__", lambda self, path, **how: opened.append(Path(path).name) or original(self, path, **how)
    )
    extract(cfg, RunDir(cfg.OUTPUT_DIR))
    assert set(opened) == {names[1]} or fmt == "per_video", "whose windows are counted first"
    one, other = (FeatureStore.open(RunDir(c.OUTPUT_DIR).features, "val") for c in (whole, cfg))
    assert one.missing == other.missing == []
    for sample_id in one.ids:
        np.testing.assert_array_equal(one.get(sample_id), other.get(sample_id))


def test_layers(tiny):
    model = build_for(tiny(), torch.device("cpu")).eval()
    inputs = {"video": torch.randn(2, 3, 2, 16, 16)}
    hooked = layer_output(model, "norm")(model, inputs)
    torch.testing.assert_close(hooked, layer_output(model, "map")(model, inputs))
    with pytest.raises(ConfigError, match="choose pooled, map, or blocks.1"):
        layer_output(model, "blocks.9")
    with pytest.raises(ConfigError, match="not one feature per sample"):
        layer_output(model, "patch_embed")(model, inputs)


def test_another_decoder_makes_other_features_and_the_default_is_as_it_was(tiny):
    """Features that were stored before there was the key can still be continued."""
    assert "DATA.DECODER" not in module.features_config(flatten(tiny()))
    assert "DATA.DECODER: torchcodec" in module.features_config(flatten(tiny(DATA__DECODER="torchcodec")))
