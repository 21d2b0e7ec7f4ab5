"""Attention within shifted windows, on grids of any number of axes: one for a series, three for a video.

Swin (https://arxiv.org/abs/2103.14030), Video Swin (https://arxiv.org/abs/2106.13230) and, for cosine attention and
res-post-norm, Swin V2 (https://arxiv.org/abs/2111.09883). Written from the papers and from facts about the public
checkpoints (Apache-2.0 and MIT), whose parameter names these modules have. Tokens are (B, *grid, C), channels last.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.layers.common import DropPath, Mlp, to_patches
from dust.models.layers.head import run_block
from dust.utils.tensors import may_keep

Size = tuple[int, ...]
_OUTSIDE = {"cyclic": -100.0, "exact": -math.inf, "legacy": -100.0}  # added to the logits of a pair that is kept apart
_BASE = 4  # above every region's number along one axis


def pad_end(x: torch.Tensor, multiples: Sequence[int], first: int = 1) -> torch.Tensor:
    """Put zeros at the end of the axes ``first``, ``first + 1``..., so that each is a multiple of its number."""
    pads = [0, 0] * (x.ndim - first - len(multiples))  # F.pad counts from the last axis
    for axis in reversed(range(len(multiples))):
        pads += [0, -x.shape[first + axis] % multiples[axis]]
    return F.pad(x, pads) if any(pads) else x


# ------------------------------------------------------------------------------------------- masks and positions


class _Tables:
    """What was kept, as attributes: code that is compiled reads them where they lie, as it does a module's buffers."""


_TABLES = _Tables()


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the last results of a function whose arguments say all, where :func:`may_keep` says that they last.

    What is compiled has them as inputs. Traced, they would be made number by number, and copied to the device, by
    every block in every pass.
    """
    cached = functools.lru_cache(maxsize=64)(function)

    @torch.compiler.assume_constant_result  # called while code is traced; the name is what stands in it
    def name_of(*args: Any) -> str:
        name = "_".join(map(str, (function.__name__, *args)))
        setattr(_TABLES, name, cached(*args))
        return name

    @functools.wraps(function)
    def get(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return getattr(_TABLES, name_of(*args))
        return cached(*args) if may_keep() else function(*args)

    get.cache_info, get.cache_clear = cached.cache_info, cached.cache_clear  # type: ignore[attr-defined]
    return get


def axis_regions(size: int, window: int, shift: int, rule: str) -> list[int]:
    """Return the region of each place of one axis, padded to whole windows and rolled by ``-shift``.

    In one window, only places of the same region see each other. The rules:

    - cyclic (Video Swin): what the roll brought round to the end is a region; padding belongs to its neighbours.
    - exact: that, and padding is a region of its own, in blocks without a shift too.
    - legacy (Swin-1D, DUST): a published formula that means to do the same in shifted blocks, but is right for few
      lengths only. Weights that were trained with it need it.
    """
    padded = math.ceil(size / window) * window
    if rule == "legacy":
        return _legacy_regions(size, padded, window, shift)
    came_round = [int(place >= padded - shift) for place in range(padded)]
    if rule == "cyclic":
        return came_round
    return [came_round[place] + 2 * int((place + shift) % padded >= size) for place in range(padded)]


def _legacy_regions(size: int, padded: int, window: int, shift: int) -> list[int]:
    if not shift:
        return [0] * padded
    pad = padded - size
    q = 2 * window - size + shift  # can be 0 or negative, whereupon the slices below mean something else: so published
    if pad == 0 or pad + shift == window:
        cuts: list[int | None] = [None, -window, -shift, None]
    elif pad + shift > window:
        cuts = [None, -q, -window, -shift, None]
    else:
        cuts = [None, -window, -q, -shift, None]
    places = list(range(padded))
    pieces = [places[start:stop] for start, stop in itertools.pairwise(cuts)]
    # where pieces overlap the last one counts; built in one expression, as torch 2.10 does not trace an assignment
    return [max([number for number, piece in enumerate(pieces) if place in piece], default=0) for place in places]


@_kept
def window_masks(
    size: Size, window: Size, shift: Size, rule: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what is added to the attention logits: (masks (P, N, N), number of each window's mask (windows,)), or
    None.

    Windows of one place along an axis are nearly all alike, so that few masks stand for many windows: no more than
    eight in a video of any size.
    """
    kinds_of_axes, numbers_of_axes = [], []
    for axis, (length, side, step) in enumerate(zip(size, window, shift, strict=True)):
        regions = [_BASE**axis * region for region in axis_regions(length, side, step, rule)]
        windows = [tuple(regions[start : start + side]) for start in range(0, len(regions), side)]
        kinds = sorted(set(windows))
        kinds_of_axes.append(kinds)
        numbers_of_axes.append([kinds.index(one) for one in windows])
    # a kind of window is one kind along each axis; a place's region is the sum of its regions along the axes
    combinations = list(itertools.product(*(range(len(kinds)) for kinds in kinds_of_axes)))
    kind_of_window = [combinations.index(numbers) for numbers in itertools.product(*numbers_of_axes)]
    regions_of_kinds = [
        [sum(places) for places in itertools.product(*kinds)] for kinds in itertools.product(*kinds_of_axes)
    ]
    if all(len(set(regions)) == 1 for regions in regions_of_kinds):
        return None
    with torch.inference_mode(False):  # what is kept must also serve in training
        ids = torch.tensor(regions_of_kinds, device=device)  # (P, N)
        masks = torch.zeros(len(ids), ids.shape[1], ids.shape[1], device=device)
        masks.masked_fill_(ids.unsqueeze(2) != ids.unsqueeze(1), _OUTSIDE[rule])
        return masks, torch.tensor(kind_of_window, device=device)


@_kept
def relative_index(window: Size, tokens: int, device: torch.device) -> torch.Tensor:
    """Return rows of the bias table for each pair of the first ``tokens`` tokens of a window: (tokens * tokens,).

    A smaller window of N tokens reads the rows of the first N tokens of the full one. Those are its true offsets if
    only the first axis is smaller; otherwise they are not, and every public checkpoint was trained so.
    """
    with torch.inference_mode(False):
        places = torch.tensor(list(itertools.islice(itertools.product(*map(range, window)), tokens)), device=device)
        index = torch.zeros(tokens, tokens, dtype=torch.long, device=device)
        for axis, side in enumerate(window):
            along = places[:, axis]
            index = index * (2 * side - 1) + along.unsqueeze(1) - along.unsqueeze(0) + side - 1
        return index.flatten()


@_kept
def log_offsets(window: Size, device: torch.device) -> torch.Tensor:
    """Return Swin V2's offsets (rows of the table, axes): in parts of the window times 8, on a logarithmic scale."""
    with torch.inference_mode(False):
        sides = [[8 * offset / max(1, side - 1) for offset in range(1 - side, side)] for side in window]
        offsets = torch.tensor(list(itertools.product(*sides)), device=device)
        return offsets.sign() * (offsets.abs() + 1).log2() / 3


# ------------------------------------------------------------------------------------------------------- modules


def has_fused_kernel(q: torch.Tensor) -> bool:
    """Tell whether scaled_dot_product_attention has a kernel for a bias that learns. On a CPU its slow path would
    run."""
    return q.is_cuda


class WindowAttention(nn.Module):
    """Self-attention (B, *grid, C) -> (B, *grid, C) in which a token sees its window only.

    Args:
        window: tokens along each axis, what the bias table is made for.
        shifted: windows begin ``window // 2`` later along each axis, and the last one comes round to the start.
        attention: dot, with a learnt table of biases, or cosine (Swin V2), with biases from an MLP of the offset.
        mask: see :func:`axis_regions`.
        clamp: along an axis that is no longer than the window, the window is the axis, unshifted. Otherwise the axis
            is padded to one window.
        qk_scale: factor of the dot product; None is ``head_dim ** -0.5``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Size,
        *,
        shifted: bool = False,
        attention: str = "dot",
        mask: str = "cyclic",
        clamp: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.shifted = shifted
        self.mask = mask
        self.clamp = clamp
        self.cosine = attention == "cosine"
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.attn_drop = float(attn_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias and not self.cosine)
        if self.cosine:
            self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
            self.cpb_mlp = nn.Sequential(
                nn.Linear(len(window), 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False)
            )
            self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
            self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        else:
            rows = math.prod(2 * side - 1 for side in window)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def fit(self, size: Size) -> tuple[Size, Size]:
        """Return (window, shift) along each axis of a grid of this size."""
        pairs = [
            (length, 0) if self.clamp and length <= side else (side, side // 2 if self.shifted else 0)
            for length, side in zip(size, self.window, strict=True)
        ]
        return tuple(window for window, _ in pairs), tuple(shift for _, shift in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, *grid, C) -> (B, *grid, C)."""
        size = tuple(map(operator.index, x.shape[1:-1]))  # numbers when traced too: masks are made for a size
        window, shift = self.fit(size)
        axes = tuple(range(1, x.ndim - 1))
        x = pad_end(x, window)
        grid = tuple(length // side for length, side in zip(x.shape[1:-1], window, strict=True))
        if any(shift):
            x = torch.roll(x, tuple(-step for step in shift), axes)
        # three copies and not one, so that the backward pass keeps q scaled only
        q, k, v = (self._to_windows(part, grid, window) for part in self._qkv(x).chunk(3, dim=-1))
        masks = window_masks(size, window, shift, self.mask, x.device)
        mask = None if masks is None else masks[0].index_select(0, masks[1])  # (windows of a clip, N, N)
        out = self._attend(q, k, v, self._bias(math.prod(window)), mask)
        out = self._from_windows(out, x.shape[0], grid, window)
        if any(shift):
            out = torch.roll(out, shift, axes)
        for axis, length in zip(axes, size, strict=True):
            out = out.narrow(axis, 0, length)
        return self.proj_drop(self.proj(out))

    def _qkv(self, x: torch.Tensor) -> torch.Tensor:
        if not self.cosine or self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return F.linear(x, self.qkv.weight, bias)

    def _to_windows(self, x: torch.Tensor, grid: Size, window: Size) -> torch.Tensor:
        """Map (B, *padded, C) -> (B * windows, heads, N, head_dim): windows and heads in a single copy."""
        behind = 2 * len(grid) + 1
        sides = [side for pair in zip(grid, window, strict=True) for side in pair]
        x = x.reshape(x.shape[0], *sides, self.num_heads, x.shape[-1] // self.num_heads)
        x = x.permute(0, *range(1, behind, 2), behind, *range(2, behind, 2), behind + 1)
        return x.reshape(x.shape[0] * math.prod(grid), self.num_heads, math.prod(window), x.shape[-1])

    def _from_windows(self, x: torch.Tensor, B: int, grid: Size, window: Size) -> torch.Tensor:
        """Map (B * windows, heads, N, head_dim) -> (B, *padded, C), in a single copy."""
        n = len(grid)
        x = x.reshape(B, *grid, self.num_heads, *window, x.shape[-1])
        sides = [axis for i in range(n) for axis in (1 + i, 2 + n + i)]
        padded = [count * side for count, side in zip(grid, window, strict=True)]
        return x.permute(0, *sides, 1 + n, 2 + 2 * n).reshape(B, *padded, self.num_heads * x.shape[-1])

    def _bias(self, tokens: int) -> torch.Tensor:
        """Return (heads, N, N). Columns of the turned table: to pick its rows is many times slower in the backward
        pass."""
        if self.cosine:
            offsets = log_offsets(self.window, self.logit_scale.device).to(self.logit_scale.dtype)
            table = 16 * torch.sigmoid(self.cpb_mlp(offsets))
        else:
            table = self.relative_position_bias_table
        index = relative_index(self.window, tokens, table.device)
        return table.t().index_select(1, index).view(self.num_heads, tokens, tokens)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return softmax(scale * q k + bias + mask) v, each (B * windows, heads, N, head_dim); see ``forward`` for the
        rest.

        Bias and mask are never spread over the clips, where they would be larger than all else.
        """
        scale, drop = self.scale, self.attn_drop if self.training else 0.0
        if self.cosine:
            q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=math.log(100)).exp()
            k, scale = F.normalize(k, dim=-1), 1.0
        shape = q.shape
        if has_fused_kernel(q):
            if mask is not None:  # the windows of a clip as heads of one, so that one bias is for all clips
                bias = (bias + mask.unsqueeze(1)).flatten(0, 1)  # (windows * heads, N, N)
                q, k, v = (part.reshape(-1, *bias.shape[:2], shape[-1]) for part in (q, k, v))
            bias = bias.to(q.dtype).unsqueeze(0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop, scale=scale).reshape(shape)
        if mask is not None:
            q, k, v = (part.view(-1, len(mask), *shape[1:]) for part in (q, k, v))
        logits = (q * scale) @ k.transpose(-2, -1)
        logits.add_(bias)  # in place: no gradient needs what the product was
        if mask is not None:
            logits.add_(mask.unsqueeze(1))
        return (F.dropout(logits.softmax(dim=-1), drop) @ v).reshape(shape)


class SwinBlock(nn.Module):
    """(B, *grid, C) -> the same. ``norm`` pre: x += dp(attn(norm1 x)); respost: x += dp(norm1(attn x)); so the MLP."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Size,
        *,
        norm: str = "pre",
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm_first = norm == "pre"
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, proj_drop=drop, **attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm_first:
            x = x + self.drop_path(self.attn(self.norm1(x)))
            return x + self.drop_path(self.mlp(self.norm2(x)))
        x = x + self.drop_path(self.norm1(self.attn(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    """Two neighbours along each of the last ``axes`` axes become one token of twice the channels.

    (B, T, H, W, C) -> (B, T, ceil(H / 2), ceil(W / 2), 2 * C) for two axes, (B, L, C) -> (B, ceil(L / 2), 2 * C) for
    one; zeros make an odd length even.
    """

    def __init__(self, dim: int, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.norm = nn.LayerNorm(2**axes * dim)
        self.reduction = nn.Linear(2**axes * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.ndim - 1 - self.axes
        x = pad_end(x, [2] * self.axes, first)
        kept, halves = x.shape[:first], [half for side in x.shape[first:-1] for half in (side // 2, 2)]
        x = x.reshape(*kept, *halves, x.shape[-1])
        # the neighbour's number within its pair: the first merged axis varies fastest, as in the checkpoints
        pairs = [first + 2 * axis + 1 for axis in reversed(range(self.axes))]
        x = x.permute(*range(first), *(pair - 1 for pair in reversed(pairs)), *pairs, x.ndim - 1)
        return self.reduction(self.norm(x.flatten(first + self.axes)))


class PatchEmbed(nn.Module):
    """(B, C, *size) -> tokens (B, *grid, embed_dim), where grid = ceil(size / patch); zeros fill the last patch."""

    def __init__(self, patch: Size, in_chans: int, embed_dim: int, norm: bool) -> None:
        super().__init__()
        self.patch = patch
        convolution: Any = {1: nn.Conv1d, 3: nn.Conv3d}[len(patch)]
        self.proj = convolution(in_chans, embed_dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # the convolution as one product of matrices: its result has the channels last at once
        x = to_patches(pad_end(x, self.patch, first=2), self.patch)
        return self.norm(F.linear(x, self.proj.weight.flatten(1), self.proj.bias))


class Stage(nn.Module):
    """Blocks, every second one shifted, and a merging of patches behind them in all stages but the last."""

    def __init__(
        self, dim: int, num_heads: int, window: Size, *, drop_paths: Sequence[float], merged_axes: int, **block: Any
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window, shifted=number % 2 == 1, drop_path=rate, **block)
            for number, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim, merged_axes) if merged_axes else nn.Identity()

    def forward(self, x: torch.Tensor, act_checkpoint: bool = False) -> torch.Tensor:
        for block in self.blocks:
            x = run_block(block, act_checkpoint, x)
        return self.downsample(x)
