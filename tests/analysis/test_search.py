"""Clips are found by sentences in what FEATURES stored, and in nothing else."""

import json

import numpy as np
import pytest
import torch

import dust
from dust.analysis import search as module
from dust.analysis.search import search
from dust.cli.main import main
from dust.models.clip_text import embed_texts
from dust.utils.errors import CheckpointError, DataError
from dust.utils.features import FeatureStore, FeatureWriter
from tests.helpers import csv_dicts
from tests.models.test_clip_zero_shot import letters, project  # noqa: F401

TEXTS = ["someone falls", "milk"]


@pytest.fixture
def stored(project):  # noqa: F811
    """A run that stored embeddings of four clips."""
    words = ["TEST.ENABLE", "False", "FEATURES.ENABLE", "True", "FEATURES.SPLITS", "[test]"]
    words += ["FEATURES.CHECKPOINT_FILE_PATH", str(project / "clip.pt")]
    assert main(["--cfg", str(project / "clip.yaml"), *words]) == 0
    return project / "run"


def test_ranks_are_those_of_the_model_asked_directly(stored, project, tmp_path, capsys):  # noqa: F811
    assert main(["search", str(stored), *TEXTS, "--top", "3", "-o", str(tmp_path / "found")]) == 0
    said = capsys.readouterr().out
    model = dust.load(project / "clip.pt", config=project / "clip.yaml", class_names=["a b", "c"], device="cpu")
    clips = {f"{number}.mp4": model.features(str(project / f"{number}.mp4")) for number in range(4)}
    table = csv_dicts(tmp_path / "found" / "search.csv")
    assert json.loads((tmp_path / "found" / "search.json").read_text())[0]["id"] == table[0]["id"]
    for text in TEXTS:
        with torch.no_grad():
            wanted = embed_texts(model.loop.model.text, [text])[0].numpy()
        cosine = {name: f @ wanted / np.linalg.norm(f) / np.linalg.norm(wanted) for name, f in clips.items()}
        best = sorted(cosine, key=lambda name: -cosine[name])[:3]
        rows = [row for row in table if row["text"] == text]
        assert [row["id"] for row in rows] == best and [row["rank"] for row in rows] == ["1", "2", "3"]
        for row in rows:
            assert float(row["score"]) == pytest.approx(cosine[row["id"]], abs=1e-5)
            assert row["id"] in said and text in said


def test_other_weights_are_refused(stored, project, tmp_path):  # noqa: F811
    state = torch.load(project / "clip.pt", weights_only=True)
    torch.save({**state, "logit_scale": state["logit_scale"] + 1}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"made by the checkpoint .*other.pt"):
        search(stored, TEXTS, weights=str(tmp_path / "other.pt"))


def rewrite(stored, folder, shape=(20,), **meta):
    """Features with other facts in them."""
    identity = {**FeatureStore.open(stored / "features", "test").meta, **meta}
    writer = FeatureWriter(folder, "test", ["a", "b"], shape, "float32", identity, "memmap")
    writer.write(0, [np.ones(shape, np.float32)] * 2)
    writer.finish()
    return folder


@pytest.mark.parametrize(
    ("meta", "shape", "words"),
    [
        ({"config": "MODEL.MODEL_NAME: TimeSformer\n"}, (20,), "features of TimeSformer"),
        ({"layer": "map"}, (20,), "features of the layer map"),
        ({}, (21,), r"\(21,\) numbers each, and texts have 20"),
    ],
)
def test_features_of_another_encoder_are_refused_by_name(stored, tmp_path, meta, shape, words):
    with pytest.raises(DataError, match=words):
        search(rewrite(stored, tmp_path / "features", shape, **meta), TEXTS)


def test_what_else_cannot_be_searched(stored, tmp_path, capsys):
    with pytest.raises(DataError, match="no features; store some"):
        search(tmp_path, TEXTS)
    with pytest.raises(DataError, match="search for what"):
        search(stored, ["a", " "])
    assert main(["search", str(stored / "features"), "a", "--top", "0"]) == 2
    assert "--top 0" in capsys.readouterr().err
    moved = stored / "features"
    (stored / "config.yaml").unlink()
    assert main(["search", str(moved), "a"]) == 2
    assert "--weights zoo://clip_vit_b16" in capsys.readouterr().err


def test_the_best_window_of_a_long_video(monkeypatch):
    rows = np.eye(3, dtype=np.float32)

    class Store:
        split, format, missing, ids = "test", "per_video", ["gone"], ["long", "gone", "other"]

        def get(self, clip):
            return rows if clip == "long" else rows[:1] * 0.5

    found = module._best([Store()], np.array([0.0, 0.6, 0.8], np.float32), "x", 5)
    assert [(one.id, one.window, round(one.score, 5)) for one in found] == [("long", 2, 0.8), ("other", 0, 0.0)]


def test_weights_without_a_text_transformer(stored, project, tmp_path, monkeypatch):  # noqa: F811
    state = torch.load(project / "clip.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if key.startswith("visual.")}, tmp_path / "images.pt")
    monkeypatch.setattr(
        module, "file_sha256", lambda path: FeatureStore.open(stored / "features", "test").meta["checkpoint_sha256"]
    )
    with pytest.raises(CheckpointError, match="no text transformer"):
        search(stored, TEXTS, weights=str(tmp_path / "images.pt"))
