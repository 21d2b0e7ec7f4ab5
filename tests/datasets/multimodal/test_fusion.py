"""The fused dataset: inputs that belong together stay together, in training, in evaluation and from a worker."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dust.config import get_cfg
from dust.datasets.build import build_dataset
from dust.datasets.loader import EpochBatchSampler, collate_training
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.multimodal.fusion import FusedDataset
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.transforms.clip import EvalTransform, TrainTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.video.video import VideoDataset
from dust.decode.segment import Segment
from dust.utils.errors import DataError
from dust.utils.features import FeatureStore, FeatureWriter
from tests.datasets.clip_files import write_clip

N = 12


def features(folder, split, ids, rows, meta=None, **options) -> None:
    store = FeatureWriter(folder, split, ids, rows.shape[1:], options.pop("dtype", "float32"), meta or {}, **options)
    store.write(0, rows)
    store.finish()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Samples s0..s11 in which everything says which sample it is: series value n, feature value 100 + n, video value
    n. The rows of the stacks, the csv and the features are in three different orders."""
    root = tmp_path_factory.mktemp("fused")
    stacked = np.random.RandomState(0).permutation(N)  # sample n is row stacked[n]
    series = np.empty((N, 3, 51), np.float32)
    video = np.empty((N, 3, 2, 4, 4), np.uint8)
    series[stacked] = np.arange(N, dtype=np.float32)[:, None, None]
    video[stacked] = np.arange(N, dtype=np.uint8)[:, None, None, None, None]
    np.save(root / "series.npy", series)
    np.save(root / "video.npy", video)
    np.save(root / "floats.npy", video.astype(np.float64) + 0.5)
    write_clip(root / "a.mp4", 20)
    write_clip(root / "b.mp4", 30)
    order = np.random.RandomState(1).permutation(N)
    rows = [f"s{n},{n % 4},video.npy#{stacked[n]},series.npy#{stacked[n]}" for n in order]
    for split in ("train", "val", "test"):
        (root / f"{split}.csv").write_text("id,label,video,series\n" + "\n".join(rows) + "\n")
        ids = [f"s{n}" for n in range(N + 3)]
        values = 100 + np.arange(N + 3, dtype=np.float32)[:, None] * np.ones(8, np.float32)
        features(root / "stage3" / "features", split, ids, values, {"checkpoint_sha256": "ab", "layer": "pooled"})
    files = [f"s{n},{n % 4},{'ab'[n % 2]}.mp4,series.npy#{stacked[n]}" for n in order]
    (root / "files.csv").write_text("id,label,video,series\n" + "\n".join(files) + "\n")
    return root


ALL = ("video", "series", "video_features")


def fused(root, modalities=ALL, split="train", training=True, store=None, path=None, **options) -> FusedDataset:
    manifest = read_fused_manifest(root=str(path or root), split=split, modalities=modalities, num_classes=4)
    if "video_features" in modalities:
        options["features"] = store or FeatureStore.open(root / "stage3" / "features", split)
    options = {"rules": SeriesRules(3, 51), "normalize": False, **options}
    return FusedDataset(manifest=manifest, modalities=modalities, split=split, training=training, **options)


def numbers(sample) -> set[float]:
    """The sample's number as its id, label and each input tell it."""
    inputs, number = sample["inputs"], int(sample["id"][1:])
    assert sample["label"] == number % 4
    told = {float(number)}
    for name, offset in (("series", 0), ("video", 0), ("video_features", 100)):
        if name in inputs:
            told |= {value - offset for value in inputs[name].unique().tolist()}
    return told


def test_what_belongs_together_stays_together(root):
    train, val = fused(root), fused(root, training=False)
    assert {clip.id for clip in train.clips} == {f"s{n}" for n in range(N)}
    for index in range(N):
        (sample,) = train[SampleRequest(0, index)]
        assert {name: tuple(value.shape) for name, value in sample["inputs"].items()} == {
            "video": (3, 2, 4, 4),
            "series": (3, 51),
            "video_features": (8,),
        }
        assert sample["id"] == train.clips[index].id and len(numbers(sample)) == 1
        one = val[index]
        assert len(numbers(one)) == 1
        assert {tuple(value.shape)[:1] for value in one["inputs"].values()} == {(1,)}
    assert train.class_counts() == [3, 3, 3, 3]


@pytest.mark.parametrize("modalities", [("series", "video_features"), ("video_features",), ("series",), ALL])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_its_items(root, modalities, workers):
    dataset = fused(root, modalities, noise=0.3, seed=5)
    sampler = EpochBatchSampler(N, 5, seed=1, drop_last=False)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_training, num_workers=workers)
    sampler.set_position(3)
    seen = []
    for draws, batch in zip(list(sampler), loader, strict=True):
        items = collate_training([dataset[draw] for draw in draws])
        assert batch["id"] == items["id"] and batch["inputs"].keys() == set(modalities)
        torch.testing.assert_close(batch["inputs"], items["inputs"], rtol=0, atol=0)
        torch.testing.assert_close(batch["label"], items["label"])
        seen += batch["id"]
    assert sorted(seen) == sorted(clip.id for clip in dataset.clips)


def test_stacked_videos_keep_their_kind(root):
    rows = (root / "train.csv").read_text()
    path = root / "floats.csv"
    path.write_text(rows.replace("video.npy", "floats.npy"))
    floats = fused(root, ("video",), path=path)
    (sample,) = floats[SampleRequest(0, 3)]
    assert sample["inputs"]["video"].dtype == torch.float32
    assert sample["inputs"]["video"].unique().tolist() == [int(sample["id"][1:]) + 0.5]
    (sample,) = fused(root, ("video",))[SampleRequest(0, 3)]
    assert sample["inputs"]["video"].dtype == torch.uint8


def test_a_stacked_clip_that_is_not_finite(root, tmp_path):
    values = np.zeros((2, 3, 2, 4, 4), np.float32)
    values[1, 0, 0, 0, 0] = np.nan
    np.save(tmp_path / "v.npy", values)
    (tmp_path / "train.csv").write_text("id,label,video\na,0,v.npy#0\nb,3,v.npy#1\n")
    dataset = fused(tmp_path, ("video",))
    assert dataset[SampleRequest(0, 0)][0]["id"] == "a"
    bad = dataset[SampleRequest(0, 1)]
    assert isinstance(bad, BadClip) and bad.id == "b" and "not finite (row 1)" in bad.reason


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 2, 4, 4), np.uint8), r"not \(N, 3, T, H, W\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"not \(N, 3, T, H, W\)"),
        (np.zeros((2, 3, 2, 4, 4), np.int64), "neither uint8"),
    ],
)
def test_stacked_videos_of_another_kind(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array)
    (tmp_path / "train.csv").write_text("id,label,video\na,0,v.npy#0\nb,3,v.npy#1\n")
    with pytest.raises(DataError, match=message):
        fused(tmp_path, ("video",))


# --- video files ----------------------------------------------------------------------------------------------------


def video_options(training: bool):
    common = {"sampler": ClipSampler(mode="dense", num_frames=4, sampling_rate=2, target_fps=25), "seed": 5}
    if training:
        transform = TrainTransform(crop_size=32, jitter_scales=(40, 48))
        return {**common, "train_transform": transform, "num_sample": 2}
    return {
        **common,
        "eval_transform": EvalTransform(crop_size=32, short_side=40, num_crops=3),
        "num_temporal_views": 2,
    }


def test_video_files_are_read_by_the_video_dataset(root):
    """The same clips, views and crops as a VideoDataset's, with the sample's series repeated for each view."""
    for training in (True, False):
        dataset = fused(
            root, ("video", "series"), path=root / "files.csv", training=training, video=video_options(training)
        )
        clips = [Clip(clip.id, clip.video, clip.label) for clip in dataset.clips]
        alone = VideoDataset(manifest=Manifest(clips, dataset.class_names, "", False), **video_options(training))
        for index in range(3):
            found, expected = (one[SampleRequest(2, index) if training else index] for one in (dataset, alone))
            if not training:
                found, expected = [found], [expected]
            for sample, video_only in zip(found, expected, strict=True):
                torch.testing.assert_close(sample["inputs"]["video"], video_only["inputs"]["video"], rtol=0, atol=0)
                assert (sample["id"], sample["label"]) == (video_only["id"], video_only["label"])
                series = sample["inputs"]["series"]
                assert series.shape == ((3, 51) if training else (6, 3, 51))
                assert series.unique().tolist() == [int(sample["id"][1:])]


def test_a_video_that_cannot_be_read_is_a_bad_clip(root, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    (tmp_path / "files.csv").write_text(f"id,label,video,series\na,3,x.mp4,{root}/series.npy#0\n")
    dataset = fused(root, ("video", "series"), path=tmp_path / "files.csv", video=video_options(True))
    bad = dataset[SampleRequest(0, 0)]
    assert isinstance(bad, BadClip) and bad.id == "a"


# --- bad series -----------------------------------------------------------------------------------------------------


def test_a_series_that_went_bad_is_left_out_of_its_batch(root, tmp_path):
    values = np.zeros((4, 3, 51), np.float32)
    np.save(tmp_path / "s.npy", values)
    (tmp_path / "train.csv").write_text("id,label,series\n" + "".join(f"s{n},{n},s.npy#{n}\n" for n in range(4)))
    dataset = fused(tmp_path, ("series",), check=False)
    values[2, 1, 1] = np.nan
    np.save(tmp_path / "s.npy", values)
    batch = collate_training(dataset.__getitems__([SampleRequest(0, n) for n in range(4)]))
    assert batch["id"] == ["s0", "s1", "s3"] and len(batch["inputs"]["series"]) == 3
    (bad,) = batch["bad"]
    assert bad.id == "s2" and "missing values" in bad.reason and "channel 1 at point 1" in bad.reason


# --- features -------------------------------------------------------------------------------------------------------


def stored(tmp_path, shape=(8,), ids=range(N), dtype="float32", meta=None, **options) -> FeatureStore:
    features(tmp_path, "train", [f"s{n}" for n in ids], np.ones((len(ids), *shape)), meta, dtype=dtype, **options)
    return FeatureStore.open(tmp_path, "train")


def test_features_that_do_not_fit(root, tmp_path):
    only = ("video_features",)
    with pytest.raises(DataError, match=r"no features for 2 of 12 samples: .*'s1[01]'"):
        fused(root, only, store=stored(tmp_path / "a", ids=range(10)))
    with pytest.raises(DataError, match=r"shape \(8,\), where FUSION.FEATURE_DIM is 1024"):
        fused(root, only, feature_dim=1024)
    fused(root, only, feature_dim=8)
    with pytest.raises(DataError, match="a vector per sample, but FUSION.MODE cross_attention needs maps"):
        fused(root, only, needs_map=True)
    maps = fused(root, only, needs_map=True, store=stored(tmp_path / "b", (8, 2, 3, 3), dtype="float16"))
    (sample,) = maps[SampleRequest(0, 0)]
    assert sample["inputs"]["video_features"].shape == (8, 2, 3, 3)
    assert sample["inputs"]["video_features"].dtype == torch.float32
    writer = FeatureWriter(tmp_path / "c", "train", [f"s{n}" for n in range(N)], (8,), "float32", {}, "per_video")
    writer.write(0, [np.ones((2, 8))] * N)
    writer.finish()
    with pytest.raises(DataError, match="FEATURES.FORMAT memmap or npz"):
        fused(root, only, store=FeatureStore.open(tmp_path / "c", "train"))


@pytest.mark.parametrize(
    ("meta", "shape", "named"),
    [
        ({"checkpoint_sha256": "cd", "layer": "pooled"}, (8,), "checkpoint_sha256 cd, not ab"),
        ({"checkpoint_sha256": "ab", "layer": "norm"}, (8,), "layer norm, not pooled"),
        ({"checkpoint_sha256": "ab", "layer": "pooled"}, (9,), r"shape \[9\], not \[8\]"),
    ],
)
def test_other_splits_must_have_the_features_of_training(root, tmp_path, meta, shape, named):
    trained = fused(root).fitted
    fused(root, ALL, split="val", training=False, fitted=trained)
    with pytest.raises(DataError, match=f"not the kind of features that were trained with .{named}"):
        fused(root, ALL, training=False, fitted=trained, store=stored(tmp_path, shape, meta=meta))


# --- configuration, workers -----------------------------------------------------------------------------------------


@pytest.fixture
def cfg(root):
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.MODALITIES = ["series", "video_features"]
    cfg.MODEL.NUM_CLASSES = 4
    cfg.FUSION.FEATURES_FROM = "stage3"
    cfg.OUTPUT_DIR = str(root / "stage4")
    return cfg


def test_from_a_configuration(cfg):
    train = build_dataset("FusedDataset", cfg, "train")
    assert train.training and train.class_names == ["0", "1", "2", "3"]
    series = np.arange(N, dtype=np.float64)
    np.testing.assert_allclose(train.fitted["series"]["mean"], [series.mean()] * 3)
    np.testing.assert_allclose(train.fitted["series"]["std"], [series.std()] * 3)
    assert train.fitted["video_features"] == {"checkpoint_sha256": "ab", "layer": "pooled", "shape": [8]}
    val = build_dataset("FusedDataset", cfg, "val", train.class_names, fitted=train.fitted)
    (sample,) = train[SampleRequest(0, 4)]
    torch.testing.assert_close(sample["inputs"]["series"], val[4]["inputs"]["series"][0])
    assert sample["inputs"]["series"].abs().max() < 2
    # feature extraction reads the training split in its evaluation form
    fixed = build_dataset("FusedDataset", cfg, "train", views="val")
    torch.testing.assert_close(fixed[4]["inputs"], val[4]["inputs"])
    with pytest.raises(DataError, match="the val split's series need the mean"):
        build_dataset("FusedDataset", cfg, "val")


def test_a_stage_that_was_not_run(cfg, root):
    (root / "other").mkdir(exist_ok=True)
    cfg.FUSION.FEATURES_FROM = "other"
    with pytest.raises(DataError, match="no features of the train split.*run the stage that extracts them first"):
        build_dataset("FusedDataset", cfg, "train")


def test_video_files_from_a_configuration(cfg, root):
    cfg.DATA.PATH_TO_DATA_DIR = str(root / "files.csv")
    cfg.DATA.MODALITIES = ["video", "series"]
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.AUG.ENABLE, cfg.AUG.NUM_SAMPLE = 4, 2, True, 2
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.TEST_CROP_SIZE = 32, [40, 48], 32
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 2, 3
    train = build_dataset("FusedDataset", cfg, "train")
    assert [tuple(one["inputs"]["video"].shape) for one in train[SampleRequest(0, 0)]] == [(3, 4, 32, 32)] * 2
    test = build_dataset("FusedDataset", cfg, "test", fitted=train.fitted)
    assert {name: len(value) for name, value in test[0]["inputs"].items()} == {"video": 6, "series": 6}


def test_what_a_worker_gets_holds_no_array(root, tmp_path):
    rows = np.zeros((500, 1024), np.float32)
    np.save(tmp_path / "s.npy", np.zeros((500, 3, 51), np.float32))
    np.save(tmp_path / "v.npy", np.zeros((500, 3, 4, 8, 8), np.uint8))
    (tmp_path / "train.csv").write_text(
        "id,label,video,series\n" + "".join(f"s{n},{n % 4},v.npy#{n},s.npy#{n}\n" for n in range(500))
    )
    features(tmp_path / "stage3" / "features", "train", [f"s{n}" for n in range(500)], rows)
    dataset = fused(tmp_path)
    dataset[SampleRequest(0, 3)]
    data = pickle.dumps(dataset)
    assert len(data) < 300_000
    (sent,), (kept,) = pickle.loads(data)[SampleRequest(0, 3)], dataset[SampleRequest(0, 3)]
    torch.testing.assert_close(sent["inputs"], kept["inputs"])


def test_labels_of_several_classes(root, tmp_path):
    (tmp_path / "train.csv").write_text(f'id,label,series\na,"0,2",{root}/series.npy#0\nb,1,{root}/series.npy#1\n')
    manifest = read_fused_manifest(root=str(tmp_path), split="train", modalities=["series"], multi_label=True)
    dataset = FusedDataset(
        manifest=manifest,
        modalities=["series"],
        split="train",
        training=True,
        rules=SeriesRules(3, 51),
        normalize=False,
    )
    batch = collate_training(dataset.__getitems__([SampleRequest(0, 0), SampleRequest(0, 1)]))
    assert batch["label"].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert dataset.class_counts() == [1, 1, 1]


def test_a_window_is_the_same_seconds_of_video_and_series(tmp_path):
    """A recording of three seconds at 10 frames per second, and a watch that was started half a second after it."""
    write_clip(tmp_path / "long.mp4", 30, rate=10)
    own = np.arange(0, 2.5, 0.05)
    np.savez(tmp_path / "watch.npz", series=(own + 0.5)[None].astype(np.float32), time=own)
    (tmp_path / "train.csv").write_text(
        "id,label,video,series,start,end,offset_s\na,0,long.mp4,watch.npz,1,2,0.5\nb,1,long.mp4,watch.npz,2,,0.5\n"
    )
    manifest = read_fused_manifest(root=str(tmp_path), split="train", modalities=("video", "series"))
    options = video_options(training=False)
    dataset = FusedDataset(
        manifest=manifest, modalities=("video", "series"), split="train", training=False, normalize=False,
        video=options, rules=SeriesRules(1, 20, fit="resample"),
    )  # fmt: skip
    for sample, segment in zip((dataset[0], dataset[1]), (Segment(1.0, 2.0), Segment(2.0)), strict=True):
        clips = [Clip("x", str(tmp_path / "long.mp4"), 0, segment=segment)]
        alone = VideoDataset(manifest=Manifest(clips, ["0", "1"], "here", multi_label=False), **options)[0]
        torch.testing.assert_close(sample["inputs"]["video"], alone["inputs"]["video"])
        seconds = sample["inputs"]["series"][0, 0]
        assert seconds[[0, -1]].tolist() == pytest.approx([segment.start, segment.start + 0.95], abs=1e-4)
