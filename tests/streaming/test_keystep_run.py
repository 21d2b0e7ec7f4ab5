"""TEST on whole recordings from the command line, and the same as a stream."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

import dust.datasets.keystep.recordings
import dust.models.keystep_video  # noqa: F401 - registers
from dust.config import load_config
from dust.datasets.keystep.frames import FrameReader
from dust.datasets.keystep.layouts import read_procedures
from dust.engine import run_net
from dust.models import build_model
from dust.streaming.keystep import open_stream
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import DataError
from tests.helpers import csv_dicts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Recordings, and a model with weights of its own that was never trained."""
    root = tmp_path_factory.mktemp("keystep")
    generate_procedure(root / "data", recordings=8, parts=3, size=32)
    torch.manual_seed(0)
    model = build_model(config(root / "data", root))
    with torch.no_grad():
        model.temporal_encoder.head.weight.mul_(50)
    torch.save({"model_state": model.state_dict()}, root / "weights.pyth")
    return root


def keys(data, out, *more):
    values = {
        "TASK": "KeyStep", "TRAIN.ENABLE": "False", "TEST.DATASET": "ProcedureRecordings",
        "TEST.CHECKPOINT_FILE_PATH": data.parent / "weights.pyth", "TEST.ON_BAD_CLIP": "skip", "TEST.BATCH_SIZE": "50",
        "DATA.PATH_TO_DATA_DIR": data, "DATA.TRAIN_CROP_SIZE": "32", "MODEL.MODEL_NAME": "KeyStepVideo",
        "MODEL.NUM_CLASSES": "3", "KEYSTEP.DTYPE": "video", "KEYSTEP.FRAMES": "9", "KEYSTEP.SKIP_FACTOR": "1",
        "KEYSTEP.EMBED_DIM": "16", "KEYSTEP.SPATIAL.ARCH": "test_vit", "KEYSTEP.TEMPORAL.DEPTH": "1",
        "KEYSTEP.TEMPORAL.HEADS": "2", "KEYSTEP.TEMPORAL.DIM_HEAD": "8", "KEYSTEP.TEMPORAL.MLP_DIM": "16",
        "KEYSTEP.DECODE.CUM_CONF": "1.5", "KEYSTEP.INFER.PHASES": "all", "NUM_GPUS": "0",
        "DATA_LOADER.NUM_WORKERS": "0", "OUTPUT_DIR": out,
    }  # fmt: skip
    return [str(word) for pair in values.items() for word in pair] + list(more)


def config(data, out, *more):
    return load_config(None, keys(data, out, *more))


def test_a_stream_gives_what_the_test_wrote(made, tmp_path):
    assert run_net.main(keys(made / "data", tmp_path)) == 0
    report = json.loads((tmp_path / "results" / "test.json").read_text())
    recordings = read_procedures(made / "data", "test").recordings
    assert list(report["recordings"]) == [one.id for one in recordings]
    for group in (report, report["errors"], report["no_errors"], report["metrics"]):
        assert {"pos", "f1", "tp", "fp", "fn"} <= set(group)
    assert report["counts"] == {"samples": len(recordings), "bad_clips": 0}
    stream, reader = open_stream(config(made / "data", tmp_path)), FrameReader(32)
    emitted = 0
    for one in recordings:
        stream.reset()
        updates = [stream.push(frame) for frame in reader.read(one.path, range(one.num_frames))]
        rows = csv_dicts(tmp_path / "results" / "windows" / f"{one.id}.csv")
        seen = [update for update in updates if update.probabilities is not None]
        assert [int(row["last_frame"]) for row in rows] == [update.frame for update in seen]
        written = np.array([[float(value) for name, value in row.items() if name != "last_frame"] for row in rows])
        np.testing.assert_allclose(torch.stack([u.probabilities for u in seen]), written, atol=2e-5)
        steps = csv_dicts(tmp_path / "results" / "steps" / f"{one.id}.csv")
        expected = [(int(row["frame"]), int(row["step"])) for row in steps if row["verdict"] != "missed"]
        assert [step for update in updates for step in update.steps] == expected
        emitted += len(expected)
    assert emitted, "the comparison of steps needs some"


def test_alarms_of_a_stream_are_those_of_the_test(made, tmp_path):
    """A model with outputs for mistakes, any alarm however unsure, and a graph that asks for an order."""
    graph = tmp_path / "graph.json"
    steps = [{"step": "red"}, {"step": "green", "after": ["red", "blue"]}, {"step": "blue", "after": ["red"]}]
    graph.write_text(json.dumps({"assy": steps}))
    more = ["KEYSTEP.EXE_MODE", "mistakes", "MODEL.NUM_CLASSES", "6", "KEYSTEP.GRAPH", str(graph)]
    more += ["KEYSTEP.MISTAKES.SCORE", "0.0", "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "weights.pyth")]
    torch.manual_seed(0)
    model = build_model(config(made / "data", tmp_path, *more))
    with torch.no_grad():
        model.temporal_encoder.head.weight.mul_(50)
    torch.save({"model_state": model.state_dict()}, tmp_path / "weights.pyth")
    out = tmp_path / "out"
    assert run_net.main(keys(made / "data", out, *more)) == 0
    rows = csv_dicts(out / "results" / "mistakes.csv")
    written = sorted((r["recording"], r["kind"], int(r["step"]), r["alarm_s"]) for r in rows if r["alarm_s"])
    stream, reader, seen = open_stream(config(made / "data", out, *more)), FrameReader(32), []
    for one in read_procedures(made / "data", "test").recordings:
        stream.reset()
        updates = [stream.push(frame) for frame in reader.read(one.path, range(one.num_frames))]
        assert updates[-1].probabilities.shape == (6,)
        for update in (*updates, stream.finish()):
            found = update.alarms if update is not None else ()
            seen += [(one.id, alarm.kind, alarm.step, f"{alarm.frame / one.fps:.2f}") for alarm in found]
    assert sorted(seen) == written and len({kind for _, kind, *_ in written}) >= 2
    page = (out / "results" / "report.html").read_text()
    assert page.count('<svg class="graph"') == 1 and "put on wrongly" in page


def test_a_recording_that_fails_is_counted_once_and_the_others_are_finished(made, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    shutil.copy(made / "weights.pyth", tmp_path)
    video = data / "videos" / "test_000.mp4"
    content = bytearray(video.read_bytes())
    start = content.index(b"mdat") + 2000  # some pictures; the index stays
    content[start : start + 2000] = bytes(2000)
    video.write_bytes(content)
    out = tmp_path / "out"
    assert run_net.main(keys(data, out)) == 0
    report = json.loads((out / "results" / "test.json").read_text())
    assert "test_000" not in report["recordings"] and report["recordings"]
    assert report["counts"] == {"samples": len(report["recordings"]), "bad_clips": 1}
    assert "test_000" in (out / "bad_clips.csv").read_text()


def test_pictures_of_another_size_are_scaled_and_others_refused(made, tmp_path):
    stream = open_stream(config(made / "data", tmp_path))
    for _ in range(17):
        last = stream.push(torch.randint(0, 255, (3, 48, 64), dtype=torch.uint8))
    assert last.probabilities is not None and last.probabilities.shape == (3,)
    with pytest.raises(DataError, match=r"float32 and shape \(3, 32, 32\).*uint8"):
        stream.push(torch.zeros(3, 32, 32))
    with pytest.raises(DataError, match="no procedure 'main'; there are assy"):
        open_stream(config(made / "data", tmp_path), "main")


@pytest.mark.parametrize("mixed", [False, True])
def test_a_stream_encodes_in_the_precision_that_its_test_has(made, tmp_path, mixed):
    stream = open_stream(config(made / "data", tmp_path, "TRAIN.MIXED_PRECISION", str(mixed)))
    with stream.autocast():
        assert torch.is_autocast_enabled("cpu") is mixed


def test_two_windows_are_trained_on_and_judged(made, tmp_path, caplog):
    """KEYSTEP.SANITY_CHECK, on video, from the weights of another run: the same two windows in training and validation.
    Whether so few steps are enough hangs on rounding, so the verdict itself is tested where it is made."""
    more = ["TRAIN.ENABLE", "True", "TEST.ENABLE", "False", "TRAIN.DATASET", "VideoWindows", "TRAIN.BATCH_SIZE", "2"]
    more += ["TRAIN.EVAL_PERIOD", "2", "KEYSTEP.SANITY_CHECK", "True", "KEYSTEP.SAMPLER.N_ITER", "24"]
    more += ["KEYSTEP.SAMPLER.SEP", "5", "SOLVER.MAX_EPOCH", "2", "SOLVER.OPTIMIZING_METHOD", "adamw"]
    more += [
        "SOLVER.BASE_LR",
        "0.002",
        "SOLVER.CLIP_GRAD_L2NORM",
        "1.0",
        "DATA.TRAIN_JITTER_SCALES",
        "[32, 32]",
        "KEYSTEP.TEMPORAL.DROPOUT",
        "0.0",
    ]
    more += ["KEYSTEP.SPATIAL.LR_MULT", "1.0"]
    assert run_net.main(keys(made / "data", tmp_path, *more)) == 0
    log = (tmp_path / "stdout.log").read_text()
    assert re.search(r"SANITY_CHECK: the model (can|cannot \(yet\)) learn its 2 windows by heart", log)
