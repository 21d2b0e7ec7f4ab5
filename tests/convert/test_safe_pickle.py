"""Pickled arrays are read bit for bit, anything else is refused by name, and nothing in a file ever runs."""

import base64
import os
import pickle
import pickletools
import re
import struct
import tracemalloc

import numpy as np
import pytest

from dust.convert.safe_pickle import read_pickled_array
from dust.utils.errors import DataError
from tests.helpers import golden_json

PROTOCOLS = range(6)
BASE = np.random.RandomState(0).randn(5, 3, 4, 2) * 50


def written(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def refused(path, content: bytes) -> str:
    """The error that these bytes raise."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_pickled_array(path).load()
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "u1", "b1", ">f4", ">i2"])
def test_arrays_come_out_as_they_went_in(tmp_path, protocol, dtype):
    layouts = [BASE, np.asfortranarray(BASE), BASE[:, :, ::2], BASE[0, 0, 0], BASE[:1, :1, :1, :1]]
    layouts += [BASE.transpose(0, 2, 3, 1), BASE.transpose(2, 0, 1, 3)]
    for array in layouts:
        array = array.astype(dtype)
        path = written(tmp_path / "a.pkl", array, protocol)
        found = read_pickled_array(path)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found.load(), array, strict=True)
        for size in (1, 100, 1 << 20):
            firsts, blocks = zip(*found.blocks(size), strict=True)
            np.testing.assert_array_equal(np.concatenate(blocks), array)
            assert list(firsts) == np.cumsum([0, *map(len, blocks[:-1])]).tolist()
            row = array[0].nbytes
            assert all(block.nbytes <= max(size, row) for block in blocks)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_numpy_1_wrote(tmp_path, protocol):
    expected = (np.arange(24) * 1.5 - 7).astype("f4").reshape(2, 3, 4)
    facts = golden_json("numpy1_pickles")
    for order in "CF":
        data = base64.b64decode(facts[order][str(protocol)])
        assert b"numpy._core" not in data
        (tmp_path / "a.pkl").write_bytes(data)
        np.testing.assert_array_equal(read_pickled_array(tmp_path / "a.pkl").load(), expected, strict=True)


def test_pickles_of_the_python_pickler_and_without_a_memo(tmp_path):
    for protocol in PROTOCOLS:
        plain = pickle._dumps(BASE, protocol)
        for data in (plain, pickletools.optimize(plain)):
            (tmp_path / "a.pkl").write_bytes(data)
            np.testing.assert_array_equal(read_pickled_array(tmp_path / "a.pkl").load(), BASE)


def test_a_large_array_passes_in_blocks(tmp_path):
    """Also as text (protocols 0 to 2), where the numbers lie in the file encoded."""
    array = np.random.RandomState(0).randn(64, 1 << 14)  # 8 MiB
    for protocol in (2, 4, 5):
        found = read_pickled_array(written(tmp_path / "a.pkl", array, protocol))
        size = 1 << 18
        tracemalloc.start()
        total = sum(float(rows.sum()) for _, rows in found.blocks(size))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == pytest.approx(array.sum())
        assert peak < 4 * size if protocol > 2 else found.size


# --- poison -------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments, state=None):
        self.what = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.what


def poisons(trap):
    """(what, how its refusal names it)."""
    system = f"{os.system.__module__}.system"
    yield Call(os.system, f"touch {trap}"), system
    yield [np.zeros(3), Call(os.system, f"touch {trap}")], "LIST|system"
    yield Call(exec, f"open({str(trap)!r}, 'w')"), "builtins.exec|__builtin__.exec"
    yield Call(np.load, str(trap), None, True), r"numpy\.load"
    yield Call(np.fromfile, str(trap)), r"fromfile"
    yield Call(np.testing.assert_equal, 1, 2), "assert_equal"
    yield Call(getattr, "text", "upper"), "getattr"
    yield Call(np._core.multiarray._reconstruct, np.matrix, (0,), b"b"), "matrix"
    yield Call(np._core.multiarray._reconstruct, np.recarray, (0,), b"b"), "recarray"
    yield Call(np._core.multiarray._reconstruct, np.ndarray, (1 << 40,), b"b"), "_reconstruct"
    yield Call(np.ndarray, (1 << 40,)), "call of ndarray"
    yield Call(np.dtype, "O", False, True), "Python objects"
    yield Call(np.dtype, "O8", False, True), "Python objects"
    yield Call(np._core.numeric._frombuffer, b"12345678", np.dtype("O"), (1,), "C"), "Python objects"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_poison_is_refused_by_name_and_runs_nothing(tmp_path, protocol):
    trap = tmp_path / "trap"
    for poison, name in poisons(trap):
        content = pickle.dumps(poison, protocol)
        message = refused(tmp_path / "a.pkl", content)
        assert re.search(name, message), message
        assert not trap.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_poison_behind_a_good_array(tmp_path, protocol):
    """In its state, in a tuple with it, behind its end."""
    trap = tmp_path / "trap"
    good = pickle.dumps(np.arange(6.0), protocol)
    bad = pickle.dumps(Call(os.system, f"touch {trap}"), protocol)
    assert "follow the first array" in refused(tmp_path / "a.pkl", good + bad)
    assert "system" in refused(tmp_path / "a.pkl", good[:-1] + bad[2 if protocol > 1 else 0 :])
    assert "system" in refused(tmp_path / "a.pkl", good[:-1] + b"c" + b"os\nsystem\n" + b"0.")
    assert "EMPTY_DICT" in refused(tmp_path / "a.pkl", good[:-1] + b"}b.")
    assert "state" in refused(tmp_path / "a.pkl", good[:-1] + b")b.")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"cos\nsystem\n(S'echo'\ntR.", r"os\.system"),
        (b"(S'touch trap'\nios\nsystem\n.", "STRING|os.system"),
        (b"(ios\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.", r"os\.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.compile\x93)R.", r"numpy\.f2py\.compile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.", "NEWOBJ"),
        (b"(inumpy\nndarray\n.", "INST"),
        (b"Pabc\n.", "PERSID"),
        (b"\x80\x02K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02}.", "EMPTY_DICT"),
        (b"\x80\x02K\x05.", "no array of numbers"),
        (b"\x80\x02).", "no array of numbers"),
        (b"\x80\x02cnumpy\nndarray\n.", "no array of numbers"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x93NUMPY\x01\x00", "not a pickle"),
        (b"\x1f\x8b\x08", "not a pickle"),
        (b"", "cut off"),
        (b"\x80\x02" + b"(" * 10_000, "more than 400 instructions"),
        (b"\x80\x02)" + b"\x85q\x00h\x00\x86" * 1_000 + b".", "more than 400 instructions"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62), "announces"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc", "announces"),
        (b"\x80\x02B" + struct.pack("<I", 1 << 31), "announces"),
        (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "integer of 255 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "LONG4"),
        (b"I" + b"9" * 100 + b"\n.", "integer"),
        (b"c" + b"a" * 1000, "256 bytes"),
        (b"Vabc", "cut off"),
        (b"h\x07.", "item 7"),
        (b"R.", "lacks"),
        (b"(R.", "lacks"),
        (b"t.", "no start"),
    ],
)
def test_hand_made_pickles(tmp_path, content, named):
    message = refused(tmp_path / "a.pkl", content)
    assert re.search(named, message), message


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, None], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["a", "b"]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.zeros(2, complex),
        np.ma.masked_array([1.0, 2.0], [0, 1]),
        np.float64(3.0),
        np.zeros((2, 0)),
        [1, 2, 3],
        {"video": np.zeros(3)},
        (np.zeros(3), np.zeros(3)),
        3.5,
        "text",
        None,
    ],
    ids=str,
)
def test_other_values_are_refused(tmp_path, value, protocol):
    refused(tmp_path / "a.pkl", pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_shape_that_the_numbers_do_not_fill_allocates_nothing(tmp_path, protocol):
    for shape in ((1 << 15, 1 << 15, 1 << 15), (2, 4), (5,), (-1, 6), (1,) * 40):
        array = np.arange(6.0)
        plan = list(array.__reduce_ex__(min(protocol, 4)))
        plan[2] = (1, shape, *plan[2][2:])
        tracemalloc.start()
        message = refused(tmp_path / "a.pkl", pickle.dumps(Call(plan[0], *plan[1], state=plan[2]), protocol))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        assert "damaged" in message


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_off_anywhere(tmp_path, protocol):
    whole = pickle.dumps(np.arange(6.0).reshape(2, 3), protocol)
    for length in range(len(whole)):
        refused(tmp_path / "a.pkl", whole[:length])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_is_an_error_or_another_number(tmp_path, protocol):
    """Any byte replaced: a DataError, or an array of the size that was there; never another exception."""
    array = np.arange(6.0).reshape(2, 3)
    whole = pickle.dumps(array, protocol)
    rng = np.random.RandomState(protocol)
    path = tmp_path / "a.pkl"
    errors = 0
    for position in range(len(whole)):
        for value in rng.randint(0, 256, 2):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                found = read_pickled_array(path)
                assert found.load().nbytes <= len(whole)
                assert sum(len(rows) for _, rows in found.blocks()) == (found.shape[0] if found.shape else 0)
            except DataError:
                errors += 1
    assert errors > len(whole) / 2


def test_numbers_as_text_of_the_wrong_length(tmp_path):
    """Protocol 2 writes bytes as text, whose length is known only when it is read."""
    whole = pickle.dumps(np.full(4, 128, np.uint8), 2)  # two bytes of text for each
    text = "\x80" * 4
    assert text.encode() in whole
    cases = {"abcdefgh": "more numbers", "\x80\x80\x80aa": "more numbers", "ab\u0416\u0416gh": "latin-1"}
    for other, named in cases.items():
        changed = whole.replace(text.encode(), other.encode())
        assert len(changed) == len(whole)
        assert named in refused(tmp_path / "a.pkl", changed)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_pickled_array(tmp_path / "none.pkl")
    with pytest.raises(DataError, match="directory"):
        read_pickled_array(tmp_path)
