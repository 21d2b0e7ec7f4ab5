"""KeyStep on the features of other encoders: FEATURES, temporal training, TEST and predict, on tiny models."""

import json
import shutil

import numpy as np
import pytest
import torch

from dust.cli.main import main
from dust.config import load_config
from dust.engine.setup import build_for
from dust.synthetic.keystep import generate_procedure
from dust.utils.features import FeatureStore
from tests.helpers import ROOT, csv_dicts, csv_lists

CLIPS = str(ROOT / "configs" / "KeyStep" / "clips_features.yaml")
TEMPORAL = str(ROOT / "configs" / "quickstart" / "keystep_temporal.yaml")
SIZE = ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32,32]"]
SIZE += ["NUM_GPUS", "0", "DATA_LOADER.NUM_WORKERS", "0"]
#: Name -> the keys of a tiny one, and the width of its features.
ENCODERS = {
    "VJEPA2": ("VJEPA2.PATCH_SIZE 16 VJEPA2.EMBED_DIM 24 VJEPA2.DEPTH 1 VJEPA2.NUM_HEADS 2 VJEPA2.PROBE_HEADS 2 "
               "VJEPA2.PROBE_DEPTH 1", 24),
    "VideoMAE": ("VIDEOMAE.PATCH_SIZE 16 VIDEOMAE.EMBED_DIM 24 VIDEOMAE.DEPTH 1 VIDEOMAE.NUM_HEADS 2", 24),
    "CLIPVisual": ("CLIP.PATCH_SIZE 16 CLIP.WIDTH 24 CLIP.LAYERS 1 CLIP.HEADS 2 CLIP.OUTPUT_DIM 12", 12),
}  # fmt: skip


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    generate_procedure(root, recordings=3, parts=3, size=32)
    return root


def extract(name, recordings, out, *more):
    keys = [*ENCODERS[name][0].split(), "MODEL.MODEL_NAME", name, "MODEL.NUM_CLASSES", "3", *SIZE]
    keys += ["DATA.PATH_TO_DATA_DIR", str(recordings), "DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "1"]
    keys += ["DATA.TARGET_FPS", "10", "OUTPUT_DIR", str(out / "clips_features"), *more]
    weights = out / "encoder.pyth"
    torch.manual_seed(0)
    model = build_for(load_config(CLIPS, [*keys, "FEATURES.CHECKPOINT_FILE_PATH", "x"]), torch.device("cpu"))
    torch.save({"model_state": model.state_dict()}, weights)
    return main(["train", "--cfg", CLIPS, *keys, "FEATURES.CHECKPOINT_FILE_PATH", str(weights)])


def temporal(recordings, out, dim, *more):
    keys = ["DATA.PATH_TO_DATA_DIR", str(recordings), "KEYSTEP.FEATURES_FROM", "clips_features", *SIZE]
    keys += ["KEYSTEP.EMBED_DIM", str(dim), "KEYSTEP.SAMPLER.N_ITER", "64", "SOLVER.MAX_EPOCH", "1"]
    keys += [
        "TEST.REPORT",
        "False",
        "TRAIN.EVAL_PERIOD",
        "0",
        "SOLVER.WARMUP_EPOCHS",
        "0",
        "OUTPUT_DIR",
        str(out / "temporal"),
        *more,
    ]
    return main(["train", "--cfg", TEMPORAL, *keys])


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_features_of_any_encoder_are_trained_on_and_tested(name, recordings, tmp_path):
    """A clip every four frames, by the encoder's own width; the temporal encoder learns and is tested on them."""
    assert extract(name, recordings, tmp_path) == 0
    store = FeatureStore.open(tmp_path / "clips_features" / "features", "test")
    assert store.ids == ["test_000"] and store.shape == (ENCODERS[name][1],)
    assert temporal(recordings, tmp_path, ENCODERS[name][1]) == 0
    found = json.loads((tmp_path / "temporal" / "results" / "test.json").read_text())
    assert found["counts"] == {"samples": 1, "bad_clips": 0} and {"f1", "pos", "mistakes"} <= set(found)
    (frames,) = [int(row["frames"]) for row in csv_dicts(tmp_path / "temporal" / "results" / "recordings.csv")]
    assert len(store.get("test_000")) == frames // 4
    # a video that no list names: the encoder is run again, and every window says what the test said of it
    ask = ["predict", str(tmp_path / "temporal"), str(recordings / "videos" / "test_000.mp4")]
    assert main([*ask, "-o", str(tmp_path / "out")]) == 0
    (windows,) = (tmp_path / "out" / "windows").glob("*.csv")
    tested = csv_lists(tmp_path / "temporal" / "results" / "windows" / "test_000.csv")
    found = csv_lists(windows)
    assert [row[0] for row in found] == [row[0] for row in tested] and len(found) > 1
    values = [[[float(value) for value in row] for row in rows[1:]] for rows in (found, tested)]
    np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_work_begins(recordings, tmp_path, capsys):
    def refused(*more, keys=(), folder=tmp_path, data=recordings):
        assert temporal(data, folder, *more, *keys) == 2
        return capsys.readouterr().err

    assert extract("CLIPVisual", recordings, tmp_path) == 0 and temporal(recordings, tmp_path, 12) == 0
    trained = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "temporal"))
    capsys.readouterr()
    again = ("OUTPUT_DIR", str(tmp_path / "again"))
    assert "EMBED_DIM is 16: set KEYSTEP.EMBED_DIM 12" in refused(16, keys=again)
    for name, more, said in (("CLIPVisual", ("FEATURES.STRIDE", "2"), "stride 2, not 4"), ("VideoMAE", (), "sha256")):
        other = tmp_path / name
        other.mkdir()
        assert extract(name, recordings, other, *more, "CLIP.OUTPUT_DIM", "12", "VIDEOMAE.EMBED_DIM", "12") == 0
        capsys.readouterr()
        assert said in refused(12, keys=trained, folder=other)
    data = tmp_path / "data"
    shutil.copytree(recordings, data)
    shutil.copy(data / "videos" / "test_000.mp4", data / "videos" / "test_001.mp4")
    for path in data.glob("*.csv"):
        path.write_text(path.read_text().replace("test_000", "test_001"))
    said = refused(12, keys=again, data=data)
    assert "a recording without embeddings" in said and "test_001" in said
    torch.save({"model_state": {}}, tmp_path / "encoder.pyth")
    assert main(["predict", str(tmp_path / "temporal"), str(recordings / "videos" / "test_000.mp4")]) == 2
    assert "encoder.pyth" in capsys.readouterr().err
