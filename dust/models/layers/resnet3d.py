"""What 3-D convolutional networks share: bottleneck blocks, a head for clips of any size, first weights.

Parameter names are those of SlowFast's checkpoints.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn as nn

from dust.models.layers.common import window_means
from dust.utils.errors import DustError

Size = tuple[int, int, int]


def conv3d(
    channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int] = (1, 1, 1), *, groups: int = 1,
    dilation: int = 1,
) -> nn.Conv3d:  # fmt: skip
    """Return a convolution without bias, padded so that a stride of 1 keeps the size; ``dilation`` is in space only."""
    steps = (1, dilation, dilation)
    padding = [step * (size // 2) for size, step in zip(kernel, steps, strict=True)]
    return nn.Conv3d(
        channels_in, channels_out, tuple(kernel), tuple(stride), tuple(padding), steps, groups, bias=False  # type: ignore[arg-type]
    )  # fmt: skip


class SqueezeExcitation(nn.Module):
    """(B, C, T, H, W) -> the same, each channel times a gate in 0..1 that sees the mean of all channels."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(channels, reduced, 1)
        self.fc2 = nn.Conv3d(reduced, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.fc2(self.fc1(x.mean(dim=(2, 3, 4), keepdim=True)).relu())
        return x * gate.sigmoid()


class Bottleneck(nn.Module):
    """1x1x1 (or t x 1 x 1), then 3x3 in space, then 1x1x1, each with batch norm: (B, C, T, H, W) -> (B, C', T, H', W').

    Args:
        kernel_a, kernel_b: of the first two convolutions; b carries the stride.
        groups: of b; as many as channels make it depthwise.
        activation: behind b: ``relu`` | ``swish``.
        squeeze: width of a squeeze-and-excitation in front of that activation; 0 = none.
    """

    def __init__(
        self, channels_in: int, inner: int, channels_out: int, *, kernel_a: Size, kernel_b: Size, stride: Size,
        groups: int = 1, dilation: int = 1, activation: str = "relu", squeeze: int = 0, stride_1x1: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        plain: Size = (1, 1, 1)
        self.a = conv3d(channels_in, inner, kernel_a, stride if stride_1x1 else plain)
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = conv3d(inner, inner, kernel_b, plain if stride_1x1 else stride, groups=groups, dilation=dilation)
        self.b_bn = nn.BatchNorm3d(inner)
        self.se = SqueezeExcitation(inner, squeeze) if squeeze else None
        self.act = nn.SiLU(inplace=True) if activation == "swish" else nn.ReLU(inplace=True)
        self.c = conv3d(inner, channels_out, plain)
        self.c_bn = nn.BatchNorm3d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b_bn(self.b(self.a_bn(self.a(x)).relu_()))
        x = self.act(x if self.se is None else self.se(x))
        return self.c_bn(self.c(x))


class ResBlock(nn.Module):
    """relu(shortcut + branch2): a shortcut of another size is a 1x1x1 convolution, with batch norm by
    ``shortcut_bn``."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: Size, branch2: nn.Module, *, shortcut_bn: bool = True
    ) -> None:
        super().__init__()
        self.branch1 = self.branch1_bn = None
        if channels_in != channels_out or max(stride) > 1:
            self.branch1 = conv3d(channels_in, channels_out, (1, 1, 1), stride)
            self.branch1_bn = nn.BatchNorm3d(channels_out) if shortcut_bn else nn.Identity()
        self.branch2 = branch2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.branch1 is None or self.branch1_bn is None else self.branch1_bn(self.branch1(x))
        return (shortcut + self.branch2(x)).relu_()


class NonLocal(nn.Module):
    """x + norm(attention over all positions): (B, C, T, H, W) -> the same ("Non-local Neural Networks", Wang et al.,
    CVPR 2018, https://arxiv.org/abs/1711.07971).

    Args:
        inner: channels of the attention.
        pool: window (time, height, width) of keys and values; all 1: none.
        softmax: weights are a softmax of the scaled scores; else the scores over the number of keys.
        groups: parts into which the time is cut, each attending to itself.
    """

    def __init__(self, channels: int, inner: int, *, pool: Size, softmax: bool, groups: int = 1) -> None:
        super().__init__()
        self.softmax, self.groups = softmax, groups
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)
        self.pool = nn.MaxPool3d(pool) if max(pool) > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole, groups = x.shape, self.groups
        if whole[2] % groups:
            raise DustError(f"a non-local block cuts {whole[2]} frames into {groups} parts (NONLOCAL.GROUP)")
        if groups > 1:
            x = x.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)
        pooled = self.pool(x)
        query, key, value = self.conv_theta(x), self.conv_phi(pooled), self.conv_g(pooled)
        query, key, value = (part.flatten(2).transpose(1, 2) for part in (query, key, value))
        if self.softmax:
            attended = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            attended = query @ (key.transpose(1, 2) @ value) / key.shape[1]
        out = x + self.bn(self.conv_out(attended.transpose(1, 2).unflatten(2, x.shape[2:])))
        return out.unflatten(0, (-1, groups)).transpose(1, 2).flatten(2, 3) if groups > 1 else out


def pool_positions(x: torch.Tensor, window: Size, model: str) -> torch.Tensor:
    """Average over a window that slides by one: (B, C, T, H, W) -> (B, C, T', H', W').

    The window is that of the training's clips, so that these leave one position and larger ones several.

    Raises:
        DustError: the clip is smaller than those that the model was built for.
    """
    if any(size < wanted for size, wanted in zip(x.shape[2:], window, strict=True)):
        raise DustError(
            f"{model}: the clip leaves features of {tuple(x.shape[2:])}, its head pools over {window}: crop and sample "
            "at least as large as the model was built for (DATA.TRAIN_CROP_SIZE, DATA.NUM_FRAMES)"
        )
    return window_means(x, window, (1, 1, 1))


def classify_positions(features: torch.Tensor, head: nn.Module, *, training: bool) -> torch.Tensor:
    """Map features (B, C, T', H', W') -> logits (B, K): the linear layer at every position.

    Several positions vote as SlowFast's do: the probabilities of each, and their mean, whose logarithm is given out.
    """
    logits = head(features.permute(0, 2, 3, 4, 1)).flatten(1, 3)  # (B, positions, K)
    if logits.shape[1] == 1:
        return logits[:, 0]
    if training:
        raise DustError("in training a clip leaves one position: crop to DATA.TRAIN_CROP_SIZE")
    return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])


def init_convolutions(module: nn.Module, *, zero_init_final_bn: bool) -> None:
    """Set He's first weights for convolutions; the last norm of each block begins at zero where asked."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, Bottleneck) and zero_init_final_bn:
            nn.init.zeros_(layer.c_bn.weight)
        if isinstance(layer, NonLocal) and zero_init_final_bn:
            nn.init.zeros_(layer.bn.weight)
