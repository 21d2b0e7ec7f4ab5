"""Several processes write a split, each its own rows; whoever goes on, in whatever number, ends with the same bytes."""

import random

import numpy as np
import pytest

from dust.utils.errors import DataError
from dust.utils.features import FeatureStore
from dust.utils.features.formats import FORMATS, read_count, united
from dust.utils.features.writer import FeatureWriter
from tests.utils.features.test_store import contents

IDS = [f"v{number}" for number in range(23)]
BAD = {4, 11, 12}


def row_of(number, format):
    shape = (number % 3 + 1, 4) if format == "per_video" else (4,)
    return None if number in BAD else np.random.RandomState(number).standard_normal(shape).astype(np.float32)


def opened(folder, format, count):
    """The writers of so many processes."""
    more = (folder, "train", IDS, (4,), "float32", {"layer": "pooled"}, format)
    first = FeatureWriter(*more, share=0)
    others = [FeatureWriter(*more, share=number) for number in range(1, count)]
    for one in others:
        one.take_over(first.counted, first.complete)
    return [first, *others]


def write_some(writers, format, left, order):
    """Each writes some rows of its own share in turns, ``left`` of them in all."""
    shares = [list(part) for part in np.array_split(writers[0].to_do(), len(writers))]
    while left and any(shares):
        number = order.choice([n for n, share in enumerate(shares) if share])
        row = int(shares[number].pop(0))
        writers[number].write(row, [row_of(row, format)])
        left -= 1
    return not any(shares)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("counts", [(2, 3), (2, 1), (1, 4), (3, 2, 5, 1)])
def test_any_number_of_processes_goes_on_where_others_were_killed(tmp_path, format, counts):
    order = random.Random(repr(counts))
    (whole,) = opened(tmp_path / "whole", format, 1)
    for row in range(len(IDS)):
        whole.write(row, [row_of(row, format)])
    whole.join()
    whole.finish()
    for number, count in enumerate(counts):
        writers = opened(tmp_path / "shared", format, count)
        last = number == len(counts) - 1
        assert write_some(writers, format, 99 if last else 6, order) == last
        if not last:
            with pytest.raises(DataError, match=f"not finished, {6 * number + 6} of 23 are done"):
                FeatureStore.open(tmp_path / "shared", "train")
    writers[0].join()
    assert writers[0].missing == [IDS[row] for row in sorted(BAD)]
    writers[0].finish()
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


def test_what_has_no_feature_is_tried_again_on_demand(tmp_path):
    first, second = opened(tmp_path, "memmap", 2)
    for row in (0, 3, 4, 5):
        first.write(row, [row_of(row, "memmap")])
    second.write(11, [None, None])
    (again,) = opened(tmp_path, "memmap", 1)
    assert again.missing == ["v4", "v11", "v12"] and again.done == 6
    again.try_missing_again()
    assert again.missing == [] and again.to_do().tolist()[:4] == [1, 2, 4, 6] and again.done == 3
    assert opened(tmp_path, "memmap", 1)[0].to_do().tolist() == again.to_do().tolist(), "and it is written down"


def test_rows_are_written_once(tmp_path):
    first, second = opened(tmp_path, "memmap", 2)
    first.write(4, [row_of(5, "memmap")] * 3)
    for start in (4, 6, 2):
        with pytest.raises(ValueError, match="features from sample"):
            first.write(start, [row_of(1, "memmap")] * 3)
    second.write(7, [row_of(7, "memmap")])
    first.join()
    assert first.counted == [(4, 8)]
    with pytest.raises(ValueError, match="4 of 23 features are written"):
        first.finish()


def test_ranges_are_joined_and_a_count_of_before_is_read(tmp_path):
    assert united([(5, 7), (0, 2), (2, 4), (6, 9), (3, 3)]) == [(0, 4), (5, 9)]
    (tmp_path / "old").write_text('[3, ["a"]]')
    assert read_count(tmp_path / "old") == ([(0, 3)], ["a"])
    for damaged in ("[[[3, 1]], []]", "[[[0]], []]", '["x", []]', "[[3], []]"):
        (tmp_path / "bad").write_text(damaged)
        with pytest.raises(DataError, match="bad: damaged, holds no count"):
            read_count(tmp_path / "bad")
