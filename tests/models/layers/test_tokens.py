"""Fewer tokens, and which."""

import pytest
import torch

from dust.models.layers.tokens import TokenPooling, tokens_of_map
from dust.utils.errors import ConfigError
from tests.helpers import noise_of

CLASS, GRID = noise_of(2, 1, 6), noise_of(2, 4, 3, 3, 6)


def test_all_are_class_tokens_then_time_row_column():
    tokens = TokenPooling()(CLASS, GRID)
    assert torch.equal(tokens[:, :1], CLASS)
    assert torch.equal(tokens[:, 1 + 1 * 9 + 2 * 3 + 0], GRID[:, 1, 2, 0])
    empty, grid = tokens_of_map(noise_of(2, 6, 4, 3, 3))
    assert empty.shape == (2, 0, 6) and grid.shape == (2, 4, 3, 3, 6)


def test_a_grid_holds_means_and_the_class_tokens():
    tokens = TokenPooling("grid", (2, 1, 3))(CLASS, GRID)
    assert tokens.shape == (2, 1 + 6, 6)
    torch.testing.assert_close(tokens[:, 1 + 3 + 2], GRID[:, 2:4, :, 2].mean(dim=(1, 2)))


def test_queries_are_one_step_of_soft_k_means():
    tokens = TokenPooling()(CLASS[:, :0], GRID)  # 36: each query begins as the mean of 9
    found = TokenPooling("queries", num_queries=4)(CLASS[:, :0], GRID)
    for k in range(4):
        query = tokens[:, 9 * k : 9 * k + 9].mean(dim=1)
        weights = (tokens @ query.unsqueeze(2) / 6**0.5).softmax(dim=1)
        torch.testing.assert_close(found[:, k], (weights * tokens).sum(dim=1), atol=1e-5, rtol=1e-5)


def test_no_more_than_there_is():
    with pytest.raises(ConfigError, match=r"TOKEN_GRID \[5, 1, 1\]: the backbone gives \[4, 3, 3\]"):
        TokenPooling("grid", (5, 1, 1))(CLASS, GRID)
    with pytest.raises(ConfigError, match=r"TOKEN_QUERIES \[99\]: the backbone gives \[37\]"):
        TokenPooling("queries", num_queries=99)(CLASS, GRID)
