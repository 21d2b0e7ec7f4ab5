"""SlowFast and its single-pathway relatives: "SlowFast Networks for Video Recognition", Feichtenhofer et al., ICCV
2019, https://arxiv.org/abs/1812.03982; I3D, "Quo Vadis, Action Recognition?", Carreira and Zisserman, CVPR 2017,
https://arxiv.org/abs/1705.07750; C2D and Slow as in the first.

Residual networks over video. Code of the authors: https://github.com/facebookresearch/SlowFast, Apache-2.0. Tests
compare with numbers of theirs and of pytorchvideo's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from dust.config.slowfast import DEPTHS, are_whole, total_stride
from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import Multiple, check_arguments
from dust.models.layers.common import window_means
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.layers.resnet3d import (
    Bottleneck,
    NonLocal,
    ResBlock,
    classify_positions,
    conv3d,
    init_convolutions,
    pool_positions,
)
from dust.models.layers.tokens import tokens_of_map
from dust.models.slowfast_weights import our_names
from dust.utils.errors import DustError

#: Temporal kernels of the stem and of the four stages, in turns within a stage.
TEMPORAL_KERNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "c2d": ((1,), (1,), (1,), (1,), (1,)),
    "slow_c2d": ((1,), (1,), (1,), (1,), (1,)),
    "i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
    "slow_i3d": ((5,), (3,), (3, 1), (3, 1), (1, 3)),
    "slow": ((1,), (1,), (1,), (3,), (3,)),
}
FAST_KERNELS = ((5,), (3,), (3,), (3,), (3,))
#: Those that halve the time behind the first stage.
POOLS_TIME = ("c2d", "i3d")


@dataclass(frozen=True)
class NonLocalSpec:
    """Non-local blocks, as SlowFast's keys have them: for each of the four stages and its pathways.

    Attributes:
        location: the blocks behind which one stands.
        group: parts into which the time is cut there.
        pool: window of keys and values, (time, height, width).
        softmax: weights by a softmax, else by the mean.
    """

    location: Sequence[Sequence[Sequence[int]]]
    group: Sequence[Sequence[int]]
    pool: Sequence[Sequence[Sequence[int]]]
    softmax: bool = False


class _Stem(nn.Module):
    def __init__(self, in_chans: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = conv3d(in_chans, width, (kernel, 7, 7), (1, 2, 2))
        self.bn = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.bn(self.conv(x)).relu_())


class _Fuse(nn.Module):
    """[slow, fast] -> [slow with fast's channels behind its own, fast]: a convolution whose stride is alpha in time."""

    def __init__(self, fast: int, ratio: int, kernel: int, alpha: int) -> None:
        super().__init__()
        self.conv_f2s = conv3d(fast, fast * ratio, (kernel, 1, 1), (alpha, 1, 1))
        self.bn = nn.BatchNorm3d(fast * ratio)

    def forward(self, pathways: list[torch.Tensor]) -> list[torch.Tensor]:
        slow, fast = pathways
        return [torch.cat([slow, self.bn(self.conv_f2s(fast)).relu_()], dim=1), fast]


class _ResNets(ClassifierHead, Checkpointed):
    """One or two residual networks, s1 (stem) to s5. Subclasses say what runs between the stages.

    Modules are named as in SlowFast's checkpoints: ``s2.pathway0_res1`` is the second block of the first stage.
    """

    layer_stem = r"^s1"
    layer_blocks = r"^s([2-5])"

    def _build(
        self, *, in_chans: int, widths: Sequence[int], lateral: Sequence[int],
        kernels: Sequence[Sequence[Sequence[int]]],
        stage_depths: Sequence[int], num_block_temp_kernel: Sequence[Sequence[int]], spatial_strides: Sequence[int],
        spatial_dilations: Sequence[int], num_groups: int, stride_1x1: bool, nonlocal_blocks: NonLocalSpec | None,
    ) -> None:  # fmt: skip
        """Build the stem and the stages.

        Args:
            widths: of each pathway, its stem's channels.
            lateral: of each pathway, the channels that the others add to its stem's; in later stages as many times
                more as its own.
            kernels: of each pathway, the temporal kernels of the stem and of the four stages.
        """
        self.pathways = len(widths)
        self.s1 = nn.ModuleDict(
            {f"pathway{p}_stem": _Stem(in_chans, width, kernels[p][0][0]) for p, width in enumerate(widths)}
        )
        for stage, depth in enumerate(stage_depths):
            blocks: dict[str, nn.Module] = {}
            for p, width in enumerate(widths):
                channels_in = (width if stage == 0 else width * 2 ** (stage + 1)) + lateral[p] * (
                    1 if stage == 0 else 2 ** (stage + 1)
                )
                out, inner = width * 2 ** (stage + 2), width * num_groups * 2**stage
                for block in range(depth):
                    turn = kernels[p][stage + 1]
                    time = turn[block % len(turn)] if block < num_block_temp_kernel[stage][p] else 1
                    step = spatial_strides[stage] if block == 0 else 1
                    stride = (1, step, step)
                    branch = Bottleneck(
                        channels_in, inner, out, kernel_a=(time, 1, 1), kernel_b=(1, 3, 3), stride=stride,
                        groups=num_groups, dilation=spatial_dilations[stage], stride_1x1=stride_1x1,
                    )  # fmt: skip
                    blocks[f"pathway{p}_res{block}"] = ResBlock(channels_in, out, stride, branch)
                    channels_in = out
                    if nonlocal_blocks and block in nonlocal_blocks.location[stage][p]:
                        time_window, height, width_window = nonlocal_blocks.pool[stage][p]
                        blocks[f"pathway{p}_nonlocal{block}"] = NonLocal(
                            out, out // 2, pool=(time_window, height, width_window), softmax=nonlocal_blocks.softmax,
                            groups=nonlocal_blocks.group[stage][p],
                        )  # fmt: skip
            setattr(self, f"s{stage + 2}", nn.ModuleDict(blocks))

    def _stage(self, number: int, pathways: list[torch.Tensor]) -> list[torch.Tensor]:
        blocks: Any = getattr(self, f"s{number}")
        for p in range(self.pathways):
            for name, block in blocks.items():
                if name.startswith(f"pathway{p}_"):
                    pathways[p] = run_block(block, self.act_checkpoint, pathways[p])
        return pathways

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return SlowFast's (also its Caffe2 files') and pytorchvideo's tensors under this model's names."""
        return our_names(state, notes, self.state_dict())


def _check(
    model: str, pathways: int, *, stage_depths: Sequence[int], num_block_temp_kernel: Sequence[Sequence[int]],
    spatial_strides: Sequence[int], spatial_dilations: Sequence[int], nonlocal_blocks: NonLocalSpec | None,
    num_classes: int, dropout_rate: float, more: Sequence[str] = (), multiples: Sequence[Multiple] = (), **sizes: int,
) -> None:  # fmt: skip
    """Raise one ConfigError that names every argument of a residual network that cannot be."""
    problems = list(more)
    for name, values in (
        ("stage_depths", stage_depths), ("spatial_strides", spatial_strides), ("spatial_dilations", spatial_dilations)
    ):  # fmt: skip
        if len(values) != 4 or not are_whole(list(values), 1):
            problems.append(f"{name} {tuple(values)}: there are four stages, each has a whole number of 1 or more")
    tables: dict[str, tuple[Sequence[Any], Any]] = {
        "num_block_temp_kernel": (num_block_temp_kernel, lambda value, _: are_whole([value], 0))
    }
    if nonlocal_blocks is not None:
        spec = nonlocal_blocks
        tables |= {
            "nonlocal_blocks.location": (spec.location, lambda value, depth: are_whole(value, 0, depth - 1)),
            "nonlocal_blocks.group": (spec.group, lambda value, _: are_whole([value], 1)),
            "nonlocal_blocks.pool": (spec.pool, lambda value, _: are_whole(value, 1) and len(value) == 3),
        }
    for name, (table, right) in tables.items() if not problems else ():
        whole = len(table) == 4 and all(len(row) >= pathways for row in table)
        if not whole or not all(right(v, depth) for row, depth in zip(table, stage_depths, strict=True) for v in row):
            problems.append(
                f"{name} {table}: four stages, a value in each for {pathways} pathways, that its blocks allow"
            )
    check_arguments(
        model, above_zero=sizes, from_zero={"num_classes": num_classes}, rates={"dropout_rate": dropout_rate},
        multiples=multiples, more=problems,
    )  # fmt: skip


@MODEL_REGISTRY.register()
class ResNet(_ResNets):
    """Video (B, C, T, H, W) -> logits (B, num_classes): C2D, I3D or Slow.

    Args:
        arch: ``slow`` | ``c2d`` | ``i3d`` | ``slow_c2d`` | ``slow_i3d`` (the last two keep all frames).
        stage_depths: blocks of the four stages; R50 is (3, 4, 6, 3).
        width: channels of the stem; stages have 4, 8, 16 and 32 times as many.
        num_frames, img_size: of training clips: they set what the head pools over. Larger clips leave several
            positions, which vote; see :func:`dust.models.layers.resnet3d.classify_positions`.
        num_classes: 0 makes the head an identity.
        num_block_temp_kernel: of each stage, how many blocks have its temporal kernel; the rest have 1.
        spatial_strides, spatial_dilations: of the stages.
        num_groups: of the 3x3 convolutions (ResNeXt), each as wide as a block without groups has them.
        stride_1x1: a block's stride stands on its first convolution.
        nonlocal_blocks: where non-local blocks stand; None: nowhere.
        dropout_rate: before the head.
        zero_init_final_bn: the last norm of each block begins at zero.
        init_std: spread of the head's first weights.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        *,
        arch: str = "slow",
        stage_depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_frames: int = 8,
        img_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 400,
        num_block_temp_kernel: Sequence[Sequence[int]] = ((3,), (4,), (6,), (3,)),
        spatial_strides: Sequence[int] = (1, 2, 2, 2),
        spatial_dilations: Sequence[int] = (1, 1, 1, 1),
        num_groups: int = 1,
        stride_1x1: bool = False,
        nonlocal_blocks: NonLocalSpec | None = None,
        dropout_rate: float = 0.5,
        zero_init_final_bn: bool = True,
        init_std: float = 0.01,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_arguments("ResNet", above_zero={}, choices={"arch": (arch, tuple(TEMPORAL_KERNELS))})
        halves = arch in POOLS_TIME
        _check(
            "ResNet", 1, stage_depths=stage_depths, num_block_temp_kernel=num_block_temp_kernel,
            spatial_strides=spatial_strides, spatial_dilations=spatial_dilations, nonlocal_blocks=nonlocal_blocks,
            num_classes=num_classes, dropout_rate=dropout_rate, width=width, num_frames=num_frames, img_size=img_size,
            in_chans=in_chans, num_groups=num_groups,
            more=[f"num_frames is {num_frames}, {arch} halves the time"] if halves and num_frames < 2 else [],
        )  # fmt: skip
        self.arch, self.num_classes, self.init_std, self.in_chans = arch, num_classes, init_std, in_chans
        self.num_features = 32 * width
        self._build(
            in_chans=in_chans, widths=[width], lateral=[0], kernels=[TEMPORAL_KERNELS[arch]], stage_depths=stage_depths,
            num_block_temp_kernel=num_block_temp_kernel, spatial_strides=spatial_strides,
            spatial_dilations=spatial_dilations, num_groups=num_groups, stride_1x1=stride_1x1,
            nonlocal_blocks=nonlocal_blocks,
        )  # fmt: skip
        self.time_pool = 2 if halves else 1
        side = math.ceil(img_size / total_stride(spatial_strides))
        self.window = (num_frames // self.time_pool, side, side)
        self.head_drop = nn.Dropout(dropout_rate)
        init_convolutions(self, zero_init_final_bn=zero_init_final_bn)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        return {
            **_of_resnet(cfg),
            "arch": "slow" if cfg.MODEL.ARCH == "vit" else cfg.MODEL.ARCH,
            "num_block_temp_kernel": [row[:1] for row in cfg.RESNET.NUM_BLOCK_TEMP_KERNEL],
            "nonlocal_blocks": _nonlocal(cfg, 1),
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> features (B, 32 width, T', H / 32, W / 32), rounded up."""
        pathways = [self.s1["pathway0_stem"](video)]
        for number in range(2, 6):
            pathways = self._stage(number, pathways)
            if number == 2 and self.time_pool > 1:
                pathways[0] = nn.functional.max_pool3d(pathways[0], (self.time_pool, 1, 1))
        return pathways[0]

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> no class token (B, 0, D), and the features as tokens (B, T', H', W', D)."""
        return tokens_of_map(self.forward_features(video))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features -> logits (B, num_classes), or with ``pre_logits`` the pooled features (B, 32 width)."""
        if pre_logits:
            return features.mean(dim=(2, 3, 4))
        pooled = self.head_drop(pool_positions(features, self.window, "ResNet"))
        return classify_positions(pooled, self.head, training=self.training)


@MODEL_REGISTRY.register()
class SlowFast(_ResNets):
    """Video (B, C, T, H, W), or [slow (B, C, T / alpha, H, W), fast (B, C, T, H, W)] -> logits (B, num_classes).

    Args: those of :class:`ResNet`, and
        alpha: frames of the fast pathway for one of the slow.
        beta_inv: channels of the slow pathway for one of the fast.
        fusion_ratio: channels that fusing adds to the slow pathway, as a multiple of the fast one's.
        fusion_kernel: frames that the fusing convolution sees.
        num_block_temp_kernel: of each stage, for the slow and for the fast pathway.
    """

    def __init__(
        self,
        *,
        stage_depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_frames: int = 32,
        img_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 400,
        alpha: int = 4,
        beta_inv: int = 8,
        fusion_ratio: int = 2,
        fusion_kernel: int = 7,
        num_block_temp_kernel: Sequence[Sequence[int]] = ((3, 3), (4, 4), (6, 6), (3, 3)),
        spatial_strides: Sequence[int] = (1, 2, 2, 2),
        spatial_dilations: Sequence[int] = (1, 1, 1, 1),
        num_groups: int = 1,
        stride_1x1: bool = False,
        nonlocal_blocks: NonLocalSpec | None = None,
        dropout_rate: float = 0.5,
        zero_init_final_bn: bool = True,
        init_std: float = 0.01,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check(
            "SlowFast", 2, stage_depths=stage_depths, num_block_temp_kernel=num_block_temp_kernel,
            spatial_strides=spatial_strides, spatial_dilations=spatial_dilations, nonlocal_blocks=nonlocal_blocks,
            num_classes=num_classes, dropout_rate=dropout_rate, width=width, num_frames=num_frames, img_size=img_size,
            in_chans=in_chans, num_groups=num_groups, fusion_ratio=fusion_ratio, fusion_kernel=fusion_kernel,
            more=[f"fusion_kernel is {fusion_kernel}, it must be odd"] if fusion_kernel % 2 == 0 else [],
            multiples=[("num_frames", num_frames, "alpha", alpha), ("width", width, "beta_inv", beta_inv)],
        )  # fmt: skip
        self.num_classes, self.init_std, self.in_chans, self.alpha = num_classes, init_std, in_chans, alpha
        fast = width // beta_inv
        self.num_features = 32 * (width + fast)
        self._build(
            in_chans=in_chans, widths=[width, fast], lateral=[fast * fusion_ratio, 0],
            kernels=[TEMPORAL_KERNELS["slow"], FAST_KERNELS], stage_depths=stage_depths,
            num_block_temp_kernel=num_block_temp_kernel, spatial_strides=spatial_strides,
            spatial_dilations=spatial_dilations, num_groups=num_groups, stride_1x1=stride_1x1,
            nonlocal_blocks=nonlocal_blocks,
        )  # fmt: skip
        for number in range(1, 5):
            channels = fast if number == 1 else fast * 2**number
            setattr(self, f"s{number}_fuse", _Fuse(channels, fusion_ratio, fusion_kernel, alpha))
        side = math.ceil(img_size / total_stride(spatial_strides))
        self.windows = ((num_frames // alpha, side, side), (num_frames, side, side))
        self.head_drop = nn.Dropout(dropout_rate)
        init_convolutions(self, zero_init_final_bn=zero_init_final_bn)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        return {
            **_of_resnet(cfg),
            "num_block_temp_kernel": [[*row, *row][:2] for row in cfg.RESNET.NUM_BLOCK_TEMP_KERNEL],
            "nonlocal_blocks": _nonlocal(cfg, 2),
            "alpha": cfg.SLOWFAST.ALPHA,
            "beta_inv": cfg.SLOWFAST.BETA_INV,
            "fusion_ratio": cfg.SLOWFAST.FUSION_CONV_CHANNEL_RATIO,
            "fusion_kernel": cfg.SLOWFAST.FUSION_KERNEL_SZ,
        }

    def forward(self, video: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Map float video -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Map float video -> [slow, fast], (B, C, T, H / 32, W / 32) each, rounded up."""
        pathways = self.pathways_of(video)
        pathways = [self.s1[f"pathway{p}_stem"](x) for p, x in enumerate(pathways)]
        for number in range(2, 6):
            pathways = self._stage(number, getattr(self, f"s{number - 1}_fuse")(pathways))
        return pathways

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> no class token (B, 0, D), and tokens (B, T', H', W', D): at each time of the
        slow pathway its features, and behind them the mean of the fast one's."""
        slow, fast = self.forward_features(video)
        alike = (fast.shape[2] // slow.shape[2], 1, 1)
        fast = window_means(fast, alike, alike)
        return tokens_of_map(torch.cat([slow, fast], dim=1))

    def pathways_of(self, video: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Draw the slow pathway: frames trunc(linspace(0, T - 1, T / alpha)), as SlowFast does; a pair stays."""
        if not isinstance(video, torch.Tensor):
            slow, fast = video
            if slow.shape[2] * self.alpha != fast.shape[2]:
                raise DustError(
                    f"SlowFast got {slow.shape[2]} slow and {fast.shape[2]} fast frames; SLOWFAST.ALPHA is {self.alpha}"
                )
            return [slow, fast]
        frames = video.shape[2]
        if frames % self.alpha:
            raise DustError(f"SlowFast got {frames} frames; it takes a multiple of SLOWFAST.ALPHA {self.alpha}")
        index = torch.linspace(0, frames - 1, frames // self.alpha, device=video.device).long()
        return [video.index_select(2, index), video]

    def forward_head(self, features: Sequence[torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Map [slow, fast] -> logits (B, num_classes), or with ``pre_logits`` the pooled features (B, num_features)."""
        if pre_logits:
            return torch.cat([x.mean(dim=(2, 3, 4)) for x in features], dim=1)
        pooled = [pool_positions(x, window, "SlowFast") for x, window in zip(features, self.windows, strict=True)]
        if pooled[0].shape[2:] != pooled[1].shape[2:]:
            raise DustError("SlowFast: its pathways end at other times: test with as many frames as it was built for")
        return classify_positions(self.head_drop(torch.cat(pooled, dim=1)), self.head, training=self.training)


def _of_resnet(cfg: Any) -> dict[str, Any]:
    node = cfg.RESNET
    return {
        "stage_depths": DEPTHS[node.DEPTH],
        "width": node.WIDTH_PER_GROUP,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "img_size": cfg.DATA.TRAIN_CROP_SIZE,
        "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "spatial_strides": [row[0] for row in node.SPATIAL_STRIDES],
        "spatial_dilations": [row[0] for row in node.SPATIAL_DILATIONS],
        "num_groups": node.NUM_GROUPS,
        "stride_1x1": node.STRIDE_1X1,
        "dropout_rate": cfg.MODEL.DROPOUT_RATE,
        "zero_init_final_bn": node.ZERO_INIT_FINAL_BN,
        "init_std": cfg.MODEL.FC_INIT_STD,
        "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
    }


def _nonlocal(cfg: Any, pathways: int) -> NonLocalSpec | None:
    """Return what NONLOCAL.* asks for; a table with one column is for every pathway."""
    node = cfg.NONLOCAL
    if not any(blocks for stage in node.LOCATION for blocks in stage):
        return None
    location = [[*row, *([[]] * pathways)][:pathways] for row in node.LOCATION]
    group, pool = ([[*row, *row][:pathways] for row in table] for table in (node.GROUP, node.POOL))
    return NonLocalSpec(location, group, pool, node.INSTANTIATION == "softmax")
