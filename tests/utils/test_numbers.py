"""Arguments as numbers: what is taken, and what is named."""

import math

import numpy as np
import pytest
import torch

from dust.utils.errors import ArgumentError, ConfigError, DataError
from dust.utils.numbers import as_classes, as_numbers, finite, length_of, whole


@pytest.mark.parametrize(
    "values", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), torch.tensor([1.0, 2.0], requires_grad=True),
               torch.tensor([1, 2]).bfloat16(), torch.tensor([1, 2]).to(torch.float8_e5m2)],
)  # fmt: skip
def test_numbers_of_every_kind(values):
    assert as_numbers("x", values, ndim=1).tolist() == [1, 2]
    assert as_classes("x", values, 3).tolist() == [1, 2] and as_classes("x", values, 3).dtype == np.int64
    assert as_numbers("x", [], ndim=2).shape == (0, 0)


@pytest.mark.parametrize("values", [["a"], [None], [1j], [[1], [1, 2]], object(), {"a": 1}, torch.ones(1).cfloat()])
def test_what_is_no_number_is_named(values):
    with pytest.raises(DataError, match="scores: "):
        as_numbers("scores", values)
    with pytest.raises(DataError, match="label: "):
        as_classes("label", values)


@pytest.mark.parametrize("values", [[0.5], [math.nan], [math.inf], [-1], [3]])
def test_what_is_no_class_is_named(values):
    with pytest.raises(DataError, match="label"):
        as_classes("label", values, 3)


def test_single_numbers():
    assert whole("x", 3.0) == whole("x", np.int64(3)) == whole("x", torch.tensor(3), low=3) == 3
    for value in (2.5, math.nan, math.inf, "3", None, [3], 1j):
        with pytest.raises(ArgumentError, match="x is .*whole number"):
            whole("x", value)
    with pytest.raises(ArgumentError, match="x is 2: it must be at least 3"):
        whole("x", 2, low=3)
    assert finite("x", 2.5, above=2) == 2.5
    for value, words in ((math.nan, "finite"), (math.inf, "finite"), (2, "above 2"), ("a", "a number")):
        with pytest.raises(ArgumentError, match=f"x is {value!r}.*{words}"):
            finite("x", value, above=2)
    assert [length_of(value) for value in ([1], (), 3, torch.tensor(3), np.array(3))] == [1, 0, -1, -1, -1]


def test_an_argument_that_cannot_be_is_caught_as_whatever_one_looks_for():
    assert issubclass(ArgumentError, ConfigError) and issubclass(ArgumentError, DataError)
    assert issubclass(ArgumentError, ValueError)
