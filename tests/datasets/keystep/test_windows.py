"""Windows of recordings: what is drawn, that it is drawn again alike, and what cannot be."""

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dust.datasets.build import build_dataset
from dust.datasets.keystep.files import Recording
from dust.datasets.keystep.frames import FrameReader, RecordingFrames
from dust.datasets.keystep.sampling import kcas_density
from dust.datasets.keystep.windows import EmbeddingWindows, StepWindows, WindowRules, open_embeddings
from dust.datasets.loader import construct_loader
from dust.datasets.sample import SampleRequest
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter

# ------------------------------------------------------------------------------------------------------------ windows


RULES = WindowRules(frames=8, skip=1, sigma=4.0, sep=10.0, n_iter=50)


class NumberWindows(StepWindows):
    """The input is the frame numbers themselves."""

    input_name = "numbers"

    def read(self, recording, indices):
        return torch.from_numpy(indices)


def slow_label(recording, first, last):
    label = np.zeros(len(recording.states[0][1]), int)
    for (_, before), (frame, after) in zip(recording.states, recording.states[1:], strict=False):
        if first <= frame <= last:
            label ^= np.maximum(before, 0) != np.maximum(after, 0)
    return label.tolist()


def test_training_windows(data):
    dataset = NumberWindows(data=data, rules=RULES, training=True, seed=3)
    recordings = {one.id: one for one in data.recordings}
    positive = 0
    for index in range(len(dataset)):
        (sample,) = dataset[SampleRequest(1, index)]
        numbers = sample["inputs"]["numbers"]
        assert len(numbers) == 8 and (np.diff(numbers) == 2).all()
        one = recordings[sample["id"]]
        assert sample["label"].dtype == torch.float32
        assert sample["label"].tolist() == slow_label(one, int(numbers[0]), int(numbers[-1]))
        positive += sample["label"].any().item()
        (again,) = NumberWindows(data=data, rules=RULES, training=True, seed=3)[SampleRequest(1, index)]
        assert torch.equal(again["inputs"]["numbers"], numbers)
    assert 10 < positive < 40, "about half hold a step: those behind it; those before do not"


def test_recordings_are_drawn_alike_and_frames_by_their_density(data):
    dataset = NumberWindows(data=data, rules=RULES, training=True)
    draws = [dataset.draw(0, index) for index in range(3000)]
    counts = np.bincount([recording for recording, _ in draws])
    expected = 3000 / len(data.recordings)
    assert ((counts - expected) ** 2 / expected).sum() < 16, "chi square, 3 degrees of freedom, p = 0.001"
    one = data.recordings[0]
    density = kcas_density(dataset.changes[0], one.num_frames, "bimodal", sigma=4.0, sep=10.0, eps=1e-8)
    frames = np.bincount([frame for recording, frame in draws if recording == 0], minlength=one.num_frames)
    bins = np.add.reduceat(density, range(0, one.num_frames, 20)) * frames.sum()
    seen = np.add.reduceat(frames, range(0, one.num_frames, 20))
    keep = bins > 5
    assert ((seen - bins)[keep] ** 2 / bins[keep]).sum() < 2 * keep.sum() + 20 and seen[bins < 1e-3].sum() == 0


def test_validation_windows_are_all_of_them_in_order(data):
    for chunk in (0, 7):
        dataset = NumberWindows(data=data, rules=RULES, chunk=chunk)
        items = [dataset[index] for index in range(len(dataset))]
        for one in data.recordings:
            own = [item for item in items if item["id"] == one.id]
            last = torch.cat([item["last"] for item in own]).tolist()
            assert last == list(range(14, one.num_frames, 2))
            for item in own:
                for numbers, label in zip(item["inputs"]["numbers"], item["label"], strict=True):
                    assert label.tolist() == slow_label(one, int(numbers[0]), int(numbers[-1]))
                assert not item["padding"].any()
    fewer = NumberWindows(data=data, rules=replace(RULES, every=5))[0]
    assert fewer["last"].tolist() == list(range(14, data.recordings[0].num_frames, 10))


def test_a_recording_shorter_than_a_window_is_padded(data):
    one = Recording("short", "", states=((0, (0, 0, 0)), (3, (1, 0, 0))), num_frames=5)
    (item,) = NumberWindows(data=replace(data, recordings=[one]), rules=RULES)
    assert item["inputs"]["numbers"].tolist() == [[0, 0, 0, 0, 0, 0, 2, 4]]
    assert item["padding"].tolist() == [5] and item["label"].tolist() == [[1, 0, 0]]


def test_classes(data):
    dataset = NumberWindows(data=data, rules=RULES)
    assert dataset.class_names == ["red", "green", "blue"]
    steps = Counter(step // 3 for one in data.recordings for _, step in one.steps)
    assert dataset.class_counts() == [steps[k] for k in range(3)]
    with pytest.raises(DataError, match="where training had"):
        NumberWindows(data=data, rules=RULES, class_names=["lid"])


# --------------------------------------------------------------------------------------- embeddings, and from a cfg


def write_embeddings(root, data, dim=4, split="train", missing=(), short=0, sha="a" * 64):
    meta = {"checkpoint_sha256": sha, "layer": "pooled"}
    ids = [one.id for one in data.recordings]
    writer = FeatureWriter(root, split, ids, (dim,), "float16", meta, "per_video")
    rng = np.random.RandomState(0)
    rows = [None if one.id in missing else rng.randn(one.num_frames - short, dim) for one in data.recordings]
    writer.write(0, rows)
    writer.finish()
    return {name: row for name, row in zip(ids, rows, strict=True) if row is not None}


def embedding_windows(data, root, split="train", dim=4, **options):
    features = open_embeddings(root, split)
    return EmbeddingWindows(data=data, rules=RULES, features=features, dim=dim, training=True, **options)


def test_windows_of_embeddings(data, tmp_path):
    rows = write_embeddings(tmp_path, data)
    unknown_length = replace(data, recordings=[replace(one, num_frames=0) for one in data.recordings])
    dataset = embedding_windows(unknown_length, tmp_path)
    numbers = NumberWindows(data=data, rules=RULES, training=True)
    for index in range(10):
        (ours,), (which,) = dataset[SampleRequest(0, index)], numbers[SampleRequest(0, index)]
        found = ours["inputs"]["embeddings"]
        assert found.dtype == torch.float32 and found.shape == (8, 4) and ours["id"] == which["id"]
        expected = rows[which["id"]][which["inputs"]["numbers"]].astype(np.float16)
        assert (found.numpy() == expected.astype(np.float32)).all()
    assert pickle.loads(pickle.dumps(dataset))[SampleRequest(0, 1)][0]["id"] == dataset[SampleRequest(0, 1)][0]["id"]


def test_embeddings_that_do_not_fit(data, tmp_path, caplog):
    write_embeddings(tmp_path / "a", data, missing=[data.recordings[0].id])
    dataset = embedding_windows(data, tmp_path / "a")
    assert [one.id for one in dataset.clips] == [one.id for one in data.recordings[1:]]
    assert f"{data.recordings[0].id} has no embeddings" in caplog.text
    with pytest.raises(DataError, match=r"shape \(4,\) each, KEYSTEP.EMBED_DIM is 8"):
        embedding_windows(data, tmp_path / "a", dim=8)
    with pytest.raises(DataError, match="embeddings of another encoder"):
        trained = {"embeddings": {**dataset.fitted["embeddings"], "checkpoint_sha256": "b" * 64}}
        embedding_windows(data, tmp_path / "a", fitted=trained)
    write_embeddings(tmp_path / "b", replace(data, recordings=data.recordings[:2]), short=41)
    with pytest.raises(DataError) as caught:
        embedding_windows(data, tmp_path / "b")
    assert "a recording without embeddings" in str(caught.value) and data.recordings[2].id in str(caught.value)
    assert f"{data.recordings[0].id}: a label of frame" in str(caught.value)


def test_embeddings_of_the_original(data, tmp_path):
    one = data.recordings[0]
    home = tmp_path / "train" / one.id
    home.mkdir(parents=True)
    rows = np.random.RandomState(0).randn(one.num_frames, 4).astype(np.float32)
    np.savetxt(home / "embeddings.csv", rows, fmt="%.5f", delimiter=",")
    dataset = embedding_windows(replace(data, recordings=[one]), tmp_path)
    (sample,) = dataset[SampleRequest(0, 0)]
    _, last = dataset.draw(0, 0)
    last = max(last, 14)
    np.testing.assert_allclose(sample["inputs"]["embeddings"][-1], rows[last], atol=1e-5)
    (home / "embeddings.csv").write_text("1,2\nnan,3\n")
    with pytest.raises(DataError, match="not finite"):
        open_embeddings(tmp_path, "train")
    with pytest.raises(DataError, match="no features of the val split|no such folder"):
        open_embeddings(tmp_path, "val")


def test_from_a_configuration(cfg, data, tmp_path):
    one = cfg(TRAIN__DATASET="KeyFrames", TRAIN__BATCH_SIZE=1)
    batch = next(iter(construct_loader(one, "train")))
    assert batch["inputs"]["video"].shape == (3 * 8 + 16, 3, 1, 16, 16) and batch["label"].shape == (40,)
    val = next(iter(construct_loader(one, "val", ["background", "100", "111"])))
    assert set(val["label"].tolist()) == {0, 1, 2}
    frames = build_dataset("RecordingFrames", one, "val")
    assert frames[0]["inputs"]["video"].shape[1:] == (3, 1, 16, 16)
    batch = next(iter(construct_loader(cfg(TRAIN__DATASET="VideoWindows"), "train")))
    assert batch["inputs"]["video"].shape == (2, 3, 8, 16, 16) and batch["label"].shape == (2, 3)
    write_embeddings(tmp_path / "stage1" / "features", data)
    two = cfg(TRAIN__DATASET="EmbeddingWindows", KEYSTEP__FEATURES_FROM="stage1")
    batch = next(iter(construct_loader(two, "train")))
    assert batch["inputs"]["embeddings"].shape == (2, 8, 4)
    with pytest.raises(ConfigError, match="FEATURES_FROM is empty"):
        construct_loader(cfg(TRAIN__DATASET="EmbeddingWindows"), "train")
    with pytest.raises(ConfigError, match=r"NUM_CLASSES 5: .* has 3 components"):
        construct_loader(cfg(TRAIN__DATASET="VideoWindows", MODEL__NUM_CLASSES=5), "train")
    with pytest.raises(ConfigError, match=r"cross-entropy needs 6"):
        construct_loader(cfg(TRAIN__DATASET="KeyFrames", KEYSTEP__CONTRAST__LOSS="ce"), "train")


def test_video_windows_are_the_frames_named(cfg, data):
    dataset = build_dataset("VideoWindows", cfg(), "train", views="val")
    item, frames = dataset[1], RecordingFrames(data=data, reader=FrameReader(16))[0]["inputs"]["video"]
    assert item["last"].tolist() == [24, 26, 28, 30, 32]
    for window, last in zip(item["inputs"]["video"], item["last"].tolist(), strict=True):
        assert torch.equal(window, frames[last - 14 : last + 1 : 2, :, 0].transpose(0, 1))


def test_keys_that_cannot_be(cfg):
    wrong = {
        "KEYSTEP__CONTRAST__JITTER": [0.1],
        "KEYSTEP__CONTRAST__BLUR": [2.0, 1.0],
        "KEYSTEP__CONTRAST__N_SYNTH": 2,
        "KEYSTEP__LAYOUT": "coco",
    }
    with pytest.raises(ConfigError) as caught:
        cfg(**wrong)
    assert all(key.rsplit("__", 1)[1] in str(caught.value) for key in wrong), caught.value
