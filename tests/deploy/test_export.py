"""An exported model says what the original says, whatever the number of clips, or it is not written."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import dust
from dust.cli.export import FORMATS as WORDS
from dust.cli.export import RUNTIMES as MEASURED
from dust.datasets.transforms.device import DeviceTransform
from dust.deploy import export as exporting
from dust.deploy.export import RUNTIMES, Request, export, find_licences, report
from dust.deploy.export_check import Agreement, Row, compare, in_torch, measure, table
from dust.deploy.export_graph import NOT_EXPORTED, WITHOUT, Graph, to_onnx, trace, write_onnx
from dust.deploy.exported import FORMATS, open_runtime
from dust.models import MODEL_REGISTRY
from dust.models.keystep_video import KeyStepVideo
from dust.models.layers.window_attention import relative_index, window_masks
from dust.tasks import Classification
from dust.tasks.keystep import KeyStep
from dust.tasks.verb_noun import VerbNoun
from dust.utils.errors import CheckpointError, ConfigError, DataError, DustError
from tests.helpers import ROOT
from tests.models.test_models import OPTIONAL, OTHERS, SMALL, make

CLASSES = list("abcde")
PAGE = (ROOT / "docs" / "EXPORT.md").read_text(encoding="utf-8")
MASKS = {"visible": (2, 2, 4, 12), "view_mask": (2, 2), "time_mask": (2, 4)}
#: Smaller still than in the tests of models: a block of each kind is enough, for every node is translated.
SMALLER = {
    "VideoMAE": {"depth": 1},
    "CLIPVisual": {"layers": 1},
    "VJEPA2": {"depth": 1, "probe_depth": 2},
    "CAST": {"depth": 1},
    "TimeSformer": {"depth": 1},
    "VideoSwin": {"depths": [2], "num_heads": [2]},
    "SeriesSwin": {"depths": [2], "num_heads": [2]},
    "DualSwinFusion": {"depths": [1], "num_heads": [2], "mode": "concat"},
    "TemporalEncoder": {"depth": 1, "encoder": "gru"},
}
FUSED = {"embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": [2, 2, 2]}
FRAMES = {"arch": "resnet10t", "img_size": 32, "embed_dim": 16}
CASES = {name: ({**arguments, **SMALLER.get(name, {})}, shapes) for name, arguments, shapes in reversed(SMALL)}
CASES["DualSwinFusion"] = (
    {**CASES["DualSwinFusion"][0], "video": FUSED},
    {"series": (2, 3, 20), "video": (2, 3, 4, 16, 16)},
)
CASES |= {name: (arguments, shapes) for name, arguments, shapes in reversed(OTHERS) if name not in NOT_EXPORTED}
CASES["VerbNoun"] = ({**CASES["CAST"][0], "composition": True, "num_verbs": 2, "num_nouns": 3}, CASES["CAST"][1])
CASES["KeyStepVideo"] = ({}, {"video": (2, 3, 3, 32, 32)})
for name in ("PointTrackTransformer", "PointTrackLSTM"):
    CASES[name] = (CASES[name][0], {**CASES[name][1], **MASKS})


def inputs_of(shapes, count=2):
    """Clips as uint8, masks as bool, all else as float32."""
    generator = torch.Generator().manual_seed(count)
    found = {}
    for name, (_, *shape) in shapes.items():
        value = torch.rand(count, *shape, generator=generator)
        found[name] = (255 * value).byte() if name == "video" else value > 0.2 if name in MASKS else value
    return found


def graph_of(name):
    """A case as it is exported, and its inputs."""
    arguments, shapes = CASES[name]
    task = Classification(class_names=CLASSES)
    if name == "KeyStepVideo":
        temporal = {"seq_len": 3, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 24}
        torch.manual_seed(0)
        model, task = KeyStepVideo(frames=FRAMES, temporal=temporal, num_classes=5), KeyStep(class_names=CLASSES)
    elif name == "VerbNoun":
        model, task = make("CAST", arguments), VerbNoun(class_names=CLASSES, num_verbs=2)
    else:
        model = make(name, arguments)
    inputs = inputs_of(shapes)
    transform = DeviceTransform(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    return Graph(model.eval(), task, transform, tuple(inputs)).eval(), inputs, shapes


def agrees(run, graph, shapes):
    """For one clip and for three, not the two that it was traced with."""
    for count in (1, 3):
        inputs = inputs_of(shapes, count)
        ours, theirs = in_torch(graph)(inputs), run(inputs)
        assert list(theirs) == list(ours)
        for key, value in ours.items():
            torch.testing.assert_close(theirs[key], value, atol=2e-6, rtol=1e-5)


def test_every_registered_model_is_exported_or_says_why_not():
    """The page shows the tables of the code."""
    assert set(CASES) - {"VerbNoun"} | set(OPTIONAL) == set(MODEL_REGISTRY) - set(NOT_EXPORTED)
    assert set(WITHOUT) <= set(CASES)
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert rows == {**NOT_EXPORTED, **WITHOUT}
    assert tuple(FORMATS) == WORDS and RUNTIMES == MEASURED


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_trace_of_every_classifier_takes_any_number_of_clips(name):
    graph, inputs, shapes = graph_of(name)
    agrees(in_torch(trace(graph, inputs, name).module()), graph, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_classifier_in_onnx(name, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    graph, inputs, shapes = graph_of(name)
    outputs = list(in_torch(graph)(inputs))
    write_onnx(to_onnx(trace(graph, inputs, name), outputs), tmp_path / "model.onnx")
    agrees(open_runtime(tmp_path / "model.onnx"), graph, shapes)


def test_a_trace_leaves_nothing_behind_in_the_model():
    """Masks and constants that are kept from call to call are not those of a trace, which are no numbers."""
    swin = make("VideoSwin", {"embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": [2, 3, 3]}).eval()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.swin, self.transform = swin, DeviceTransform(mean=(0.4,), std=(0.2,))

        def forward(self, video):
            return self.swin(self.transform.normalize(video))

    video = inputs_of({"video": (2, 3, 2, 16, 16)})["video"]
    with torch.no_grad():
        expected = Whole()(video)
        for kept in (window_masks, relative_index):
            kept.cache_clear()
        whole = Whole()
        torch.export.export(whole, (video,), strict=False)
        assert torch.equal(whole(video), expected)


def test_what_no_trace_can_follow_is_said():
    class Undecided(nn.Module):
        def forward(self, video):
            return video.float().mean(dim=(1, 2, 3, 4))[:, None] * (1 if video.sum() > 3 else 2)

    graph = Graph(Undecided(), Classification(class_names=["a"]), lambda batch, training: batch, ("video",))
    with pytest.raises(DustError, match=r"(?s)Undecided cannot be exported: .*x\.shape\[0\] instead of len"):
        trace(graph, {"video": torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)}, "Undecided")


# --------------------------------------------------------------------------------------------------- agreement


def test_agreement_is_by_logit_and_by_first_answer():
    agreement = Agreement()
    agreement.add("a", torch.tensor([[1.0, 100.0]]), torch.tensor([[1.0002, 100.01]]))
    assert agreement.worst == pytest.approx(0.01, rel=1e-3) and agreement.excess == pytest.approx(1.0, abs=0.02)
    assert Agreement().holds is False, "of no clip nothing is known"
    close = Agreement()
    close.add("a", torch.tensor([[1.0, 100.0]]), torch.tensor([[1.00019, 100.009]]))
    assert close.holds and close.top1 == 100
    close.add("b", torch.tensor([[0.5, 0.50001], [0.0, 0.0]]), torch.tensor([[0.50001, 0.5], [0.0, 0.0]]))
    assert not close.holds and close.excess <= 1 and close.other_top1 == ["b"] and close.top1 == 50
    assert (close.clips, close.views) == (2, 3)
    wild = Agreement()
    wild.add("nan", {"verb": torch.zeros(1, 2)}, {"verb": torch.tensor([[0.0, float("nan")]])})
    assert not wild.holds and wild.excess == float("inf") and wild.where == "nan"


def test_comparing_counts_what_cannot_be_read():
    from dust.datasets.sample import BadClip

    def run(shift):
        return lambda inputs: {"logits": inputs["x"] + shift, "probabilities": inputs["x"]}

    items = [{"inputs": {"x": torch.rand(3, 4)}, "id": str(n), "path": "", "label": None} for n in range(4)]
    found, kept = compare(run(0), run(1e-5), [BadClip("z", "z", "gone"), *items], micro_batch=5)
    assert found.holds and (found.clips, found.views, found.unreadable) == (4, 12, 1)
    assert kept["x"].shape == (5, 4) and found.worst == pytest.approx(1e-5, rel=0.1)
    with pytest.raises(DataError, match="none of 1 clips could be read"):
        compare(run(0), run(0), [BadClip("z", "z", "gone")], micro_batch=5)


def test_the_table():
    inputs = {"x": torch.rand(2, 4)}
    row = measure("eager", lambda found: {"logits": found["x"]}, inputs, inputs["x"] + 0.5, megabytes=1.25)
    assert row.difference == pytest.approx(0.5) and row.ms >= 0 and row.cpu_ms >= 0
    lines = table([row, Row("openvino", note="openvino needs openvino: pip install 'dust-video[export]'")]).splitlines()
    assert lines[1].startswith("eager") and " 1.2 " in lines[1] and lines[1].endswith("5.0e-01")
    assert lines[2].endswith("[export]'") and "nan" not in "".join(lines)
    assert Row(**Row("x", note="why").to_json()).note == "why"


# ------------------------------------------------------------------------------------------------------ a run


def test_all_that_cannot_be_asked_is_said_at_once(tmp_path):
    (tmp_path / "there.pt2").write_text("")
    request = Request(tmp_path / "there.pt2", "torch_export", int8=True, calibration_clips=0, measured=["tensorrt"])
    with pytest.raises(ConfigError) as error:
        request.checked()
    for words in ("int8 is a form of format onnx", "calibration_clips 0", "tensorrt", "--force"):
        assert words in str(error.value)
    with pytest.raises(ConfigError, match=r"'.jit': choose onnx, torch_export, openvino"):
        Request(tmp_path / "a.jit").checked()
    with pytest.raises(ConfigError, match=r"ends with \.xml"):
        Request(tmp_path / "a.onnx", "openvino").checked()
    with pytest.raises(ConfigError, match="there is no folder"):
        Request(tmp_path / "no" / "a.onnx").checked()
    assert Request(tmp_path / "a.XML").checked().format == "openvino"
    for name, output in (("b.bin", "b.xml"), ("c.onnx.data", "c.onnx"), ("d.pt2.json", "d.pt2"), ("e.bin", "")):
        (tmp_path / name).write_text("mine")
        if output:
            with pytest.raises(ConfigError, match=f"{name} exists already"):
                Request(tmp_path / output).checked()
            assert Request(tmp_path / output, force=True).checked()
    assert Request(tmp_path / "e.onnx").checked(), "an .onnx has no .bin"


def test_torch_export_needs_no_other_library(run, model, clips, tmp_path):
    out = tmp_path / "model.pt2"
    manifest = export(str(run), Request(out, measured=("eager",), check=[str(clips / "clip_14.mp4")]))
    extra = {"dust": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["dust"]) == json.loads(manifest.to_json())
    beside = json.loads((tmp_path / "model.pt2.json").read_text())
    assert beside["classes"] == ["bright", "dark"] and beside["bytes"] == {"model.pt2": out.stat().st_size}
    assert beside["agreement"]["clips"] == 1 and beside["agreement"]["views"] == 6
    assert beside["preprocess"]["mean"] == [0.45] * 3 and beside["preprocess"]["views"] == 6
    assert [(one["name"], one["dtype"], one["shape"]) for one in beside["inputs"]] == [
        ("video", "uint8", [3, 2, 16, 16])
    ]
    (item,) = model.read(clips / "clip_15.mp4").items
    found = program.module()(video=item["inputs"]["video"])
    expected = model(clips / "clip_15.mp4")
    np.testing.assert_allclose(found["logits"].detach().numpy(), expected.view_logits, atol=1e-5)
    torch.testing.assert_close(found["probabilities"], found["logits"].softmax(dim=1))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.pt2", "model.pt2.json"]
    with pytest.raises(ConfigError, match="runs whatever code the file holds"):
        dust.load(out)
    assert "eager" in report(manifest) and "1 clip (6 views)" in report(manifest)


def test_a_temperature_is_exported_within_the_probabilities(run, model, clips, tmp_path):
    calibrated = tmp_path / "run"
    shutil.copytree(run, calibrated)
    sha256 = json.loads((run / "results" / "test.json").read_text())["checkpoint_sha256"]
    fitted = {"temperature": 2.5, "checkpoint_sha256": sha256}
    (calibrated / "results" / "calibration.json").write_text(json.dumps(fitted))
    check = [str(clips / "clip_14.mp4")]
    manifest = export(str(calibrated), Request(tmp_path / "m.pt2", measured=(), check=check, calibrated=True))
    assert manifest.temperature == 2.5
    (item,) = model.read(clips / "clip_15.mp4").items
    found = torch.export.load(tmp_path / "m.pt2").module()(video=item["inputs"]["video"])
    torch.testing.assert_close(found["probabilities"], (found["logits"] / 2.5).softmax(dim=1))
    fitted["checkpoint_sha256"] = "other"
    (calibrated / "results" / "calibration.json").write_text(json.dumps(fitted))
    with pytest.raises(CheckpointError, match="fitted for the checkpoint other"):
        export(str(calibrated), Request(tmp_path / "n.pt2", measured=(), check=check, calibrated=True))


def test_what_disagrees_is_not_written(run, tmp_path, monkeypatch):
    whole = exporting.Files.run

    def off(self, form):
        inner = whole(self, form)
        return lambda inputs: {name: value + 1e-3 for name, value in inner(inputs).items()}

    monkeypatch.setattr(exporting.Files, "run", off)
    with pytest.raises(DustError, match=r"is not written.*4 clips \(24 views\).*times what is allowed"):
        export(str(run), Request(tmp_path / "model.pt2", measured=()))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_named_with_its_extra(run, tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"format onnx needs onnx: pip install 'dust-video\[export\]'"):
        export(str(run), Request(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model.onnx needs onnxruntime: pip install 'dust-video\[export\]'"):
        dust.load(tmp_path / "model.onnx")


def test_libraries_that_are_missing_cost_their_rows_alone(run, clips, tmp_path, monkeypatch):
    """What is timed beside a .pt2 needs ONNX for two of its rows."""
    for library in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, library, None)
    request = Request(
        tmp_path / "m.pt2", measured=("eager", "onnxruntime", "openvino"), check=[str(clips / "clip_14.mp4")]
    )
    rows = {row["runtime"]: row.get("note", "") for row in export(str(run), request).runtimes}
    assert set(rows) == {"eager", "onnxruntime", "openvino"} and not rows["eager"]
    assert "dust-video[export]" in rows["onnxruntime"] and "dust-video[export]" in rows["openvino"]


def test_without_a_test_split_clips_must_be_named(run, tmp_path):
    gone = {"DATA.PATH_TO_DATA_DIR": str(tmp_path / "gone")}
    with pytest.raises(DataError, match=r"--check CLIPS"):
        export(str(run), Request(tmp_path / "model.pt2"), overrides=gone)
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(DataError, match="none of the clips to compare on could be read"):
        export(str(run), Request(tmp_path / "model.pt2", check=[str(tmp_path / "broken.mp4")]), overrides=gone)


def test_licences_of_published_weights_are_handed_on(tmp_path):
    stage = tmp_path / "spatial"
    stage.mkdir()
    (stage / "config.yaml").write_text("TRAIN:\n  CHECKPOINT_FILE_PATH: zoo://video_swin_t_k400\n")
    values = {"CAST.SPATIAL_FROM": "spatial", "TRAIN.CHECKPOINT_FILE_PATH": "zoo://timesformer_8x32_224_k400"}
    from dust import zoo

    expected = {name: zoo.get(name).licence for name in ("timesformer_8x32_224_k400", "video_swin_t_k400")}
    assert find_licences(values, str(tmp_path / "cast")) == expected
    assert find_licences({"CAST.SPATIAL_FROM": "nowhere"}, str(tmp_path / "cast")) == {}
