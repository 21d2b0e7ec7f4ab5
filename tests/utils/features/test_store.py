"""Features as files: what is written comes back, an interrupted writer ends with the same bytes, and every kind of
wrong file is refused by name."""

import json
import math
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dust.utils.arrays import StoredArray
from dust.utils.errors import DataError
from dust.utils.features import FORMATS, FeatureStore, FeatureWriter, id_to_name, name_to_id
from dust.utils.features.formats import from_bfloat16, to_bfloat16
from tests.helpers import contents

IDS = ["a/b c.mp4", "plain", "..", "50%", "Ünï", "x" * 80, "last"]
META = {"checkpoint_sha256": "ab" * 32, "config": "A: 1\n", "layer": "pooled", "views": 1}


def features(shape=(4,), dtype="float32") -> np.ndarray:
    return np.random.RandomState(0).standard_normal((len(IDS), *shape)).astype(dtype)


def per_video(shape=(4,), dtype="float32") -> list[np.ndarray]:
    rng = np.random.RandomState(1)
    return [rng.standard_normal((n % 3 + 1, *shape)).astype(dtype) for n in range(len(IDS))]


def writer(folder: Path, format="memmap", ids=IDS, shape=(4,), dtype="float32", meta=META, **options) -> FeatureWriter:
    return FeatureWriter(folder, "train", ids, shape, dtype, meta, format, **options)


def rows_for(format: str):
    return per_video() if format == "per_video" else features()


def write(folder: Path, format="memmap", batch=3, **options) -> FeatureWriter:
    rows, one = rows_for(format), writer(folder, format, **options)
    for start in range(one.done, len(IDS), batch):
        one.write(start, rows[start : start + batch])
    one.finish()
    return one


@pytest.mark.parametrize("shape", [(4,), (3, 2, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("format", ["memmap", "npz"])
def test_what_is_written_comes_back(tmp_path, format, dtype, shape):
    rows, one = features(shape, dtype), writer(tmp_path, format, shape=shape, dtype=dtype)
    one.write(0, rows)
    one.finish()
    store = FeatureStore.open(tmp_path, "train")
    assert isinstance(store.features, StoredArray)
    assert (store.ids, store.meta, store.shape, store.dtype) == (IDS, META, shape, np.dtype(dtype))
    np.testing.assert_array_equal(store.features, rows)
    np.testing.assert_array_equal(store.features[store.rows(IDS[::-1])], rows[::-1])
    np.testing.assert_array_equal(store.get("50%"), rows[3])


def test_plain_numpy_reads_the_files(tmp_path):
    """Without dust: np.load of the .npy and of the .npz, and one .npy per video under a name that leads back."""
    for format in FORMATS:
        write(tmp_path / format, format)
    np.testing.assert_array_equal(np.load(tmp_path / "memmap" / "train.npy"), features())
    with np.load(tmp_path / "npz" / "train.npz") as archive:
        np.testing.assert_array_equal(archive["features"], features())
        assert archive["ids"].tolist() == IDS
        assert json.loads(str(archive["meta"])) == META
    found = {name_to_id(path.stem): np.load(path) for path in (tmp_path / "per_video" / "train").iterdir()}
    assert found.keys() == set(IDS)
    for sample_id, rows in zip(IDS, per_video(), strict=True):
        np.testing.assert_array_equal(found[sample_id], rows)
        np.testing.assert_array_equal(FeatureStore.open(tmp_path / "per_video", "train").get(sample_id), rows)


@pytest.mark.parametrize("sample_id", [*IDS, "a%2Fb", "\udcff bytes that are not UTF-8", "\n"])
def test_file_names_lead_back_to_ids(sample_id):
    name = id_to_name(sample_id)
    assert name_to_id(name) == sample_id
    assert "/" not in name and name.isascii() and name.isprintable()


# --- interruption -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize("format", FORMATS)
def test_interrupted_after_any_sample_and_resumed_is_uninterrupted(tmp_path, format, stop):
    write(tmp_path / "whole", format, batch=7)
    one, rows = writer(tmp_path / "parts", format), rows_for(format)
    for start in range(stop):
        one.write(start, rows[start : start + 1])
    with pytest.raises(DataError, match=f"not finished, {stop} of 7"):
        FeatureStore.open(tmp_path / "parts", "train")
    again = writer(tmp_path / "parts", format)
    assert again.done == stop
    write(tmp_path / "parts", format, batch=2)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("moment", range(1, 55))
@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_any_write_to_the_disk(tmp_path, monkeypatch, format, moment):
    """The process dies at the n-th synced write or rename; whatever n is, the next ones end with the same bytes."""

    class Killed(BaseException):
        pass

    left = moment

    def counted(action):
        def act(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return action(*args, **kwargs)

        return act

    write(tmp_path / "whole", format)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", lambda *a, **k: None)  # a dead process does not tidy up
        try:
            write(tmp_path / "parts", format)
        except Killed:
            one = writer(tmp_path / "parts", format)
            assert one.complete or not (tmp_path / "parts" / "train.json").exists()
    write(tmp_path / "parts", format)
    left_over = {name for name in contents(tmp_path / "parts") if name.endswith(".tmp")}
    assert not left_over
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_second_run_over_finished_features_writes_nothing(tmp_path):
    write(tmp_path)
    before = (tmp_path / "train.npy").stat().st_mtime_ns
    again = writer(tmp_path)
    assert again.complete and again.done == len(IDS)
    again.finish()
    assert (tmp_path / "train.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"meta": {**META, "checkpoint_sha256": "cd" * 32}}, "meta.checkpoint_sha256"),
        ({"meta": {**META, "views": 2}}, "meta.views"),
        ({"ids": IDS[::-1]}, "ids"),
        ({"dtype": "float16"}, "dtype"),
        ({"format": "npz"}, "format"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_extraction_is_refused_or_replaced_on_demand(tmp_path, change, named, finished):
    if finished:
        write(tmp_path)
    else:
        writer(tmp_path).write(0, features()[:3])
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"(?s)another.*{named}.*OUTPUT_DIR"):
        writer(tmp_path, **change)
    assert contents(tmp_path) == before
    write(tmp_path, overwrite=True, **change)
    write(tmp_path / "fresh", **change)
    fresh = contents(tmp_path / "fresh")
    assert {name: data for name, data in contents(tmp_path).items() if "fresh" not in name} == fresh


def test_rows_that_were_counted_and_are_gone_are_missed(tmp_path):
    writer(tmp_path).write(0, features()[:5])
    with open(tmp_path / "train.npy.partial", "r+b") as file:
        file.truncate(150)
    with pytest.raises(DataError, match="shorter than the 5 of 7"):
        writer(tmp_path)
    (tmp_path / "train.npy.partial").unlink()
    with pytest.raises(DataError, match="missing or shorter"):
        writer(tmp_path)


# --- what a writer does not take ----------------------------------------------------------------------------------


def test_the_writer_refuses_what_would_be_wrong_features(tmp_path):
    one = writer(tmp_path, dtype="float16")
    with pytest.raises(DataError, match="plain is not finite in float16: set FEATURES.DTYPE float32"):
        one.write(0, np.full((2, 4), [[1.0], [70000.0]]))
    with pytest.raises(DataError, match="a/b c.mp4 is not finite.*weights"):
        one.write(0, np.full((2, 4), np.nan))
    with pytest.raises(DataError, match=r"plain is \(5,\), where \(4,\)"):
        one.write(0, [np.zeros(4), np.zeros(5)])
    assert one.done == 0
    with pytest.raises(ValueError, match="sample 0 of 7 comes next"):
        one.write(3, features()[3:])
    with pytest.raises(ValueError, match="8 features from sample 0"):
        one.write(0, np.zeros((8, 4)))
    with pytest.raises(ValueError, match="0 of 7 features are written"):
        one.finish()


def test_ids_must_differ_and_be_names_of_files(tmp_path):
    with pytest.raises(DataError, match="given twice: 'a'"):
        writer(tmp_path, ids=["a", "b", "a"])
    with pytest.raises(DataError, match="cannot be names of files"):
        writer(tmp_path, "per_video", ids=["a", "ü" * 50])
    writer(tmp_path, ids=["a", "ü" * 50])


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    one = writer(tmp_path)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device.*continues where it was"):
        one.write(0, features()[:3])
    monkeypatch.undo()
    write(tmp_path)
    np.testing.assert_array_equal(FeatureStore.open(tmp_path, "train").features, features())


# --- what a reader refuses ----------------------------------------------------------------------------------------


def test_no_features_there(tmp_path):
    with pytest.raises(DataError, match="no such folder.*run the stage that extracts them first"):
        FeatureStore.open(tmp_path / "nowhere", "val")
    write(tmp_path)
    with pytest.raises(DataError, match=r"no features of the val split \(found: train\): run the stage"):
        FeatureStore.open(tmp_path, "val")


def test_a_missing_id_is_an_error_that_lists_it(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match="no features for 2 of 3 samples: 'new', 'newer'"):
        FeatureStore.open(tmp_path, "train").rows(["plain", "new", "newer"])


def test_features_of_another_checkpoint(tmp_path):
    write(tmp_path)
    store = FeatureStore.open(tmp_path, "train")
    store.check_checkpoint("ab" * 32, "FUSION.VIDEO_FROM stage1_video")
    with pytest.raises(DataError, match=r"abababababab\.\.\., but FUSION.VIDEO_FROM stage1_video is cdcdcdcdcdcd"):
        store.check_checkpoint("cd" * 32, "FUSION.VIDEO_FROM stage1_video")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.json").write_text('{"ids": ["a'), "train.json: damaged, not readable as json"),
        (lambda folder: (folder / "train.json").write_text("[1]"), "no json object"),
        (lambda folder: (folder / "train.json").write_text("{}"), "lacks ids, meta, format, shape, dtype, count"),
        (lambda folder: edit_json(folder / "train.json", complete=False), "lacks complete: true"),
        (lambda folder: edit_json(folder / "train.json", count=6), "7 ids but a count of 6"),
        (lambda folder: edit_json(folder / "train.json", ids=IDS[:5], count=5), "7 features for 5 ids"),
        (lambda folder: edit_json(folder / "train.json", shape=[5]), r"float32 \(4,\) per sample.*float32 \(5,\)"),
        (lambda folder: edit_json(folder / "train.json", dtype="float16"), "its record says float16"),
        (lambda folder: edit_json(folder / "train.json", format="zarr"), "format 'zarr'"),
        (lambda folder: (folder / "train.npy").write_bytes(b"text"), "train.npy: not readable as features"),
        (lambda folder: (folder / "train.npy").unlink(), "train.npy: not readable as features"),
        (lambda folder: np.save(folder / "train.npy", np.array([{}], dtype=object)), "not readable as features"),
    ],
)
def test_damaged_features(tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        FeatureStore.open(tmp_path, "train")


def test_a_cut_file_is_refused(tmp_path):
    for format, name in (("memmap", "train.npy"), ("npz", "train.npz")):
        write(tmp_path / format, format)
        path = tmp_path / format / name
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match=f"{name}: not readable as features"):
            FeatureStore.open(tmp_path / format, "train")


def test_a_video_without_its_file(tmp_path):
    write(tmp_path, "per_video")
    (tmp_path / "train" / "plain.npy").unlink()
    with pytest.raises(DataError, match="6 features for 7 ids"):
        FeatureStore.open(tmp_path, "train")


def test_an_npz_of_something_else_and_a_compressed_one(tmp_path):
    np.savez(tmp_path / "train.npz", features=features())
    with pytest.raises(DataError, match="no ids, meta in it"):
        FeatureStore.open(tmp_path, "train")
    np.savez_compressed(tmp_path / "train.npz", features=features(), ids=np.array(IDS), meta=np.array(json.dumps(META)))
    store = FeatureStore.open(tmp_path, "train")
    np.testing.assert_array_equal(store.features, features())
    assert store.ids == IDS


def test_per_video_features_are_no_array(tmp_path):
    write(tmp_path, "per_video")
    with pytest.raises(DataError, match="one file per video"):
        FeatureStore.open(tmp_path, "train").features


def test_a_store_is_sent_to_workers_without_its_array(tmp_path):
    rows = np.zeros((1000, 512), np.float32)
    one = FeatureWriter(tmp_path, "val", [str(n) for n in range(1000)], (512,), "float32", {})
    one.write(0, rows)
    one.finish()
    store = FeatureStore.open(tmp_path, "val")
    store.features, store.rows(["3"])
    data = pickle.dumps(store)
    assert len(data) < 20_000 < rows.nbytes
    np.testing.assert_array_equal(pickle.loads(data).get("7"), rows[7])


def test_an_archive_is_stored_and_dated_alike(tmp_path):
    write(tmp_path, "npz")
    with zipfile.ZipFile(tmp_path / "train.npz") as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert archive.testzip() is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stop", [0, 2, 5])
def test_a_clip_without_a_feature_is_named_and_never_handed_out(tmp_path, format, stop):
    rows = [None if index in (1, 4) else row for index, row in enumerate(rows_for(format))]
    one = writer(tmp_path, format)
    one.write(0, rows[:stop])
    again = writer(tmp_path, format)
    again.write(stop, rows[stop:])
    again.finish()
    assert again.missing == [IDS[1], IDS[4]] == writer(tmp_path, format).missing
    store = FeatureStore.open(tmp_path, "train")
    assert store.missing == [IDS[1], IDS[4]] and store.ids == IDS
    np.testing.assert_array_equal(store.get(IDS[2]), rows[2])
    with pytest.raises(DataError, match="no features for 1 of 1 samples"):
        store.get(IDS[4])


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64", "float8_e5m2", "int8"])
@pytest.mark.parametrize("format", ["memmap", "per_video"])
def test_tensors_of_any_real_type_and_with_gradients_are_written_exactly(tmp_path, format, kind):
    shape = (len(IDS), 2, 4) if format == "per_video" else (len(IDS), 4)
    tensors = (torch.arange(math.prod(shape)) % 4 - 1).view(shape).to(getattr(torch, kind))
    if tensors.is_floating_point() and tensors.element_size() > 1:
        tensors.requires_grad_()
    out = writer(tmp_path, format)
    out.write(0, list(tensors))
    out.finish()
    store = FeatureStore.open(tmp_path, "train")
    for sample_id, tensor in zip(IDS, tensors, strict=True):
        assert np.array_equal(store.get(sample_id), tensor.detach().float().numpy())


def test_numbers_that_are_not_real_are_refused(tmp_path):
    for values in (np.ones(4, complex), np.array(["a"] * 4), np.array([None] * 4)):
        with pytest.raises(DataError, match="features are real numbers"):
            writer(tmp_path).write(0, [values])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.dtype("V2")])  # NumPy has bfloat16 as V2
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_quantised_features_of_others_are_refused_by_name(tmp_path, dtype, save):
    save(tmp_path / "train.npz", features=np.zeros((2, 4), dtype), ids=["a", "b"], meta="{}")
    with pytest.raises(DataError, match=r"train\.npz: .*(is no array of features|array of real numbers|quantised)"):
        FeatureStore.open(tmp_path, "train")


# ------------------------------------------------------------------------------------------------- bfloat16, and space


@pytest.mark.parametrize("format", ["memmap", "npz"])
def test_bfloat16_is_torchs_and_is_read_as_float32(tmp_path, format):
    rows = np.concatenate([features((4,)), np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(2.0**-130)]])])[1:]
    rows = rows.astype(np.float32)
    one = writer(tmp_path, format, shape=(2, 2), dtype="bfloat16")
    one.write(0, rows[:4].reshape(4, 2, 2))
    one = writer(tmp_path, format, shape=(2, 2), dtype="bfloat16")  # interrupted, and gone on with
    assert one.done == 4
    one.write(4, rows[4:].reshape(3, 2, 2))
    one.finish()
    store = FeatureStore.open(tmp_path, "train")
    wanted = torch.from_numpy(rows).to(torch.bfloat16).float().numpy().reshape(7, 2, 2)
    assert store.dtype == np.float32 and np.array_equal(np.asarray(store.features), wanted)
    assert np.array_equal(store.features[[1, 5]], wanted[[1, 5]])
    assert np.array_equal(store.get("plain"), wanted[1]) and np.array_equal(store.views[3], wanted[1, 1])
    with pytest.raises(DataError, match="not finite in bfloat16: set FEATURES.DTYPE float32"):
        writer(tmp_path / "big", format, shape=(1,), dtype="bfloat16").write(0, np.full((1, 1), 3.4e38, np.float32))


def test_one_view_of_a_row_is_read_alone(tmp_path):
    rows = features((3, 4))
    one = writer(tmp_path, shape=(3, 4))
    one.write(0, rows)
    one.finish()
    store = FeatureStore.open(tmp_path, "train")
    assert store.views.shape == (21, 4)
    for row, view in ((0, 0), (2, 1), (6, 2)):
        assert np.array_equal(store.views[3 * row + view], rows[row, view])


def test_space_is_looked_at_before(tmp_path, monkeypatch):
    one = writer(tmp_path, "npz", shape=(1000,))
    assert one.check_space().startswith("2.81e-05 GB, ")
    usage = shutil.disk_usage(tmp_path)
    for free, enough in ((7 * 4000 * 2 + 1000, True), (7 * 4000 * 2 - 1000, False)):  # rows, then the archive of them
        monkeypatch.setattr("dust.utils.features.writer.shutil.disk_usage", lambda _, f=free: usage._replace(free=f))
        if enough:
            one.check_space()
        else:
            with pytest.raises(DataError, match=r"GB are to be written, 0.00 GB are free"):
                one.check_space()


def test_every_nan_stays_one_in_bfloat16():
    odd = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(odd))).all()
