"""DUST's pickles, made by its published recipe with small sizes, become arrays and lists; nothing wrong passes."""

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dust.cli import convert_data
from dust.convert.dust_pickles import convert_dust
from dust.utils.checkpoint import file_sha256
from dust.utils.errors import DataError
from dust.utils.features import FeatureStore
from tests.helpers import csv_lists

COUNTS = {"train": 12, "val": 5}
SHAPES = {"video": (3, 7, 8, 6), "kine": (3, 51), "label": ()}


def save(path: Path, value, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


def load(path: Path):
    return pickle.loads(path.read_bytes())


@pytest.fixture
def dust(tmp_path) -> Path:
    """DUST's folder: float64 noise, float64 noise, labels 0 to 3."""
    rng = np.random.RandomState(0)
    for split, count in COUNTS.items():
        for name, shape in SHAPES.items():
            value = np.arange(count) % 4 if name == "label" else rng.randn(count, *shape)
            save(tmp_path / "DUST" / "data" / f"{name}_{split}.pkl", value)
    return tmp_path / "DUST"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(dust: Path, *words: str, **options) -> None:
    """The conversion fails with all these words in its error, and writes nothing."""
    out = dust.parent / "out"
    with pytest.raises(DataError) as caught:
        convert_dust(dust, out, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert not out.exists() or files(out) == []


def change(path: Path, change) -> None:
    value = load(path)
    save(path, change(value) if callable(change) else change)


# --- what is right ------------------------------------------------------------------------------------------------


def test_arrays_and_lists(dust, tmp_path):
    out = tmp_path / "out"
    result = convert_dust(dust, out)
    assert result.counts == {"train": 12, "val": 5, "test": 5}
    assert (result.classes, result.shapes) == (4, {"video": (3, 7, 8, 6), "series": (3, 51)})
    arrays = [f"{kind}_{split}.npy" for kind in ("series", "video") for split in COUNTS]
    assert files(out) == sorted([*arrays, "train.csv", "val.csv", "test.csv"])
    for split in COUNTS:
        for name, kind in (("video", "video"), ("kine", "series")):
            array = np.load(out / f"{kind}_{split}.npy", mmap_mode="r")
            expected = load(dust / "data" / f"{name}_{split}.pkl").astype(np.float32)
            np.testing.assert_array_equal(array, expected, strict=True)
        labels = load(dust / "data" / f"label_{split}.pkl")
        assert csv_lists(out / f"{split}.csv")[0] == ["id", "label", "video", "series"]
        assert csv_lists(out / f"{split}.csv")[1:] == [
            [f"{split}_{row:06d}", str(label), f"video_{split}.npy#{row}", f"series_{split}.npy#{row}"]
            for row, label in enumerate(labels)
        ]
    assert (out / "test.csv").read_bytes() == (out / "val.csv").read_bytes()
    assert any("no test split" in note for note in result.notes)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_layout(dust, tmp_path, protocol):
    plain, other = tmp_path / "plain", tmp_path / "other"
    convert_dust(dust, plain)
    for split in COUNTS:
        for name in SHAPES:
            path = dust / "data" / f"{name}_{split}.pkl"
            value = load(path)
            save(path, np.asfortranarray(value) if split == "val" else value, protocol)
    convert_dust(dust / "data", other)
    for name in files(plain):
        assert (plain / name).read_bytes() == (other / name).read_bytes()


def test_part_of_the_modalities(dust, tmp_path):
    for split in COUNTS:
        (dust / "data" / f"video_{split}.pkl").unlink()
    result = convert_dust(dust, tmp_path / "out")
    assert result.shapes == {"series": (3, 51)}
    header, first = csv_lists(tmp_path / "out" / "val.csv")[:2]
    assert (header, first) == (["id", "label", "series"], ["val_000000", "0", "series_val.npy#0"])
    for split in COUNTS:
        (dust / "data" / f"kine_{split}.pkl").unlink()
    with pytest.raises(DataError, match="nothing to learn from"):
        convert_dust(dust, tmp_path / "none")


def test_dtypes_of_the_video(dust, tmp_path):
    convert_dust(dust, tmp_path / "half", dtype="float16")
    half = np.load(tmp_path / "half" / "video_val.npy")
    np.testing.assert_array_equal(half, load(dust / "data" / "video_val.pkl").astype(np.float16), strict=True)
    assert np.load(tmp_path / "half" / "series_val.npy").dtype == np.float32
    refused(dust, "values that uint8 cannot hold", "sample 0: 1", dtype="uint8")
    for split in COUNTS:
        change(dust / "data" / f"video_{split}.pkl", lambda v: np.round(abs(v) * 20))
    convert_dust(dust, tmp_path / "bytes", dtype="uint8")
    kept = np.load(tmp_path / "bytes" / "video_val.npy")
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept, load(dust / "data" / "video_val.pkl"))
    change(dust / "data" / "video_val.pkl", lambda v: v * 1e5)
    refused(dust, "values that float16 cannot hold", "video_val.pkl: sample 4", dtype="float16")


def test_missing_values_of_a_series(dust, tmp_path):
    def punch(value):
        value[2, 1, 4:7] = value[5, 0, 0] = np.nan
        return value

    change(dust / "data" / "kine_train.pkl", punch)
    refused(dust, "--allow-missing", "sample 2: 3 values", "sample 5: 1 values")
    result = convert_dust(dust, tmp_path / "out", allow_missing=True)
    assert any("4 values are missing (NaN), in 2 samples" in note for note in result.notes)
    assert np.isnan(np.load(tmp_path / "out" / "series_train.npy")).sum() == 4


def test_weights_are_pointed_out(dust, tmp_path):
    save(dust / "saved_models" / "step_3d" / "final_3d.pth", 1)
    notes = convert_dust(dust, tmp_path / "out").notes
    assert any("MODEL.PRETRAINED" in note and "final_3d.pth" in note for note in notes)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match="--weights holds none"):
        convert_dust(dust, tmp_path / "other", weights=tmp_path / "elsewhere")


@pytest.fixture
def features(dust) -> dict[str, np.ndarray]:
    made = {split: np.random.RandomState(1).randn(count, 16).astype("f4") for split, count in COUNTS.items()}
    for split, value in made.items():
        save(dust / "video_features" / f"{split}_3d_features.pkl", value)
    return made


def test_features_only_with_assume_order(dust, tmp_path, features, caplog):
    out = tmp_path / "out"
    result = convert_dust(dust, out)
    assert any("random order" in note and "--assume-order" in note for note in result.notes)
    assert not (out / "features").exists() and "random order" not in caplog.text
    save(dust / "saved_models" / "step_3d" / "final_3d.pth", 1)
    convert_dust(dust, out, assume_order=True, force=True)
    assert "WARNING" in caplog.text and "random order" in caplog.text
    for split, origin in (("train", "train"), ("val", "val"), ("test", "val")):
        store = FeatureStore.open(out / "features", split)
        assert store.ids == [row[0] for row in csv_lists(out / f"{split}.csv")[1:]]
        np.testing.assert_array_equal(store.features, features[origin], strict=True)
        assert store.meta["checkpoint_sha256"] == file_sha256(dust / "saved_models" / "step_3d" / "final_3d.pth")
    with pytest.raises(DataError, match=r"already holds .*features/train\.npy"):
        convert_dust(dust, out, assume_order=True)
    change(dust / "video_features" / "val_3d_features.pkl", lambda v: v + 1)
    convert_dust(dust, out, assume_order=True, force=True)
    np.testing.assert_array_equal(FeatureStore.open(out / "features", "test").features, features["val"] + 1)


def test_features_that_cannot_be_used(dust, features):
    path = dust / "video_features" / "val_3d_features.pkl"
    change(path, lambda v: v[:4])
    refused(dust, "features of another number of samples", "val_3d_features.pkl: 4; labels: 5", assume_order=True)
    change(path, lambda v: np.full((5, 15), np.nan))
    refused(dust, "differ in shape", "NaN", "val_3d_features.pkl: sample 4: 15", assume_order=True)
    path.unlink()
    refused(dust, "a pickle is missing", "val_3d_features.pkl", assume_order=True)


# --- what is wrong ------------------------------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once(dust):
    data = dust / "data"
    change(data / "label_train.pkl", lambda v: v - 1)
    change(data / "label_val.pkl", lambda v: v[:4] + 7)
    change(data / "kine_train.pkl", lambda v: np.where(v > 2, np.inf, v))
    change(data / "video_val.pkl", lambda v: v[:, :, :5])
    (data / "kine_val.pkl").unlink()
    refused(
        dust,
        "labels below 0",
        "label_train.pkl: row 0: -1",
        "labels above the largest of train",
        "label_val.pkl: row 3: 10",
        "differ in their number of samples",
        "label_val.pkl: 4",
        "video_val.pkl: 5",
        "values that are infinite",
        "samples of train and val differ in shape",
        "(3, 5, 8, 6)",
        "a pickle is missing",
        "kine_val.pkl (samples, channels, time points)",
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("label_train", np.zeros(12), "not integers"),
        ("label_train", np.zeros((12, 4), int), "another shape than (samples)"),
        ("label_train", np.zeros(12, bool), "not integers"),
        ("video_val", np.zeros((5, 7, 8, 6, 3)), "3 channels"),
        ("video_val", np.zeros((5, 3, 8, 6)), "3 channels"),
        ("kine_val", np.zeros((5, 51)), "time points"),
        ("kine_val", np.zeros((5, 3, 51), object), "Python objects"),
        ("kine_val", [1, 2], "LIST"),
        ("kine_val", np.zeros((5, 4, 51)), "differ in shape"),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_another_kind(dust, name, value, words, protocol):
    save(dust / "data" / f"{name}.pkl", value, protocol)
    refused(dust, f"{name}.pkl", words)


class Poison:
    def __init__(self, trap: Path):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


@pytest.mark.parametrize("protocol", range(6))
def test_poison_runs_nothing(dust, tmp_path, protocol):
    names = ("label_train", "video_val", "kine_train")
    for name in names:
        save(dust / "data" / f"{name}.pkl", Poison(tmp_path / "trap"), protocol)
    refused(dust, *(f"{name}.pkl: names {os.system.__module__}.system" for name in names))
    assert not (tmp_path / "trap").exists()


def test_a_pickle_that_is_cut_off(dust):
    path = dust / "data" / "video_train.pkl"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(dust, "video_train.pkl: is cut off")


def test_folders_that_are_not_dust(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        convert_dust(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds any of video_train\.pkl"):
        convert_dust(tmp_path, tmp_path / "out")


def test_nothing_is_overwritten_without_force(dust, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "video_val.npy").write_text("mine")
    with pytest.raises(DataError, match=r"already holds video_val\.npy"):
        convert_dust(dust, out)
    assert (out / "video_val.npy").read_text() == "mine"
    convert_dust(dust, out, force=True)
    change(dust / "data" / "label_val.pkl", lambda v: v + 9)
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(DataError, match="above the largest"):
        convert_dust(dust, out, force=True)
    assert before == {name: (out / name).read_bytes() for name in files(out)}


def test_a_video_larger_than_the_memory_that_is_taken(dust, tmp_path):
    for split, count in COUNTS.items():
        save(dust / "data" / f"video_{split}.pkl", np.zeros((count, 3, 16, 128, 256)))  # 12 MiB a sample
    tracemalloc.start()
    convert_dust(dust, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # the array has 144 MiB
    assert np.load(tmp_path / "out" / "video_train.npy", mmap_mode="r").shape == (12, 3, 16, 128, 256)


def test_command_line(dust, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["dust-pickles", "--root", str(dust), "--out", str(out)]
    assert convert_data.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "train.csv (12 samples), val.csv (5 samples), test.csv (5 samples)" in printed
    assert "MODEL.NUM_CLASSES 4 SERIES.NUM_CHANNELS 3 SERIES.LENGTH 51" in printed
    assert "no test split" in printed
    assert convert_data.main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    save(dust / "data" / "kine_val.pkl", Poison(tmp_path / "trap"))
    assert convert_data.main([*arguments, "--force"]) == 2
    assert "system" in capsys.readouterr().err and not (tmp_path / "trap").exists()
