"""Arrays in files: read in parts as NumPy would, refused before anything is believed, and cut ones named."""

import gc
import os
import pickle
import zipfile

import numpy as np
import pytest

from dust.utils import arrays
from dust.utils.arrays import StoredArray, is_stored, open_npz, read_npy
from dust.utils.errors import SampleError

VALUES = np.arange(240, dtype=np.float32).reshape(10, 4, 6)


@pytest.fixture(params=["npy", "npz", "fortran", "big-endian"])
def stored(request, tmp_path):
    values = VALUES if request.param != "big-endian" else VALUES.astype(">f4")
    if request.param == "npz":
        np.savez(tmp_path / "a.npz", other=np.zeros(3), features=values)
        return StoredArray(tmp_path / "a.npz", "features")
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if request.param == "fortran" else values)
    return StoredArray(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "key",
    [0, -1, 7, slice(2, 5), slice(None, None, 3), slice(5, 2), [4], [9, 0, 0, 1, 2, -3], np.array([[1, 2], [2, 9]])],
)
def test_rows_are_those_that_numpy_gives(stored, key):
    np.testing.assert_array_equal(stored[key], VALUES[key])
    assert stored[key].flags.writeable and (stored.shape, stored.ndim, stored.size) == ((10, 4, 6), 3, 240)
    np.testing.assert_array_equal(np.asarray(stored), VALUES)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored))[key], VALUES[key])


@pytest.mark.parametrize("key", [10, -11, [0, 10]])
def test_a_row_that_is_not_there(stored, key):
    with pytest.raises(IndexError):
        stored[key]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,)])
def test_odd_shapes(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), np.ones(shape), strict=True)


def test_a_row_of_single_numbers_is_one(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0))
    for key in (2, [3, 1]):
        np.testing.assert_array_equal(StoredArray(tmp_path / "a.npy")[key], np.arange(4.0)[key])


def test_a_file_that_is_cut_while_it_is_in_use(stored):
    if stored.fortran:
        return
    os.truncate(stored.path, os.path.getsize(stored.path) // 2)
    np.testing.assert_array_equal(stored[0], VALUES[0])
    with pytest.raises(SampleError, match=f"{os.path.basename(stored.path)}: was cut while it was in use"):
        stored[9]


def test_a_file_that_is_replaced_gives_no_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_OPEN_FILES", 2)
    stored = []
    for n in range(4):
        np.save(tmp_path / f"{n}.npy", VALUES + n)
        stored.append(StoredArray(tmp_path / f"{n}.npy"))
    np.save(tmp_path / "new.npy", VALUES)
    for n in (0, 3):
        os.replace(tmp_path / "new.npy", tmp_path / f"{n}.npy")
        np.save(tmp_path / "new.npy", VALUES)
    np.testing.assert_array_equal(stored[3][1], VALUES[1] + 3)  # still open
    np.testing.assert_array_equal(stored[1][1], VALUES[1] + 1)  # opened again
    with pytest.raises(SampleError, match="0.npy: was replaced"):
        stored[0][1]


def test_open_files_are_bounded_and_closed(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    many = [StoredArray(tmp_path / "a.npy") for _ in range(200)]
    assert len(os.listdir("/proc/self/fd")) <= before + 64
    np.testing.assert_array_equal(many[0][3], VALUES[3])
    del many
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_only_what_is_asked_for_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", wanted=VALUES, bomb=np.zeros(1 << 24, np.uint8))
    opened = []
    opens = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, one, *args: opened.append(one.filename) or opens(self, one, *args)
    )
    with open_npz(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive.read("wanted"), VALUES)
    assert opened == ["wanted.npy"] and not is_stored(tmp_path / "a.npz", "wanted")
    monkeypatch.setattr(arrays, "_MOST_UNPACKED", 1 << 20)
    with open_npz(tmp_path / "a.npz") as archive, pytest.raises(SampleError, match="far too large to be unpacked"):
        archive.read("bomb")
    with pytest.raises(SampleError, match="compressed, so that it cannot be read in parts"):
        StoredArray(tmp_path / "a.npz", "wanted")


def test_objects_are_refused_wherever_they_stand(tmp_path):
    np.savez(tmp_path / "a.npz", fine=VALUES, bad=np.array([{}, 1], dtype=object))
    with open_npz(tmp_path / "a.npz") as archive:
        archive.read("fine")
        for what in (lambda: archive.read("bad"), archive.refuse_objects):
            with pytest.raises(SampleError, match="Python objects, which are never unpickled"):
                what()
    with pytest.raises(SampleError, match="Python objects"):
        StoredArray(tmp_path / "a.npz", "bad")


def test_a_header_that_tells_of_fewer_numbers_than_there_are(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    data = (tmp_path / "a.npy").read_bytes().replace(b"(10, 4, 6)", b"(10, 4, 5)")
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(SampleError, match=r"960 bytes of numbers, where float32 \(10, 4, 5\) has 800"):
        read_npy(tmp_path / "a.npy")


def test_damage_in_an_archive_is_seen_by_its_checksum(tmp_path):
    np.savez(tmp_path / "a.npz", a=VALUES)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with open_npz(tmp_path / "a.npz") as archive, pytest.raises(SampleError, match="a.npz: damaged"):
        archive.read("a")
