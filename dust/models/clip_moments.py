"""ClipMoments: a small 2-D network on what a clip is on average and how much each pixel changes. It is dust's own, for
cameras that stand still and few clips: it costs next to nothing, and sees no order of time."""

from typing import Any

import torch
import torch.nn as nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.common import share_means
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.utils.errors import DustError

STRIDES = (2, 2, 1, 2)
LEAST_CHANGE = 0.05  # is added before the logarithm, in deviations of the normalisation: below it is noise of a camera


def moments(video: torch.Tensor) -> torch.Tensor:
    """Map video (B, C, T, H, W) -> (B, C + 3, H, W): the mean picture, the logarithm of the deviation of brightness
    over time, and how steep the mean brightness is in x and in y."""
    mean, grey = video.mean(dim=2), video.mean(dim=1)  # (B, C, H, W), (B, T, H, W)
    change = (grey.std(dim=1, correction=0) + LEAST_CHANGE).log()[:, None]
    still = grey.mean(dim=1)[:, None]
    steep_x = nn.functional.pad(still.diff(dim=3).abs(), (0, 1))
    steep_y = nn.functional.pad(still.diff(dim=2).abs(), (0, 0, 0, 1))
    return torch.cat([mean, change, steep_x, steep_y], dim=1)


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


@MODEL_REGISTRY.register()
class ClipMoments(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes), of any size and number of frames.

    Args:
        num_classes: 0 makes the head an identity.
        in_chans: C.
        width: channels of the first convolution; the last has four times as many.
        grid: places per side whose features the classifier sees, in order.
        drop_rate: dropout before the head.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
    """

    layer_stem = r"^conv1\."
    init_std = 0.01

    def __init__(
        self, *, num_classes: int, in_chans: int = 3, width: int = 16, grid: int = 4, drop_rate: float = 0.5,
        act_checkpoint: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_arguments(
            "ClipMoments",
            above_zero={"in_chans": in_chans, "width": width, "grid": grid},
            from_zero={"num_classes": num_classes},
            rates={"drop_rate": drop_rate},
        )
        self.in_chans = in_chans
        self.norm = nn.BatchNorm2d(in_chans + 3, affine=False)
        widths = [width, 2 * width, 2 * width, 4 * width]
        self.conv1 = _convolution(in_chans + 3, widths[0], STRIDES[0])
        pairs = zip(widths, widths[1:], STRIDES[1:], strict=False)
        self.blocks = nn.ModuleList(_convolution(*pair) for pair in pairs)
        self.grid = (grid, grid)
        self.num_features = widths[-1] * grid * grid
        self.head_drop = nn.Dropout(drop_rate)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.CLIP_MOMENTS
        return {
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "width": node.WIDTH,
            "grid": node.GRID,
            "drop_rate": node.DROP_RATE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> (B, 4 width, H', W')."""
        if video.ndim != 5 or video.shape[1] != self.in_chans:
            shapes = f"{tuple(video.shape)}; it takes (B, {self.in_chans}, T, H, W)"
            raise DustError(f"ClipMoments got video of shape {shapes}")
        with torch.autocast(video.device.type, enabled=False):  # small changes are lost in half precision
            x = self.norm(moments(video))
        for block in (self.conv1, *self.blocks):
            x = run_block(block, self.act_checkpoint, x)
        return x

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map (B, 4 width, H', W') -> logits, or with ``pre_logits`` what the classifier sees."""
        pooled = share_means(features, self.grid).flatten(1)
        return pooled if pre_logits else self.head(self.head_drop(pooled))
