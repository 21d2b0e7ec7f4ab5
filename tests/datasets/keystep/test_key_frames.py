"""Key frames, whole recordings and windows: what is drawn, that it is drawn again alike, and what cannot be."""

import logging
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import dust.datasets.keystep.frames
import dust.datasets.keystep.key_frames
import dust.datasets.keystep.windows
from dust.config import load_config
from dust.datasets.build import build_dataset
from dust.datasets.keystep.files import Recording
from dust.datasets.keystep.frames import FrameReader, RecordingFrames
from dust.datasets.keystep.key_frames import KeyFrames, background_frames, key_frames, state_classes
from dust.datasets.keystep.layouts import read_procedures
from dust.datasets.keystep.sampling import kcas_density
from dust.datasets.keystep.windows import EmbeddingWindows, StepWindows, WindowRules, open_embeddings
from dust.datasets.loader import EpochBatchSampler, collate_training, construct_loader
from dust.datasets.manifest import conflicts
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.transforms.augment import Grayscale, grayscale
from dust.decode.reader import open_clip
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    generate_procedure(root, recordings=6, parts=3, size=32, mishaps=0.5)
    return root


@pytest.fixture(scope="module")
def data(folder):
    return read_procedures(folder, "train")


def key_dataset(data, **options):
    options = {"count": 5, "n_classes": 3, "n_real": 4, "n_bg": 6, "training": True, "seed": 7, **options}
    classes = options.pop("class_names", None) or state_classes(data, 5)
    return KeyFrames(data=data, class_names=classes, reader=FrameReader(16), **options)


def requests_of(dataset, epoch, batch):
    return [SampleRequest(epoch, batch * dataset.size + place) for place in range(dataset.size)]


def samples_of(dataset, epoch, batch):
    """The views of all pictures of one batch."""
    return [view for item in dataset.__getitems__(requests_of(dataset, epoch, batch)) for view in item]


# -------------------------------------------------------------------------------------------------------- key frames


def test_key_frames_by_hand():
    states = [(0, (0, 0)), (10, (1, 0)), (13, (1, -1)), (20, (1, 1))]
    found = key_frames(states, 23, 4)
    assert found == {
        **dict.fromkeys(range(4), (0, 0)),
        **dict.fromkeys((10, 11, 12), (1, 0)),  # the next change comes first
        **dict.fromkeys((20, 21, 22), (1, 1)),  # and here the recording ends; a wrong state has none
    }


def test_background_by_hand():
    states = [(0, (0,)), (30, (1,)), (35, (0,))]
    # 30: 30 - 3 * 4 .. 30 - 2 * 4 = 18..21;  35: 23..26
    assert background_frames(states, 60, 4, (3, 2)) == [18, 19, 20, 21, 23, 24, 25, 26]
    # of 0..7 before frame 8 the first are key frames of the initial state
    assert background_frames([(0, (0,)), (8, (1,))], 60, 4, (2, 1)) == []
    assert background_frames([(0, (0,)), (10, (1,))], 60, 4, (7, 1)) == [4, 5]


def test_a_batch_is_balanced(data):
    dataset = key_dataset(data)
    samples = samples_of(dataset, 2, 3)
    labels = [sample["label"] for sample in samples]
    counts = Counter(labels)
    assert len(samples) == 3 * 4 + 6 and counts.pop(0) == 6 and len(counts) == 3 and set(counts.values()) == {4}
    assert labels[-6:] == [0] * 6, "background stands last"
    for label in counts:
        assert len({sample["id"] for sample in samples if sample["label"] == label}) == 4, "each picture once"
    assert samples[0]["inputs"]["video"].shape == (3, 1, 16, 16)
    assert samples[0]["inputs"]["video"].dtype == torch.uint8


def test_frames_of_a_recording_do_not_contradict_each_other(data):
    frames = conflicts.samples_of(key_dataset(data).clips)
    assert len({one.label for one in frames if one.sources[0][0] == frames[0].sources[0][0]}) > 1, "one recording"
    assert not conflicts.find_conflicts({"train": frames})


def test_every_picture_has_the_state_of_its_frame(data):
    dataset = key_dataset(data)
    recordings = {one.id: one for one in data.recordings}
    for picture in dataset.draw(0, 0):
        name, frame = picture.id.rsplit(":", 1)
        assert int(frame) == picture.frame
        state = [state for at, state in recordings[name].states if at <= picture.frame][-1]
        if picture.label:
            assert dataset.class_names[picture.label] == "".join(map(str, state))
        else:
            assert any(25 < at - picture.frame + 5 <= 40 for at, _ in recordings[name].states)


def test_draws_depend_on_seed_epoch_and_batch_alone(data):
    one, two = key_dataset(data), key_dataset(data)
    assert one.draw(0, 1) == two.draw(0, 1)
    assert one.draw(0, 1) != one.draw(0, 2) and one.draw(0, 1) != one.draw(1, 1)
    assert one.draw(0, 1) != key_dataset(data, seed=8).draw(0, 1)
    everything = {picture.id for batch in range(200) for picture in one.draw(0, batch)}
    assert everything == {clip.id for clip in one.clips}, "all pictures are met sooner or later"


def test_pictures_are_those_of_the_file_and_augmentation_is_drawn_per_view(data):
    plain, two = key_dataset(data), key_dataset(data, num_views=2, jitter=(0.1, 0.1, 0.7), blur=(0.01, 2.0))
    sample, picture = samples_of(plain, 0, 0)[5], plain.draw(0, 0)[5]
    with open_clip(picture.path) as reader:
        frame = reader.frames([picture.frame], size=(16, 16))[0]
    assert torch.equal(sample["inputs"]["video"][:, 0], torch.from_numpy(frame).permute(2, 0, 1))
    augmented = samples_of(two, 0, 0)
    assert [one["id"] for one in augmented[:4]] == [plain.draw(0, 0)[i].id for i in (0, 0, 1, 1)]
    a, b = (one["inputs"]["video"] for one in augmented[:2])
    assert not torch.equal(a, b) and not torch.equal(a, plain[SampleRequest(0, 0)][0]["inputs"]["video"])
    assert torch.equal(samples_of(two, 0, 0)[3]["inputs"]["video"], two[SampleRequest(0, 1)][1]["inputs"]["video"])
    assert torch.equal(a, two[SampleRequest(0, 0)][0]["inputs"]["video"])


def test_augmentations_of_the_list_come_last(data, cfg):
    plain = key_dataset(data, num_views=2, blur=(0.01, 2.0))
    grey = key_dataset(data, num_views=2, blur=(0.01, 2.0), augmentations=[Grayscale(prob=1.0)])
    for one, other in zip(samples_of(plain, 0, 0), samples_of(grey, 0, 0), strict=True):
        expected = grayscale(one["inputs"]["video"].transpose(0, 1)).transpose(0, 1)
        assert torch.equal(other["inputs"]["video"], expected)
    keys = {"TRAIN__DATASET": "KeyFrames", "AUG__ENABLE": True, "AUG__LIST": ["Grayscale"]}
    built = build_dataset("KeyFrames", cfg(**keys), "train")
    assert [type(one) for one in built.augmentations] == [Grayscale]
    assert build_dataset("KeyFrames", cfg(TRAIN__DATASET="KeyFrames"), "train").augmentations == []


@pytest.mark.parametrize("workers", [0, 2])
def test_through_the_loader(data, workers):
    dataset = key_dataset(data, n_iters=3)
    assert len(dataset) == 3 * 18
    sampler = dataset.training_sampler(1, seed=0, global_batch=1, rank=0, world_size=1)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate_training)
    batches = list(loader)
    order = [key.sample for (key,) in EpochBatchSampler(3, 1, seed=0)]  # as any three samples are shuffled
    assert [batch["id"] for batch in batches] == [[p.id for p in dataset.draw(0, item)] for item in order]
    assert batches[0]["inputs"]["video"].shape == (18, 3, 1, 16, 16) and batches[0]["bad"] == []


def test_a_recording_that_breaks_costs_only_its_own_pictures(data, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    recordings = [replace(data.recordings[0], id="broken", path=str(broken)), *data.recordings[1:]]
    dataset = key_dataset(replace(data, recordings=recordings))
    drawn = dataset.draw(0, 0)
    own = [picture for picture in drawn if picture.path == str(broken)]
    batch = collate_training(dataset.__getitems__(requests_of(dataset, 0, 0)))
    assert own and [(bad.id, bad.path) for bad in batch["bad"]] == [(picture.id, str(broken)) for picture in own]
    assert batch["id"] == [picture.id for picture in drawn if picture not in own]
    assert isinstance(dataset[SampleRequest(0, drawn.index(own[0]))], BadClip)


def test_evaluation_is_every_key_frame_once(data):
    dataset = key_dataset(data, training=False)
    assert len(dataset) == len(data.recordings)
    counts, item = np.zeros(len(dataset.class_names), int), None
    for index, one in enumerate(data.recordings):
        item = dataset[index]
        assert item["id"] == one.id and item["inputs"]["video"].shape == (len(item["label"]), 3, 1, 16, 16)
        assert (np.diff(item["frames"]) > 0).all()
        counts += np.bincount(item["label"], minlength=len(counts))
    assert counts.tolist() == dataset.class_counts() and counts[0] > 0


def test_states_that_are_no_class_are_left_out(data, caplog):
    with caplog.at_level(logging.INFO):
        dataset = key_dataset(data, class_names=["background", "000", "100"], n_classes=0)
    assert {picture.label for picture in dataset.draw(0, 0)} == {0, 1, 2}
    assert "that are no class are left out" in caplog.text and "'111'" in caplog.text


def test_classes_come_from_the_data_or_from_training(data):
    assert state_classes(data, 5) == ["background", "000", "100", "101", "110", "111"]
    own = state_classes(replace(data, state_names=[]), 5)
    shown = {"".join(map(str, state)) for one in data.recordings for _, state in one.states if -1 not in state}
    assert own == ["background", *sorted(shown)]


def test_synthetic_pictures_fill_a_batch(data, tmp_path):
    for name in ("100", "111"):
        (tmp_path / name).mkdir()
        for i in range(9):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    dataset = key_dataset(data, synthetic=str(tmp_path), n_synth=2, n_classes=0)
    made = Counter(p.label for p in dataset.draw(0, 0) if p.id.startswith("synthetic/"))
    assert made == {dataset.class_names.index("100"): 2, dataset.class_names.index("111"): 2}
    assert set(Counter(p.label for p in dataset.draw(0, 0) if p.label).values()) == {6}, (
        "the others take more real ones"
    )
    assert dataset[SampleRequest(0, 0)][0]["inputs"]["video"].shape == (3, 1, 16, 16)
    assert {len(dataset.draw(0, batch)) for batch in range(5)} == {dataset.size}
    with pytest.raises(DataError, match=r"SYNTH_DIR .*nothing.* has no folder"):
        key_dataset(data, synthetic=str(tmp_path / "nothing"), n_synth=2)


def test_batches_that_cannot_be_drawn(data):
    with pytest.raises(DataError, match=r"5 states have pictures, KEYSTEP.CONTRAST.N_CLASSES is 9"):
        key_dataset(data, n_classes=9)
    with pytest.raises(DataError, match=r"no recording has a background frame"):
        key_dataset(data, offset=(90, 80))


# ---------------------------------------------------------------------------------------------------- whole recordings


def test_pieces_are_the_recording_once_in_order(data, monkeypatch):
    monkeypatch.setattr(dust.datasets.keystep.frames, "PIECE", 1)
    frames = RecordingFrames(data=data, reader=FrameReader(16))
    pieces = frames.windows(stride=1, chunk=50)
    assert len(pieces) == sum(-(-one.num_frames // 50) for one in data.recordings)
    for index, one in enumerate(data.recordings):
        numbers = range(pieces.first_item(index), pieces.first_item(index + 1))
        found = [pieces[number] for number in numbers]
        assert {item["id"] for item in found} == {one.id}
        video = torch.cat([item["inputs"]["video"] for item in found])
        assert video.shape == (one.num_frames, 3, 1, 16, 16) and torch.equal(video, frames[index]["inputs"]["video"])
    with pytest.raises(ConfigError, match="FEATURES.STRIDE 4"):
        frames.windows(stride=4, chunk=50)


def test_a_recording_that_cannot_be_read_is_one_bad_item(data, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad, late = Recording("bad", str(tmp_path / "bad.mp4")), replace(data.recordings[1], num_frames=0)
    frames = RecordingFrames(data=replace(data, recordings=[bad, late, data.recordings[0]]), reader=FrameReader(16))
    pieces = frames.windows(stride=0, chunk=8)
    assert isinstance(pieces[0], BadClip) and pieces[2]["id"] == data.recordings[0].id
    assert "when its frames were counted" in pieces[1].reason


def test_reading_on_opens_a_file_once(data, monkeypatch):
    opened = []
    monkeypatch.setattr(dust.datasets.keystep.frames, "PIECE", 1)
    real = dust.datasets.keystep.frames.open_clip
    monkeypatch.setattr(
        dust.datasets.keystep.frames, "open_clip", lambda path, **options: opened.append(path) or real(path, **options)
    )
    pieces = RecordingFrames(data=data, reader=FrameReader(16)).windows(stride=1, chunk=20)
    for index in (0, 1):
        pieces[index]
    assert opened == [data.recordings[0].path]
    assert pickle.loads(pickle.dumps(pieces)).frames.reader._open is None


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


@pytest.fixture
def cfg(folder, tmp_path):
    def make(**overrides):
        values = {
            "DATA.PATH_TO_DATA_DIR": str(folder),
            "DATA.TRAIN_CROP_SIZE": 16,
            "OUTPUT_DIR": str(tmp_path / "stage2"),
            "MODEL.MODEL_NAME": "TemporalEncoder",
            "MODEL.NUM_CLASSES": 3,
            "TRAIN.BATCH_SIZE": 2,
            "TEST.BATCH_SIZE": 5,
            "NUM_GPUS": 0,
            "DATA_LOADER.NUM_WORKERS": 0,
            "KEYSTEP.FRAMES": 8,
            "KEYSTEP.SKIP_FACTOR": 1,
            "KEYSTEP.EMBED_DIM": 4,
            "KEYSTEP.SAMPLER.SEP": 10.0,
            "KEYSTEP.SAMPLER.N_ITER": 4,
            "KEYSTEP.CONTRAST.KEY_FRAMES": 5,
            "KEYSTEP.CONTRAST.N_CLASSES": 3,
            "KEYSTEP.CONTRAST.N_ITERS": 2,
        }
        return load_config(None, values | {key.replace("__", "."): value for key, value in overrides.items()})

    return make


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
