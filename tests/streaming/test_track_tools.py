"""One trained point track model with every subset of its cameras, and recordings streamed through it."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from dust.analysis.tracks_ablation import ablate_views, best_of_size, view_subsets
from dust.cli import ablate_views as ablate_views_command
from dust.cli import stream_tracks as stream_tracks_command
from dust.config import load_config
from dust.datasets.tracks.recordings import TrackRecordings
from dust.datasets.tracks.tracks import PointTracks
from dust.engine.run_dir import RunDir
from dust.engine.test import run_stage as run_test
from dust.engine.train import run_stage as train
from dust.models import build_model
from dust.streaming.tracks import run_stage as stream_tracks
from dust.synthetic.tracks import generate_tracks
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError
from tests.helpers import csv_dicts

TINY = {
    "TRAIN.DATASET": "PointTracks",
    "TEST.DATASET": "PointTracks",
    "TRAIN.BATCH_SIZE": 8,
    "TRAIN.EVAL_PERIOD": 0,
    "TRACKS.VIEWS": [0, 1, 2],
    "TRACKS.NUM_POINTS": 8,
    "TRACKS.WINDOW": 10,
    "TRACKS.STRIDE": 5,
    "TRACKS.VIEW_DIM": 8,
    "TRACKS.EMBED_DIM": 16,
    "TRACKS.HIDDEN_DIM": 8,
    "TRACKS.VIEW_DROPOUT": 0.2,
    "MODEL.NUM_CLASSES": 3,
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_EPOCH": 12,
    "DATA_LOADER.NUM_WORKERS": 0,
    "NUM_GPUS": 0,
    "RNG_SEED": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("tracks") / "data"
    generate_tracks(root, classes=3, sequences=20, views=3, points=8, frames=16, missing=0.1, seed=2)
    return root


def config(data, out, model="PointTrackTransformer", **more):
    run = {"DATA.PATH_TO_DATA_DIR": str(data), "OUTPUT_DIR": str(out), "MODEL.MODEL_NAME": model}
    return load_config(None, {**TINY, **run, **{key.replace("__", "."): value for key, value in more.items()}})


@pytest.fixture(scope="module", params=["PointTrackTransformer", "PointTrackLSTM"])
def trained(request, data, tmp_path_factory):
    """(configuration, run folder) of a model that was trained for a moment."""
    cfg = config(data, tmp_path_factory.mktemp("run"), request.param)
    run = RunDir(cfg.OUTPUT_DIR)
    train(cfg, run)
    return cfg, run


# ------------------------------------------------------------------------------------------------------- ablation


def test_subsets():
    assert view_subsets([0, 1, 3]) == [(0,), (1,), (3,), (0, 1), (0, 3), (1, 3), (0, 1, 3)]
    assert view_subsets([4, 2], [2]) == [(4, 2)]
    with pytest.raises(ConfigError, match=r"sizes \[0, 3\]: the model has 2 cameras"):
        view_subsets([0, 1], [0, 3])


def test_every_subset_is_a_test_with_those_cameras(trained):
    cfg, run = trained
    table = ablate_views(cfg, run)
    assert [row["views"] for row in table] == view_subsets([0, 1, 2])
    for row in (table[1], table[4], table[6]):
        one = cfg.clone()
        one.defrost()
        one.TRACKS.TEST_VIEWS = list(row["views"])
        metrics = run_test(one, run)
        assert metrics == {name: row[name] for name in metrics}
    assert len({row["top1_acc"] for row in table}) > 1, "cameras matter"
    best = best_of_size(table, 1)
    assert best["top1_acc"] == max(row["top1_acc"] for row in table[:3])
    assert best_of_size(table, 4) is None
    written = csv_dicts(run.path / "view_ablation" / "views.csv")
    assert [row["views"] for row in written] == ["0", "1", "2", "0 1", "0 2", "1 2", "0 1 2"]
    expected = [row["weighted_f1"] for row in table]
    assert [float(row["weighted_f1"]) for row in written] == pytest.approx(expected, abs=1e-4)
    assert (run.path / "view_ablation" / "views.png").stat().st_size > 1000
    report = json.loads((run.path / "view_ablation" / "views.json").read_text())
    assert report["subsets"][3]["views"] == [0, 1] and len(report["checkpoint_sha256"]) == 64


def test_ablation_command(trained, tmp_path, capsys):
    cfg, _ = trained
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    words = ["--cfg", str(tmp_path / "cfg.yaml"), "--sizes", "1"]
    assert ablate_views_command.main(words) == 0
    assert "best of 1: cameras" in capsys.readouterr().out
    assert ablate_views_command.main([*words, "OUTPUT_DIR", str(tmp_path / "empty")]) == 2
    assert "nothing to test" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- streams


def test_stream_equals_whole_windows(trained):
    """Each frame's class by the slow way: every window through the whole model, then the vote."""
    cfg, run = trained
    report = stream_tracks(cfg, run, stride=3, how="mean")
    model = build_model(cfg)
    load_weights(model, sorted(run.checkpoints.glob("*.pyth"))[-1])
    model.eval()
    recordings = TrackRecordings(PointTracks.from_config(cfg, "test"))
    checked = 0
    for number, name in enumerate(recordings.names):
        parts = list(recordings.parts(number))
        if not all(part.view_mask.all() for part in parts):
            continue
        tracks = torch.cat([part.tracks for part in parts]).transpose(0, 1)  # (V, T, P, 2)
        visible = torch.cat([part.visible for part in parts]).transpose(0, 1)
        length = tracks.shape[1]
        total_probability = torch.zeros(length, 3)
        covered = torch.zeros(length, 1)
        starts = list(range(0, length - 9, 3))
        starts += [length - 10] if starts[-1] != length - 10 else []
        with torch.no_grad():
            for start in starts:
                window = slice(start, start + 10)
                logits = model(tracks[None, :, window], visible[None, :, window])
                total_probability[window] += logits.softmax(-1)
                covered[window] += 1
        mean = total_probability / covered
        written = csv_dicts(run.path / "stream_test" / f"{name}.csv")
        assert [row["prediction"] for row in written] == [
            recordings.dataset.class_names[index] for index in mean.argmax(1).tolist()
        ]
        np.testing.assert_allclose([float(row["probability"]) for row in written], mean.amax(1), atol=2e-4)
        labels = np.concatenate([part.labels for part in parts])
        assert [row["label"] for row in written] == [recordings.dataset.class_names[index] for index in labels]
        assert (run.path / "stream_test" / f"{name}.png").exists()
        checked += 1
    assert checked, "a recording with all cameras all the time"
    counts = report["counts"]
    assert counts["front_end_frames"] == counts["frames"]
    assert counts["front_end_frames_without_cache"] == 10 * counts["windows"]


def test_a_stream_begins_anew_where_other_cameras_are_there(trained):
    cfg, run = trained
    report = stream_tracks(cfg, run, split="train", stride=4)
    recordings = TrackRecordings(PointTracks.from_config(cfg, "train", views="test"))
    masks = [[tuple(part.view_mask.tolist()) for part in recordings.parts(number)] for number in range(len(recordings))]
    assert any(len(set(parts)) > 1 for parts in masks), "the data has cameras that come and go"
    windows = 0
    for parts in masks:
        runs = [1]
        for before, now in pairwise(parts):
            if now == before:
                runs[-1] += 1
            else:
                runs.append(1)
        for length in (16 * count for count in runs):
            starts = list(range(0, length - 9, 4))
            windows += len(starts) + (starts[-1] + 10 != length)
    assert report["counts"]["windows"] == windows
    assert report["counts"]["frames"] == 16 * sum(map(len, masks))


def test_metrics_are_those_of_the_timelines(trained):
    cfg, run = trained
    report = stream_tracks(cfg, run)
    written = [row for path in sorted((run.path / "stream_test").glob("*.csv")) for row in csv_dicts(path)]
    assert len(written) == report["counts"]["frames"]
    accuracy = 100 * np.mean([row["prediction"] == row["label"] for row in written])
    assert report["metrics"]["frame_acc"] == pytest.approx(accuracy)
    assert set(report["metrics"]) == {"frame_acc", "macro_f1", "weighted_f1"}


def test_stream_command(trained, tmp_path, capsys):
    cfg, _ = trained
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    words = ["--cfg", str(tmp_path / "cfg.yaml"), "--split", "val"]
    assert stream_tracks_command.main(words) == 0
    assert "timelines are in" in capsys.readouterr().out
    lstm = cfg.MODEL.MODEL_NAME == "PointTrackLSTM"
    assert stream_tracks_command.main([*words, "--stateful"]) == (0 if lstm else 2)
    assert ("stateful needs a PointTrackLSTM" in capsys.readouterr().err) != lstm
    assert stream_tracks_command.main([*words, "--stride", "11"]) == 2
    assert "the stride must be in 1..window" in capsys.readouterr().err


def test_test_report_has_the_promised_figures(trained):
    cfg, run = trained
    run_test(cfg, run)
    report = json.loads((run.results / "test.json").read_text())
    assert {"top1_acc", "macro_f1", "weighted_f1"} <= set(report["metrics"])
    assert (run.results / "confusion_matrix.png").exists()
