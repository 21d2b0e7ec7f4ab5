"""``dust predict`` on an exported file: the answers of the run, without its model's code."""

import json

import pytest

import dust
from dust.cli.main import main
from dust.deploy import export_graph
from dust.deploy.export import Request, export
from dust.deploy.exported import Manifest, build_exported, is_exported
from dust.deploy.sources import find_sources
from dust.models import MODEL_REGISTRY
from dust.synthetic.tracks import generate_tracks
from dust.utils.errors import CheckpointError, ConfigError, DataError
from tests.deploy.test_systems import stages
from tests.helpers import csv_dicts

needs_onnx = pytest.mark.usefixtures("libraries")


@pytest.fixture(scope="module")
def libraries():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory, libraries):
    """The tiny run in int8, whose float32 form agreed."""
    out = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export(str(run), Request(out, int8=True, calibration_clips=3, measured=("onnxruntime",)))
    return out


def answers_agree(model, other, sources, tolerance):
    found = list(zip(model.predict(sources), other.predict(sources), strict=True))
    assert found
    for ours, theirs in found:
        assert theirs.ok and ours.label == theirs.label and ours.id == theirs.id and ours.views == theirs.views
        values = list(theirs.probabilities.values())
        assert values == pytest.approx(list(ours.probabilities.values()), abs=tolerance)


@needs_onnx
def test_from_the_command_line_to_the_same_answers(run, model, clips, tmp_path, capsys, monkeypatch):
    out = tmp_path / "kitchen.onnx"
    assert main(["export", str(run), "-o", str(out), "--measure", "eager", "onnxruntime"]) == 0
    said = capsys.readouterr()
    assert "float32: 4 clips (24 views): largest difference" in said.out and "onnxruntime" in said.out
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kitchen.onnx", "kitchen.onnx.json"]
    assert main(["export", str(run), "-o", str(out)]) == 2 and "--force" in capsys.readouterr().err

    def nobody(name):
        raise AssertionError(f"{name}: an exported model needs no model's code")

    monkeypatch.setattr(MODEL_REGISTRY, "get", nobody)
    answers = tmp_path / "answers"
    assert main(["predict", str(out), str(clips / "test.csv"), "-o", str(answers)]) == 0
    ours, tested = (csv_dicts(path) for path in (answers / "predictions.csv", run / "results" / "predictions.csv"))
    for one, other in zip(ours, tested, strict=True):
        assert (one["id"], one["prediction"]) == (other["id"], other["prediction"])
        for column in ("prob_bright", "prob_dark"):
            assert float(one[column]) == pytest.approx(float(other[column]), abs=1e-4)
    document = json.loads((answers / "predictions.json").read_text())
    assert document["model"]["checkpoint_sha256"] == model.identity.checkpoint_sha256
    assert document["preprocess"] == json.loads(json.dumps(model.preprocess))


def test_a_manifest_comes_back_whole(exported, model):
    document = json.loads((exported.parent / "tiny.onnx.json").read_text())
    assert document.pop("bytes") == {"tiny.onnx": exported.stat().st_size} and document.pop("file_sha256")
    manifest = Manifest.from_json(json.dumps(document), "x")
    assert json.loads(manifest.to_json()) == document
    assert manifest.model == "TimeSformer" and manifest.classes == model.classes and manifest.licences == {}
    assert manifest.checkpoint_sha256 == model.identity.checkpoint_sha256
    assert manifest.agreement["clips"] == 4 and manifest.agreement["largest_difference"] < 1e-4
    assert [row["runtime"] for row in manifest.runtimes] == ["onnxruntime", "int8"]
    with pytest.raises(ConfigError, match="version 0, this dust reads 1"):
        Manifest.from_json('{"version": 0}', "x")
    with pytest.raises(ConfigError, match="lacks something: 'inputs'"):
        Manifest.from_json('{"version": 1}', "x")
    with pytest.raises(ConfigError, match="no json"):
        Manifest.from_json("{", "x")


def test_int8_has_its_own_agreement(exported, model, clips):
    document = json.loads((exported.parent / "tiny.onnx.json").read_text())
    int8 = document["int8"]
    assert int8["calibrated_on"] == "3 training clips" and int8["agreement"]["clips"] == 4
    assert int8["agreement"]["largest_difference"] > document["agreement"]["largest_difference"]
    other = dust.load(exported)
    answers_agree(model, other, find_sources([str(clips / "test.csv")], model.reader), 0.1)


def test_views_and_batches_can_be_others(exported, run, clips):
    two, one = (
        dust.load(source, device="cpu", batch_size=size, overrides={"TEST.NUM_SPATIAL_CROPS": 1})
        for source, size in ((run, 4), (exported, 1))
    )
    assert one.batch_size == 1
    answers_agree(two, one, [str(clips / "clip_3.mp4")], 0.1)
    with pytest.raises(DataError, match=r"video of \(3, 4, 16, 16\), not \(3, 2, 16, 16\)"):
        dust.load(exported, overrides={"DATA.NUM_FRAMES": 4})(clips / "clip_3.mp4")


def test_what_an_exported_model_has_not(exported, clips):
    model = dust.load(exported)
    assert "tiny.onnx: TimeSformer, 2 classes (bright, dark)" in repr(model)
    with pytest.raises(ConfigError, match="has its own dtype: leave that out"):
        dust.load(exported, dtype="bfloat16")
    with pytest.raises(ConfigError, match="no CUDA"):
        dust.load(exported, device="cuda")
    with pytest.raises(ConfigError, match="'gpu': write auto"):
        dust.load(exported, device="gpu")
    with pytest.raises(ConfigError):
        model.features(clips / "clip_3.mp4")


def test_files_that_are_something_else(exported, tmp_path):
    import onnx

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot read it"):
        dust.load(broken)
    with pytest.raises(ConfigError, match="no such file"):
        dust.load(tmp_path / "absent.onnx")
    changed = onnx.load(str(exported))
    changed.doc_string = "changed"
    onnx.save(changed, str(tmp_path / "tiny.onnx"))
    (tmp_path / "tiny.onnx.json").write_text((exported.parent / "tiny.onnx.json").read_text())
    with pytest.raises(CheckpointError, match=r"does not belong to tiny\.onnx\.json"):
        dust.load(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.onnx.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is not the json that dust export wrote"):
        dust.load(tmp_path / "tiny.onnx")
    del changed.metadata_props[:]
    onnx.save(changed, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ConfigError, match="holds no manifest"):
        dust.load(tmp_path / "foreign.onnx")
    assert is_exported("a.ONNX") and not is_exported("runs/kitchen")


@needs_onnx
@pytest.mark.slow
def test_openvino_answers_alike(run, model, clips, tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "tiny.xml"
    manifest = export(str(run), Request(out, measured=("openvino",), check=[str(clips / "clip_1*.mp4")]))
    assert manifest.agreement["clips"] == 9
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny.bin", "tiny.xml", "tiny.xml.json"]
    answers_agree(model, build_exported(str(out)), [str(clips / "clip_3.mp4")], 1e-4)
    with pytest.raises(ConfigError, match="runs on the CPU here"):
        dust.load(out, device="cuda")


@needs_onnx
@pytest.mark.slow
def test_weights_that_are_too_many_for_one_file(run, model, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(export_graph, "LARGE", 1000)
    out = tmp_path / "large.onnx"
    export(str(run), Request(out, measured=(), check=[str(clips / "clip_1.mp4")]))
    names = ["large.onnx", "large.onnx.data"]
    assert sorted(one.name for one in tmp_path.iterdir()) == [*names, "large.onnx.json"]
    assert list(json.loads((tmp_path / "large.onnx.json").read_text())["file_sha256"]) == names
    answers_agree(model, dust.load(out), [str(clips / "clip_3.mp4")], 1e-4)
    (tmp_path / names[1]).write_bytes(b"0" * (tmp_path / names[1]).stat().st_size)
    with pytest.raises(CheckpointError, match=r"large\.onnx\.data: does not belong to large\.onnx\.json"):
        dust.load(out)


@needs_onnx
@pytest.mark.slow
def test_point_tracks_with_their_masks(tmp_path):
    data, runs, out = tmp_path / "data", tmp_path / "runs", tmp_path / "tracks.onnx"
    generate_tracks(data, sequences=6, classes=3, points=20, missing=0.3)
    stages(["tracks_transformer"], data, runs, "MODEL.NUM_CLASSES", "3", "TRACKS.DEPTH", "1")
    manifest = export(str(runs), Request(out, measured=()))
    assert [(one.name, one.dtype) for one in manifest.inputs] == [
        ("tracks", "float32"),
        ("visible", "bool"),
        ("view_mask", "bool"),
        ("time_mask", "bool"),
    ]
    model, other = dust.load(runs, device="cpu"), dust.load(out)
    answers_agree(model, other, find_sources([str(data / "tracks.csv")], model.reader), 1e-4)


def test_code_that_a_file_names_is_not_run(exported, tmp_path):
    import onnx

    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    changed = onnx.load(str(exported))
    (entry,) = changed.metadata_props
    manifest = json.loads(entry.value)
    assert "IMPORTS: []" in manifest["config"]
    manifest["config"] = manifest["config"].replace("IMPORTS: []", f"IMPORTS: ['{evil}']")
    entry.value = json.dumps(manifest)
    onnx.save(changed, str(tmp_path / "evil.onnx"))
    assert dust.load(tmp_path / "evil.onnx").classes == ["bright", "dark"]
    assert not (tmp_path / "ran").exists()
    dust.load(tmp_path / "evil.onnx", overrides={"IMPORTS": [str(evil)]})
    assert (tmp_path / "ran").exists(), "one's own is"
