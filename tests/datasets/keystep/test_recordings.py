"""Whole recordings to be tested: pieces that add up, what is known of each, and what is wrong with one."""

import shutil

import numpy as np
import pytest
import torch

import dust.datasets.keystep.recordings as keystep_recordings
from dust.config import load_config
from dust.datasets.build import build_dataset
from dust.datasets.keystep.frames import FrameReader
from dust.datasets.keystep.layouts import read_procedures
from dust.datasets.keystep.recordings import ProcedureRecordings
from dust.datasets.sample import BadClip
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter

NAME = "ProcedureRecordings"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    generate_procedure(root, recordings=8, parts=3, size=32, mishaps=1.0)
    return root


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def config(folder, *more):
    keys = ["DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", "3", "DATA.TRAIN_CROP_SIZE", "16"]
    keys += ["KEYSTEP.SKIP_FACTOR", "1", "KEYSTEP.FRAMES", "9", "KEYSTEP.EMBED_DIM", "4", "OUTPUT_DIR", str(folder)]
    return load_config(None, [*keys, "TRAIN.ENABLE", "False", "KEYSTEP.SAMPLER.SEP", "5", *more])


def items(dataset):
    return [dataset[index] for index in range(len(dataset))]


def test_pieces_add_up_to_the_recording(folder, monkeypatch):
    monkeypatch.setattr(keystep_recordings, "PIECE", 50)
    dataset = build_dataset(NAME, config(folder, "KEYSTEP.DTYPE", "video"), "train")
    data, reader = read_procedures(folder, "train"), FrameReader(16)
    assert dataset.class_names == data.components and [one.id for one in dataset.clips] == [
        one.id for one in data.recordings
    ]
    starts = dataset.group_starts()
    assert [dataset[index]["id"] for index in starts] == [one.id for one in data.recordings] and starts[1] > 1
    assert all(dataset[index]["first"] == 0 for index in starts)
    for one in data.recordings:
        pieces = [item for item in items(dataset) if item["id"] == one.id]
        assert [piece["first"] for piece in pieces] == list(range(0, one.num_frames, 50))
        whole = torch.cat([piece["inputs"]["frames"] for piece in pieces])
        assert whole.dtype == torch.uint8 and whole.shape == (one.num_frames, 3, 1, 16, 16)
        assert torch.equal(whole[:, :, 0], reader.read(one.path, range(one.num_frames)))
        facts = pieces[0]["facts"]
        assert (facts["num_frames"], facts["fps"], facts["steps"]) == (one.num_frames, 10, list(one.steps))
        assert facts["procedure"] == data.procedure("assy") and not any(facts["detections"]) and facts["states"] == {}
    installed = np.bincount([s // 3 for one in data.recordings for _, s in one.steps], minlength=3)
    assert dataset.class_counts() == installed.tolist()


def test_errors_are_missing_steps_and_wrong_installations(folder):
    """Every recording here has a mishap; taking a part off and putting it back is none of the two."""
    dataset = build_dataset(NAME, config(folder, "KEYSTEP.DTYPE", "video"), "train")
    found = {item["id"]: item["facts"]["errors"] for item in items(dataset)}
    for one in dataset.clips:
        wrong = any(-1 in state for _, state in one.states)
        missing = {3 * k for k in range(3)} - {step for _, step in one.steps}
        assert found[one.id] == (wrong or bool(missing)), one.id
    assert set(found.values()) == {True, False}


def test_object_states_come_where_they_are_asked_for(folder):
    cfg = config(folder, "KEYSTEP.DTYPE", "video", "KEYSTEP.DECODE.MODE", "dual")
    first = items(build_dataset(NAME, cfg, "test"))[0]
    assert len(first["facts"]["detections"]) == first["facts"]["num_frames"] and any(first["facts"]["detections"])
    assert first["facts"]["states"][1] == (0, 0, 0)
    (folder / "object_states" / "test_000_results_pred.csv").write_text("a,frame,class,conf\n0,99999,1,0.5\n")
    bad = items(build_dataset(NAME, cfg, "test"))[0]
    assert isinstance(bad, BadClip) and bad.id == "test_000" and "99999" in bad.reason
    rows = (folder / "recordings.csv").read_text().replace("object_states/test_000_results_pred.csv", "")
    (folder / "recordings.csv").write_text(rows)
    bad = items(build_dataset(NAME, cfg, "test"))[0]
    assert isinstance(bad, BadClip) and "has no object states" in bad.reason


def store(folder, sha="a"):
    for split in ("train", "test"):
        recordings = read_procedures(folder, split).recordings
        meta = {"checkpoint_sha256": sha, "layer": "pooled"}
        ids = [one.id for one in recordings]
        writer = FeatureWriter(folder / "stored" / "features", split, ids, (4,), "float32", meta, "per_video")
        rng = np.random.default_rng(0)
        writer.write(0, [rng.standard_normal((one.num_frames, 4), np.float32) for one in recordings])
        writer.finish()


def test_embeddings_come_whole_and_of_the_encoder_of_training(folder):
    store(folder)
    cfg = config(folder, "KEYSTEP.FEATURES_FROM", str(folder / "stored"))
    train = build_dataset("EmbeddingWindows", cfg, "train")
    dataset = build_dataset(NAME, cfg, "test", train.class_names, fitted=train.fitted)
    assert len(dataset) == len(dataset.clips)
    for item, one in zip(items(dataset), dataset.clips, strict=True):
        assert item["first"] == 0 and item["inputs"]["frame_embeddings"].shape == (one.num_frames, 4)
    other = {"embeddings": {**train.fitted["embeddings"], "checkpoint_sha256": "b"}}
    with pytest.raises(DataError, match="another encoder"):
        build_dataset(NAME, cfg, "test", train.class_names, fitted=other)


def test_what_cannot_be(folder):
    with pytest.raises(ConfigError, match="NUM_CLASSES 4: .* has 3 components"):
        build_dataset(NAME, config(folder, "KEYSTEP.DTYPE", "video", "MODEL.NUM_CLASSES", "4"), "test")
    data = read_procedures(folder, "test")
    with pytest.raises(DataError, match="where training had"):
        ProcedureRecordings(data=data, class_names=["a", "b", "c"], reader=FrameReader(16))
    store(folder)
    rows = (folder / "recordings.csv").read_text().replace(".mp4,10,", ".mp4,,")
    (folder / "recordings.csv").write_text(rows)
    (folder / "videos" / "test_000.mp4").unlink()
    with pytest.raises(DataError, match="no frames per second for test_000: write them into the column fps"):
        build_dataset(NAME, config(folder, "KEYSTEP.FEATURES_FROM", str(folder / "stored")), "test")


@pytest.mark.parametrize("dtype", ["video", "embedding"])
def test_a_video_file_says_its_own_frames_per_second(folder, dtype):
    """The column fps may be empty, whether the test reads frames or stored embeddings of them."""
    store(folder)
    rows = (folder / "recordings.csv").read_text()
    assert ".mp4,10," in rows
    (folder / "recordings.csv").write_text(rows.replace(".mp4,10,", ".mp4,,"))
    cfg = config(folder, "KEYSTEP.FEATURES_FROM", str(folder / "stored"), "KEYSTEP.DTYPE", dtype)
    assert {item["facts"]["fps"] for item in items(build_dataset(NAME, cfg, "test"))} == {10.0}


def test_a_video_that_cannot_be_read_costs_only_its_own(folder):
    (folder / "videos" / "test_000.mp4").write_bytes(b"no video at all")
    found = items(build_dataset(NAME, config(folder, "KEYSTEP.DTYPE", "video"), "test"))
    assert isinstance(found[0], BadClip) and found[0].id == "test_000" and not isinstance(found[-1], BadClip)
