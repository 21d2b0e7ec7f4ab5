"""What VideoSwin and SeriesSwin share: the model around the blocks of :mod:`dust.models.layers.window_attention`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from dust.models.layers import init_linear
from dust.models.layers.checks import check_arguments
from dust.models.layers.common import drop_path_rates
from dust.models.layers.head import Checkpointed, ClassifierHead
from dust.models.layers.window_attention import PatchEmbed, Size, Stage, WindowAttention
from dust.models.swin_weights import State, adapt
from dust.utils.errors import DustError

INIT_STD = 0.02
_UNDECAYED = ("norm", "relative_position_bias_table", "absolute_pos_embed", "logit_scale", "cpb_mlp")


class Swin(ClassifierHead, Checkpointed):
    """What both have: patches, stages of shifted windows, a last norm, the mean over all tokens, a linear head."""

    fresh_parts = r"relative_position_bias_table$"  # of another window or number of heads
    axes: tuple[str, ...]  # of the input, behind (B, C)
    input_name: str

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        patch_size: Size,
        windows: Sequence[Size],
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        drop_rate: float,
        drop_path_rate: float,
        head_drop_rate: float,
        patch_norm: bool,
        act_checkpoint: bool,
        merged_axes: int,
        **block: Any,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.depths = tuple(depths)
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.set_grad_checkpointing(act_checkpoint)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        self.layers = nn.ModuleList(
            Stage(
                embed_dim * 2**number,
                num_heads[number],
                windows[number],
                drop_paths=[rates.pop(0) for _ in range(depth)],
                merged_axes=merged_axes if number < len(depths) - 1 else 0,
                drop=drop_rate,
                **block,
            )
            for number, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(self.num_features)
        self.head_drop = nn.Dropout(head_drop_rate)
        self.head: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, INIT_STD)
            elif isinstance(module, WindowAttention) and not module.cosine:
                nn.init.trunc_normal_(module.relative_position_bias_table, std=INIT_STD)

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Return patches (B, *grid, embed_dim), before the first stage."""
        return self.pos_drop(self.patch_embed(x))

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        self._check_input(x)
        x = self._tokens(x)
        for stage in self.layers:
            x = stage(x, self.act_checkpoint)
        return self.norm(x).movedim(-1, 1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features (B, C, *grid) -> logits (B, num_classes), or with ``pre_logits`` their mean (B, C)."""
        pooled = x.flatten(2).mean(dim=2)
        return pooled if pre_logits else self.head(self.head_drop(pooled))

    def _check_input(self, x: torch.Tensor) -> None:
        shape = ", ".join(("B", "C", *self.axes))
        what = f"{type(self).__name__} got {self.input_name} of {x.dtype} and shape {tuple(x.shape)}; "
        if x.ndim != 2 + len(self.axes):
            raise DustError(what + f"it takes {2 + len(self.axes)} dimensions ({shape})")
        if not x.is_floating_point():
            raise DustError(what + f"it takes floating-point numbers: normalise the {self.input_name} first")
        if x.shape[1] != self.in_chans:
            raise DustError(what + f"it was built for in_chans={self.in_chans} in ({shape})")
        if 0 in x.shape[1:]:
            raise DustError(what + f"none of {', '.join(self.axes)} may be 0")

    # ---------------------------------------------------------------------------------- what a classifier offers

    def no_weight_decay(self) -> set[str]:
        """Return norms and positions, as in the published recipes."""
        return {name for name, _ in self.named_parameters() if any(word in name for word in _UNDECAYED)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's description of the layers for layer decay: patches are layer 0; each block (``coarse``: each
        stage) is a layer, with the merging of patches behind it; the rest comes last."""
        stem = r"^(?:patch_embed|absolute_pos_embed)"
        if coarse:
            return {"stem": stem, "blocks": [(r"^layers\.(\d+)", None)]}
        merging = [(rf"^layers\.({stage})\.downsample", (depth - 1,)) for stage, depth in enumerate(self.depths)]
        return {"stem": stem, "blocks": [*merging, (r"^layers\.(\d+)\.blocks\.(\d+)", None)]}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return a foreign file's tensors under this model's names; see :mod:`dust.models.swin_weights`."""
        return adapt(self, state, notes)


def check_swin(
    model: str,
    *,
    counts: dict[str, float],
    rates: dict[str, float],
    choices: dict[str, tuple[str, Sequence[str]]],
    more: Sequence[str],
    num_classes: int,
    mlp_ratio: float,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
) -> None:
    """Check the arguments that both models have, and ``counts``, ``rates`` and ``choices`` of their own; see
    :func:`check_arguments`."""
    counts |= {"embed_dim": embed_dim, "mlp_ratio": mlp_ratio}
    counts |= {f"depths[{number}]": depth for number, depth in enumerate(depths)}
    counts |= {f"num_heads[{number}]": heads for number, heads in enumerate(num_heads)}
    found = list(more)
    if not depths or len(depths) != len(num_heads):
        found.append(f"depths {list(depths)} and num_heads {list(num_heads)} must have one number for each stage")
    for stage, heads in enumerate(num_heads):
        if heads > 0 and embed_dim * 2**stage % heads:
            found.append(f"stage {stage} has {embed_dim * 2**stage} channels, not a multiple of its {heads} heads")
    check_arguments(
        model, above_zero=counts, from_zero={"num_classes": num_classes}, rates=rates, choices=choices, more=found
    )
