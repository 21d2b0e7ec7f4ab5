"""Stored embeddings of any model: which frame each is of, whose they are, and what is wrong with some."""

import json
import shutil

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.datasets.build import build_dataset
from dust.datasets.keystep.data import Recording
from dust.datasets.keystep.embeddings import Pace, ids_of
from dust.datasets.keystep.frames import FrameReader, RecordingClips
from dust.datasets.keystep.layouts import read_procedures
from dust.datasets.transforms.frames import ClipSampler
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import DataError
from dust.utils.features import FeatureWriter

CLIPS = {"DATA.NUM_FRAMES": 4, "DATA.SAMPLING_RATE": 2, "DATA.TARGET_FPS": 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    generate_procedure(root, recordings=3, parts=3, size=32, mishaps=1.0)
    return root


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def test_the_newest_clip_that_has_ended():
    meta = {"config": json.dumps({"TRAIN.DATASET": "RecordingClips", "FEATURES.STRIDE": 4, **CLIPS})}
    pace = Pace.of(meta, 10.0)
    for frames in (1, 3, 4, 5, 8, 41):
        ends = list(range(3, frames, 4)) or [frames - 1]
        assert pace.count(frames) == len(ends)
        slow = [max([i for i, end in enumerate(ends) if end <= frame], default=0) for frame in range(frames)]
        assert pace.rows(np.arange(frames), len(ends)).tolist() == slow
    assert Pace.of({}, 10.0).of_every_frame and Pace.of({"config": "TRAIN.DATASET: RecordingFrames"}, 1).of_every_frame


@pytest.mark.parametrize("said", [{"TRAIN.DATASET": "VideoDataset", "FEATURES.STRIDE": 2}, [1]])
def test_features_that_do_not_say_which_frames_they_are_of(said):
    with pytest.raises(DataError, match=r"does not say which frames they are of \(.*DATA\.NUM_FRAMES"):
        Pace.of({"config": json.dumps(said)}, 10.0)


@pytest.mark.parametrize("fps", [10.0, 25.0])
@pytest.mark.parametrize("stride", [0, 1, 3])
def test_as_many_as_windows_slide_over_a_video(fps, stride):
    """The sampler that FEATURES reads videos by says how many there are, and which frames they see."""
    sampler = ClipSampler(mode="dense", num_frames=4, sampling_rate=2, target_fps=10.0)
    meta = {"config": json.dumps({"TRAIN.DATASET": "VideoDataset", "FEATURES.STRIDE": stride, **CLIPS})}
    pace = Pace.of(meta, fps)
    for frames in (5, 8, 20, 21, 60):
        windows = sampler.windows(frames, fps, stride)
        assert pace.count(frames) == len(windows)
        if frames >= pace.first + 1:
            assert all(window[-1] <= pace.first + i * pace.stride for i, window in enumerate(windows))


def config(folder, *more):
    keys = ["DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", "3", "DATA.TRAIN_CROP_SIZE", "16"]
    keys += ["KEYSTEP.SKIP_FACTOR", "1", "KEYSTEP.FRAMES", "9", "KEYSTEP.EMBED_DIM", "4", "OUTPUT_DIR", str(folder)]
    keys += ["KEYSTEP.FEATURES_FROM", str(folder / "features"), "TRAIN.ENABLE", "False", "KEYSTEP.SAMPLER.SEP", "5"]
    return load_config(None, [*keys, *more])


def store(
    folder, rows_of, *, shape=(4,), form="per_video", name=lambda one: one.id, dataset="RecordingClips", stride=4
):
    """``rows_of(recording)``: the embeddings that are stored of it."""
    said = {"TRAIN.DATASET": dataset, "FEATURES.STRIDE": stride, **CLIPS}
    recordings = read_procedures(folder, "train").recordings
    meta = {"checkpoint_sha256": "a", "layer": "pooled", "config": json.dumps(said)}
    ids = [name(one) for one in recordings]
    writer = FeatureWriter(folder / "features", "train", ids, shape, "float32", meta, form)
    writer.write(0, [rows_of(one) for one in recordings])
    writer.finish()
    return recordings


def numbered(one, stride=4):
    return np.repeat(np.arange(one.num_frames // stride, dtype=np.float32)[:, None], 4, axis=1)


def test_windows_read_them_by_frame(folder):
    (one,) = store(folder, numbered)
    dataset = build_dataset("EmbeddingWindows", config(folder), "train", views="val")
    assert dataset.clips[0].num_frames == one.num_frames and dataset.fitted["embeddings"]["stride"] == 4
    frames = np.array([[0, 3, 4, 7, 8, one.num_frames - 1]])
    last = one.num_frames // 4 - 1
    assert dataset.read(0, frames)[0, :, 0].tolist() == [0, 0, 0, 1, 1, last]
    item = dataset[0]  # a window of 9 frames, 2 apart, whose labels are those of its frames
    assert item["inputs"]["embeddings"][0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    recordings = build_dataset("ProcedureRecordings", config(folder), "train", views="test")
    assert recordings[0]["inputs"]["frame_embeddings"].shape == (one.num_frames, 4)


def test_tokens_are_averaged_and_ids_may_be_paths(folder):
    def tokens(one):
        return np.stack([numbered(one), numbered(one) + 2], axis=1)

    store(folder, tokens, shape=(2, 4), name=lambda one: f"somewhere/{one.path.rsplit('/', 1)[1]}")
    dataset = build_dataset("EmbeddingWindows", config(folder), "train", views="val")
    assert dataset.read(0, np.array([[3, 7]]))[0].tolist() == [[1.0] * 4, [2.0] * 4]


def test_embeddings_of_one_recording_are_not_those_of_another():
    class Store:
        ids = ("a/video.mp4", "r3")

    two = [Recording("r1", "/data/a/video.mp4"), Recording("r2", "/data/b/video.mp4")]
    assert ids_of(Store, two) == {}, "nothing says whose they are"
    assert ids_of(Store, two[:1]) == {"r1": "a/video.mp4"}
    assert ids_of(Store, [Recording("r3", "/data/c.mp4"), Recording("r4", "/data/r3.mp4")]) == {"r3": "r3"}


def test_whose_embeddings_they_are():
    class Store:
        ids = ("a/one.mp4", "b/two.mp4", "c/two.mp4", "three")

    recordings = [Recording("r1", "/x/one.mp4"), Recording("r2", "/x/two.mp4"), Recording("three", "/x/3.mp4")]
    assert ids_of(Store(), recordings) == {"r1": "a/one.mp4", "three": "three"}, "two could be either"


@pytest.mark.parametrize(
    ("made_as", "keys", "said"),
    [
        (
            {"form": "memmap", "rows_of": lambda one: np.zeros(4, np.float32)},
            (),
            "extract with FEATURES.FORMAT per_video",
        ),
        ({}, ("KEYSTEP.EMBED_DIM", "8"), r"shape \(4,\) each, KEYSTEP.EMBED_DIM is 8: set KEYSTEP.EMBED_DIM 4"),
        ({"name": lambda one: "another"}, (), r"without embeddings: .* \(stored are another"),
        ({"rows_of": lambda one: numbered(one)[:-3]}, (), "do not cover the recording"),
        ({"dataset": "VideoDataset"}, (), "at another rate than its frames per second"),
        ({"stride": 16, "rows_of": lambda one: numbered(one, 16)}, (), "too far apart for a window of 17 frames"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(folder, made_as, keys, said):
    store(folder, **{"rows_of": numbered, **made_as})
    with pytest.raises(DataError, match=said):
        build_dataset("EmbeddingWindows", config(folder, *keys), "train", views="val")


def test_clips_end_in_their_frame(folder):
    """Read the slow way: frame by frame, back from the end of each clip."""
    data, reader = read_procedures(folder, "train"), FrameReader(16)
    clips = RecordingClips(data=data, reader=reader, num_frames=4, sampling_rate=2, target_fps=20.0)
    windows, (one,) = clips.windows(stride=7, chunk=5), data.recordings
    whole = reader.read(one.path, range(one.num_frames))
    found = torch.cat([windows[i]["inputs"]["video"] for i in range(len(windows))])
    assert found.shape == (one.num_frames // 7, 3, 4, 16, 16) and windows.first_item(1) == len(windows)
    for i, clip in enumerate(found):
        end = 7 * i + 6
        for back, picture in zip((3, 2, 1, 0), clip.unbind(1), strict=True):  # 2 of 20 a second: 1 of 10
            assert torch.equal(picture, whole[max(end - back, 0)])


def test_wrong_installations_are_drawn_more_often_than_they_happen(folder):
    """The recording has one mishap, a part put on wrongly: which windows hold it, by hand and as they are drawn."""
    (one,) = store(folder, numbered)
    (wrong,) = [frame for frame, state in one.states if -1 in state]
    part = next(state.index(-1) for _, state in one.states if -1 in state)
    shares = {}
    for share in ("0.0", "0.9"):
        more = ["KEYSTEP.EXE_MODE", "mistakes", "MODEL.NUM_CLASSES", "6", "KEYSTEP.SAMPLER.MISTAKES", share]
        dataset = build_dataset("EmbeddingWindows", config(folder, *more), "train")
        assert dataset.class_names[3:] == [f"{name} put on wrongly" for name in dataset.class_names[:3]]
        held = []
        for index in range(200):
            _, last = dataset.draw(0, index)
            last = max(last, 16)  # a window of 9 frames, 2 apart
            held.append(last - 16 <= wrong <= last)
            labels = dataset._labels(0, last)
            assert labels[3:].tolist() == [int(held[-1] and k == part) for k in range(3)]
        shares[share] = sum(held) / len(held)
    assert shares["0.9"] > 2 * shares["0.0"]
