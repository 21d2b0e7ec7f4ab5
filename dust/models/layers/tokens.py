"""Tokens of a frozen backbone: all of them, or fewer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dust.models.layers.common import share_means
from dust.utils.errors import ConfigError

Tokens = tuple[torch.Tensor, torch.Tensor]
POOLINGS = ("all", "grid", "queries")


def tokens_of_map(features: torch.Tensor) -> Tokens:
    """Turn a map (B, D, T', H', W') into tokens (B, T', H', W', D), with no class token: (B, 0, D)."""
    grid = features.movedim(1, -1)
    return grid.new_empty(len(grid), 0, grid.shape[-1]), grid


@dataclass(frozen=True)
class TokenPooling:
    """Makes one sequence of what ``forward_tokens`` gives; it has no weights.

    Args:
        kind: ``all``: the class tokens, then the grid by time, row and column; ``grid``: the class tokens, then the
            means of a coarser grid; ``queries``: ``num_queries`` tokens. Query k is the mean of the k-th share of all
            tokens, and becomes the mean of all tokens, weighted by the softmax of their product with it over sqrt(D):
            one step of soft k-means.
        grid: T, H, W of the coarser grid.
    """

    kind: str = "all"
    grid: tuple[int, int, int] = (1, 1, 1)
    num_queries: int = 16

    def __call__(self, class_tokens: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Map (B, E, D) and (B, T', H', W', D) -> (B, N, D). ConfigError for more than there is."""
        if self.kind == "grid":
            self._check(self.grid, grid.shape[1:4], "FEATURES.TOKEN_GRID")
            pooled = share_means(grid.movedim(-1, 1), self.grid)
            return torch.cat([class_tokens, pooled.flatten(2).transpose(1, 2)], dim=1)
        tokens = torch.cat([class_tokens, grid.flatten(1, 3)], dim=1)
        if self.kind == "all":
            return tokens
        self._check([self.num_queries], tokens.shape[1:2], "FEATURES.TOKEN_QUERIES")
        queries = share_means(tokens.transpose(1, 2), [self.num_queries]).transpose(1, 2)
        return F.scaled_dot_product_attention(queries, tokens, tokens)

    @staticmethod
    def _check(wanted: Sequence[int], there: Sequence[int], key: str) -> None:
        if any(a > b for a, b in zip(wanted, there, strict=True)):
            raise ConfigError(f"{key} {list(wanted)}: the backbone gives {list(there)}; ask for no more, or FEATURES."
                              "TOKENS all")  # fmt: skip
