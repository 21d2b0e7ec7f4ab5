"""VideoSwin: "Video Swin Transformer", Liu, Ning, Cao, Wei, Zhang, Lin, Hu, CVPR 2022.

https://arxiv.org/abs/2106.13230. Written from the paper and from facts about the authors' code
(https://github.com/SwinTransformer/Video-Swin-Transformer, Apache-2.0), whose weights load, as do torchvision's and
those of image Swins. Tests compare with numbers that those projects' code gave.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.tokens import tokens_of_map
from dust.models.layers.window_attention import Size
from dust.models.swin_base import Swin, check_swin


def _triple(name: str, sizes: Sequence[int], problems: list[str]) -> Size:
    sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    if len(sizes) != 3 or any(size <= 0 for size in sizes):
        problems.append(f"{name} is {list(sizes)}, it must be three numbers above 0: time, height, width")
    return sizes


@MODEL_REGISTRY.register()
class VideoSwin(Swin):
    """Video (B, C, T, H, W) -> logits (B, num_classes), raw in training and in evaluation. Any T, H, W.

    Args:
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, num_features).
        in_chans: channels of the video.
        patch_size: frames, pixels, pixels per token.
        embed_dim: channels of the first stage; each later stage has twice as many.
        depths, num_heads: blocks and attention heads of each stage.
        window_size: tokens along time, height and width. A window longer than the video's grid is cut to it.
        mlp_ratio, qkv_bias, qk_scale: of the blocks; ``qk_scale`` None is ``head_dim ** -0.5``.
        patch_norm: LayerNorm behind the patches.
        drop_rate, attn_drop_rate, head_drop_rate: dropout of the tokens, the attention weights and before the head.
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0 in the first one.
        frozen_stages: -1 trains all; k >= 0 keeps the patches and the first k stages as they are: no gradient, and
            always as in evaluation.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Swin-T is the default; S has depths 2, 2, 18, 2; B besides embed_dim 128 and heads 4, 8, 16, 32; L 192 and 6, 12,
    24, 48. Raises ConfigError that names every argument that cannot be.
    """

    axes = ("T", "H", "W")
    input_name = "video"

    def __init__(
        self,
        *,
        num_classes: int = 400,
        patch_size: Sequence[int] = (2, 4, 4),
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] = (8, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        head_drop_rate: float = 0.0,
        frozen_stages: int = -1,
        act_checkpoint: bool = False,
    ) -> None:
        common: dict[str, Any] = {"num_classes": num_classes, "mlp_ratio": mlp_ratio, "embed_dim": embed_dim}
        common |= {"depths": tuple(depths), "num_heads": tuple(num_heads)}
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate}
        rates |= {"drop_path_rate": drop_path_rate, "head_drop_rate": head_drop_rate}
        problems: list[str] = []
        patch, window = (
            _triple(name, sizes, problems) for name, sizes in (("patch_size", patch_size), ("window_size", window_size))
        )
        if not -1 <= frozen_stages <= len(depths):
            problems.append(f"frozen_stages is {frozen_stages}, it must be -1 (none) to {len(depths)} (all)")
        own: dict[str, Any] = {"counts": {"in_chans": in_chans}, "rates": rates, "choices": {}, "more": problems}
        check_swin("VideoSwin", **own, **common)
        super().__init__(
            **common,
            in_chans=in_chans,
            patch_size=patch,
            windows=[window] * len(depths),
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            head_drop_rate=head_drop_rate,
            patch_norm=patch_norm,
            act_checkpoint=act_checkpoint,
            merged_axes=2,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop_rate,
        )
        self.window_size = window
        self.frozen_stages = frozen_stages
        self._frozen_parts().requires_grad_(False)
        self.train()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.VIDEO_SWIN
        return {
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "patch_size": node.PATCH_SIZE,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "embed_dim": node.EMBED_DIM,
            "depths": node.DEPTHS,
            "num_heads": node.NUM_HEADS,
            "window_size": node.WINDOW_SIZE,
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "drop_rate": node.DROP_RATE,
            "attn_drop_rate": node.ATTN_DROP_RATE,
            "drop_path_rate": node.DROP_PATH_RATE,
            "patch_norm": node.PATCH_NORM,
            "head_drop_rate": node.HEAD_DROP_RATE,
            "frozen_stages": node.FROZEN_STAGES,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> a map (B, num_features, T', H', W') behind the last norm.

        T' = ceil(T / patch); H' and W' are halved (rounded up) after each stage but the last.
        """
        return self._features(video)

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> no class token (B, 0, D), and the map as tokens (B, T', H', W', D)."""
        return tokens_of_map(self.forward_features(video))

    def _frozen_parts(self) -> nn.ModuleList:
        if self.frozen_stages < 0:
            return nn.ModuleList()
        return nn.ModuleList([self.patch_embed, *self.layers[: self.frozen_stages]])

    def train(self, mode: bool = True) -> "VideoSwin":
        super().train(mode)
        self._frozen_parts().eval()
        if self.frozen_stages > 0:
            self.pos_drop.eval()
        return self
