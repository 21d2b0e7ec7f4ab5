"""MViT: "Multiscale Vision Transformers", Fan et al., ICCV 2021, https://arxiv.org/abs/2104.11227, and "MViTv2:
Improved Multiscale Vision Transformers for Classification and Detection", Li et al., CVPR 2022,
https://arxiv.org/abs/2112.01526.

Attention whose queries, keys and values are pooled in time and space, so that channels grow as the grid shrinks. Code
of the authors: https://github.com/facebookresearch/SlowFast, Apache-2.0. Tests compare with numbers of theirs and of
torchvision's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.config.slowfast import are_whole
from dust.models.build import MODEL_REGISTRY
from dust.models.layers import init_linear
from dust.models.layers.checks import check_arguments
from dust.models.layers.common import drop_path_rates
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.layers.pooling_attention import MViTBlock, MViTBlockSpec
from dust.models.mvit_weights import our_names
from dust.utils.errors import ConfigError, DustError

Size = tuple[int, int, int]
State = dict[str, torch.Tensor]


def block_table(
    *,
    depth: int,
    embed_dim: int,
    num_heads: int,
    dim_mul: Sequence[Sequence[float]],
    head_mul: Sequence[Sequence[float]],
    pool_q_stride: Sequence[Sequence[int]],
    pool_kv_stride: Sequence[Sequence[int]] = (),
    pool_kv_stride_adaptive: Sequence[int] = (),
    pool_kvq_kernel: Sequence[int] = (),
    dim_mul_in_att: bool = False,
) -> list[MViTBlockSpec]:
    """Make the blocks that SlowFast's keys describe.

    Args:
        dim_mul, head_mul: [block, factor]: channels and heads grow there. In v2 (``dim_mul_in_att``) the attention of
            that block widens, in v1 the MLP of the block before it.
        pool_q_stride, pool_kv_stride: [block, time, height, width].
        pool_kv_stride_adaptive: the first block's stride of keys; each stride of queries divides it.
        pool_kvq_kernel: of all pooling; empty: one more than the stride where that is above 1.
    """
    widths, heads = ({int(i): float(factor) for i, factor in table} for table in (dim_mul, head_mul))
    stride_q = {int(i): tuple(map(int, stride)) for i, *stride in pool_q_stride}
    stride_kv = {int(i): tuple(map(int, stride)) for i, *stride in pool_kv_stride}
    if pool_kv_stride_adaptive:
        now = tuple(pool_kv_stride_adaptive)
        for i in range(depth):
            now = tuple(max(kv // q, 1) for kv, q in zip(now, stride_q.get(i, (1, 1, 1)), strict=True))
            stride_kv[i] = now

    def kernel(stride: Sequence[int]) -> tuple[int, ...]:
        if not stride:
            return ()
        return tuple(pool_kvq_kernel) or tuple(step + 1 if step > 1 else step for step in stride)

    blocks, dim = [], embed_dim
    for i in range(depth):
        num_heads = _rounded(num_heads, heads.get(i, 1.0), 1)
        grows = i if dim_mul_in_att else i + 1
        out = _rounded(dim, widths.get(grows, 1.0), _rounded(num_heads, heads.get(grows, 1.0), 1))
        q, kv = stride_q.get(i, ()), stride_kv.get(i, ())
        blocks.append(MViTBlockSpec(num_heads, dim, out, kernel(q), kernel(kv), q, kv))
        dim = out
    return blocks


def _rounded(width: float, factor: float, divisor: int) -> int:
    width *= factor
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * width else rounded)


@MODEL_REGISTRY.register()
class MViT(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes).

    Other sizes and frame counts than those it was built for work in ``forward`` too: tables of positions are resampled.

    Args:
        blocks: one :class:`MViTBlockSpec` (or dict of its fields) for each block; :func:`block_table` makes SlowFast's.
        img_size: pixels, an int or (H, W); ``num_frames``: what the position tables are made for.
        in_chans: channels of the video.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, D).
        patch_kernel, patch_stride, patch_padding: of the first convolution, each (time, height, width).
        mlp_ratio, qkv_bias, norm_eps: of the blocks.
        dim_mul_in_att: channels grow in the attention (v2), else in the MLP (v1).
        residual_pooling: pooled queries are added to what the attention gives (v2).
        rel_pos_spatial, rel_pos_temporal: decomposed relative positions (v2).
        use_abs_pos: a table of positions in space and one in time (v1); joint in one table without ``sep_pos_embed``.
        cls_embed_on: a class token, which is classified; else the mean over the tokens.
        use_mean_pooling: classify the norm of the mean over the tokens, whatever the class token says.
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0.
        dropout_rate: before the head.
        zero_decay_pos_cls: no weight decay of the class token and of tables of positions.
        rel_pos_zero_init: tables of relative positions begin at zero.
        init_std, init_scale: spread of the first weights, and a factor of the head's.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:patch_embed|cls_token|pos_embed)"

    def __init__(
        self,
        *,
        blocks: Sequence[MViTBlockSpec | Mapping[str, Any]],
        img_size: int | tuple[int, int] = 224,
        num_frames: int = 16,
        in_chans: int = 3,
        num_classes: int = 400,
        patch_kernel: Sequence[int] = (3, 7, 7),
        patch_stride: Sequence[int] = (2, 4, 4),
        patch_padding: Sequence[int] = (1, 3, 3),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dim_mul_in_att: bool = True,
        residual_pooling: bool = True,
        rel_pos_spatial: bool = True,
        rel_pos_temporal: bool = True,
        use_abs_pos: bool = False,
        sep_pos_embed: bool = True,
        cls_embed_on: bool = True,
        use_mean_pooling: bool = False,
        drop_path_rate: float = 0.0,
        dropout_rate: float = 0.5,
        norm_eps: float = 1e-6,
        zero_decay_pos_cls: bool = True,
        rel_pos_zero_init: bool = False,
        init_std: float = 0.02,
        init_scale: float = 1.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        specs = [spec if isinstance(spec, MViTBlockSpec) else MViTBlockSpec(**spec) for spec in blocks]
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        _check(
            specs, {"patch_kernel": patch_kernel, "patch_stride": patch_stride, "patch_padding": patch_padding},
            height=height, width=width, num_frames=num_frames, in_chans=in_chans, num_classes=num_classes,
            mlp_ratio=mlp_ratio, rates={"drop_path_rate": drop_path_rate, "dropout_rate": dropout_rate},
        )  # fmt: skip
        self.num_classes, self.init_std, self.in_chans = num_classes, init_std, in_chans
        self.init_scale, self.zero_decay_pos_cls = init_scale, zero_decay_pos_cls
        self.cls_embed_on, self.use_mean_pooling = cls_embed_on, use_mean_pooling
        self.num_features = specs[-1].dim_out
        dim = specs[0].dim_in
        self.patch_embed = _PatchEmbed(in_chans, dim, patch_kernel, patch_stride, patch_padding)
        grid: Size = (num_frames // patch_stride[0], height // patch_stride[1], width // patch_stride[2])
        self.grid: Size = _convolved((num_frames, height, width), patch_kernel, patch_stride, patch_padding)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_embed_on else None
        self.pos_embed_spatial = self.pos_embed_temporal = self.pos_embed_class = self.pos_embed = None
        tokens = self.grid[1] * self.grid[2]
        if use_abs_pos and sep_pos_embed:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, tokens, dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.grid[0], dim))
            self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, dim)) if cls_embed_on else None
        elif use_abs_pos:
            self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * tokens + int(cls_embed_on), dim))
        made = []
        for spec, rate in zip(specs, drop_path_rates(drop_path_rate, len(specs)), strict=True):
            made.append(MViTBlock(
                spec, grid, class_token=cls_embed_on, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, drop_path=rate,
                dim_mul_in_att=dim_mul_in_att, residual_pooling=residual_pooling, rel_pos_spatial=rel_pos_spatial,
                rel_pos_temporal=rel_pos_temporal, norm_eps=norm_eps,
            ))  # fmt: skip
            grid = tuple(side // step for side, step in zip(grid, spec.stride_q or (1, 1, 1), strict=True))  # type: ignore[assignment]
        self.blocks = nn.ModuleList(made)
        self.norm = nn.LayerNorm(self.num_features, eps=norm_eps)
        self.head_drop = nn.Dropout(dropout_rate)
        self.set_grad_checkpointing(act_checkpoint)
        for name, parameter in self.named_parameters():
            if ".rel_pos_" in name and rel_pos_zero_init:
                nn.init.zeros_(parameter)
            elif name.startswith(("cls_token", "pos_embed")) or ".rel_pos_" in name:
                nn.init.trunc_normal_(parameter, std=init_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, init_std)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.constant_(module.bias, 0.02)  # as the published models begin
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.MVIT
        return {
            "blocks": block_table(
                depth=node.DEPTH,
                embed_dim=node.EMBED_DIM,
                num_heads=node.NUM_HEADS,
                dim_mul=node.DIM_MUL,
                head_mul=node.HEAD_MUL,
                pool_q_stride=node.POOL_Q_STRIDE,
                pool_kv_stride=node.POOL_KV_STRIDE,
                pool_kv_stride_adaptive=node.POOL_KV_STRIDE_ADAPTIVE,
                pool_kvq_kernel=node.POOL_KVQ_KERNEL,
                dim_mul_in_att=node.DIM_MUL_IN_ATT,
            ),
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "num_frames": cfg.DATA.NUM_FRAMES,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "patch_kernel": node.PATCH_KERNEL,
            "patch_stride": node.PATCH_STRIDE,
            "patch_padding": node.PATCH_PADDING,
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "dim_mul_in_att": node.DIM_MUL_IN_ATT,
            "residual_pooling": node.RESIDUAL_POOLING,
            "rel_pos_spatial": node.REL_POS_SPATIAL,
            "rel_pos_temporal": node.REL_POS_TEMPORAL,
            "use_abs_pos": node.USE_ABS_POS,
            "sep_pos_embed": node.SEP_POS_EMBED,
            "cls_embed_on": node.CLS_EMBED_ON,
            "use_mean_pooling": node.USE_MEAN_POOLING,
            "zero_decay_pos_cls": node.ZERO_DECAY_POS_CLS,
            "rel_pos_zero_init": node.REL_POS_ZERO_INIT,
            "init_scale": node.HEAD_INIT_SCALE,
            "drop_path_rate": node.DROPPATH_RATE,
            "dropout_rate": cfg.MODEL.DROPOUT_RATE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> tokens (B, L, D) of the last block, a class token first."""
        return self._encode(video)[0]

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> the class token (B, 1 or 0, D), and the tokens (B, T', H', W', D), normed."""
        tokens, grid = self._encode(video)
        tokens, begin = self.norm(tokens), int(self.cls_embed_on)
        return tokens[:, :begin], tokens[:, begin:].unflatten(1, grid)

    def _encode(self, video: torch.Tensor) -> tuple[torch.Tensor, Size]:
        """Return tokens of the last block, and their grid."""
        x, grid = self._embed(video)
        for block in self.blocks:
            x, grid = run_block(block, self.act_checkpoint, x, grid)  # type: ignore[arg-type]
        return x, grid

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens (B, L, D) -> logits (B, num_classes), or with ``pre_logits`` the features (B, D)."""
        begin = int(self.cls_embed_on)
        if self.use_mean_pooling:
            features = self.norm(tokens[:, begin:].mean(dim=1))
        else:
            tokens = self.norm(tokens)
            features = tokens[:, 0] if self.cls_embed_on else tokens.mean(dim=1)
        return features if pre_logits else self.head(self.head_drop(features))

    def _embed(self, video: torch.Tensor) -> tuple[torch.Tensor, Size]:
        if video.ndim != 5 or video.shape[1] != self.in_chans or not video.is_floating_point():
            raise DustError(
                f"MViT got video of {video.dtype} and shape {tuple(video.shape)}; it takes floats (B, {self.in_chans}, "
                "T, H, W)"
            )
        x = self.patch_embed.proj(video)
        grid: Size = tuple(x.shape[2:])  # type: ignore[assignment]
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        positions = self._positions(grid)
        return (x if positions is None else x + positions), grid

    def _positions(self, grid: Size) -> torch.Tensor | None:
        """Return (1, L, D) of a grid, or None where relative positions are all."""
        if self.pos_embed is not None:
            if grid != self.grid:
                raise DustError(
                    f"MViT with one joint table of positions was built for a grid of {self.grid}, the video has "
                    f"{grid}: crop and sample as it was built, or set MVIT.SEP_POS_EMBED True"
                )
            return self.pos_embed
        if self.pos_embed_spatial is None or self.pos_embed_temporal is None:
            return None
        spatial: torch.Tensor = self.pos_embed_spatial
        temporal: torch.Tensor = self.pos_embed_temporal
        if grid[1:] != self.grid[1:]:
            picture = spatial.transpose(1, 2).unflatten(2, self.grid[1:])
            spatial = F.interpolate(picture, grid[1:], mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
        if grid[0] != self.grid[0]:
            temporal = F.interpolate(temporal.transpose(1, 2), grid[0], mode="linear").transpose(1, 2)
        positions = (temporal.unsqueeze(2) + spatial.unsqueeze(1)).flatten(1, 2)
        return positions if self.pos_embed_class is None else torch.cat([self.pos_embed_class, positions], dim=1)

    # ---------------------------------------------------------------------------------- what a classifier offers

    def no_weight_decay(self) -> set[str]:
        """Return tokens and tables of positions; nothing without ``zero_decay_pos_cls``."""
        if not self.zero_decay_pos_cls:
            return set()
        names = ("cls_token", "pos_embed")
        return {name for name, _ in self.named_parameters() if name.startswith(names) or ".rel_pos_" in name}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return SlowFast's and torchvision's tensors under this model's names; tables of another size are resampled as
        SlowFast does it, with a line in ``notes``."""
        return our_names(state, notes, self.state_dict(), self.grid)


class _PatchEmbed(nn.Module):
    def __init__(
        self, in_chans: int, dim: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_chans, dim, tuple(kernel), tuple(stride), tuple(padding))  # type: ignore[arg-type]


def _check(
    specs: Sequence[MViTBlockSpec], patch: Mapping[str, Sequence[int]], *, height: int, width: int, num_frames: int,
    in_chans: int, num_classes: int, mlp_ratio: float, rates: Mapping[str, float],
) -> None:  # fmt: skip
    """Raise one ConfigError that names every argument that cannot be, of blocks by their number."""
    if not specs:
        raise ConfigError("MViT: there are no blocks")
    more = [
        f"{name} {tuple(sizes)}: three whole numbers of {low} or more"
        for (name, sizes), low in zip(patch.items(), (1, 1, 0), strict=True)
        if len(sizes) != 3 or not are_whole(list(sizes), low)
    ]
    above_zero = {"img_size height": height, "img_size width": width, "num_frames": num_frames, "in_chans": in_chans}
    if not more and min(height, width, num_frames) > 0:
        grid = tuple(
            size // step for size, step in zip((num_frames, height, width), patch["patch_stride"], strict=True)
        )
        kernel, stride, padding = patch.values()
        if min(*grid, *_convolved((num_frames, height, width), kernel, stride, padding)) < 1:
            texts = ", ".join(f"{name} {tuple(sizes)}" for name, sizes in patch.items())
            more.append(f"{texts} leave nothing of {num_frames} x {height} x {width}")
        else:
            more += _block_problems(specs, grid)
    more += [
        f"mlp_ratio {mlp_ratio} leaves nothing of {spec.dim_in} channels"
        for spec in specs[:1]
        if 0 < spec.dim_in * mlp_ratio < 1
    ]
    check_arguments(
        "MViT", above_zero={**above_zero, "mlp_ratio": mlp_ratio}, from_zero={"num_classes": num_classes}, rates=rates,
        more=more,
    )  # fmt: skip


def _block_problems(specs: Sequence[MViTBlockSpec], grid: Sequence[int]) -> list[str]:
    """Tell what cannot be in blocks whose tokens begin on a grid: widths that do not fit, pooling that leaves nothing,
    or that gives queries another grid than the shortcut has."""
    problems = []
    for index, spec in enumerate(specs):
        block = f"block {index}:"
        if min(spec.num_heads, spec.dim_in, spec.dim_out) < 1:
            problems.append(f"{block} num_heads, dim_in and dim_out must be above 0")
            continue
        for name, value in (("dim_in", spec.dim_in), ("dim_out", spec.dim_out)):
            if value % spec.num_heads:
                problems.append(f"{block} {name} {value} is not a multiple of num_heads {spec.num_heads}")
        pooling = {"q": (spec.kernel_q, spec.stride_q), "kv": (spec.kernel_kv, spec.stride_kv)}
        wrong = []
        for name, (kernel, stride) in pooling.items():
            text = f"{block} kernel_{name} {tuple(kernel)} and stride_{name} {tuple(stride)}"
            if (len(kernel), len(stride)) not in ((0, 0), (3, 3)) or not are_whole([*kernel, *stride], 1):
                wrong.append(f"{text} need 3 each, whole numbers of 1 or more")
            elif min(_pooled(grid, kernel, stride), default=1) < 1:
                wrong.append(f"{text} leave nothing of a grid of {tuple(grid)}")
        problems += wrong
        if index and spec.dim_in != specs[index - 1].dim_out:
            problems.append(f"{block} dim_in {spec.dim_in} is not dim_out {specs[index - 1].dim_out} of the one before")
        if wrong or not spec.stride_q:
            continue
        shortcut = [step + 1 if step > 1 else 1 for step in spec.stride_q]
        if _pooled(grid, spec.kernel_q, spec.stride_q) != _pooled(grid, shortcut, spec.stride_q):
            problems.append(
                f"{block} kernel_q {tuple(spec.kernel_q)} with stride_q {tuple(spec.stride_q)} makes another grid of "
                f"{tuple(grid)} than the shortcut does: take kernels of {tuple(shortcut)}, or odd ones"
            )
        grid = [size // step for size, step in zip(grid, spec.stride_q, strict=True)]
        if min(grid) < 1:
            return [*problems, f"{block} stride_q {tuple(spec.stride_q)} leaves nothing of its grid"]
    return problems


def _pooled(grid: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> Size:
    """Return the grid behind a pooling that is padded by half its kernel."""
    kernel = kernel or (1, 1, 1)
    return _convolved(grid, kernel, stride or (1, 1, 1), [window // 2 for window in kernel])


def _convolved(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Size:
    time, height, width = (
        (size + 2 * pad - window) // step + 1
        for size, window, step, pad in zip(sizes, kernel, stride, padding, strict=True)
    )
    return time, height, width
