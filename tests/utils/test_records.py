"""Records that go to a file: the same ones, in order, as often as is asked, and no more of them in memory."""

import numpy as np
import pytest
import torch

from dust.utils import records
from dust.utils.errors import DataError
from dust.utils.records import JoinedRecords, KeptPairs, Records, joined_records


def record(number):
    scores = np.random.default_rng(number).standard_normal(5).astype(np.float32)
    return {"id": f"v{number}", "label": None if number % 3 else number, "scores": scores, "verb": torch.tensor(number)}


def same(one, two):
    assert one.keys() == two.keys() and (one["id"], one["label"]) == (two["id"], two["label"])
    np.testing.assert_array_equal(one["scores"], two["scores"])
    assert torch.equal(one["verb"], two["verb"])


@pytest.mark.parametrize("held_bytes", [0, 700, 1500, 1 << 20])
def test_what_is_added_comes_back_wherever_it_is(tmp_path, held_bytes):
    own = Records(tmp_path / "deep" / "0.records", held_bytes)
    for number in range(10):
        own.append(record(number))
        assert len(own) == number + 1
        same(own[number], record(number))  # while more are to come
    assert (tmp_path / "deep").exists() == (held_bytes < 1 << 20), "a file is made only where it is needed"
    own.close()
    for _ in range(2):
        for number, one in enumerate(own):
            same(one, record(number))
    assert [one["id"] for one in own[2:8:3]] == ["v2", "v5"] and own[-1]["id"] == "v9"
    with pytest.raises(IndexError):
        own[10]


def test_parts_of_several_processes_follow_each_other(tmp_path):
    parts, number = [], 0
    for rank, (count, held_bytes) in enumerate([(3, 0), (0, 0), (2, 1 << 20), (4, 500)]):
        own = Records(tmp_path / f"{rank}.records", held_bytes)
        for _ in range(count):
            own.append(record(number))
            number += 1
        own.close()
        parts.append(own.part())
    joined = joined_records(parts)
    assert isinstance(joined, JoinedRecords) and len(joined) == 9
    first, second = iter(joined), iter(joined)  # two readers do not disturb each other
    for number in range(9):
        same(next(first), record(number))
        if number % 2:
            next(second)
    assert isinstance(joined_records([parts[2]]), list), "what is in memory is a list like any other"


def test_a_file_that_is_not_whole_or_gone_is_no_answer(tmp_path):
    own = Records(tmp_path / "0.records", 0)
    for number in range(3):
        own.append(record(number))
    own.close()
    joined = joined_records([own.part()])
    data = own.path.read_bytes()
    own.path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"0.records: has [\d,]+ of [\d,]+ bytes of records: OUTPUT_DIR must be"):
        list(joined)
    own.path.unlink()
    with pytest.raises(DataError, match=r"0.records: cannot be read: No such file"):
        list(joined)


def test_a_full_disk_is_one_sentence():
    own = Records("/dev/full", 0)
    with pytest.raises(DataError, match=r"^/dev/full: the records of the evaluation cannot be written: No space left"):
        for _ in range(3):
            own.append({"id": "v", "scores": np.zeros(1 << 18)})


def test_what_this_run_has_not_written_is_never_unpickled(tmp_path):
    """Who may write to the folder puts a record of their own there, or changes the order of ours."""
    own = Records(tmp_path / "0.records", 0)
    for number in range(3):
        own.append(record(number))
    own.close()
    good = own.path.read_bytes()
    third = len(good) // 3
    poison = b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "harm").encode()
    changed = [
        good[:24] + poison.ljust(len(good) - 24, b"N"),
        good[third : 2 * third] + good[:third] + good[2 * third :],
        bytes(16) + b"\xff" * 8 + good[24:],
    ]
    for bad in changed:
        own.path.write_bytes(bad)
        with pytest.raises(DataError, match="not what this run has written"):
            list(own)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("held_bytes", [1, 1 << 20])
def test_pairs_of_arrays_are_read_once_and_given_as_often_as_is_asked(tmp_path, monkeypatch, held_bytes):
    monkeypatch.setattr(records, "HELD_BYTES", held_bytes)
    made = [(np.random.default_rng(n).random((n, 3), dtype=np.float32), np.arange(n)) for n in (4, 1, 7)]
    kept = KeptPairs(iter(made), str(tmp_path))
    for _ in range(3):
        for one, other in zip(kept, made, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    assert not list(tmp_path.iterdir()), "the file has no name"
    if held_bytes == 1:
        with pytest.raises(DataError, match="nowhere: cannot be written to: "):
            KeptPairs(iter(made), str(tmp_path / "nowhere"))
