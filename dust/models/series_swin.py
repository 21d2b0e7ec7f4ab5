"""SeriesSwin: Swin along one axis, for series of sensor values.

Its published forms are Swin-Transformer-1D by meraks (https://github.com/meraks/Swin-Transformer-1D, MIT) and the
series model of DUST (https://github.com/datadrivenwheels/DUST, MIT). Written from facts about them and from the papers
(Swin, https://arxiv.org/abs/2103.14030; Swin V2, https://arxiv.org/abs/2111.09883); their weights load. Tests compare
with numbers that those projects' code gave.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from dust.config.fusion import series_channels
from dust.models.build import MODEL_REGISTRY
from dust.models.layers.window_attention import SwinBlock
from dust.models.swin_base import INIT_STD, Swin, check_swin
from dust.utils.errors import DustError


@MODEL_REGISTRY.register()
class SeriesSwin(Swin):
    """Series (B, C, L) -> logits (B, num_classes), raw in training and in evaluation.

    Args:
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, num_features).
        in_chans: channels of the series.
        seq_len: time points that the model is made for, or None. With a number, the window of a stage that has no
            more tokens than ``window_size`` is all of them, and its bias table has that size, as in the published
            models. Without, all tables have the full window. Either model takes any length (zeros fill the last patch
            and the last window), but for ``ape``, which has one position for each token of ``seq_len``.
        patch_size: time points per token.
        embed_dim: channels of the first stage; each later stage has twice as many and half the tokens.
        depths, num_heads: blocks and attention heads of each stage.
        window_size: tokens. In a stage with no more tokens than that, the window is all of them. (mask "legacy"
            without ``seq_len`` pads them to one full window instead, as Swin-1D V1 does.)
        patch_norm: LayerNorm behind the patches.
        ape: learnt positions, added to the tokens; needs ``seq_len``.
        norm: respost (LayerNorm behind attention and MLP, first zero, so that each block begins as an identity) or pre.
        attention: dot, or Swin V2's cosine.
        mask: exact keeps apart what the shift brought together, and all padding of windows; legacy is the published
            formula, which does so for few lengths only, for weights trained with it.
        mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate, act_checkpoint: as in :class:`VideoSwin`.

    Published models are ``norm="pre", mask="legacy"`` (Swin-1D V1), ``seq_len=L, attention="cosine", mask="legacy"``
    (V2) and ``seq_len=L, mask="legacy"`` (DUST). Raises ConfigError that names every argument that cannot be.
    """

    axes = ("L",)
    input_name = "series"

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
        seq_len: int | None = None,
        patch_size: int = 1,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (4, 4, 4, 4),
        window_size: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        ape: bool = False,
        norm: str = "respost",
        attention: str = "dot",
        mask: str = "exact",
        act_checkpoint: bool = False,
    ) -> None:
        common: dict[str, Any] = {"num_classes": num_classes, "mlp_ratio": mlp_ratio, "embed_dim": embed_dim}
        common |= {"depths": tuple(depths), "num_heads": tuple(num_heads)}
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        counts: dict[str, float] = {"in_chans": in_chans, "patch_size": patch_size, "window_size": window_size}
        check_swin(
            "SeriesSwin",
            counts=counts if seq_len is None else counts | {"seq_len": seq_len},
            rates=rates,
            choices={
                "norm": (norm, ("respost", "pre")),
                "attention": (attention, ("dot", "cosine")),
                "mask": (mask, ("exact", "legacy")),
            },
            more=["ape learns a position for each token, so it needs seq_len"] if ape and seq_len is None else [],
            **common,
        )
        tokens = None if seq_len is None else math.ceil(seq_len / patch_size)
        windows = [
            (window_size if tokens is None else min(window_size, math.ceil(tokens / 2**stage)),)
            for stage in range(len(depths))
        ]
        super().__init__(
            **common,
            in_chans=in_chans,
            patch_size=(patch_size,),
            windows=windows,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            head_drop_rate=0.0,
            patch_norm=patch_norm,
            act_checkpoint=act_checkpoint,
            merged_axes=1,
            norm=norm,
            attention=attention,
            mask=mask,
            clamp=mask == "exact" or seq_len is not None,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop_rate,
        )
        self.seq_len = seq_len
        self.ape = ape
        self.mask = mask
        if ape and tokens is not None:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, tokens, embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=INIT_STD)
        if norm == "respost":
            for block in self.modules():
                if isinstance(block, SwinBlock):
                    nn.init.zeros_(block.norm1.weight)
                    nn.init.zeros_(block.norm2.weight)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.SERIES_SWIN
        return {
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "in_chans": series_channels(cfg),
            "seq_len": cfg.SERIES.LENGTH or None,
            "patch_size": node.PATCH_SIZE,
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
            "ape": node.ABSOLUTE_POS_EMBED,
            "norm": node.NORM,
            "attention": node.ATTENTION,
            "mask": node.MASK,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Map (B, C, L) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(series))

    def forward_features(self, series: torch.Tensor) -> torch.Tensor:
        """Map (B, C, L) float -> tokens (B, num_features, L') behind the last norm; each stage but the last halves
        L'."""
        return self._features(series)

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embed(x)
        if self.ape:
            if tokens.shape[1] != self.absolute_pos_embed.shape[1]:
                raise DustError(
                    f"SeriesSwin got series of {x.shape[2]} time points, but with ape it has positions for seq_len "
                    f"{self.seq_len} only: resample or crop the series to that, or build the model without ape"
                )
            tokens = tokens + self.absolute_pos_embed
        return self.pos_drop(tokens)
