"""CLIP's visual transformer: "Learning Transferable Visual Models From Natural Language Supervision", Radford et al.,
ICML 2021.

https://arxiv.org/abs/2103.00020. Written from the paper and from the published parameter names and numbers; the
authors' code and weights (https://github.com/openai/CLIP) are under the MIT licence. Tests compare with numbers that
the authors' code gave, and with timm's model.
"""

import math
import re
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.build import MODEL_REGISTRY
from dust.models.layers import DropPath, resize_grid
from dust.models.layers.checks import check_arguments, check_video, clip_multiples
from dust.models.layers.common import drop_path_rates, embed_patches
from dust.models.layers.foreign import check_patches, fill_biases, require, with_class_position
from dust.models.layers.frozen import ACTIVATIONS, activate
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.videomae_vit import State, attend

LN_EPS = 1e-5


class CLIPAttention(nn.Module):
    """Self-attention (M, L, D) -> (M, L, D) under the parameter names of ``nn.MultiheadAttention``.

    ``causal``: token i sees the tokens 0 to i alone.
    """

    def __init__(self, dim: int, num_heads: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attend(q, k, v, self.num_heads, causal=self.causal))


class CLIPMlp(nn.Module):
    """(..., D) -> (..., D). ``activation``: quick_gelu | gelu; ``hidden``: width inside, 0 = four times D."""

    def __init__(self, dim: int, activation: str = "quick_gelu", hidden: int = 0) -> None:
        super().__init__()
        self.activation = activation
        self.c_fc = nn.Linear(dim, hidden or 4 * dim)
        self.c_proj = nn.Linear(hidden or 4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(activate(self.c_fc(x), self.activation))


class CLIPBlock(nn.Module):
    """Pre-norm block (M, L, D) -> (M, L, D)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        activation: str = "quick_gelu",
        *,
        causal: bool = False,
        hidden: int = 0,
        norm_eps: float = LN_EPS,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = CLIPAttention(dim, num_heads, causal)
        self.ln_2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = CLIPMlp(dim, activation, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.ln_1(x)))
        return x + self.drop_path(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """The blocks under their published name."""

    def __init__(self, blocks: list[CLIPBlock]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)


@MODEL_REGISTRY.register()
class CLIPVisual(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) or images (B, C, H, W) -> CLIP's embedding (B, output_dim), or logits (B, num_classes).

    The frames of a video are images of their own; their class tokens are averaged behind the last block.

    Args:
        input_resolution: pixels, an int or (H, W); what the positions are made for. ``forward`` takes others too.
        patch_size: pixels; H and W must be multiples of it.
        width, layers, heads: sizes of the transformer; ViT-B/16 by default. OpenAI's have heads = width / 64.
        output_dim: width of the embedding; 0 = no projection, features are the LayerNorm's.
        activation: of the MLPs: quick_gelu (OpenAI's weights, DFN's) or gelu (most of OpenCLIP's). No tensor shows it.
        in_chans: channels of the video.
        num_classes: 0 = no classifier on top of the embedding.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0 in the first one.
        init_scale: factor of the classifier's first weights.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:class_embedding|positional_embedding|conv1|ln_pre)"
    layer_blocks = r"^transformer\.resblocks\.(\d+)"
    beyond_tokens = r"^head\.|^proj$"

    def __init__(
        self,
        *,
        input_resolution: int | tuple[int, int] = 224,
        patch_size: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        output_dim: int = 512,
        activation: str = "quick_gelu",
        in_chans: int = 3,
        num_classes: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_scale: float = 1.0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        height, across = (input_resolution,) * 2 if isinstance(input_resolution, int) else input_resolution
        check_arguments(
            "CLIPVisual",
            above_zero={"in_chans": in_chans, "layers": layers},
            from_zero={"output_dim": output_dim, "num_classes": num_classes, "init_scale": init_scale},
            rates={"drop_rate": drop_rate, "drop_path_rate": drop_path_rate},
            choices={"activation": (activation, ACTIVATIONS)},
            multiples=[*clip_multiples(height, across, patch_size, 1, 1), ("width", width, "heads", heads)],
        )
        self.patch_size, self.in_chans = patch_size, in_chans
        self.embed_dim = width
        self.heads, self.activation = heads, activation
        self.num_features = output_dim or width
        self.num_classes = num_classes
        self.init_scale = init_scale
        self.set_grad_checkpointing(act_checkpoint)
        self.grid = (height // patch_size, across // patch_size)
        scale = width**-0.5
        self.conv1 = nn.Conv2d(in_chans, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + self.grid[0] * self.grid[1], width))
        self.ln_pre = nn.LayerNorm(width, eps=LN_EPS)
        self.transformer = Transformer(
            [CLIPBlock(width, heads, rate, activation) for rate in drop_path_rates(drop_path_rate, layers)]
        )
        self.ln_post = nn.LayerNorm(width, eps=LN_EPS)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim)) if output_dim else None
        self.head_dropout = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.CLIP
        return {
            "input_resolution": cfg.DATA.TRAIN_CROP_SIZE,
            "patch_size": node.PATCH_SIZE,
            "width": node.WIDTH,
            "layers": node.LAYERS,
            "heads": node.HEADS,
            "output_dim": node.OUTPUT_DIM,
            "activation": node.ACTIVATION,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "drop_rate": node.HEAD_DROP_RATE,
            "drop_path_rate": node.DROP_PATH_RATE,
            "init_scale": node.INIT_SCALE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) or (B, C, H, W) float -> embedding (B, output_dim) or logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) or (B, C, H, W) float -> tokens (B, T, 1 + N, D) of the last block, the class token
        first."""
        if video.ndim == 4:
            video = video.unsqueeze(2)
        check_video("CLIPVisual", video, in_chans=self.in_chans, patch_size=self.patch_size)
        T = video.shape[2]
        x = image_tokens(
            video.transpose(1, 2).flatten(0, 1), self.conv1, self.class_embedding, self.positional_embedding, self.grid
        )
        x = self.ln_pre(x)  # (B*T, 1+N, D)
        for block in self.transformer.resblocks:
            x = run_block(block, self.act_checkpoint, x)
        return x.unflatten(0, (-1, T)) if x.shape[0] else x.view(0, T, *x.shape[1:])

    @property
    def token_dim(self) -> int:
        return self.embed_dim

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> each frame's class token (B, T, D), and the patches (B, T, H', W', D)."""
        tokens = self.ln_post(self.forward_features(video))
        return tokens[:, :, 0], tokens[:, :, 1:].unflatten(2, [size // self.patch_size for size in video.shape[-2:]])

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens (B, T, 1 + N, D) -> logits (B, num_classes), or with ``pre_logits`` the embedding (B,
        output_dim)."""
        embedding = self.pool(tokens)
        if self.proj is not None:
            embedding = embedding @ self.proj
        return embedding if pre_logits else self.head(self.head_dropout(embedding))

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, T, 1 + N, D) -> features (B, D) before the projection: the mean class token's LayerNorm."""
        return self.ln_post(tokens[:, :, 0].mean(dim=1))

    # ---------------------------------------------------------------------------------- what a classifier offers

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.resblocks

    def no_weight_decay(self) -> set[str]:
        return {"class_embedding", "positional_embedding"}

    def constants(self) -> dict[str, Any]:
        return {"activation": self.activation, "num_heads": self.heads, "norm_eps": LN_EPS, "pooling": "token"}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return OpenAI's, OpenCLIP's, timm's and Hugging Face's tensors under this model's names; ``notes`` gets a
        line for all that was changed. Positions of another size are resized as a picture, bicubic, whatever the rule:
        CLIP has no rule of its own. Whether the weights were trained with QuickGELU or GELU no tensor shows:
        ``activation`` must be theirs. Raises CheckpointError for variants that compute something else.
        """
        names = set(state)
        state = to_clip_names(state, notes, projects=self.proj is not None)
        if set(state) - names:
            notes.append(f"{self.activation} and {self.heads} heads are the model's own: no tensor shows the file's")
        needed = {"class_embedding": "no class token", "positional_embedding": "no positions, or rotary ones"}
        needed |= {"ln_pre.weight": "no norm before the blocks: a plain ViT"}
        if self.proj is not None:
            needed["proj"] = "no projection to an embedding: set CLIP.OUTPUT_DIM 0"
        require(state, needed, sign="transformer.resblocks")
        check_patches(state, "conv1.weight", self.conv1.weight.shape, "CLIP.PATCH_SIZE")
        own = dict(self.named_parameters())
        fill_biases(state, own, r"\.attn\.in_proj_bias$", notes, weight="_weight")
        positions = state.get("positional_embedding")
        if positions is not None and positions.ndim == 2:
            patches = self.grid[0] * self.grid[1]
            positions = with_class_position(positions[None], patches, "positional_embedding", notes)[0]
            side = math.isqrt(len(positions) - 1)
            if len(positions) != len(self.positional_embedding) and side * side == len(positions) - 1:
                positions = resize_positions(positions.float(), (side, side), self.grid)
                notes.append(f"positional_embedding: bicubic, {side}x{side} -> {self.grid[0]}x{self.grid[1]} patches")
            state["positional_embedding"] = positions
        return state


def image_tokens(
    images: torch.Tensor, conv: nn.Conv2d, cls: torch.Tensor, positions: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Map (M, C, H, W) -> (M, 1 + N, D): the class token and the patches, row by row, with positions of a ``grid``."""
    x = embed_patches(images, conv)  # (M, D, gh, gw)
    if tuple(x.shape[2:]) != grid:
        positions = resize_positions(positions, grid, (x.shape[2], x.shape[3]))
    x = x.flatten(2).transpose(1, 2)
    return torch.cat([cls.expand(x.shape[0], 1, -1), x], dim=1) + positions


def resize_positions(positions: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Map (1 + oh * ow, D) -> (1 + nh * nw, D), bicubic; the class token's stays."""
    return torch.cat([positions[:1], resize_grid(positions[None, 1:], old, new, "bicubic")[0]])


# -------------------------------------------------------------------------------------------- other files' weights

_TIMM = [
    (r"^patch_embed\.proj\.", "conv1."),
    (r"^cls_token$", "class_embedding"),
    (r"^pos_embed$", "positional_embedding"),
    (r"^norm_pre\.", "ln_pre."),
    (r"^norm\.", "ln_post."),
    (r"^blocks\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]
_HUGGING_FACE = [
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]
_TEXT = r"(text_model|text_projection|logit_scale|vision_model\.embeddings\.position_ids|embeddings\.position_ids)\b"


def to_clip_names(state: State, notes: list[str], projects: bool) -> State:
    """Return any known layout of CLIP under OpenAI's names, without ``visual.`` and without the text's tower; a new
    dict.

    ``projects``: whether the model has ``proj``.
    """
    visual = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    if visual:
        if len(visual) < len(state):
            notes.append(f"{len(state) - len(visual)} tensors that are not the visual tower's are not used")
        state = visual
    elif any(re.match(r"(vision_model\.)?embeddings\.class_embedding$", key) for key in state):
        state = _from_hugging_face(state, notes)
    elif any(re.match(r"blocks\.\d+\.attn\.qkv\.", key) for key in state):
        state = _from_timm(state, notes, projects)
    state = dict(state)
    if "proj" in state and not projects:
        del state["proj"]
        notes.append("proj is not used: the model has no projection (output_dim 0)")
    return state


def _renamed(state: State, table: list[tuple[str, str]]) -> State:
    renamed = {}
    for key, tensor in state.items():
        for pattern, ours in table:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    return renamed


def _from_timm(state: State, notes: list[str], projects: bool) -> State:
    state = _renamed(state, _TIMM)
    if "class_embedding" in state:
        state["class_embedding"] = state["class_embedding"].flatten()
    if "positional_embedding" in state:
        state["positional_embedding"] = state["positional_embedding"].flatten(0, -2)
    bias = state.get("head.bias")
    if projects and "head.weight" in state and (bias is None or not bias.any()):
        state["proj"] = state.pop("head.weight").T.contiguous()  # timm keeps the projection as a head without bias
        state.pop("head.bias", None)
    notes.append("names translated from timm's layout")
    return state


def _from_hugging_face(state: State, notes: list[str]) -> State:
    text = [key for key in state if re.match(_TEXT, key)]
    state = _renamed({key: tensor for key, tensor in state.items() if key not in text}, _HUGGING_FACE)
    join_query_key_value(state)
    if "visual_projection.weight" in state:
        state["proj"] = state.pop("visual_projection.weight").T.contiguous()
    notes.append("names translated from Hugging Face's layout")
    if text:
        notes.append(f"{len(text)} tensors that are not the visual tower's are not used")
    return state


def join_query_key_value(state: State) -> None:
    """Make one tensor of Hugging Face's three projections, in place, where all three are there."""
    for key in [key for key in state if ".self_attn.q_proj." in key]:
        parts = [key.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
        if all(part in state for part in parts):
            state[key.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat([state.pop(part) for part in parts])
