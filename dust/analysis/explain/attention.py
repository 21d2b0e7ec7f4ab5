"""What attention looked at: every attention of a forward pass, kept with its gradient, and rolled out to the tokens.

Fused attention keeps no probabilities, so it is computed by hand while :class:`KeptAttention` is open, and only then.
Rollout: Abnar and Zuidema, ACL 2020. Gradient-weighted attention: Chefer, Gur and Wolf, ICCV 2021.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass
class Attention:
    """One attention of a forward pass over one clip: M sequences side by side (frames, places, or one).

    Attributes:
        mean: (M, Lq, Lk) probabilities, mean over the heads.
        weighted: the same, each weighted by its gradient, negative ones 0; filled by the backward pass.
        rows: (M, Lq) how much of each query's answer counts: its gradient's size.
    """

    mean: Tensor
    weighted: Tensor = field(default_factory=lambda: torch.empty(0))
    rows: Tensor = field(default_factory=lambda: torch.empty(0))


class KeptAttention(TorchFunctionMode):
    """Keeps every ``scaled_dot_product_attention`` while it is open; a backward pass then fills in the gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Attention] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(dim=-1)  # (M, heads, Lq, Lk)
        kept = Attention(weights.detach().mean(dim=1))

        def keep(gradient: Tensor) -> None:
            product = gradient * weights.detach()
            kept.weighted = product.clamp(min=0).mean(dim=1)
            kept.rows = product.abs().sum(dim=(1, 3))

        if weights.requires_grad:
            weights.register_hook(keep)
        self.found.append(kept)
        return weights @ value


@dataclass(frozen=True)
class TokenGrid:
    """How the tokens of a clip lie: ``extra`` tokens of no place first (one, or one for each time), then times x rows x
    columns."""

    extra: int
    times: int
    rows: int
    columns: int

    @property
    def places(self) -> int:
        return self.rows * self.columns

    @property
    def count(self) -> int:
        return self.extra + self.times * self.places


def roll_out(found: Sequence[Attention], grid: TokenGrid, *, weighted: bool = True) -> Tensor | None:
    """Roll attentions out to a map (times, rows, columns) of relevance, 0 and more.

    Attention that is weighted by gradients is as small as these are, far below the 1 with which a token counts for
    itself: so each row of it sums to 1, as Chefer et al. normalise relevance (equations 8 and 9).

    Args:
        weighted: by the gradients of the answer; else plain rollout, which knows no answer.

    Returns:
        None where an attention does not lie on the grid (windows, pooled keys).
    """
    relevance = torch.eye(grid.count)
    for one in found:
        own = (one.weighted if weighted else one.mean).float().cpu()
        if own.numel() == 0:  # it does not lead to the answer
            continue
        if weighted:
            own = own / own.sum(dim=-1, keepdim=True).clamp(min=1e-30)
        step = step_of(own, grid, len(relevance), alone=0.0 if weighted else 1.0)
        if step is None:
            return None
        if step.shape[0] == step.shape[1]:
            relevance = relevance[len(relevance) - len(step) :]  # of a part that sees no extra tokens
            relevance = relevance + step @ relevance if weighted else (step @ relevance + relevance) / 2
        else:
            relevance = step @ relevance[len(relevance) - step.shape[1] :]
    last = next((one for one in reversed(found) if one.rows.numel()), None)
    rows = _rows(last, grid, len(relevance)) if last is not None else torch.ones(len(relevance))
    summed = rows @ relevance / rows.sum().clamp(min=1e-30)
    return summed[grid.extra :].reshape(grid.times, grid.rows, grid.columns)


def step_of(own: Tensor, grid: TokenGrid, rows: int, *, alone: float) -> Tensor | None:
    """Write one attention (M, Lq, Lk) as a matrix over the tokens; None where it does not lie on the grid.

    Args:
        rows: tokens that there are.
        alone: what a token that takes no part looks at itself with.
    """
    sequences, queries, keys = own.shape
    inner = grid.times * grid.places
    if sequences == 1 and keys in (rows, inner) and queries <= keys:
        return own[0]
    if queries != keys or rows != grid.count or grid.times == grid.places:
        return None
    over_places = sequences == grid.times and keys - grid.places in (0, 1) and keys >= grid.places
    if over_places:
        return _over_places(own, grid, keys - grid.places, alone)
    if sequences == grid.places and keys == grid.times:
        full = alone * torch.eye(grid.count)
        for place in range(grid.places):
            tokens = grid.extra + place + grid.places * torch.arange(grid.times)
            full[tokens[:, None], tokens] = own[place]
        return full
    return None


def _over_places(own: Tensor, grid: TokenGrid, extra: int, alone: float) -> Tensor | None:
    """Return attention within each time, with an extra token that all share or that each time has for itself."""
    if extra and grid.extra not in (1, grid.times):
        return None
    full = alone * torch.eye(grid.count)
    if extra:
        full[: grid.extra, : grid.extra] = 0
    for time in range(grid.times):
        tokens = grid.extra + grid.places * time + torch.arange(grid.places)
        full[tokens[:, None], tokens] = own[time, extra:, extra:]
        if extra:
            shared = grid.extra == 1
            token, share = (0, 1 / grid.times) if shared else (time, 1.0)
            full[tokens, token] += own[time, 1:, 0]
            full[token, tokens] += own[time, 0, 1:] * share
            full[token, token] += own[time, 0, 0] * share
    return full


def _rows(last: Attention, grid: TokenGrid, count: int) -> Tensor:
    """Return how much each row of the relevance counts, by the gradients in the last attention."""
    rows = last.rows.float().cpu()
    if rows.shape == (1, count):
        return rows[0]
    if rows.shape[0] == grid.times and rows.shape[1] - grid.places in (0, 1) and count == grid.count:
        extra = rows.shape[1] - grid.places
        found = torch.zeros(count)
        found[grid.extra :] = rows[:, extra:].reshape(-1)
        if extra:
            found[: grid.extra] = rows[:, 0].sum() if grid.extra == 1 else rows[:, 0]
        return found
    return torch.ones(count)


def last_attention(found: Sequence[Attention], grid: TokenGrid) -> Tensor | None:
    """Return the gradient-weighted attention of the last layer alone, (times, rows, columns).

    For keys that were pooled by whole steps of rows and columns: spread to the places that they stand for. Queries that
    were pooled leave keys on a finer grid, whose map is given as it is."""
    last = next((one for one in reversed(found) if one.weighted.numel()), None)
    if last is None or len(last.weighted) != 1:
        return None
    keys = last.weighted[0].float().cpu().sum(dim=0)
    for extra in {grid.extra, 0}:
        pooled, over = divmod(len(keys) - extra, grid.times)
        if over or pooled < 1:
            continue
        step = round(math.sqrt(grid.places / pooled))
        if step and pooled * step * step == grid.places and not (grid.rows % step or grid.columns % step):
            small = keys[extra:].reshape(grid.times, grid.rows // step, grid.columns // step)
            return small.repeat_interleave(step, 1).repeat_interleave(step, 2)
        finer = round(math.sqrt(pooled / grid.places))
        if finer > 1 and grid.places * finer * finer == pooled:
            return keys[extra:].reshape(grid.times, grid.rows * finer, grid.columns * finer)
    return None
