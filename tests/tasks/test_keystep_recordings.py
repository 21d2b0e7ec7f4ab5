"""The steps of whole recordings: pieces put together, figures by hand, and the files."""

import functools
import json

import numpy as np
import pytest
import torch

from dust.engine.inference import Inference
from dust.models.keystep import TemporalEncoder
from dust.models.keystep_windows import recording_windows
from dust.procedure.graph import ProcedureGraph
from dust.procedure.metrics import score_recording
from dust.procedure.mistakes import MistakeRule, MistakeWatch, true_mistakes
from dust.procedure.step_decoder import StepDecoder
from dust.procedure.table import Procedure
from dust.streaming.keystep import StepStream
from dust.tasks.keystep import KeyStep
from dust.tasks.keystep_recordings import RecordingsEvaluation
from dust.utils.errors import ConfigError
from tests.helpers import csv_dicts

PARTS = ["base", "lid"]
PROCEDURE = Procedure(frozenset({0, 3}), (0, 0))
STATES = {0: (0, 0), 1: (1, 0), 2: (1, 1)}


class FirstAndLast(torch.nn.Module):
    """An encoder that knows: component k changed where channel k of the first and the last frame differ."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, windows):
        assert not self.training
        return self.scale * ((windows[:, 0] - windows[:, -1]).abs() - 0.5)


def facts(steps, num_frames, errors=False, fps=10.0, wrong=()):
    detections = [[(sum(frame >= done for done, _ in steps), 0.9)] for frame in range(num_frames)]
    graph = ProcedureGraph.any_order(PROCEDURE, PARTS)
    return {"num_frames": num_frames, "fps": fps, "steps": steps, "procedure": PROCEDURE, "errors": errors} | {
        "detections": detections,
        "states": STATES,
        "procedure_name": "assy",
        "graph": graph,
        "mistakes": true_mistakes(steps, [(0, (0, 0)), *wrong], graph, (0, 0)),
    }


def states_of(steps, num_frames):
    """(F, K): 1 from the frame on in which a component is done."""
    frames = torch.arange(num_frames)
    return torch.stack([(frames >= done).float() for done, _ in steps], dim=1)


def pieces(name, steps, num_frames, size=20, **more):
    outputs = states_of(steps, num_frames)
    return [
        {"id": name, "path": "", "label": None, "first": t, "facts": facts(steps, num_frames, **more)}
        | {"outputs": outputs[t : t + size]}
        for t in range(0, num_frames, size)
    ]


def evaluation(decoder=None, **more):
    options = {"frames": 5, "skip": 1, "batch": 7, **more}
    return RecordingsEvaluation(PARTS, decoder or StepDecoder(window=8, cum_conf=1.5), **options)


class Same:
    """No device transform."""

    def __call__(self, batch, *, training):
        return batch


def loop_of(model, micro_batch=3):
    task = KeyStep(class_names=PARTS)
    return Inference(model, task.forward, Same(), torch.device("cpu"), micro_batch)


def infer(one, records, model, **more):
    """Give the pieces to the evaluation as embeddings that were read, through the one evaluation loop."""
    items = ({**record, "inputs": {"frame_embeddings": record["outputs"]}} for record in records)
    for record in one.infer(loop_of(model, **more), items):
        one.update(record)
    return one


def run(records, decoder=None, **more):
    one, model = evaluation(decoder, **more), FirstAndLast().train()
    infer(one, records, model)
    assert model.training, "as it was before"
    return one


A, B = [(15, 0), (40, 3)], [(10, 0), (33, 3)]


def test_steps_and_figures_by_hand():
    found = run([*pieces("a", A, 60), *pieces("b", B, 50, errors=True)])
    # windows span 9 frames and end in 8, 10, 12, ...: step 15 is first in the one that ends in 16; two are needed
    assert found.records()[0]["predicted"] == [(18, 0), (42, 3)]
    assert found.records()[1]["predicted"] == [(12, 0), (36, 3)]
    metrics = found.metrics()
    assert metrics["f1"] == pytest.approx(1, abs=1e-5) and metrics["pos"] == 1
    assert metrics["tau_s"] == pytest.approx((0.25 + 0.25) / 2)
    assert (metrics["tp"], metrics["fp"], metrics["fn"]) == (4, 0, 0)
    report = json.loads(json.dumps(found.report()))
    assert report["errors"]["recordings"] == report["no_errors"]["recordings"] == 1
    assert report["errors"]["tau_s"] == pytest.approx(0.25) and report["metric_mode"] == "paper"
    assert report["delay_curve"]["0.5"] == 1.0
    assert report["recordings"]["a"]["tau_s"] == pytest.approx(0.25) and report["recordings"]["b"]["errors"] is True


def test_a_recording_of_which_a_piece_is_missing_is_left_out():
    whole, broken = pieces("a", A, 60), pieces("b", B, 50)
    found = run([*whole, *broken[:1], *broken[2:]])
    assert [one["id"] for one in found.records()] == ["a"]
    assert run(broken[:-1]).records() == [] and run([]).metrics() == {}


def test_windows_are_those_of_the_model():
    torch.manual_seed(0)
    model = TemporalEncoder(seq_len=5, dim=2, depth=1, heads=1, dim_head=4, mlp_dim=8, num_classes=2).eval()
    last, windows = recording_windows(states_of(A, 60), frames=5, skip=1, phases="all")
    with torch.no_grad():
        probabilities = torch.cat([torch.sigmoid(model(part)) for part in windows.split(7)])
    for micro_batch in (1, 64):
        one = infer(evaluation(phases="all"), pieces("a", A, 60), model, micro_batch=micro_batch)
        assert one.records()[0]["last"].tolist() == last.tolist()
        np.testing.assert_array_equal(one.records()[0]["probabilities"], probabilities.numpy())


def test_a_recording_does_not_depend_on_its_neighbours():
    """To the last bit: batches of windows hold one recording, whatever was tested before it."""
    torch.manual_seed(0)
    model = TemporalEncoder(seq_len=5, dim=2, depth=2, heads=2, dim_head=8, mlp_dim=32, num_classes=2).eval()
    alone = infer(evaluation(), pieces("b", B, 50), model).records()
    together = infer(evaluation(), [*pieces("a", A, 60), *pieces("b", B, 50)], model).records()
    np.testing.assert_array_equal(alone[0]["probabilities"], together[1]["probabilities"])

    class Sizes(FirstAndLast):
        def forward(self, windows):
            seen.append(len(windows))
            return super().forward(windows)

    seen = []
    infer(evaluation(), [*pieces("a", A, 60), *pieces("b", B, 50)], Sizes())
    assert seen == [7, 7, 7, 5, 7, 7, 7]


def test_each_frame_is_encoded_once():
    class Counting(FirstAndLast):
        encoded = 0

        def embed(self, video):
            self.encoded += len(video)
            return video.flatten(1)[:, :2]

        def forward_embeddings(self, embeddings):
            return FirstAndLast.forward(self, embeddings)

    model, records = Counting(), pieces("a", A, 60)
    items = [{**one, "inputs": {"frames": one["outputs"][:, :, None, None, None]}} for one in records]
    found = evaluation()
    for record in found.infer(loop_of(model), items):
        found.update(record)
    assert model.encoded == 60 and len(found.records()[0]["last"]) == 26
    assert found.records()[0]["predicted"] == run(records).records()[0]["predicted"] == [(18, 0), (42, 3)]
    windows_only = KeyStep(class_names=PARTS, recordings={"decoder": StepDecoder()})
    with pytest.raises(ConfigError, match="DTYPE video: FirstAndLast encodes no frames"):
        windows_only.forward(FirstAndLast(), items[0]["inputs"])


def test_a_recording_shorter_than_a_window_is_flagged():
    found = run([*pieces("short", [(3, 0), (9, 3)], 6), *pieces("a", A, 60)])
    report = found.report()["recordings"]
    assert (report["short"]["padded_frames"], report["a"]["padded_frames"]) == (2, 0)
    assert report["short"]["fn"] == 2 and found.records()[0]["last"].tolist() == [5]


def test_other_decoders_and_modes():
    records = [*pieces("a", A, 60), *pieces("b", B, 50)]
    objects = run(records, StepDecoder(mode="b3", cum_conf=1.5))
    assert objects.records()[0]["predicted"] == [(16, 0), (41, 3)] and not len(objects.records()[0]["last"])
    naive = run(records, StepDecoder(mode="temporal_naive", window=8))
    assert naive.records()[0]["predicted"] == [(16, 0), (40, 3)]
    sweep = naive.report()["threshold_sweep"]
    assert [row["conf"] for row in sweep] == [0.125, 0.25, 0.375, 0.5, 0.75]
    for mode in ("paper", "industreal", "storm"):
        found = run(records, metric_mode=mode)
        one = found.records()[0]
        expected = score_recording(one["steps"], one["predicted"], fps=10, mode=mode, window=8)
        assert found.report()["recordings"]["a"]["f1"] == expected.f1


def test_the_sweep_decodes_again():
    found = run([*pieces("a", A, 60), *pieces("b", B, 50)])
    sweep = {row["cum_conf"]: row for row in found.report()["threshold_sweep"]}
    assert sweep[1.5]["tau_s"] == found.metrics()["tau_s"]
    assert sweep[0.375]["tau_s"] == pytest.approx(0.05) and sweep[6.0] == {
        "cum_conf": 6.0,
        "pos": 0.0,
        "f1": 0.0,
        "tau_s": None,
    }
    none = run(pieces("a", A, 60), StepDecoder(window=8, cum_conf=100.0)).metrics()
    assert "tau_s" not in none and none["fn"] == 2


def test_files(tmp_path):
    records = pieces("a/1", A, 60)
    for record in records:  # a step that was never seen, and one that was not done
        record["facts"]["steps"] = [(15, 0), (55, 2)]
    paths = run(records).write(tmp_path)
    assert all(path.exists() for path in paths) and (tmp_path / "timelines" / "a_1.png").stat().st_size > 1000
    rows = csv_dicts(tmp_path / "steps" / "a_1.csv")
    assert [(row["frame"], row["description"], row["verdict"], row["delay_s"]) for row in rows] == [
        ("18", "Install base", "right", "0.30"),
        ("42", "Install lid", "wrong", ""),
        ("55", "Remove base", "missed", ""),
    ]
    windows = csv_dicts(tmp_path / "windows" / "a_1.csv")
    assert windows[0]["last_frame"] == "8" and set(windows[0]) == {"last_frame", "prob_base", "prob_lid"}
    (row,) = csv_dicts(tmp_path / "recordings.csv")
    assert (row["recording"], row["tp"], row["fp"], row["fn"]) == ("a/1", "1", "1", "1")


def test_timelines_are_drawn_of_the_worst(tmp_path, caplog):
    """Of three recordings the second misses a step and the third has no labels; every csv is there all the same."""
    records = [record for name in "abc" for record in pieces(name, A, 60)]
    for record in records:
        record["facts"] |= {"b": {"steps": [(15, 0), (39, 3), (55, 2)]}, "c": {"labelled": False}}.get(record["id"], {})
    for most, drawn in ((1, "b"), (2, "ab"), (0, "abc")):
        caplog.clear()
        (folder := tmp_path / str(most)).mkdir()
        with caplog.at_level("INFO"):
            run(records, timelines=most).write(folder)
        assert sorted(path.stem for path in (folder / "timelines").iterdir()) == list(drawn)
        assert len(list((folder / "steps").iterdir())) == 3
        assert (f"of the {most} of 3 recordings" in caplog.text) == bool(most)
    rows = {row["recording"]: row for row in csv_dicts(folder / "recordings.csv")}
    assert rows["c"]["errors"] == "" != rows["a"]["errors"], "nobody knows what went wrong where nothing is labelled"


class AlsoWrong(FirstAndLast):
    """Two channels of states, and two of "put on wrongly": 1 from the frame on in which that happens."""

    def forward(self, windows):
        wrong = self.scale * ((windows[:, 0, 2:] - windows[:, -1, 2:]).abs() - 0.5)
        return torch.cat([super().forward(windows[..., :2]), wrong], dim=1)


def test_mistakes_are_told_while_they_happen_and_at_the_end(tmp_path):
    """A lid that is put on wrongly in frame 30 and stays so: wrong at once, and not left out as the base is, which is
    told when the recording is over."""
    steps, states = [], [(30, (0, -1))]
    outputs = torch.cat([states_of([(99, 0), (99, 3)], 60), states_of([(99, 0), (30, 3)], 60)], dim=1)
    record = {"id": "a", "path": "", "label": None, "first": 0, "outputs": outputs}
    record["facts"] = facts(steps, 60, errors=True, wrong=states)
    rule = MistakeRule(cum_conf=1.5, window=8)
    found = infer(evaluation(mistakes=rule), [record], AlsoWrong())
    (one,) = found.records()
    # the windows that end in 30 and 32 hold it, two are needed
    assert [(a.frame, a.kind, a.step) for a in one["alarms"]] == [(32, "wrong", 4), (59, "omitted", 0)]
    metrics = found.metrics()
    assert (metrics["mistake_recall"], metrics["mistake_precision"], metrics["false_alarms_per_hour"]) == (1, 1, 0)
    assert metrics["mistake_delay_s"] == pytest.approx((0.2 + 2.9) / 2)  # it was due from frame 30 on
    report = json.loads(json.dumps(found.report()))
    assert report["mistakes"]["kinds"]["wrong"]["delay_s"] == pytest.approx(0.2)
    # of five windows that hold it the one that begins with it sees no change: four and a half of five
    assert report["mistakes"]["auc"]["wrong"] == pytest.approx(0.9) and report["mistakes"]["auc"]["omitted"] is None
    assert report["recordings"]["a"]["mistakes_found"] == 2 and report["graphs"]["assy"][0][0]["omitted"] == 1
    answer = found.answer(one)
    assert [alarm["description"] for alarm in answer.facts["alarms"]] == ["Install wrongly lid", "Install base"]
    assert list(answer.probabilities) == ["base", "lid", "base put on wrongly", "lid put on wrongly"]
    found.write(tmp_path)
    rows = csv_dicts(tmp_path / "mistakes.csv")
    assert [(row["kind"], row["verdict"], row["delay_s"]) for row in rows] == [
        ("wrong", "found", "0.20"),
        ("omitted", "found", "2.90"),
    ]
    # the stream says the same, frame by frame
    watch = functools.partial(MistakeWatch, record["facts"]["graph"], PROCEDURE, rule, 10.0)
    decoder = StepDecoder(window=8, cum_conf=1.5)
    start = functools.partial(decoder.start, PROCEDURE, {})
    stream = StepStream(AlsoWrong(), decoder, start, watch=watch, components=2, frames=5, skip=1)
    alarms = [alarm for frame in outputs for alarm in stream.push(frame).alarms]
    assert [*alarms, *stream.finish().alarms] == one["alarms"]


def test_the_task_takes_frames_embeddings_and_windows():
    class Model(torch.nn.Module):
        def embed(self, frames):
            return frames.flatten(1)[:, :2]

        def forward_embeddings(self, embeddings):
            return embeddings.mean(dim=1)

        def forward(self, video):
            return video.mean(dim=(2, 3, 4))

    task = KeyStep(class_names=PARTS, recordings={"decoder": StepDecoder()})
    frames = torch.rand(4, 3, 1, 2, 2)
    assert task.forward(Model(), {"frames": frames}).shape == (4, 2)
    assert task.forward(Model(), {"frame_embeddings": frames[:, :, 0, 0, 0]}).shape == (4, 3)
    assert task.forward(Model(), {"video": frames}).shape == (4, 3)
    assert isinstance(task.evaluation("test"), RecordingsEvaluation)
    assert not isinstance(task.evaluation("val"), RecordingsEvaluation)
