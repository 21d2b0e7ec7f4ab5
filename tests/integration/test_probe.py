"""A probe from a backbone and clips to its answers: stored tokens, a grid in one pass, a test on whole clips, a
prediction with the same answers, fine-tuning from it."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

import dust
from dust.config import load_config
from dust.datasets import construct_loader
from dust.datasets.sample import SampleRequest
from dust.datasets.video import VideoDataset
from dust.engine import run_net
from dust.engine.extract import layer_output
from dust.engine.run_dir import RunDir
from dust.engine.setup import build_device_transform, build_for
from dust.engine.test import build_tested_model
from dust.engine.train import build_trainer
from dust.synthetic.motion import generate_motion
from dust.utils.arrays import StoredArray
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.features import FeatureStore
from tests.helpers import ROOT, command, csv_dicts
from tests.runs import TINY

STORING = {
    "TRAIN.ENABLE": False, "TEST.ENABLE": False, "FEATURES.ENABLE": True, "FEATURES.LAYER": "tokens",
    "FEATURES.DTYPE": "float16", "FEATURES.AUGMENTED_VIEWS": 3, "FEATURES.BATCH_SIZE": 4,
}  # fmt: skip
PROBING = {
    "TASK": "ProbeGrid", "MODEL.MODEL_NAME": "Probe", "PROBE.BACKBONE": "TimeSformer", "PROBE.TOKENS_FROM": "features",
    "PROBE.HEAD": "attentive", "PROBE.NUM_HEADS": 2, "PROBE.DEPTH": 2, "PROBE.LRS": [0.01, 0.0001, 1e12],
    "PROBE.WEIGHT_DECAYS": [0.01, 0.1], "TRAIN.DATASET": "StoredTokens", "TEST.CHECKPOINT": "best",
    "SOLVER.WARMUP_EPOCHS": 0.0, "SOLVER.MAX_EPOCH": 4, "TRAIN.EVAL_PERIOD": 2,
    "DATA_LOADER.DROP_LAST": False, "FEATURES.ENABLE": False, "FEATURES.DTYPE": "float16",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def log_as_before():
    """What these runs set up of the log is taken back, for tests that read it."""
    logger = logging.getLogger("dust")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def settings(root, clips, run):
    """``settings(stage, KEY=value)`` -> a configuration in one root; the backbone is that of a finished run."""

    def make(stage, *parts, **more):
        values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(root / stage)}
        values |= {"FEATURES.CHECKPOINT_FILE_PATH": str(run), "PROBE.BACKBONE_FROM": str(run)}
        for part in parts:
            values |= part
        values |= {key.replace("__", "."): value for key, value in more.items()}
        return load_config(None, values)

    return make


@pytest.fixture(scope="module")
def features(settings):
    cfg = settings("features", STORING)
    run_net.run_stage(cfg)
    return cfg


@pytest.fixture(scope="module")
def probe(settings, features):
    """The finished stages 2 and 3."""
    cfg = settings("probe", PROBING)
    run_net.run_stage(cfg)
    return cfg


def test_tokens_are_those_of_each_view_alone(features, root, run):
    model = build_for(features, torch.device("cpu")).eval()
    load_weights(model, run / "checkpoints" / "checkpoint_epoch_00001.pyth")
    transform = build_device_transform(features)

    def tokens_of(video):
        inputs = transform({"inputs": {"video": video}}, training=False)["inputs"]
        with torch.no_grad():
            class_tokens, grid = model.forward_tokens(**inputs)
        return torch.cat([class_tokens, grid.flatten(1, 3)], dim=1).numpy()

    val = FeatureStore.open(root / "features" / "features", "val")
    assert val.shape == (1, 1 + 2 * 4, 16) and val.meta["layer"] == "tokens" and val.meta["backbone_sha256"]
    for item in construct_loader(features, "val", views="val"):
        np.testing.assert_allclose(val.get(item["id"]), tokens_of(item["inputs"]["video"]), atol=4e-3)
    train = FeatureStore.open(root / "features" / "features", "train")
    dataset = VideoDataset(**VideoDataset.from_config(features, "train"))
    assert train.shape[0] == 3
    for number, clip in enumerate(dataset.clips[:3]):
        for view in range(3):  # as the first three epochs of a training see them
            (sample,) = dataset[SampleRequest(view, number)]
            wanted = tokens_of(sample["inputs"]["video"].unsqueeze(0))[0]
            np.testing.assert_allclose(train.get(clip.id)[view], wanted, atol=4e-3)


def test_the_whole_way(probe, root, run, clips):
    lines = (root / "probe" / "stdout.log").read_text().splitlines()
    log = [json.loads(line.split("json_stats: ")[1]) for line in lines if '"val_epoch"' in line]
    heads = {name: value for name, value in log[-1].items() if name.startswith("lr")}
    assert len(heads) == 6 and "lr0.01_wd0.1_top1_acc" in heads, "all of the grid are reported"
    assert heads["lr1e+12_wd0.01_top1_acc"] == 0.0, "one that diverged takes nobody with it"
    assert 100 - log[-1]["top1_err"] == pytest.approx(max(heads.values()))
    report = json.loads((root / "probe" / "results" / "test.json").read_text())
    assert report["metrics"]["top1_acc"] == 100.0 and report["checkpoint"].endswith("checkpoint_best.pyth")
    saved = torch.load(report["checkpoint"], weights_only=True)
    assert not any(name.startswith("backbone") for name in saved["model_state"] if name != "backbone_sha256")
    assert saved["frozen_sha256"]
    rows = {row["id"]: row for row in csv_dicts(root / "probe" / "results" / "predictions.csv")}
    done = command("dust.cli.predict", root / "probe", clips / "test.csv", "-o", root / "answers", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    answers = {row["id"]: row for row in csv_dicts(root / "answers" / "predictions.csv")}
    assert len(answers) == 4
    for name, row in answers.items():
        assert [row[key] for key in row if key.startswith("prob_")] == [
            rows[name][key] for key in rows[name] if key.startswith("prob_")
        ], "TEST's answers, to the last digit"


def test_a_grid_reads_each_token_once_an_epoch(settings, features, monkeypatch):
    """Six heads, two epochs: as many bytes as one head would read, one view of a clip at a time."""
    read = []
    original = StoredArray.__getitem__

    def counted(self, key):
        found = original(self, key)
        read.append(found.nbytes)
        return found

    monkeypatch.setattr(StoredArray, "__getitem__", counted)
    cfg = settings("counted", PROBING, PROBE__LRS=[0.01, 0.001], TRAIN__EVAL_PERIOD=2, SOLVER__MAX_EPOCH=2)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    assert len(trainer.state.model.heads) == 4
    trainer.fit()
    one = 9 * 16 * 2  # bytes of one view: tokens, channels, float16
    assert read == [one] * (2 * 10 + 4), "10 clips in each epoch, and 4 of validation"


def test_views_take_turns(settings, features):
    cfg = settings("turns", PROBING)
    dataset = construct_loader(cfg, "train").dataset
    store = dataset.store
    for number in range(3):
        seen = [dataset[SampleRequest(epoch, number)][0]["inputs"]["tokens"].numpy() for epoch in range(6)]
        rows = store.features[number]
        places = [next(v for v in range(3) if np.array_equal(rows[v], tokens)) for tokens in seen]
        assert sorted(places[:3]) == [0, 1, 2] and places[3:] == places[:3]


def test_neighbours_and_fine_tuning(settings, probe, root, clips):
    knn = {"PROBE.LRS": [], "PROBE.WEIGHT_DECAYS": [], "PROBE.HEAD": "knn", "PROBE.NEIGHBOURS": 3,
           "SOLVER.MAX_EPOCH": 1, "SOLVER.BASE_LR": 0.0, "TEST.CHECKPOINT": "last"}  # fmt: skip
    cfg = settings("knn", PROBING, knn)
    run_net.run_stage(cfg)
    assert json.loads((root / "knn" / "results" / "test.json").read_text())["metrics"]["top1_acc"] == 100.0
    assert len(build_tested_model(cfg).model.heads[0].memory) == 10
    more = {"PROBE.LRS": [], "PROBE.WEIGHT_DECAYS": [], "PROBE.HEAD_FROM": "probe", "PROBE.LORA_RANK": 2,
            "PROBE.TOKENS_FROM": "", "TRAIN.DATASET": "VideoDataset", "SOLVER.MAX_EPOCH": 1, "SOLVER.BASE_LR": 1e-5,
            "SOLVER.LAYER_DECAY": 0.5, "TASK": "Classification", "TEST.CHECKPOINT": "last"}  # fmt: skip
    run_net.run_stage(settings("tuned", PROBING, more))
    assert json.loads((root / "tuned" / "results" / "test.json").read_text())["metrics"]["top1_acc"] == 100.0
    predictor = dust.load(root / "tuned", device="cpu")
    assert predictor(str(clips / "clip_14.mp4")).label in ("dark", "bright")


def test_what_does_not_fit_is_said_by_name(settings, probe, root, run, tmp_path):
    other = settings("other", PROBING, DATA__NUM_FRAMES=4, FEATURES__TOKENS="grid")
    with pytest.raises(DataError, match=r"DATA.NUM_FRAMES is 2 there and 4 here") as error:
        construct_loader(other, "train")
    assert "FEATURES.TOKENS is all there and grid here" in str(error.value)
    state = torch.load(run / "checkpoints" / "checkpoint_epoch_00001.pyth", weights_only=True)["model_state"]
    torch.save({name: value + 0.1 for name, value in state.items()}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: its weights .* PROBE.TOKENS_FROM"):
        run_net.run_stage(settings("wrong", PROBING, PROBE__BACKBONE_FROM=str(tmp_path / "other.pth")))
    tested = settings("probe", PROBING, PROBE__BACKBONE_FROM=str(tmp_path / "other.pth"), TRAIN__ENABLE=False)
    with pytest.raises(CheckpointError, match=r"trained on another backbone .* PROBE.BACKBONE_FROM .*other.pth"):
        build_tested_model(tested)
    with pytest.raises(ConfigError, match="FEATURES.LAYER tokens: Linear gives no tokens of video; those that do:"):
        layer_output(torch.nn.Linear(2, 2), "tokens")


def test_a_disk_that_is_too_small_is_said_before(settings, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("dust.utils.features.writer.shutil.disk_usage", lambda folder: usage._replace(free=100))
    with pytest.raises(DataError, match=r"features of the train split are 0.00 GB.* 0.00 GB are free: free some"):
        run_net.run_stage(settings("full", STORING))


def test_one_command(root, run, clips):
    words = [clips, "--backbone", run, "--out", root / "one", "--head", "linear", "--views", 2, "--tokens", "grid"]
    keys = ["SOLVER.MAX_EPOCH", 4, "DATA_LOADER.NUM_WORKERS", 0, "FEATURES.TOKEN_GRID", "[1,2,2]", "NUM_GPUS", 0]
    done = command("dust.cli.probe", *words, *keys)
    assert done.returncode == 0, done.stderr
    assert f"next: dust predict {root / 'one' / 'probe'} CLIP.mp4" in done.stdout
    report = json.loads((root / "one" / "probe" / "results" / "test.json").read_text())
    assert report["metrics"]["top1_acc"] == 100.0
    assert FeatureStore.open(root / "one" / "features" / "features", "train").shape == (2, 5, 16)
    again = command("dust.cli.probe", *words, *keys)
    assert again.returncode == 0 and again.stdout.count("finished already") == 2
    for wrong, said in (
        (["--weights", "x.pth"], "has its own; --weights is for a YAML"),
        (["--backbone", "configs/Probe/vjepa2_vitl_backbone.yaml"], "a YAML holds no weights"),
    ):
        refused = command("dust.cli.probe", clips, "--backbone", run, "--out", root / "no", *wrong)
        assert refused.returncode == 2 and said in refused.stderr


@pytest.mark.quickstart
def test_the_quickstart_reaches_ninety_percent(tmp_path, monkeypatch):
    """A backbone that was trained on four directions of motion, probed on eight."""
    monkeypatch.chdir(tmp_path)
    generate_motion(tmp_path / "data" / "quickstart", classes=4, clips=40, seed=0)
    generate_motion(tmp_path / "data" / "probe", classes=8, clips=40, seed=0)
    files = [str(ROOT / "configs" / "quickstart" / f"{name}.yaml") for name in ("video", "probe_features", "probe")]
    assert run_net.main(["--cfg", *files, "DATA_LOADER.NUM_WORKERS", "0"]) == 0
    report = json.loads((tmp_path / "runs" / "probe" / "results" / "test.json").read_text())
    assert report["metrics"]["top1_acc"] >= 90.0
