"""Columns in a file: what was written comes back, and what somebody else made of it is refused."""

import json
import os
import pickle

import numpy as np
import pytest

from dust.datasets.manifest import column_file
from dust.datasets.manifest.column_file import TEXT, Columns, Texts, open_columns, write_columns
from dust.utils.errors import DataError, SampleError

WORDS = ["", "a", "Straße", "", "日本.mp4", "x" * 300, "b\udcff.mp4", ""]
KINDS = {"text": TEXT, "label": "<i4"}


def columns(**others):
    found = {"text": Texts.of(WORDS), "label": np.arange(8, dtype="<i4"), **others}
    return Columns(found, {"words": Texts.of(["one"])}, {"source": "list"})


@pytest.fixture
def path(tmp_path):
    write_columns(tmp_path / "a.npz", columns(), "clips")
    return tmp_path / "a.npz"


def reopened(path, **others):
    return open_columns(path, "clips", {**KINDS, **others}, tables={"words": TEXT}, optional=["group"])


def rewritten(path, **arrays):
    """The file with other arrays, and checksums that are right."""
    with np.load(path) as old:
        np.savez(path, **{**old, **arrays})
    return reopened(path)


@pytest.mark.parametrize("where", ["memory", "file", "pickled"])
def test_what_was_written_comes_back(path, where, monkeypatch):
    monkeypatch.setattr(column_file, "BLOCK", 3)
    found = columns() if where == "memory" else reopened(path, group="<i4")
    if where == "pickled":
        found = pickle.loads(pickle.dumps(found))
    text, label = found.columns["text"], found.columns["label"]
    assert list(text) == [text[row] for row in range(8)] == WORDS and len(found) == len(text) == 8
    assert text[-2] == WORDS[-2] and text[2:5] == WORDS[2:5] and text[::3] == WORDS[::3] and text[5:2] == []
    np.testing.assert_array_equal(label[:], np.arange(8))
    assert list(found.tables["words"]) == ["one"] and found.facts == {"source": "list"}
    for row in (8, -9):
        with pytest.raises(IndexError):
            text[row]


def test_no_texts_and_thousands(tmp_path):
    many = [f"{number}" * (number % 7) for number in range(5000)]
    for texts in ([], many):
        write_columns(tmp_path / "a.npz", Columns({"text": Texts.of(iter(texts))}), "clips")
        assert list(open_columns(tmp_path / "a.npz", "clips", {"text": TEXT}).columns["text"]) == texts


def test_damage_of_any_byte_that_counts_is_seen(path):
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            found = reopened(path)
        except DataError as error:
            assert "a.npz" in str(error)
        else:  # a byte that says nothing, such as a date
            assert list(found.columns["text"]) == WORDS and found.columns["label"][:].tolist() == list(range(8))
    for size in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(SampleError):
            reopened(path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"label": np.arange(7, dtype="<i4")}, "rows"),
        ({"label": np.arange(8.0)}, "label: float64"),
        ({"label": np.zeros((8, 1), "<i4")}, r"label: int32 \(8, 1\)"),
        ({"label": np.array([{}] * 8)}, "Python objects"),
        ({"text.starts": np.zeros(9, np.uint32)}, "texts of 0 bytes"),
        ({"text.starts": np.full(9, -1)}, "text.starts: int64"),
        ({"text.starts": np.array([0, 9, 4, 9, 9, 9, 9, 9, 9], np.uint32)}, "one behind the other"),
        ({"text.starts": np.array([1] * 9, np.uint32)}, "one behind the other"),
        ({"text.starts": np.array([0] * 8 + [1 << 40], np.uint64)}, "texts of 1,099,511,627,776 bytes"),
        ({"text.starts": np.zeros(0, np.uint32)}, "texts of 0 bytes"),
        ({"facts": np.frombuffer(b"[", np.uint8)}, "not JSON"),
        ({"facts": np.frombuffer(b'{"kind": "shards", "format": 1, "facts": {}}', np.uint8)}, "not clips"),
        ({"facts": np.frombuffer(b'{"kind": "clips", "format": 1, "facts": 3}', np.uint8)}, "no facts"),
        ({"facts": np.zeros(4)}, "facts of float64"),
    ],
)
def test_what_somebody_forged_is_refused(path, arrays, said):
    with pytest.raises(DataError, match=said):
        rewritten(path, **arrays)


def test_offsets_are_checked_over_the_bounds_of_what_is_looked_at_together(path, monkeypatch):
    monkeypatch.setattr(column_file, "_CHECKED", 2)
    reopened(path)
    for place in range(1, 8):
        starts = Texts.of(WORDS).starts.copy()
        starts[place] = starts[-1] + 1
        with pytest.raises(SampleError, match="one behind the other"):
            rewritten(path, **{"text.starts": starts})


def test_a_file_that_is_missing_cut_or_compressed(path, tmp_path):
    with pytest.raises(SampleError, match=r"b\.npz: cannot be read"):
        reopened(tmp_path / "b.npz")
    with pytest.raises(SampleError, match="no other"):
        reopened(path, other="<i4")
    found = reopened(path)
    os.truncate(path, 100)
    with pytest.raises(SampleError, match="was cut while it was in use"):
        found.columns["text"][5]
    facts = json.dumps({"kind": "clips", "format": 1, "facts": {}}).encode()
    np.savez_compressed(path, label=np.arange(3), facts=np.frombuffer(facts, np.uint8))
    with pytest.raises(SampleError, match="compressed"):
        open_columns(path, "clips", {"label": "<i8"})


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    with pytest.raises(OSError):
        write_columns(tmp_path / "none" / "a.npz", columns(), "clips")
    with pytest.raises(ValueError, match="rows"):
        write_columns(tmp_path / "a.npz", columns(label=np.arange(3)), "clips")
    assert os.listdir(tmp_path) == []
