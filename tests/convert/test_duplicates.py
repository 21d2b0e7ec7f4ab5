"""Equal contents under several names, within and between splits."""

import os

import numpy as np
import pytest

from dust.convert.duplicates import content_sha256, same_content, shared_between
from dust.utils.errors import DataError


def write(root, **contents):
    paths = {}
    for name, content in contents.items():
        (root / name).write_bytes(content)
        paths[name] = str(root / name)
    return paths


def test_equal_sizes_are_not_equal_contents(tmp_path):
    p = write(tmp_path, a=b"xyz", b=b"xyw", c=b"xyz", d=b"longer", e=b"xyz")
    assert same_content(p.values()) == [[p["a"], p["c"], p["e"]]]
    assert same_content([p["a"], p["a"]]) == []
    assert content_sha256(p["a"]) == "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282"


def test_folders_of_frames(tmp_path):
    for name, contents in {"x": (b"1", b"2"), "y": (b"1", b"2"), "z": (b"2", b"1")}.items():
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / f"{number}.jpg").write_bytes(content)
    assert same_content(str(tmp_path / name) for name in "xyz") == [[str(tmp_path / "x"), str(tmp_path / "y")]]


def test_arrays_within_files(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    np.savez(tmp_path / "a.npz", x=numbers, y=numbers.reshape(3, 4), z=numbers.view(np.int32), w=numbers)
    np.savez_compressed(tmp_path / "b.npz", other=numbers)
    np.save(tmp_path / "c.npy", np.stack([numbers + 1, numbers]))
    names = ["a.npz#x", "a.npz#y", "a.npz#z", "a.npz#w", "b.npz#other", "c.npy#0", "c.npy#1", "a.npz"]
    (same,) = same_content(str(tmp_path / name) for name in names)
    assert [os.path.basename(path) for path in same] == ["a.npz#x", "a.npz#w", "b.npz#other", "c.npy#1"]


def test_between_and_within_splits(tmp_path):
    p = write(tmp_path, a=b"1", b=b"1", c=b"2", d=b"3", e=b"4", f=b"4")
    shared, repeated = shared_between(
        {"train": [p["a"], p["c"], p["d"]], "val": [p["b"], p["e"], p["f"]], "test": [p["c"]]}
    )
    assert shared == [{"train": [p["a"]], "val": [p["b"]]}, {"train": [p["c"]], "test": [p["c"]]}]
    assert repeated == {"train": [], "val": [[p["e"], p["f"]]], "test": []}


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="gone"):
        same_content([str(tmp_path / "gone")])
