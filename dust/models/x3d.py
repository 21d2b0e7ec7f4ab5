"""X3D: "X3D: Expanding Architectures for Efficient Video Recognition", Feichtenhofer, CVPR 2020,
https://arxiv.org/abs/2004.04730.

A residual network of depthwise convolutions. Code of the author: https://github.com/facebookresearch/SlowFast,
Apache-2.0. Tests compare with numbers of it and of pytorchvideo's.
"""

import math
from typing import Any

import torch
import torch.nn as nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.layers.resnet3d import (
    Bottleneck,
    ResBlock,
    classify_positions,
    conv3d,
    init_convolutions,
    pool_positions,
)
from dust.models.layers.tokens import tokens_of_map
from dust.models.slowfast_weights import our_names
from dust.utils.errors import DustError

STAGE_DEPTHS = (1, 2, 5, 3)


def round_width(width: float, factor: float, *, divisor: int = 8, minimum: int = 1) -> int:
    """Round ``width * factor`` to a multiple of ``divisor``, not more than a tenth below it, and to ``minimum`` or
    more."""
    width *= factor
    rounded = max(minimum, int(width + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * width else rounded)


class _Stem(nn.Module):
    """A convolution in space, one in time for each channel, batch norm."""

    def __init__(self, in_chans: int, width: int) -> None:
        super().__init__()
        self.conv_xy = conv3d(in_chans, width, (1, 3, 3), (1, 2, 2))
        self.conv = conv3d(width, width, (5, 1, 1), groups=width)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(self.conv_xy(x))).relu_()


@MODEL_REGISTRY.register()
class X3D(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes). XS, S and M differ in clip and crop only.

    Args:
        width_factor, depth_factor, bottleneck_factor: of the published table; M is 2.0, 2.2, 2.25.
        dim_c1, dim_c5: channels before the factor, and of the head's hidden layer.
        scale_res2: the first stage is as wide as ``dim_c1`` times the width factor from the start.
        width_divisor: channels of the stages are multiples of it; 1 in SlowFast, 8 in pytorchvideo, alike for the
            published sizes.
        se_ratio: width of squeeze-and-excitation over the inner channels, in every other block.
        bn_lin5: a batch norm behind the head's hidden layer.
        channelwise_3x3x3: depthwise convolutions (False: full ones).
        num_frames, img_size: of training clips: they set what the head pools over. Larger clips leave several
            positions, which vote; see :func:`dust.models.layers.resnet3d.classify_positions`.
        num_classes: 0 makes the head an identity.
        dropout_rate: before the head.
        shortcut_bn: batch norm on a shortcut that changes its stride alone, as in SlowFast; pytorchvideo has none
            there.
        zero_init_final_bn: the last norm of each block begins at zero.
        init_std: spread of the head's first weights.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
    """

    layer_stem = r"^s1"
    layer_blocks = r"^s([2-5])"
    beyond_tokens = r"^(?:conv_5|lin_5|head)"

    def __init__(
        self,
        *,
        width_factor: float = 2.0,
        depth_factor: float = 2.2,
        bottleneck_factor: float = 2.25,
        dim_c1: int = 12,
        dim_c5: int = 2048,
        scale_res2: bool = False,
        width_divisor: int = 1,
        se_ratio: float = 0.0625,
        bn_lin5: bool = False,
        channelwise_3x3x3: bool = True,
        num_frames: int = 16,
        img_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 400,
        dropout_rate: float = 0.5,
        shortcut_bn: bool = True,
        zero_init_final_bn: bool = True,
        init_std: float = 0.01,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        narrowest = round_width(dim_c1, width_factor, divisor=max(width_divisor, 1), minimum=1)
        thin = 0 < bottleneck_factor * narrowest < 1
        check_arguments(
            "X3D",
            above_zero={
                "width_factor": width_factor, "depth_factor": depth_factor, "bottleneck_factor": bottleneck_factor,
                "dim_c1": dim_c1, "dim_c5": dim_c5, "num_frames": num_frames, "img_size": img_size,
                "in_chans": in_chans, "width_divisor": width_divisor,
            },
            from_zero={"num_classes": num_classes, "se_ratio": se_ratio},
            rates={"dropout_rate": dropout_rate},
            more=[f"bottleneck_factor {bottleneck_factor} leaves nothing of {narrowest} channels"] if thin else [],
        )  # fmt: skip
        self.num_classes, self.init_std, self.in_chans = num_classes, init_std, in_chans
        self.num_features = dim_c5
        bases = [round_width(dim_c1, 2.0) if scale_res2 else dim_c1]
        for _ in range(3):
            bases.append(round_width(bases[-1], 2.0))
        channels = round_width(dim_c1, width_factor, divisor=width_divisor, minimum=width_divisor)
        self.s1 = nn.ModuleDict({"pathway0_stem": _Stem(in_chans, channels)})
        for stage, (base, depth) in enumerate(zip(bases, STAGE_DEPTHS, strict=True)):
            out = round_width(base, width_factor, divisor=width_divisor, minimum=width_divisor)
            inner = int(bottleneck_factor * out)
            blocks = {}
            for block in range(math.ceil(depth * depth_factor)):
                stride = (1, 2, 2) if block == 0 else (1, 1, 1)
                branch = Bottleneck(
                    channels, inner, out, kernel_a=(1, 1, 1), kernel_b=(3, 3, 3), stride=stride,
                    groups=inner if channelwise_3x3x3 else 1, activation="swish",
                    squeeze=round_width(inner, se_ratio, minimum=8) if se_ratio and block % 2 == 0 else 0,
                )  # fmt: skip
                norm = shortcut_bn or channels != out
                blocks[f"pathway0_res{block}"] = ResBlock(channels, out, stride, branch, shortcut_bn=norm)
                channels = out
            setattr(self, f"s{stage + 2}", nn.ModuleDict(blocks))
        self.conv_5 = conv3d(channels, inner, (1, 1, 1))
        self.conv_5_bn = nn.BatchNorm3d(inner)
        self.window = (num_frames, math.ceil(img_size / 32), math.ceil(img_size / 32))
        self.lin_5 = conv3d(inner, dim_c5, (1, 1, 1))
        self.lin_5_bn = nn.BatchNorm3d(dim_c5) if bn_lin5 else None
        self.head_drop = nn.Dropout(dropout_rate)
        init_convolutions(self, zero_init_final_bn=zero_init_final_bn)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.X3D
        return {
            "width_factor": node.WIDTH_FACTOR,
            "depth_factor": node.DEPTH_FACTOR,
            "bottleneck_factor": node.BOTTLENECK_FACTOR,
            "dim_c1": node.DIM_C1,
            "dim_c5": node.DIM_C5,
            "scale_res2": node.SCALE_RES2,
            "bn_lin5": node.BN_LIN5,
            "channelwise_3x3x3": node.CHANNELWISE_3x3x3,
            "num_frames": cfg.DATA.NUM_FRAMES,
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "dropout_rate": cfg.MODEL.DROPOUT_RATE,
            "zero_init_final_bn": cfg.RESNET.ZERO_INIT_FINAL_BN,
            "init_std": cfg.MODEL.FC_INIT_STD,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> features (B, C', T, ceil(H / 32), ceil(W / 32))."""
        if video.ndim != 5 or video.shape[1] != self.in_chans:
            raise DustError(f"X3D got video of shape {tuple(video.shape)}; it takes (B, {self.in_chans}, T, H, W)")
        x = self.s1["pathway0_stem"](video)
        for number in range(2, 6):
            for block in getattr(self, f"s{number}").values():
                x = run_block(block, self.act_checkpoint, x)
        return x

    @property
    def token_dim(self) -> int:
        return self.conv_5.in_channels

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> no class token (B, 0, D), and the features as tokens (B, T, H', W', D)."""
        return tokens_of_map(self.forward_features(video))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features -> logits (B, num_classes), or with ``pre_logits`` the hidden layer (B, dim_c5), its positions'
        mean."""
        x = self.conv_5_bn(self.conv_5(features)).relu_()
        x = self.lin_5(pool_positions(x, self.window, "X3D"))
        x = (x if self.lin_5_bn is None else self.lin_5_bn(x)).relu()
        if pre_logits:
            return x.mean(dim=(2, 3, 4))
        return classify_positions(self.head_drop(x), self.head, training=self.training)

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return SlowFast's and pytorchvideo's tensors under this model's names."""
        return our_names(state, notes, self.state_dict())
