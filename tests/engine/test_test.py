"""The multi-view test and its report, against an obvious slow version."""

import hashlib
import json

import numpy as np
import pytest
import torch

import dust
from dust.analysis.predictions import read_results
from dust.config import with_values
from dust.decode.reader import VideoReader
from dust.engine.run_dir import RunDir
from dust.engine.run_net import run_stage
from dust.engine.stages import build_stage, finished
from dust.engine.test import run_stage as run_test
from dust.engine.train import run_stage as train
from dust.models import build_model
from dust.models.vjepa2 import VJEPA2
from dust.utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from dust.utils.errors import CheckpointError, DataError
from tests.helpers import csv_dicts, randomised
from tests.models.test_slowfast import write_caffe2
from tests.models.test_vjepa2 import authors_files
from tests.runs import write_noise


@pytest.fixture(scope="module")
def trained(tmp_path_factory, clips):
    """The OUTPUT_DIR of a finished tiny run; tests copy nothing, they test into folders of their own."""
    from dust.config import load_config
    from tests.runs import TINY

    out = tmp_path_factory.mktemp("trained")
    values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(out), "SOLVER.MAX_EPOCH": 4}
    train(load_config(None, {**values, "EMA.ENABLED": True, "EMA.DECAY": 0.5}), RunDir(out))
    return out / "checkpoints" / "checkpoint_epoch_00004.pyth"


def slow_probabilities(cfg, model, path):
    """All views of one video, one after the other, by SlowFast's formulas."""
    size, views, logits = cfg.DATA.TEST_CROP_SIZE, cfg.TEST.NUM_ENSEMBLE_VIEWS, []
    with VideoReader(path) as reader:
        span = cfg.DATA.SAMPLING_RATE * cfg.DATA.NUM_FRAMES / cfg.DATA.TARGET_FPS * reader.fps
        for view in range(views):
            start = max(len(reader) - span, 0) * view / views
            picks = np.linspace(start, start + span - 1, cfg.DATA.NUM_FRAMES).clip(0, len(reader) - 1).astype(int)
            frames = reader.frames(picks, size=(size, size))  # the clips are square
            for offset in (0, 0, 0):  # so the three crops coincide
                crop = torch.from_numpy(frames[:, :, offset : offset + size]).permute(3, 0, 1, 2).float()
                logits.append(model(((crop / 255 - 0.45) / 0.225)[None])[0])
    return torch.stack(logits).mean(0).softmax(0)


def test_the_report_equals_a_slow_computation(tiny, trained, clips):
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained))
    metrics = run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    results = RunDir(cfg.OUTPUT_DIR).results
    report = json.loads((results / "test.json").read_text())
    assert report["metrics"] == metrics
    more = {"intervals", "calibration", "confidence", "split", "checkpoint", "epoch"}
    assert set(report) == {"metrics", "counts", "data_warnings", "config_sha256", "checkpoint_sha256", *more}
    assert all(low <= metrics[name] <= high for name, (low, high) in report["intervals"].items())
    assert report["intervals"].keys() == metrics.keys()
    assert (report["split"], report["checkpoint"], report["epoch"]) == ("test", str(trained), 4)
    assert set(metrics) == {"top1_acc", "mean_class_acc", "macro_f1", "weighted_f1"}
    assert report["counts"] == {"samples": 4, "bad_clips": 0}
    assert report["checkpoint_sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    model = build_model(cfg).eval()
    load_weights(model, trained)
    table = csv_dicts(results / "predictions.csv")
    for row in table:
        with torch.no_grad():
            expected = slow_probabilities(cfg, model, row["path"])
        ours = [float(row["prob_bright"]), float(row["prob_dark"])]
        assert ours == pytest.approx(expected.tolist(), abs=1e-5)
    correct = sum(row["label"] == row["prediction"] for row in table)
    assert metrics["top1_acc"] == pytest.approx(100 * correct / 4)


def test_a_caffe2_file_is_tested_whole(tiny, tmp_path):
    """Its batch norms have no counters, which torch's have."""
    keys = {"MODEL__MODEL_NAME": "SlowFast", "DATA__NUM_FRAMES": 4, "SLOWFAST__ALPHA": 2, "SLOWFAST__BETA_INV": 2}
    keys |= {"RESNET__WIDTH_PER_GROUP": 4, "DATA__TRAIN_CROP_SIZE": 32, "DATA__TRAIN_JITTER_SCALES": [32, 40]}
    cfg = tiny(**keys, DATA__TEST_CROP_SIZE=32, TEST__CHECKPOINT_FILE_PATH=str(tmp_path / "m.pkl"))
    torch.manual_seed(0)
    model = randomised(build_model(cfg))
    write_caffe2(tmp_path / "m.pkl", model)
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    (row, *_) = csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")
    with torch.no_grad():
        wanted = slow_probabilities(cfg, model, row["path"])
    assert [float(row["prob_bright"]), float(row["prob_dark"])] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_v_jepas_files_are_tested_by_its_protocol(tiny, tmp_path):
    """16x2x3 in small: the tokens of two clips joined before the probe, three crops whose probabilities are averaged;
    encoder and probe come from a published file each, and there is no checkpoint."""
    sizes = {"PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 2, "NUM_HEADS": 2, "PROBE_HEADS": 4, "PROBE_DEPTH": 2}
    names = {f"VJEPA2__{key}": value for key, value in sizes.items()}
    model = randomised(VJEPA2(**{key.lower(): value for key, value in sizes.items()}, num_classes=2))
    files = {f"VJEPA2__{part.upper()}_FROM": str(path) for part, path in authors_files(tmp_path, model).items()}
    keys = {"DATA__SAMPLING": "vjepa", "DATA__CLIPS_PER_VIEW": 2, "DATA__NUM_FRAMES": 2, "DATA__SAMPLING_RATE": 2}
    cfg = tiny(
        **names, **files, **keys, MODEL__MODEL_NAME="VJEPA2", TRAIN__ENABLE=False, TEST__ENSEMBLE_SPACE="probs",
        TEST__NUM_ENSEMBLE_VIEWS=1, TEST__NUM_SPATIAL_CROPS=3, DATA__TEST_CROP_SIZE=16,
    )  # fmt: skip
    run_stage(cfg)
    table = csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")
    for row in table:
        with VideoReader(row["path"]) as reader:  # 12 frames: two parts of 6, in each the window of 4 from its frame 1
            assert len(reader) == 12
            clips = [reader.frames(picks, size=(16, 16)) for picks in ([1, 4], [7, 10])]
        with torch.no_grad():
            pixels = [torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() for clip in clips]
            tokens = torch.cat([model.encoder((clip / 255 - 0.45) / 0.225) for clip in pixels], dim=1)
            wanted = model.forward_head(tokens).softmax(-1)[0]  # the clips are square, so that the crops coincide
        ours = [float(row["prob_bright"]), float(row["prob_dark"])]
        assert ours == pytest.approx(wanted.tolist(), abs=1e-5)
    predictor = dust.load(cfg.OUTPUT_DIR, device="cpu")
    for row in table:
        found = [*predictor(row["path"]).probabilities.values()]
        assert found == pytest.approx([float(row["prob_bright"]), float(row["prob_dark"])], abs=1e-6)
    other = with_values(cfg, {"MODEL.NUM_CLASSES": 3, "OUTPUT_DIR": str(tmp_path / "other")})
    with pytest.raises(CheckpointError, match="no head for MODEL.NUM_CLASSES 3, so random weights would be measured"):
        run_test(other, RunDir(other.OUTPUT_DIR))


def test_micro_batches_and_workers_change_nothing(tiny, trained):
    tables = []
    for batch, workers in ((1, 0), (4, 0), (100, 2)):
        cfg = tiny(
            f"b{batch}",
            TEST__CHECKPOINT_FILE_PATH=str(trained),
            TEST__BATCH_SIZE=batch,
            DATA_LOADER__NUM_WORKERS=workers,
        )
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        tables.append(csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv"))
    for table in tables[1:]:
        for row, first in zip(table, tables[0], strict=True):
            assert row["id"] == first["id"]
            assert float(row["prob_dark"]) == pytest.approx(float(first["prob_dark"]), abs=1e-5)


def test_averaged_weights_are_tested_where_asked_for(tiny, trained):
    saved = load_checkpoint(trained)
    weights = {}
    for name, ema in (("plain", False), ("averaged", True)):
        cfg = tiny(name, TEST__CHECKPOINT_FILE_PATH=str(trained), EMA__ENABLED=ema)
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        weights[name] = csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")[0]["prob_dark"]
    assert weights["plain"] != weights["averaged"]
    for name, ema, asked in (("plain", True, "raw"), ("averaged", False, "averaged")):
        cfg = tiny(f"asked_{name}", TEST__CHECKPOINT_FILE_PATH=str(trained), EMA__ENABLED=ema, MODEL__WEIGHTS=asked)
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        assert csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")[0]["prob_dark"] == weights[name]
    only_average = tiny("only", TEST__CHECKPOINT_FILE_PATH=str(trained.with_name("average.pyth")))
    save_checkpoint(trained.with_name("average.pyth"), {"model_state": saved["ema_state"]})
    run_test(only_average, RunDir(only_average.OUTPUT_DIR))
    assert csv_dicts(RunDir(only_average.OUTPUT_DIR).results / "predictions.csv")[0]["prob_dark"] == weights["averaged"]


def test_which_weights_are_tested_is_said(tiny, trained, caplog):
    for ema, level, word in ((False, "WARNING", "raw"), (True, "INFO", "averaged")):
        caplog.clear()
        cfg = tiny(word, TEST__CHECKPOINT_FILE_PATH=str(trained), EMA__ENABLED=ema)
        with caplog.at_level("INFO", logger="dust"):
            run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        (line,) = [record for record in caplog.records if "holds averaged weights (EMA) too" in record.getMessage()]
        assert line.levelname == level and f"the {word} ones are used. MODEL.WEIGHTS" in line.getMessage()
    cfg = tiny("none", TEST__CHECKPOINT_FILE_PATH=str(trained.with_name("raw.pyth")), MODEL__WEIGHTS="averaged")
    save_checkpoint(trained.with_name("raw.pyth"), {"model_state": load_checkpoint(trained)["model_state"]})
    with pytest.raises(CheckpointError, match="raw.pyth: holds no averaged weights"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))


def test_no_checkpoint_is_an_error(tiny):
    cfg = tiny()
    with pytest.raises(CheckpointError, match="nothing to test: TEST.CHECKPOINT_FILE_PATH is empty"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))


def test_another_class_count_is_an_error(tiny, trained, tmp_path):
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), MODEL__NUM_CLASSES=5)
    with pytest.raises(CheckpointError, match="MODEL.NUM_CLASSES 2"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    foreign = tmp_path / "foreign.pyth"
    save_checkpoint(foreign, {"model_state": load_checkpoint(trained)["model_state"]})
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(foreign), MODEL__NUM_CLASSES=5)
    with pytest.raises(CheckpointError, match=r"lacks head\.weight, head\.bias.*random weights"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))


def test_the_checkpoints_class_list_rules(tiny, trained, tmp_path, clips):
    """A test split whose own names would sort otherwise is read in the order of training."""
    root = tmp_path / "one"
    root.mkdir()
    (root / "test.csv").write_text(f"path,label\n{clips}/clip_15.mp4,dark\n")
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), DATA__PATH_TO_DATA_DIR=str(root))
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    (row,) = csv_dicts(RunDir(cfg.OUTPUT_DIR).results / "predictions.csv")
    assert row["label"] == "dark" and list(row)[-2:] == ["prob_bright", "prob_dark"]
    (root / "test.csv").write_text(f"path,label\n{clips}/clip_15.mp4,darkk\n")
    with pytest.raises(DataError, match="darkk"):
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))


def test_a_sweep_over_view_counts_leaves_a_report_each(tiny, trained):
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), TEST__NUM_TEMPORAL_CLIPS=[1, 2])
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    root = RunDir(cfg.OUTPUT_DIR).path
    reports = [json.loads((root / f"results_{n}_views" / "test.json").read_text()) for n in (1, 2)]
    assert reports[1] == json.loads((root / "results" / "test.json").read_text())
    assert reports[0]["config_sha256"] != reports[1]["config_sha256"]
    other = trained.with_name("checkpoint_epoch_00001.pyth")
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(other), TEST__NUM_TEMPORAL_CLIPS=[1, 2])
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))  # what the sweep of another checkpoint measured is kept
    kept = root / f"results_1_views.{reports[0]['checkpoint_sha256'][:8]}" / "test.json"
    assert json.loads(kept.read_text()) == reports[0]


class TestBadClips:
    @pytest.fixture
    def damaged(self, tmp_path):
        root = tmp_path / "damaged"
        root.mkdir()
        for index in range(4):
            write_noise(root / f"{index}.mp4", 60 if index % 2 else 190, seed=index)
        whole = (root / "2.mp4").read_bytes()
        (root / "2.mp4").write_bytes(whole[: len(whole) // 2])
        labels = "".join(f"{i}.mp4,{'dark' if i % 2 else 'bright'}\n" for i in range(4))
        (root / "test.csv").write_text("path,label\n" + labels)
        return str(root)

    @pytest.mark.parametrize("sweep", [(), (1, 2)])
    def test_raise_by_default_once_all_others_are_written(self, tiny, trained, damaged, sweep):
        cfg = tiny(
            TEST__CHECKPOINT_FILE_PATH=str(trained), DATA__PATH_TO_DATA_DIR=damaged, TEST__NUM_TEMPORAL_CLIPS=sweep
        )
        cfg = with_values(cfg, {"TRAIN.ENABLE": False})
        run = RunDir(cfg.OUTPUT_DIR)
        with pytest.raises(DataError, match=r"1 clip of the test split.*2\.mp4.*TEST\.ON_BAD_CLIP skip"):
            run_test(cfg, run)
        for folder in (run.results, *(run.path / f"results_{count}_views" for count in sweep)):
            assert json.loads((folder / "test.json").read_text())["counts"] == {"samples": 3, "bad_clips": 1}
        assert len(csv_dicts(run.results / "predictions.csv")) == 3
        assert not finished(lambda: build_stage(cfg), cfg.OUTPUT_DIR), "with the clip left out it has failed"
        if not sweep:
            skipping = with_values(cfg, {"TEST.ON_BAD_CLIP": "skip"})
            run_test(skipping, run)
            assert finished(lambda: build_stage(skipping), cfg.OUTPUT_DIR)

    def test_an_output_that_is_not_finite_is_never_a_figure(self, tiny, trained, tmp_path):
        saved = load_checkpoint(trained)
        for part in ("model_state", "ema_state"):
            saved[part]["head.weight"][:] = 3e38  # itself finite
        save_checkpoint(tmp_path / "huge.pyth", saved)
        cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(tmp_path / "huge.pyth"), TEST__ON_BAD_CLIP="skip")
        run = RunDir(cfg.OUTPUT_DIR)
        with pytest.raises(DataError, match=r"none of the 4 clips.*not finite.*bad_clips\.csv"):
            run_test(cfg, run)
        assert not run.results.exists()
        assert len(csv_dicts(run.path / "bad_clips.csv")) == 4

    def test_skipped_and_counted(self, tiny, trained, damaged):
        cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), DATA__PATH_TO_DATA_DIR=damaged, TEST__ON_BAD_CLIP="skip")
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        report = json.loads((RunDir(cfg.OUTPUT_DIR).results / "test.json").read_text())
        assert report["counts"] == {"samples": 3, "bad_clips": 1}
        (bad,) = csv_dicts(RunDir(cfg.OUTPUT_DIR).path / "bad_clips.csv")
        assert bad["id"] == "2.mp4" and bad["split"] == "test" and bad["reason"]


def test_validation_alone(tiny, trained, clips):
    """TEST.SPLIT val: the clips of validation by TEST's views; results of the other split are kept."""
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), TEST__SPLIT="val")
    run = RunDir(cfg.OUTPUT_DIR)
    run_test(cfg, run)
    report = json.loads((run.results / "test.json").read_text())
    listed = [line.split(",")[0] for line in (clips / "val.csv").read_text().splitlines()[1:]]
    assert [row["id"] for row in csv_dicts(run.results / "predictions.csv")] == listed
    assert report["split"] == "val" and report["counts"]["samples"] == len(listed)
    run_test(tiny(TEST__CHECKPOINT_FILE_PATH=str(trained)), run)
    assert json.loads((run.results / "test.json").read_text())["split"] == "test"
    (kept,) = [path for path in run.path.glob("results.*") if path.is_dir()]
    assert json.loads((kept / "test.json").read_text())["split"] == "val"


def test_groups_stand_beside_the_predictions(tiny, trained, clips, tmp_path):
    """So that a comparison of two runs draws the people that the intervals were drawn from."""
    lines = (clips / "test.csv").read_text().splitlines()
    rows = [f"{clips}/{line},person{number % 2}" for number, line in enumerate(lines[1:])]
    (tmp_path / "test.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    cfg = tiny(TEST__CHECKPOINT_FILE_PATH=str(trained), DATA__PATH_TO_DATA_DIR=str(tmp_path))
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    found = read_results(cfg.OUTPUT_DIR)
    assert sorted(set(found.groups)) == ["person0", "person1"] and len(found.ids) == len(rows)
