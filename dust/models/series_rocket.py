"""SeriesRocket: fixed convolutions with a trained linear classifier, for series of sensor values.

The 84 kernels, their dilations and the share of points above a threshold are MiniRocket's (Dempster, Schmidt and Webb,
KDD 2021, https://arxiv.org/abs/2012.08791); that series and their differences are both looked at is MultiRocket's (Tan
et al., 2022, https://arxiv.org/abs/2102.00457). Written from the papers. What is ours: thresholds are quantiles of the
normal distribution behind a batch norm, where MiniRocket takes quantiles of responses to training samples, so that
nothing is fitted beside the training; and the classifier is trained by gradients, so that training may augment.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from dust.config.fusion import series_channels
from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.head import ClassifierHead, new_head
from dust.utils.errors import DustError
from dust.utils.rng import numpy_rng

TAPS, HIGH = 9, 3  # of a kernel, and how many of its taps are 2; the others are -1
KERNELS = math.comb(TAPS, HIGH)
MOST_DILATIONS = 8
MOST_CHANNELS = 9  # that one kernel adds up
GOLDEN = (math.sqrt(5) + 1) / 2


def dilations_of(length: int) -> list[int]:
    """Return the distances of a kernel's taps for series of ``length`` points: from 1 to where it spans the series, at
    most eight, evenly on a logarithmic scale."""
    most = max(1, (length - 1) // (TAPS - 1))
    count = min(int(math.log2(most)) + 1, MOST_DILATIONS)
    return sorted({int(2 ** (math.log2(most) * step / max(count - 1, 1))) for step in range(count)})


def normal_quantiles(count: int) -> torch.Tensor:
    """Return (KERNELS, count) thresholds for normal values, low-discrepancy, so that kernels have different ones."""
    share = torch.from_numpy((np.arange(1, KERNELS * count + 1) * GOLDEN) % 1).clamp(0.01, 0.99)
    return (math.sqrt(2.0) * torch.erfinv(2 * share - 1)).float().view(KERNELS, count)


def convolve(x: torch.Tensor, kernels: torch.Tensor, dilation: int) -> torch.Tensor:
    """Return each channel's convolution with its kernel, of the series' length: (B, K, L), (K, 1, TAPS) -> (B, K, L).

    The sum of nine shifted copies has the same values as ``conv1d`` with a group for each channel, which takes more
    than twice the time on a CPU if taps are apart.
    """
    length, reach = x.shape[-1], dilation * (TAPS // 2)
    padded, total = nn.functional.pad(x, (reach, reach)), torch.zeros_like(x)
    for tap in range(TAPS):
        begin = tap * dilation
        total.addcmul_(padded[..., begin : begin + length], kernels[:, 0, tap : tap + 1])
    return total


class _Responses(nn.Module):
    """The kernels at one dilation: (B, C, L) -> shares of points above each threshold, (B, KERNELS * count).

    Args:
        in_chans: C. Each kernel sees the sum of some channels, drawn once.
        count: thresholds of a kernel.
        stream: names what the channels are drawn from.
    """

    channels: torch.Tensor
    thresholds: torch.Tensor

    def __init__(self, in_chans: int, dilation: int, count: int, stream: str) -> None:
        super().__init__()
        self.dilation = dilation
        rng, most = numpy_rng("SeriesRocket", stream), min(in_chans, MOST_CHANNELS)
        channels = np.zeros((KERNELS, in_chans), np.float32)
        for kernel in range(KERNELS):
            number = int(2 ** rng.uniform(0, math.log2(most + 1)))
            channels[kernel, rng.choice(in_chans, number, replace=False)] = 1.0
        self.register_buffer("channels", torch.from_numpy(channels))
        self.register_buffer("thresholds", normal_quantiles(count))
        self.norm = nn.BatchNorm1d(KERNELS, affine=False)

    def forward(self, x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        responses = convolve(torch.einsum("kc,bcl->bkl", self.channels, x), kernels, self.dilation)
        above = self.norm(responses)[:, :, None] > self.thresholds[..., None]  # (B, KERNELS, count, L)
        return above.to(x.dtype).mean(dim=-1).flatten(1)


@MODEL_REGISTRY.register()
class SeriesRocket(ClassifierHead):
    """Series (B, C, L) -> logits (B, num_classes). Only the classifier is trained; the rest has running means alone.

    Args:
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, num_features).
        in_chans: C.
        seq_len: time points that the dilations are made for, at least 9. Series of any length can be given.
        num_features: about so many, of both the series and its differences; a multiple of the number of kernels and
            dilations results.
        drop_rate: dropout of features.
    """

    init_std = 0.001
    layer_stem = r"^(?!head)"
    layer_blocks = r"^blocks\.(\d+)"
    kernels: torch.Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
        seq_len: int = 128,
        num_features: int = 10000,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments(
            "SeriesRocket",
            above_zero={"in_chans": in_chans, "num_features": num_features},
            from_zero={"num_classes": num_classes},
            rates={"drop_rate": drop_rate},
            more=[f"seq_len is {seq_len}, it must be {TAPS} or more"] if seq_len < TAPS else [],
        )
        self.in_chans, self.num_classes = in_chans, num_classes
        taps = torch.full((KERNELS, 1, TAPS), -1.0)
        for kernel, places in enumerate(itertools.combinations(range(TAPS), HIGH)):
            taps[kernel, 0, list(places)] = 2.0
        self.register_buffer("kernels", taps)
        dilations = dilations_of(seq_len)
        count = max(1, round(num_features / (2 * KERNELS * len(dilations))))
        self.values, self.differences = (
            nn.ModuleList(_Responses(in_chans, dilation, count, f"{name} {dilation}") for dilation in dilations)
            for name in ("values", "differences")
        )
        self.num_features = 2 * KERNELS * len(dilations) * count
        self.norm = nn.BatchNorm1d(self.num_features, affine=False)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.SERIES_ROCKET
        sizes = {"in_chans": series_channels(cfg), "seq_len": cfg.SERIES.LENGTH or node.SEQ_LEN}
        return {
            "num_classes": cfg.MODEL.NUM_CLASSES,
            **sizes,
            "num_features": node.NUM_FEATURES,
            "drop_rate": node.DROP_RATE,
        }

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Map (B, C, L) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(series))

    @torch.no_grad()
    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Map (B, C, L) float -> (B, num_features), normalised. DustError for series of other channels or of one
        point."""
        if series.ndim != 3 or series.shape[1] != self.in_chans or series.shape[2] < 2:
            raise DustError(
                f"SeriesRocket got series of shape {tuple(series.shape)}; it takes (B, {self.in_chans}, L) with L of 2 "
                "or more"
            )
        with torch.autocast(series.device.type, enabled=False):  # a threshold makes much of a little rounding
            series = series.to(self.kernels.dtype)
            parts = [block(series, self.kernels) for block in self.values]
            parts += [block(series.diff(dim=2), self.kernels) for block in self.differences]
            return self.norm(torch.cat(parts, dim=1))

    def no_weight_decay(self) -> set[str]:
        """Return the bias of the classifier."""
        return {"head.bias"} if self.num_classes else set()

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map (B, num_features) -> logits, or with ``pre_logits`` what the classifier sees."""
        return features if pre_logits else self.head(self.head_drop(features))

    def _new_head(self, num_classes: int) -> nn.Module:
        return new_head(self.num_features, num_classes, self.init_std).to(self.kernels)
