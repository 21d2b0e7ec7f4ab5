"""A predictor gives what the test gives, whatever a clip comes as, and says what is wrong with it."""

import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import dust
from dust.decode.reader import VideoReader
from dust.deploy.predictor import Predictor, loop_around
from dust.deploy.sources import find_sources
from dust.engine.backends import Backends
from dust.engine.run_dir import RunDir
from dust.engine.setup import build_device_transform
from dust.engine.test import run_stage as run_test
from dust.tasks import Classification
from dust.utils.errors import ConfigError, DataError
from tests.datasets.clip_files import write_clip
from tests.helpers import VIDEOS, csv_dicts, csv_lists, needs_videos


def without_labels(path):
    """A test's predictions.csv as it is where nobody knows the labels, byte for byte."""
    rows = csv_lists(path)
    place = rows[0].index("label")
    text = io.StringIO(newline="")
    csv.writer(text).writerows([rows[0], *([*row[:place], "", *row[place + 1 :]] for row in rows[1:])])
    return text.getvalue().encode()


def write_pixel(path, frames=80):
    """A video of 1x1 pixels."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 1, 1, "bgr0"
        for _ in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((1, 1, 3), 90, np.uint8), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def test_predictions_are_those_of_the_test(run, model, clips, tmp_path):
    evaluation = model.evaluation()
    found = list(model.predict(find_sources([str(clips / "test.csv")], model.reader), evaluation=evaluation))
    evaluation.write(tmp_path)
    tested = run / "results" / "predictions.csv"
    assert (tmp_path / "predictions.csv").read_bytes() == without_labels(tested)
    assert [one.label for one in found] == [row["prediction"] for row in csv_dicts(tested)]
    assert all(one.ok and one.views == 6 for one in found)


def test_after_a_sweep_of_view_counts_they_are_those_of_its_last(run, tiny, clips, tmp_path):
    checkpoint = str(next((run / "checkpoints").glob("*_epoch_*.pyth")))
    cfg = tiny(
        TRAIN__ENABLE=False, TEST__CHECKPOINT_FILE_PATH=checkpoint, TEST__NUM_TEMPORAL_CLIPS=[3, 1], TEST__REPORT=False
    )
    run_test(cfg, RunDir(cfg.OUTPUT_DIR))
    model = dust.load(cfg.OUTPUT_DIR, device="cpu")
    evaluation = model.evaluation()
    list(model.predict(find_sources([str(clips / "test.csv")], model.reader), evaluation=evaluation))
    evaluation.write(tmp_path)
    tested = without_labels(Path(cfg.OUTPUT_DIR, "results", "predictions.csv"))
    assert (tmp_path / "predictions.csv").read_bytes() == tested
    assert dust.load(run, device="cpu", overrides={"TEST.NUM_ENSEMBLE_VIEWS": -1}).preprocess["temporal_views"] == 10
    own = {"TEST.NUM_ENSEMBLE_VIEWS": 2}
    assert dust.load(cfg.OUTPUT_DIR, device="cpu", overrides=own).preprocess["temporal_views"] == 2


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_any_batch_gives_the_same_to_rounding(run, model, clips, batch):
    other = dust.load(run, batch_size=batch, device="cpu")
    sources = find_sources([str(clips / "test.csv")], model.reader)
    for a, b in zip(model.predict(sources, workers=0), other.predict(sources), strict=True):
        assert a.label == b.label and a.id == b.id
        assert list(a.probabilities.values()) == pytest.approx(list(b.probabilities.values()), abs=1e-5)


def test_a_clip_in_any_form(model, clips):
    path = clips / "clip_14.mp4"
    by_path = model(str(path))
    by_bytes = model(path.read_bytes())
    with VideoReader(path) as reader:
        frames = reader.frames(range(len(reader)))
    by_array = model(frames)
    assert by_path.path == str(path) and by_bytes.path == "bytes" and by_array.path == "array"
    np.testing.assert_array_equal(by_path.logits, by_bytes.logits)
    # an array has no YUV planes to be scaled, and its frames count as those of TARGET_FPS
    assert by_array.ok and by_array.probabilities.keys() == by_path.probabilities.keys()
    assert by_path.logits.shape == (2,) and by_path.view_logits.shape == (6, 2)
    np.testing.assert_allclose(by_path.view_logits.mean(0), by_path.logits, rtol=1e-6)
    softmax = torch.from_numpy(by_path.logits).softmax(0)
    assert list(by_path.probabilities.values()) == pytest.approx(softmax.tolist(), abs=1e-6)


def test_lists_folders_patterns(model, clips):
    names = [one.path for one in model(str(clips / "clip_1*.mp4"))]
    assert names == [str(clips / f"clip_{number}.mp4") for number in (1, *range(10, 18))]
    assert len(model(str(clips))) == 18
    assert [one.path for one in model([str(clips / "clip_2.mp4"), clips / "clip_3.mp4"])][1].endswith("clip_3.mp4")
    with pytest.raises(DataError, match="no file matches"):
        model(str(clips / "nothing*.mp4"))


def test_an_answer_in_words(model, clips):
    one = model(clips / "clip_14.mp4")
    (best, value), (_, other) = one.top(2)
    assert best == one.label and value == one.confidence > other and value + other == pytest.approx(1)
    assert best in repr(one) and "clip_14.mp4" in repr(one)
    said = one.to_json()
    assert said["label"] == best and said["probabilities"] == dict(one.probabilities) and "error" not in said
    assert "dark" in repr(model) and model.classes == ["bright", "dark"]
    assert model.preprocess["views"] == 6 and model.preprocess["crop_size"] == 16


def test_what_cannot_be_read_costs_its_own_answer(model, clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    sources = [broken, clips / "clip_1.mp4", tmp_path / "absent.mp4", clips / "clip_2.mp4", broken]
    found = model([str(one) for one in sources])
    assert [one.ok for one in found] == [False, True, False, True, False]
    assert "cannot be opened" in found[0].error and "No such file" in found[2].error
    assert found[0].label == "" and found[0].confidence == 0 and "unreadable" in repr(found[0])
    assert found[0].to_json()["error"] == found[0].error
    assert model(b"junk").error and model([]) == []


def test_what_is_damaged_is_answered_and_said(model, clips, tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", 60, options={"g": "12"}, container={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    one = model(tmp_path / "cut.mp4")
    assert one.ok and one.damage and one.damage in repr(one) and one.to_json()["damage"] == one.damage
    assert model(whole).damage == ""


def test_poor_clips_get_a_warning(run, clips, tmp_path):
    model = dust.load(run, overrides={"DATA.NUM_FRAMES": 2, "DATA.SAMPLING_RATE": 30}, device="cpu")
    one = model(write_clip(tmp_path / "one.mp4", 1))
    assert one.ok and "single frame" in one.warnings[0]
    few = model(write_clip(tmp_path / "few.mp4", 5))
    assert few.ok and "only 5 frames" in few.warnings[0] and "only 5 frames" in repr(few)
    pixel = write_pixel(tmp_path / "pixel.mkv")
    one = model(pixel)
    assert one.ok and any("1x1 pixels" in text for text in one.warnings), one
    assert model(np.zeros((80, 1, 1, 3), np.uint8)).ok
    assert model(write_clip(tmp_path / "sound.mp4", 80)).warnings == ()


def test_arrays_of_another_kind(model):
    assert "uint8 (T, H, W, 3)" in model(np.zeros((4, 8, 8, 3), np.float32)).error
    assert "uint8 (T, H, W, 3)" in model(np.zeros((3, 4, 8, 8), np.uint8)).error
    with pytest.raises(DataError, match="is no clip"):
        model(7)


def test_threads_read_and_one_predicts(model, clips):
    paths = [str(clips / f"clip_{number}.mp4") for number in range(18)] * 3
    before = set(threading.enumerate())  # a server of another test may still be ending
    expected = model(paths)
    with ThreadPoolExecutor(8) as pool:
        found = model.predict_batch(list(pool.map(model.read, paths)))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)
    assert not any(thread.name.startswith("dust-read") for thread in set(threading.enumerate()) - before)


def test_threshold_says_none_of_these(run, clips, tmp_path):
    model = dust.load(run, threshold=1.0, device="cpu")
    evaluation = model.evaluation()
    (one,) = model.predict([str(clips / "clip_14.mp4")], evaluation=evaluation)
    assert one.label == "none of these" and one.confidence < 1 and one.probabilities
    evaluation.write(tmp_path)
    assert csv_dicts(tmp_path / "predictions.csv")[0]["prediction"] == "none of these"


def test_features(model, clips):
    found = model.features(clips / "clip_14.mp4")
    assert found.shape == (16,) and found.dtype == np.float32
    assert model.features(clips / "clip_14.mp4", layer="head").shape == (2,)
    np.testing.assert_allclose(model.features(clips / "clip_14.mp4", layer="head"), model(clips / "clip_14.mp4").logits)
    with pytest.raises(ConfigError, match="no such layer"):
        model.features(clips / "clip_14.mp4", layer="haed")
    with pytest.raises(DataError, match="absent"):
        model.features("absent.mp4")


def test_any_backend_behind_the_same_predictor(model, clips, tiny):
    """What an exported model plugs into: a callable of uint8 inputs."""
    transform = build_device_transform(tiny())

    def backend(video):
        assert video.dtype == torch.uint8
        with torch.no_grad():
            return model.loop.model(video=transform.normalize(video))

    other = Predictor(loop_around(backend, micro_batch=4), model.task, model.reader, model.classes)
    assert isinstance(other.task, Classification)
    a, b = model(clips / "clip_14.mp4"), other(clips / "clip_14.mp4")
    np.testing.assert_array_equal(a.logits, b.logits)


def test_dtype_and_device(run, clips):
    one = dust.load(run, dtype="bfloat16", device="cpu")(clips / "clip_14.mp4")
    assert one.ok and one.logits.dtype == np.float32
    with pytest.raises(ConfigError, match="float32"):
        dust.load(run, dtype="int8")
    with pytest.raises(ConfigError, match="CUDA devices"):
        dust.load(run, device="cuda:99")
    with pytest.raises(ConfigError, match="write auto"):
        dust.load(run, device="gpu")


def test_the_kernels_of_a_device_are_those_of_a_test_there(run, monkeypatch):
    """TRAIN.FLOAT32 and SDPA, though the model is built on the CPU. The meta device plays a GPU."""
    asked = []
    monkeypatch.setattr(Backends, "use", lambda self, device: asked.append((self.attention, device.type)))
    dust.load(run, device="meta", overrides={"TRAIN.SDPA": "auto"})
    assert asked[-1] == ("auto", "meta")


@needs_videos
def test_awkward_files(model):
    for path in sorted((VIDEOS / "bad").iterdir(), key=lambda path: path.stat().st_size)[:12]:
        one = model(path)
        assert one.ok != bool(one.error) and (one.label in model.classes or one.error), path


def test_a_dataset_that_reads_no_new_clips(run):
    with pytest.raises(ConfigError, match="for_clips"):
        dust.load(run, overrides={"TEST.DATASET": "RecordingFrames"})


def test_an_output_that_is_not_finite_is_an_error_not_a_prediction(run, clips):
    model = dust.load(run, device="cpu")
    with torch.no_grad():
        next(model.loop.model.parameters()).fill_(float("nan"))
    path = str(clips / "clip_14.mp4")
    (found,) = model.predict([path])
    assert not found.ok and "the model's output is not finite" in found.error
    with pytest.raises(DataError, match=r"clip_14\.mp4: the model's output is not finite"):
        model.features(path)
