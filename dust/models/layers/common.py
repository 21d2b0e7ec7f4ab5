"""Building blocks of vision transformers that several architectures share. Parameter names are those of the public
checkpoints (``qkv``, ``proj``, ``fc1``, ``fc2``, ``norm1``...), so that weights load without renaming."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): in training, each item of dim 0 is zeroed with probability
    ``rate`` (0 <= rate < 1) and the kept ones are divided by ``1 - rate``. Identity in eval.

    The rate is a tensor too, ``keep``, for what is compiled: as a number it would make of each block code of its own,
    and after eight of them torch compiles no more.
    """

    keep: torch.Tensor

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = float(rate)
        self.drops = self.rate > 0.0
        self.register_buffer("keep", torch.tensor(1.0 - self.rate), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.drops and self.training):
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if torch.compiler.is_compiling():
            return x * ((torch.rand(shape, device=x.device) < self.keep) / self.keep).to(x.dtype)
        keep = 1.0 - self.rate
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4f}"


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Return the rate of stochastic depth per block, rising in a line from 0 to ``last``."""
    return [last * i / max(1, depth - 1) for i in range(depth)]


class Mlp(nn.Module):
    """(..., in_features) -> (..., out_features): fc1, exact (erf) GELU, fc2, with dropout after both."""

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int | None = None, *, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Attention(nn.Module):
    """Multi-head self-attention (M, L, D) -> (M, L, D), scale head_dim ** -0.5.

    The output of ``qkv`` is read as (3, heads, head_dim). ``attn_drop`` falls on the attention weights and
    ``proj_drop`` on the result, both in training only.
    """

    def __init__(
        self, dim: int, num_heads: int, *, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.attn_drop = float(attn_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        M, L, D = x.shape
        # three strided views (M, heads, L, head_dim) of one tensor: the kernels read them in place
        q, k, v = self.qkv(x).view(M, L, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(M, L, D)))


class Block(nn.Module):
    """Pre-norm transformer block (M, L, D) -> (M, L, D): x += dp(attn(norm1 x)); x += dp(mlp(norm2 x))."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def to_patches(x: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """Map (B, C, *size) -> (B, *grid, C * pixels of a patch), where grid = size // patch; what is left at an end is
    cut."""
    n = len(patch)
    for axis, side in enumerate(patch, start=2):
        x = x.narrow(axis, 0, x.shape[axis] // side * side)
    sides = [one for size, side in zip(x.shape[2:], patch, strict=True) for one in (size // side, side)]
    x = x.reshape(*x.shape[:2], *sides)
    return x.permute(0, *range(2, 2 + 2 * n, 2), 1, *range(3, 3 + 2 * n, 2)).flatten(1 + n)


def as_product(x: torch.Tensor) -> bool:
    """Tell whether patches are embedded by one product of matrices. CUDA's convolutions in bfloat16 are slow or wrong
    for patches, by version, and in float32 they round to TF32 of their own accord; a CPU keeps the convolution's
    bits."""
    return x.is_cuda


def embed_patches(x: torch.Tensor, conv: nn.Conv2d | nn.Conv3d) -> torch.Tensor:
    """Map (B, C, *size) -> (B, D, *grid): ``conv(x)`` of a convolution whose stride is its kernel."""
    if not as_product(x):
        return conv(x)
    return F.linear(to_patches(x, conv.kernel_size), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


class PatchEmbed(nn.Module):
    """Images (M, C, H, W) -> tokens (M, gh * gw, D), row by row, where gh = H / patch and gw = W / patch."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return embed_patches(images, self.proj).flatten(2).transpose(1, 2)


def as_repeatable(x: torch.Tensor) -> bool:
    """Tell whether means over windows are made of what repeats to the last bit: torch's pooling adds gradients in no
    set order on CUDA, which TRAIN.DETERMINISTIC refuses. A CPU keeps the bits of that pooling."""
    return x.is_cuda


def window_means(x: torch.Tensor, window: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Map (B, C, T, H, W) -> (B, C, T', H', W'): torch's ``avg_pool3d``."""
    if not as_repeatable(x):
        return F.avg_pool3d(x, tuple(window), tuple(stride))
    in_space = F.avg_pool2d(x.flatten(1, 2), tuple(window[1:]), tuple(stride[1:])).unflatten(1, x.shape[1:3])
    in_time = F.avg_pool2d(in_space.flatten(3), (window[0], 1), (stride[0], 1))
    return in_time.unflatten(3, in_space.shape[3:])


def share_means(x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return means over equal shares of the last axes, ``sizes`` of them: torch's ``adaptive_avg_pool1d``, ``2d``,
    ``3d``."""
    if not as_repeatable(x):
        pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(sizes) - 1]
        return pool(x, tuple(sizes))
    for axis, size in enumerate(sizes, start=x.ndim - len(sizes)):
        length = x.shape[axis]
        bounds = [(index * length // size, -(-(index + 1) * length // size)) for index in range(size)]
        x = torch.stack([x.narrow(axis, begin, end - begin).mean(dim=axis) for begin, end in bounds], dim=axis)
    return x


def resize_sequence(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Map (1, L, D) -> (1, length, D): nearest along the sequence."""
    return F.interpolate(tokens.transpose(1, 2), size=length, mode="nearest").transpose(1, 2)


def resize_grid(
    tokens: torch.Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "nearest"
) -> torch.Tensor:
    """Map (1, oh * ow, D) -> (1, nh * nw, D): the tokens as a picture, resized by ``mode`` (nearest or bicubic)."""
    grid = rearrange(tokens, "b (h w) d -> b d h w", h=old[0], w=old[1])
    grid = F.interpolate(grid, size=new, mode=mode, align_corners=False if mode == "bicubic" else None)
    return rearrange(grid, "b d h w -> b (h w) d")


def init_linear(linear: nn.Linear, std: float = 0.02) -> None:
    """Set ViT's first weights: a normal cut off at +-2, and a bias of zero."""
    nn.init.trunc_normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
