"""Attention whose queries, keys and values are pooled on the grid of their tokens (MViT), and its blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.layers.common import DropPath, Mlp

Size = tuple[int, int, int]


@dataclass(frozen=True)
class MViTBlockSpec:
    """One block: its heads and channels, and how queries and keys are pooled, each as (time, height, width).

    An empty kernel, or a kernel and a stride of 1 in all, pools nothing; a stride of 1 with a larger kernel still does.
    """

    num_heads: int
    dim_in: int
    dim_out: int
    kernel_q: Sequence[int] = ()
    kernel_kv: Sequence[int] = ()
    stride_q: Sequence[int] = ()
    stride_kv: Sequence[int] = ()


class MViTAttention(nn.Module):
    """Tokens (B, L, dim_in) on a grid -> (B, L', dim), L' those of the pooled queries, and the new grid.

    Decomposed relative positions (v2) add q R_t + q R_h + q R_w to the scores. They are appended to the queries as
    channels, and one-hot places to the keys, so that the fused kernels compute the same without a matrix of biases.
    """

    def __init__(
        self, dim_in: int, dim: int, spec: MViTBlockSpec, grid: Size, *, class_token: bool, qkv_bias: bool,
        residual_pooling: bool, rel_pos_spatial: bool, rel_pos_temporal: bool, norm_eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_heads, self.class_token, self.residual_pooling = spec.num_heads, class_token, residual_pooling
        head_dim = dim // spec.num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim_in, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        for name, kernel, stride in (
            ("q", spec.kernel_q, spec.stride_q), ("k", spec.kernel_kv, spec.stride_kv),
            ("v", spec.kernel_kv, spec.stride_kv),
        ):  # fmt: skip
            pools = bool(kernel) and max(*kernel, *stride) > 1
            conv = _depthwise(head_dim, kernel, stride) if pools else None
            self.add_module(f"pool_{name}", conv)
            self.add_module(f"norm_{name}", nn.LayerNorm(head_dim, eps=norm_eps) if pools else None)
        self.rel_pos_h = self.rel_pos_w = self.rel_pos_t = None
        side = max(grid[1:])
        if rel_pos_spatial:
            rows = 2 * max(side // _step(spec.stride_q, 1), side // _step(spec.stride_kv, 1)) - 1
            self.rel_pos_h = nn.Parameter(torch.empty(rows, head_dim))
            self.rel_pos_w = nn.Parameter(torch.empty(rows, head_dim))
        if rel_pos_temporal:
            self.rel_pos_t = nn.Parameter(torch.empty(2 * grid[0] - 1, head_dim))

    def forward(self, x: torch.Tensor, grid: Size) -> tuple[torch.Tensor, Size]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, grid_q = self._pool("q", q, grid)
        k, grid_k = self._pool("k", k, grid)
        v, _ = self._pool("v", v, grid)
        query, key, value = q * self.scale, k, v
        if self.rel_pos_h is not None or self.rel_pos_t is not None:
            biases, places = self._positions(q, grid_q, grid_k)
            query = torch.cat([query, *biases], dim=-1)
            key = torch.cat([k, places.to(k).expand(*k.shape[:2], -1, -1)], dim=-1)
            value = F.pad(v, (0, key.shape[-1] - v.shape[-1]))  # fused kernels want one width
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., : v.shape[-1]]
        if self.residual_pooling:
            begin = int(self.class_token)
            out = torch.cat([out[:, :, :begin], out[:, :, begin:] + q[:, :, begin:]], dim=2) if begin else out + q
        return self.proj(out.transpose(1, 2).flatten(2)), grid_q

    def _pool(self, name: str, x: torch.Tensor, grid: Size) -> tuple[torch.Tensor, Size]:
        """Map (B, heads, L, head_dim) -> the same on a smaller grid, normed; the class token is only normed."""
        conv, norm = getattr(self, f"pool_{name}"), getattr(self, f"norm_{name}")
        if conv is None:
            return x, grid
        begin = int(self.class_token)
        batch, heads, _, width = x.shape
        tokens = x[:, :, begin:].reshape(batch * heads, *grid, width).permute(0, 4, 1, 2, 3)
        pooled = conv(tokens)
        grid = tuple(pooled.shape[2:])
        pooled = pooled.flatten(2).transpose(1, 2).reshape(batch, heads, -1, width)
        return norm(torch.cat([x[:, :, :begin], pooled], dim=2) if begin else pooled), grid

    def _positions(self, q: torch.Tensor, grid_q: Size, grid_k: Size) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return what is appended to the queries, (B, heads, L, n) for each axis, and to the keys, (L', sum of n)."""
        begin = int(self.class_token)
        tokens = q[:, :, begin:].unflatten(2, grid_q)
        biases, places = [], []
        for axis, (name, table) in enumerate((("t", self.rel_pos_t), ("h", self.rel_pos_h), ("w", self.rel_pos_w))):
            if table is None:
                continue
            rows = relative_rows(table, grid_q[axis], grid_k[axis])  # (n_q, n_k, head_dim)
            bias = torch.einsum(f"bnthwc,{name}kc->bnthwk", tokens, rows.to(q.dtype)).flatten(2, 4)
            biases.append(F.pad(bias, (0, 0, begin, 0)))  # the class token has no position
            shape = [1, 1, 1, grid_k[axis]]
            shape[axis] = grid_k[axis]
            one_hot = torch.eye(grid_k[axis], device=q.device).view(shape).expand(*grid_k, -1)
            places.append(F.pad(one_hot.reshape(-1, grid_k[axis]), (0, 0, begin, 0)))
        return biases, torch.cat(places, dim=-1)


def relative_rows(table: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
    """Return rows (queries, keys, D) of a table (L, D) of relative positions, for places on two grids over the same
    extent.

    A table of another length than 2 max(queries, keys) - 1 is resampled linearly first.
    """
    table = resize_tables(table, 2 * max(queries, keys) - 1)
    q, k = max(keys / queries, 1.0), max(queries / keys, 1.0)
    i = torch.arange(queries, device=table.device)[:, None] * q
    j = torch.arange(keys, device=table.device)[None] * k
    return table[(i - j + (keys - 1) * k).long()]


class MViTBlock(nn.Module):
    """Pre-norm block (B, L, dim_in) on a grid -> (B, L', dim_out) on the pooled grid."""

    def __init__(
        self, spec: MViTBlockSpec, grid: Size, *, class_token: bool, mlp_ratio: float, qkv_bias: bool, drop_path: float,
        dim_mul_in_att: bool, residual_pooling: bool, rel_pos_spatial: bool, rel_pos_temporal: bool, norm_eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        dim = spec.dim_out if dim_mul_in_att else spec.dim_in
        self.class_token, self.dim_mul_in_att = class_token, dim_mul_in_att
        self.norm1 = nn.LayerNorm(spec.dim_in, eps=norm_eps)
        self.attn = MViTAttention(
            spec.dim_in, dim, spec, grid, class_token=class_token, qkv_bias=qkv_bias, residual_pooling=residual_pooling,
            rel_pos_spatial=rel_pos_spatial, rel_pos_temporal=rel_pos_temporal, norm_eps=norm_eps,
        )  # fmt: skip
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), spec.dim_out)
        self.proj = nn.Linear(spec.dim_in, spec.dim_out) if spec.dim_in != spec.dim_out else None
        self.pool_skip = None
        if spec.stride_q and max(spec.stride_q) > 1:
            kernel = tuple(step + 1 if step > 1 else step for step in spec.stride_q)
            self.pool_skip = nn.MaxPool3d(kernel, tuple(spec.stride_q), tuple(size // 2 for size in kernel))

    def forward(self, x: torch.Tensor, grid: Size) -> tuple[torch.Tensor, Size]:
        z = self.norm1(x)
        attended, grid_out = self.attn(z, grid)
        skip = self.proj(z) if self.proj is not None and self.dim_mul_in_att else x
        y = self._pool(skip, grid) + self.drop_path(attended)
        z = self.norm2(y)
        if self.proj is not None and not self.dim_mul_in_att:
            y = self.proj(z)
        return y + self.drop_path(self.mlp(z)), grid_out

    def _pool(self, x: torch.Tensor, grid: Size) -> torch.Tensor:
        if self.pool_skip is None:
            return x
        begin = int(self.class_token)
        tokens = self.pool_skip(x[:, begin:].unflatten(1, grid).permute(0, 4, 1, 2, 3))
        return torch.cat([x[:, :begin], tokens.flatten(2).transpose(1, 2)], dim=1)


def resize_tables(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Give a table (L, D) of relative positions another number of rows, linearly, corners not aligned."""
    if len(table) == rows:
        return table
    dtype = table.dtype if table.dtype == torch.float64 else torch.float32
    return F.interpolate(table.to(dtype).t()[None], rows, mode="linear", align_corners=False)[0].t().to(table.dtype)


def _depthwise(channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Conv3d:
    padding = [size // 2 for size in kernel]
    return nn.Conv3d(channels, channels, tuple(kernel), tuple(stride), padding, groups=channels, bias=False)  # type: ignore[arg-type]


def _step(stride: Sequence[int], axis: int) -> int:
    return stride[axis] if stride else 1
