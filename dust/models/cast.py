"""CAST: "CAST: Cross-Attention in Space and Time for Video Action Recognition", Lee, Lee, Choi, NeurIPS 2023.

https://arxiv.org/abs/2311.18825. Two frozen experts, CLIP's image transformer for space and VideoMAE's video
transformer for time, run side by side; small adapters and, in each block, attention from one to the other are trained.
Written from the paper and from the published parameter names and numbers, not from the authors' code
(https://github.com/KHU-VLL/CAST), whose licence, like that of its weights, is CC-BY-NC 4.0. Tests compare with numbers
that the authors' code gave.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.build import MODEL_REGISTRY
from dust.models.cast_weights import (
    frozen_sha256,
    is_trained,
    load_checkpointed,
    load_experts,
    load_trunk,
    trained_part,
)
from dust.models.clip_vit import LN_EPS, CLIPAttention, CLIPMlp, image_tokens
from dust.models.layers import DropPath, Mlp, init_linear
from dust.models.layers.checks import check_arguments, check_video, clip_multiples
from dust.models.layers.common import drop_path_rates
from dust.models.layers.frozen import frozen_hidden
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.videomae_vit import (
    SinusoidPositions,
    TubeletEmbed,
    VideoMAEAttention,
    attend,
)
from dust.utils.errors import ConfigError, DustError


class Adapter(nn.Module):
    """(..., D) -> (..., D) through a quarter of the width; with ``skip`` the input is added."""

    def __init__(self, dim: int, *, skip: bool) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(dim, dim // 4)
        self.D_fc2 = nn.Linear(dim // 4, dim)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = self.D_fc2(F.gelu(self.D_fc1(x)))
        return x + r if self.skip else r


class T2SCross(nn.Module):
    """Space asks time: each place's patches of all frames attend to the tubelets of the same place."""

    def __init__(self, dim: int, num_heads: int, frames: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        scale = (dim // num_heads) ** -0.5
        self.clip_time_pos = nn.Parameter(scale * torch.randn(frames, dim))
        self.vmae_time_pos = nn.Parameter(scale * torch.randn(frames, dim))
        self.t2s_q = nn.Linear(dim, dim, bias=False)
        self.t2s_q_bias = nn.Parameter(torch.zeros(dim))
        self.t2s_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.t2s_kv_bias = nn.Parameter(torch.zeros(2 * dim))
        self.t2s_proj = nn.Linear(dim, dim)

    def forward(self, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Map patches s and tubelets t, both (B, frames, N, d) -> (B, frames, N, d)."""
        query = s.transpose(1, 2) + self.clip_time_pos  # (B, N, frames, d)
        context = t.transpose(1, 2) + self.vmae_time_pos
        q = F.linear(query, self.t2s_q.weight, self.t2s_q_bias).flatten(0, 1)
        k, v = F.linear(context, self.t2s_kv.weight, self.t2s_kv_bias).flatten(0, 1).chunk(2, dim=-1)
        out = self.t2s_proj(attend(q, k, v, self.num_heads))  # (B*N, frames, d)
        return out.view(query.shape).transpose(1, 2)


class S2TCross(nn.Module):
    """Time asks space: the tubelets of each time attend to the patches of the frame in them."""

    def __init__(self, dim: int, num_heads: int, places: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        scale = (dim // num_heads) ** -0.5
        self.clip_space_pos = nn.Parameter(scale * torch.randn(places, dim))
        self.vmae_space_pos = nn.Parameter(scale * torch.randn(places, dim))
        self.s2t_q = nn.Linear(dim, dim, bias=False)
        self.s2t_q_bias = nn.Parameter(torch.zeros(dim))
        self.s2t_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.s2t_kv_bias = nn.Parameter(torch.zeros(2 * dim))
        self.t2s_proj = nn.Linear(dim, dim)  # the published name, as in the other direction

    def forward(self, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Map patches s and tubelets t, both (B, frames, N, d) -> (B, frames, N, d)."""
        query, context = t + self.vmae_space_pos, s + self.clip_space_pos
        q = F.linear(query, self.s2t_q.weight, self.s2t_q_bias).flatten(0, 1)
        k, v = F.linear(context, self.s2t_kv.weight, self.s2t_kv_bias).flatten(0, 1).chunk(2, dim=-1)
        return self.t2s_proj(attend(q, k, v, self.num_heads)).view(query.shape)  # from (B*frames, N, d)


class CASTBlock(nn.Module):
    """A block of either expert with adapters, and attention from one to the other between its two halves.

    Names with ``clip`` and ``S`` belong to the spatial stream, ``T`` and the bare ones to the temporal stream.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        frames: int,
        places: int,
        down_ratio: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
        ln_eps: float,
        clip_ln_eps: float,
    ) -> None:
        super().__init__()
        inner = dim // down_ratio
        self.clip_ln_1, self.norm1 = nn.LayerNorm(dim, eps=clip_ln_eps), nn.LayerNorm(dim, eps=ln_eps)
        self.clip_attn = CLIPAttention(dim, num_heads)
        self.attn = VideoMAEAttention(dim, num_heads, qkv_bias=qkv_bias)
        self.S_Adapter, self.T_Adapter = Adapter(dim, skip=True), Adapter(dim, skip=True)

        self.cross_s_down, self.cross_t_down = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.ln_s_cross, self.ln_t_cross = nn.LayerNorm(inner, eps=ln_eps), nn.LayerNorm(inner, eps=ln_eps)
        self.t2s_cross = T2SCross(inner, num_heads, frames)
        self.s2t_cross = S2TCross(inner, num_heads, places)
        self.cross_s_up, self.cross_t_up = nn.Linear(inner, dim), nn.Linear(inner, dim)

        self.clip_ln_2, self.norm2 = nn.LayerNorm(dim, eps=clip_ln_eps), nn.LayerNorm(dim, eps=ln_eps)
        self.clip_mlp, self.mlp = CLIPMlp(dim), Mlp(dim, int(dim * mlp_ratio))
        self.S_MLP_Adapter, self.T_MLP_Adapter = Adapter(dim, skip=False), Adapter(dim, skip=False)
        self.drop_path = DropPath(drop_path)  # on what is trained, never on the experts' own branches

    def forward(self, s: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map spatial s (B, frames, 1 + N, D), class tokens first, and temporal t (B, frames, N, D) -> the same
        shapes."""
        s = s + self.S_Adapter(self.clip_attn(self.clip_ln_1(s).flatten(0, 1))).view(s.shape)
        t = t + self.T_Adapter(self.attn(self.norm1(t).flatten(1, 2))).view(t.shape)

        s_low, t_low = self.ln_s_cross(self.cross_s_down(s)), self.ln_t_cross(self.cross_t_down(t))
        cls, patches = s_low.split([1, s_low.shape[2] - 1], dim=2)
        from_time = torch.cat([cls, self.t2s_cross(patches, t_low)], dim=2)  # the class token asks nothing
        from_space = self.s2t_cross(patches, t_low)
        s = s + self.drop_path(self.cross_s_up(F.gelu(from_time)))
        t = t + self.drop_path(self.cross_t_up(F.gelu(from_space)))

        normed = self.clip_ln_2(s)
        hidden = frozen_hidden(self.clip_mlp.c_fc, "quick_gelu", normed)
        s = torch.add(s + self.clip_mlp.c_proj(hidden), self.drop_path(self.S_MLP_Adapter(normed)), alpha=0.5)
        normed = self.norm2(t)
        hidden = frozen_hidden(self.mlp.fc1, "gelu", normed)
        t = torch.add(t + self.mlp.fc2(hidden), self.drop_path(self.T_MLP_Adapter(normed)), alpha=0.5)
        return s, t


@MODEL_REGISTRY.register()
class CAST(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes), or with ``composition`` {"verb": (B, V), "noun": (B, N)}.

    The spatial expert sees the last frame of each tubelet of the temporal one. Both are frozen when the model is made
    (``requires_grad`` False); :func:`dust.models.cast_weights.load_experts` fills them. In training, a model with
    ``return_features`` returns {"logits": (B, num_classes), "features": (B, embed_dim)}, the latter what the head sees.

    Args:
        img_size: pixels, an int or (H, W), and ``all_frames``: the clips that it takes; no others.
        patch_size, tubelet_size: a token's side in pixels and length in frames, in both experts.
        embed_dim, depth, num_heads: sizes of both experts and of the attention between them; ViT-B by default.
        mlp_ratio, qkv_bias, ln_eps: of the temporal expert; ``clip_ln_eps``: of the spatial one.
        down_ratio: embed_dim / down_ratio is the width of the attention between the experts.
        in_chans: channels of the video.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, embed_dim).
        composition: two heads instead of one, of num_verbs (temporal) and num_nouns (spatial) classes; num_classes is
            then not used.
        drop_rate: dropout before the heads, in [0, 1).
        drop_path_rate: stochastic depth, per clip, of the last block's trained branches, in [0, 1); it rises linearly
            from 0 in the first one.
        init_scale: factor of the heads' first weights; ``init_std``: spread of all linear layers' first weights.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
        freeze: do not train the experts.
        return_features: see above; not with ``composition``.
        init_from: ``{"spatial" and "temporal", or "trunk": (configuration key, stage)}``, where the experts come from.
            Checkpoints then hold only what is trained, and the experts' hash.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:patch_embed|clip_conv1|clip_class_embedding|clip_positional_embedding|clip_ln_pre)"

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 400,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        down_ratio: int = 2,
        all_frames: int = 16,
        tubelet_size: int = 2,
        composition: bool = False,
        num_verbs: int = 97,
        num_nouns: int = 300,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_scale: float = 1.0,
        init_std: float = 0.02,
        ln_eps: float = 1e-6,
        clip_ln_eps: float = LN_EPS,
        act_checkpoint: bool = False,
        freeze: bool = True,
        return_features: bool = False,
        init_from: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_arguments(
            "CAST",
            above_zero={"in_chans": in_chans, "depth": depth, "mlp_ratio": mlp_ratio, "embed_dim // 4": embed_dim // 4},
            from_zero={
                "num_classes": num_classes, "num_verbs": num_verbs, "num_nouns": num_nouns, "init_scale": init_scale,
                "init_std": init_std,
            },
            rates={"drop_rate": drop_rate, "drop_path_rate": drop_path_rate},
            multiples=[
                *clip_multiples(height, width, patch_size, all_frames, tubelet_size),
                ("embed_dim", embed_dim, "num_heads", num_heads),
                ("embed_dim", embed_dim, "down_ratio x num_heads", down_ratio * num_heads),
            ],
        )  # fmt: skip
        self.clip_shape = (in_chans, all_frames, height, width)
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.embed_dim = self.num_features = embed_dim
        self.composition, self.init_scale, self.init_std = composition, init_scale, init_std
        self.return_features, self.init_from = return_features and not composition, dict(init_from or {})
        self.freeze = freeze
        self.set_grad_checkpointing(act_checkpoint)
        self.grid = (height // patch_size, width // patch_size)
        frames, places = all_frames // tubelet_size, self.grid[0] * self.grid[1]
        self.num_heads, self.mlp_ratio, self.qkv_bias = num_heads, mlp_ratio, qkv_bias

        self.patch_embed = TubeletEmbed(patch_size, tubelet_size, in_chans, embed_dim)
        self.positions = SinusoidPositions(frames * places, embed_dim)
        self.clip_conv1 = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size, bias=False)
        self.clip_class_embedding = nn.Parameter(embed_dim**-0.5 * torch.randn(embed_dim))
        self.clip_positional_embedding = nn.Parameter(embed_dim**-0.5 * torch.randn(1 + places, embed_dim))
        self.clip_ln_pre = nn.LayerNorm(embed_dim, eps=clip_ln_eps)
        shape: dict[str, Any] = {"frames": frames, "places": places, "down_ratio": down_ratio, "mlp_ratio": mlp_ratio}
        shape |= {"qkv_bias": qkv_bias, "ln_eps": ln_eps, "clip_ln_eps": clip_ln_eps}
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(CASTBlock(embed_dim, num_heads, drop_path=rate, **shape) for rate in rates)
        self.clip_ln_post = nn.LayerNorm(embed_dim, eps=clip_ln_eps)
        self.vmae_fc_norm = nn.LayerNorm(embed_dim, eps=ln_eps)
        if not composition:
            self.noun_last_Adapter = Adapter(embed_dim, skip=False)
            self.verb_last_Adapter = Adapter(embed_dim, skip=False)
        self.head_dropout = nn.Dropout(drop_rate)
        self._init_weights()
        self.reset_classifier((num_verbs, num_nouns) if composition else num_classes)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trained(name) or not freeze)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. The experts' weights are loaded by the engine, not
        here."""
        node = cfg.CAST
        parts = {"spatial": "SPATIAL_FROM", "temporal": "TEMPORAL_FROM", "trunk": "TRUNK_FROM"}
        return {
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "patch_size": node.PATCH_SIZE,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "embed_dim": node.EMBED_DIM,
            "depth": node.DEPTH,
            "num_heads": node.NUM_HEADS,
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "down_ratio": node.DOWN_RATIO,
            "all_frames": cfg.DATA.NUM_FRAMES,
            "tubelet_size": node.TUBELET_SIZE,
            "composition": node.COMPOSITION,
            "num_verbs": node.NUM_VERBS,
            "num_nouns": node.NUM_NOUNS,
            "drop_rate": node.HEAD_DROP_RATE,
            "drop_path_rate": node.DROP_PATH_RATE,
            "init_scale": node.INIT_SCALE,
            "init_std": node.INIT_STD,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "freeze": node.FREEZE,
            "return_features": cfg.TSTL.TRIPLET_WEIGHT > 0,
            "init_from": {
                part: (f"CAST.{key}", getattr(node, key)) for part, key in parts.items() if getattr(node, key)
            },
        }

    def _init_weights(self) -> None:
        """Start so that nothing that is trained changes the experts at first: every way back into a stream starts at
        zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                init_linear(module, self.init_std)
                if name.endswith(("Adapter.D_fc2", "cross_s_up", "cross_t_up")):
                    nn.init.zeros_(module.weight)

    def forward(self, video: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map (B, C, T, H, W) float -> logits (B, num_classes), or {"verb": (B, num_verbs), "noun": (B, num_nouns)}."""
        features = self.forward_features(video)
        if self.return_features and self.training:
            fused = self.forward_head(features, pre_logits=True)
            assert isinstance(fused, torch.Tensor)
            return {"logits": self.head(self.head_dropout(fused)), "features": fused}
        return self.forward_head(features)

    def forward_features(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map (B, C, T, H, W) float -> both experts' features, {"spatial": (B, D), "temporal": (B, D)}."""
        in_chans, all_frames, height, width = self.clip_shape
        check_video("CAST", video, in_chans=in_chans, patch_size=self.patch_size, tubelet_size=self.tubelet_size)
        if tuple(video.shape[1:]) != self.clip_shape:
            raise DustError(
                f"CAST got video of shape {tuple(video.shape)}; it was built for all_frames={all_frames} of "
                f"{height}x{width}: sample and crop to that, or build it for another size"
            )
        frames, places = all_frames // self.tubelet_size, self.grid[0] * self.grid[1]
        t = self.patch_embed(video)
        t = (t + self.positions(t.shape[1])).unflatten(1, (frames, places))  # (B, frames, N, D)
        images = video[:, :, self.tubelet_size - 1 :: self.tubelet_size].transpose(1, 2).flatten(0, 1)
        s = image_tokens(images, self.clip_conv1, self.clip_class_embedding, self.clip_positional_embedding, self.grid)
        s = self.clip_ln_pre(s).view(-1, frames, 1 + places, self.embed_dim)  # (B, frames, 1 + N, D)
        for block in self.blocks:
            s, t = run_block(block, self.act_checkpoint, s, t)
        return {
            "spatial": self.clip_ln_post(s[:, :, 0].mean(dim=1)),
            "temporal": self.vmae_fc_norm(t.mean(dim=(1, 2))),
        }

    def forward_head(
        self, features: dict[str, torch.Tensor], pre_logits: bool = False
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Turn both experts' features into what ``forward`` returns, or with ``pre_logits`` what its head (or heads)
        see."""
        s, t = features["spatial"], features["temporal"]
        if self.composition:
            if pre_logits:
                return {"verb": t, "noun": s}
            return {"verb": self.head_verb(self.head_dropout(t)), "noun": self.head_noun(self.head_dropout(s))}
        fused = self.noun_last_Adapter(s) + self.verb_last_Adapter(t)
        return fused if pre_logits else self.head(self.head_dropout(fused))

    # ---------------------------------------------------- what the engine asks of a model that is frozen in part

    def load_parts(self, paths: Mapping[str, Path]) -> None:
        """Fill the experts from the files that ``init_from`` stands for."""
        if "trunk" in paths:
            load_trunk(self, paths["trunk"])
        if "spatial" in paths:
            load_experts(self, spatial=paths["spatial"], temporal=paths["temporal"])

    def partial_state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint has to hold: what is trained and the experts' hash; all, if they have no file or
        learn."""
        return trained_part(self) if self.init_from and self.freeze else self.state_dict()

    def load_partial(self, state: Mapping[str, torch.Tensor], source: str) -> None:
        """Take back what ``partial_state_dict`` gave. CheckpointError if the experts are not the same, or if it does
        not fit."""
        load_checkpointed(self, state, source)

    def frozen_sha256(self) -> str:
        """Return which experts these are: SHA-256, hex."""
        return frozen_sha256(self)

    # ---------------------------------------------------------------------------------- what a classifier offers

    def get_classifier(self) -> nn.Module | dict[str, nn.Module]:
        return {"verb": self.head_verb, "noun": self.head_noun} if self.composition else self.head

    def reset_classifier(self, num_classes: int | tuple[int, int]) -> None:
        """Put in a fresh head for another number of classes, with ``composition`` two: (verbs, nouns); 0 takes it
        away."""
        if isinstance(num_classes, int) == self.composition:
            wanted = "two numbers, (verbs, nouns)" if self.composition else "one number"
            raise ConfigError(f"CAST with composition={self.composition}: the classes are {num_classes}, not {wanted}")
        self.num_classes = num_classes
        if isinstance(num_classes, int):
            self.head = self._new_head(num_classes)
        else:
            self.head_verb, self.head_noun = (self._new_head(count) for count in num_classes)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(("_time_pos", "_space_pos"))}
