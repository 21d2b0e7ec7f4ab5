"""Every system of the quickstart: predictions are those of its test, to the letter of predictions.csv."""

import csv
import io
import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

import dust
from dust.analysis.explain import explain
from dust.cli.main import main
from dust.datasets.keystep.files import Recording
from dust.deploy.jobs import LongVideos
from dust.deploy.sources import find_sources
from dust.deploy.timeline import MergeRule
from dust.engine import run_net
from dust.synthetic.fusion import generate_dust
from dust.synthetic.keystep import generate_procedure
from dust.synthetic.motion import generate_motion
from dust.synthetic.motion_appearance import generate_motion_appearance
from dust.synthetic.tracks import generate_tracks
from dust.utils.errors import ConfigError
from tests.helpers import ROOT, csv_dicts, csv_lists

QUICK = ROOT / "configs" / "quickstart"
SHORT = ["DATA_LOADER.NUM_WORKERS", "0", "SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0", "TRAIN.EVAL_PERIOD", "0"]


def stages(names, data, out, *more):
    """Run quickstart stages, hardly trained."""
    files = [str(QUICK / f"{name}.yaml") for name in names]
    folder = out if len(names) > 1 else out / names[0]
    words = ["--cfg", *files, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(folder), *SHORT, *more]
    assert run_net.main(words) == 0
    for handler in list(logging.getLogger("dust").handlers):
        logging.getLogger("dust").removeHandler(handler)


def without(path, *columns):
    """A csv of a test as it is where nobody knows the labels, byte for byte."""
    rows = csv_lists(path)
    places = [rows[0].index(column) for column in columns]
    text = io.StringIO(newline="")
    for number, row in enumerate(rows):
        csv.writer(text).writerow([("" if number and n in places else cell) for n, cell in enumerate(row)])
    return text.getvalue().encode()


def check(model, stage, words, tmp_path, labels=("label",)):
    """Predict what the test saw, and compare the csv; returns the predictions."""
    evaluation = model.evaluation()
    found = list(model.predict(find_sources([str(words)], model.reader), evaluation=evaluation))
    folder = tmp_path / "predicted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    evaluation.write(folder)
    assert (folder / "predictions.csv").read_bytes() == without(stage / "results" / "predictions.csv", *labels)
    return found


def test_video(tmp_path):
    generate_motion(tmp_path / "data", classes=4, clips=7, size=32, frames=16)
    stages(["video"], tmp_path / "data", tmp_path / "runs", "DATA.TRAIN_JITTER_SCALES", "[64,64]")
    model = dust.load(tmp_path / "runs", device="cpu")
    check(model, tmp_path / "runs" / "video", tmp_path / "data" / "test.csv", tmp_path)


def write_recordings(folder, count=8):
    """Recordings of other lengths: a class is slow or fast."""
    rng = np.random.RandomState(0)
    folder.mkdir()
    for split in ("train", "test"):
        rows = ["id,label,series"]
        for number in range(count):
            length, fast = 60 + 5 * number, number % 2
            angle = np.arange(length) * (0.2 + 0.3 * fast) + rng.uniform(0, 6)
            series = np.stack([np.sin(angle), np.cos(angle)]) + 0.1 * rng.standard_normal((2, length))
            np.save(folder / f"{split}{number}.npy", series.astype(np.float32))
            rows.append(f"{split}{number},{('slow', 'fast')[fast]},{split}{number}.npy")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def test_series_by_windows(tmp_path):
    """Statistics and level come from the checkpoint, windows and their mean from the same code; labels are no help."""
    write_recordings(tmp_path / "data")
    more = [
        "SERIES.NUM_CHANNELS",
        "2",
        "SERIES.LENGTH",
        "32",
        "SERIES.FIT",
        "windows",
        "SERIES.PER_RECORDING",
        "centre",
    ]
    more += ["SERIES.DERIVATIVES", "1", "SERIES_ROCKET.NUM_FEATURES", "400", "TEST.VIEW_METRICS", "True"]
    more += ["AUG.ENABLE", "True", "AUG.NUM_SAMPLE", "2"]
    stages(["series"], tmp_path / "data", tmp_path / "runs", *more, "SOLVER.MAX_EPOCH", "4")
    stage = tmp_path / "runs" / "series"
    report = json.loads((stage / "results" / "test.json").read_text())
    assert report["counts"]["samples"] == 8
    assert {"top1_acc", "view_top1_acc", "view_macro_f1"} <= report["metrics"].keys() & report["intervals"].keys()
    found = check(dust.load(stage, device="cpu"), stage, tmp_path / "data" / "test.csv", tmp_path)
    model = dust.load(stage, device="cpu")
    array = np.load(tmp_path / "data" / "test3.npy")
    assert list(model(array).probabilities.values()) == pytest.approx(list(found[3].probabilities.values()), abs=1e-5)
    assert "shorter" in model(array[:, :20]).error


@pytest.mark.slow
def test_video_and_series_through_all_four_stages(tmp_path):
    generate_dust(tmp_path / "data", samples=8)
    runs = tmp_path / "runs"
    stages([f"dust_stage{number}" for number in (1, 2, 3, 4)], tmp_path / "data", runs)
    for number in (1, 2, 4):
        stage = runs / f"dust_stage{number}"
        found = check(dust.load(stage, device="cpu"), stage, tmp_path / "data" / "test.csv", tmp_path)
    model = dust.load(runs, device="cpu")
    assert model.identity.model == "DualSwinFusion"
    row = csv_dicts(tmp_path / "data" / "test.csv")[0]
    parts = {name: str(tmp_path / "data" / row[name]) for name in ("video", "series")}
    array = np.load(parts["series"])
    for source in (parts, {**parts, "series": array}):
        assert list(model(source).probabilities.values()) == pytest.approx(
            list(found[0].probabilities.values()), abs=1e-5
        )
        explained = explain(model, source)
        assert explained.answer == found[0].label and "takes no video" in explained.why_no_map
        assert {one.name for one in explained.occlusions} == {"series.channels", "series.stretches"}
        assert model.features(source).ndim == 1
    beside = tmp_path / "beside.mp4"
    shutil.copy(parts["video"], beside)
    assert "no series beside it" in model(beside).error
    shutil.copy(parts["series"], beside.with_suffix(".npy"))
    assert model(beside).label == found[0].label
    with pytest.raises(ConfigError, match="does not stream"):
        model.stream(beside)
    (runs / "dust_stage3" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="has no config.yaml"):
        dust.load(runs / "dust_stage4")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cast") / "data"
    generate_motion_appearance(folder, clips=3, frames=8)
    return folder


@pytest.mark.slow
def test_cast(clips, tmp_path):
    stages(["cast_spatial", "cast_temporal", "cast"], clips, tmp_path / "runs")
    model = dust.load(tmp_path / "runs", device="cpu")
    assert model.identity.model == "CAST"
    check(model, tmp_path / "runs" / "cast", clips / "test.csv", tmp_path)


@pytest.mark.slow
def test_tstl_routes_to_its_experts_without_the_data_folder(clips, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(clips, data)
    stages(["tstl_selector", "tstl_experts", "tstl_test"], data, tmp_path / "runs")
    (data / "class_grouping.json").unlink()
    model = dust.load(tmp_path / "runs", device="cpu")
    assert model.identity.model == "TSTL" and len(model.classes) == 12 and "right" in model.classes
    found = check(model, tmp_path / "runs" / "tstl_test", data / "test.csv", tmp_path)
    assert found[0].facts["routes"] and found[0].to_json()["group"] in range(4)
    groups = dust.load(tmp_path / "runs" / "tstl_selector", device="cpu")
    assert groups.classes == [f"group_{number}" for number in range(4)]
    assert groups(str(data / csv_dicts(data / "test.csv")[0]["path"])).label in groups.classes


@pytest.mark.slow
def test_point_tracks_of_several_cameras(tmp_path):
    data = tmp_path / "data"
    generate_tracks(data, sequences=10, classes=3, points=40, missing=0.0)
    stages(["tracks_transformer"], data, tmp_path / "runs", "MODEL.NUM_CLASSES", "3")
    model = dust.load(tmp_path / "runs", device="cpu")
    found = check(model, tmp_path / "runs" / "tracks_transformer", data / "tracks.csv", tmp_path)
    one = model(found[0].path)
    assert one.id == found[0].id and one.probabilities == found[0].probabilities, "its other cameras lie beside it"
    assert len(model(data)) == 30
    with np.load(found[0].path) as file:
        arrays = dict(file)
    single = model({0: arrays})
    assert single.ok and "no tracks of camera 1, 2, 3" in single.warnings[0]
    windows = list(model.stream(found[0].path, stride=9 / 24))
    assert windows[0].start == 0 and windows[0].end == pytest.approx(32 / 24)
    mean = np.mean([one.logits for one in windows], axis=0)
    np.testing.assert_allclose(mean, one.logits, atol=1e-5)
    (tmp_path / "broken_view_0.npz").write_bytes(b"nothing")
    assert "not a .npz file" in model(tmp_path / "broken_view_0.npz").error
    for name in ("walk_view_0.mp4", "walk_view_1.NPZ"):
        (tmp_path / name).write_bytes(b"nothing")
        assert name in model(tmp_path / name).error
    with pytest.raises(ConfigError, match="a window of this model has 32 frames"):
        model.stream(found[0].path, stride=100.0)
    assert main(["predict", str(tmp_path / "runs"), "--watch", str(tmp_path), "--device", "cpu"]) == 2
    job = LongVideos(model, stride=9 / 24)
    ((timeline, segments),) = job.run(find_sources([str(data / "tracks.csv")], model.reader)[:1])
    assert len(timeline.rows) == len(windows) and segments[-1].end == pytest.approx(timeline.length)
    with pytest.raises(ConfigError, match="no pictures"):
        list(LongVideos(model, overlay=True).run([found[0].path]))


@pytest.mark.slow
def test_the_steps_of_a_procedure(tmp_path):
    data, runs = tmp_path / "data", tmp_path / "runs"
    generate_procedure(data, recordings=3, parts=3, pace=40)
    contrast = {"N_CLASSES": "0", "N_BG": "0", "N_ITERS": "2"}
    fast = [word for name, value in contrast.items() for word in (f"KEYSTEP.CONTRAST.{name}", value)]
    fast += ["KEYSTEP.SAMPLER.N_ITER", "16", "MODEL.NUM_CLASSES", "3", "TRAIN.CHECKPOINT_FORMAT", "sharded"]
    names = ["keystep_spatial", "keystep_features", "keystep_temporal", "keystep_finetune", "keystep_test"]
    stages(names, data, runs, *fast, "KEYSTEP.DECODE.CUM_CONF", "0.4", "KEYSTEP.DECODE.CONF", "0.4")
    listed = tmp_path / "recordings.csv"
    shutil.copy(data / "recordings.csv", listed)
    shutil.copytree(data / "videos", tmp_path / "videos")
    shutil.rmtree(data)
    model = dust.load(runs, device="cpu")
    evaluation = model.evaluation()
    (one,) = model.predict(find_sources([str(listed)], model.reader), evaluation=evaluation)
    (tmp_path / "out").mkdir()
    evaluation.write(tmp_path / "out")
    for name in ("windows", "steps"):
        ours, tested = (
            tmp_path / "out" / name / f"{one.id}.csv",
            runs / "keystep_test" / "results" / name / f"{one.id}.csv",
        )
        if name == "windows":
            assert ours.read_bytes() == tested.read_bytes()
        else:
            steps = [row for row in csv_dicts(tested) if row["verdict"] != "missed"]
            assert [(row["frame"], row["step"]) for row in csv_dicts(ours)] == [(r["frame"], r["step"]) for r in steps]
            assert all(row["verdict"] == "" for row in csv_dicts(ours))
    assert [(step["frame"], step["step"]) for step in one.facts["steps"]] == [
        (int(row["frame"]), int(row["step"])) for row in steps
    ]
    stream = list(model.stream(one.path))
    streamed = [(step["frame"], step["step"]) for window in stream for step in window.facts["steps"]]
    assert streamed == [(step["frame"], step["step"]) for step in one.facts["steps"]]
    tested = [
        [float(value) for value in row[1:]] for row in csv_lists(tmp_path / "out" / "windows" / f"{one.id}.csv")[1:]
    ]
    ours = [list(window.probabilities.values()) for window in stream if window.views]
    np.testing.assert_allclose(ours, tested, atol=2e-5)
    ((timeline, segments),) = LongVideos(model).run([one.path])
    steps = one.facts["steps"]
    assert steps, "or nothing would be compared here"
    assert [segment.label for segment in segments] == [step["description"] for step in steps]
    assert [segment.end for segment in segments] == pytest.approx([step["time"] + 1 / 10 for step in steps], abs=0.1)
    assert len(timeline.rows) == len(ours)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(30):
        Image.new("RGB", (64, 64)).save(pictures / f"{number:03d}.jpg")
    stream = model.stream(Recording("pictures", str(pictures), fps=20.0, procedure=model.preprocess["procedure"]))
    assert stream.id == "pictures" and stream.duration == pytest.approx(30 / 20)
    assert [frame.time for frame in stream.frames][-1] == pytest.approx(29 / 20)
    with pytest.raises(ConfigError, match="steps that its decoder finds"):
        list(LongVideos(model, rule=MergeRule(min_length=1.0)).run([one.path]))
    # a model of stored embeddings has them made by the stage that made those of the training
    found = dust.load(runs / "keystep_temporal", device="cpu")(one.path)
    tested = csv_dicts(runs / "keystep_temporal" / "results" / "steps" / f"{one.id}.csv")
    steps = [(int(row["frame"]), int(row["step"])) for row in tested if row["verdict"] != "missed"]
    assert [(step["frame"], step["step"]) for step in found.facts["steps"]] == steps
    with pytest.raises(ConfigError, match="take a model of frames"):
        dust.load(runs / "keystep_temporal", device="cpu").stream(one.path)
    shutil.move(runs / "keystep_features", runs / "gone")
    with pytest.raises(ConfigError, match=r"KEYSTEP\.FEATURES_FROM keystep_features"):
        dust.load(runs / "keystep_temporal", device="cpu")(one.path)
