"""VideoMAE's ViT: "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
Tong, Song, Wang, Wang, NeurIPS 2022.

https://arxiv.org/abs/2203.12602. A plain ViT over tubelets with joint space-time attention and without class token;
the pre-training around it is in videomae_pretrain.py. Written from the paper and from the published parameter names and
numbers, not from the authors' code (https://github.com/MCG-NJU/VideoMAE), whose licence, like that of its weights, is
CC-BY-NC 4.0. Tests compare with numbers that the authors' code gave.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.build import MODEL_REGISTRY
from dust.models.layers import DropPath, Mlp, init_linear
from dust.models.layers.checks import check_arguments, check_video, clip_multiples
from dust.models.layers.common import drop_path_rates, embed_patches
from dust.models.layers.foreign import check_patches
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.utils.errors import CheckpointError

logger = logging.getLogger(__name__)
State = dict[str, torch.Tensor]


# ------------------------------------------------------------------------------- parts that other architectures share


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int, drop: float = 0.0, causal: bool = False
) -> torch.Tensor:
    """Compute multi-head attention of (M, Lq, D) over (M, Lk, D) -> (M, Lq, D), scale head_dim ** -0.5.

    ``drop`` is the dropout of the attention weights; give 0 in evaluation. ``causal``: query i sees keys 0 to i alone.
    """
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (M, heads, L, head_dim)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=causal).transpose(1, 2).flatten(2)


def sinusoid_table(length: int, dim: int) -> torch.Tensor:
    """Return fixed positions (1, length, dim), float32: "Attention Is All You Need", section 3.5, over the token's
    number.

    Channels 2i and 2i + 1 are sine and cosine of position / 10000 ** (2i / dim).
    """
    position = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    channel = torch.arange(dim)
    table = position / 10000 ** (2 * (channel // 2) / dim).double()
    table[:, 0::2].sin_()  # in place: of ViT-B's 9 MiB in float64 no copies
    table[:, 1::2].cos_()
    return table.float().unsqueeze(0)


class SinusoidPositions(nn.Module):
    """``sinusoid_table`` for any number of tokens; the one that it is made for is kept on the model's device."""

    table: torch.Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoid_table(length, dim), persistent=False)

    def forward(self, length: int) -> torch.Tensor:
        """Return (1, length, D)."""
        if length == self.table.shape[1]:
            return self.table
        return sinusoid_table(length, self.table.shape[2]).to(self.table)


class TubeletEmbed(nn.Module):
    """Video (B, C, T, H, W) -> tokens (B, T/tubelet * H/patch * W/patch, D): by time, then row, then column."""

    def __init__(self, patch_size: int, tubelet_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        size = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=size, stride=size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return embed_patches(video, self.proj).flatten(2).transpose(1, 2)


class VideoMAEAttention(nn.Module):
    """Self-attention (M, L, D) -> (M, L, D) whose keys have no bias: the softmax would not see it."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, attn_drop: float = 0.0, drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = float(attn_drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        x = attend(q, k, v, self.num_heads, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x))


class VideoMAEBlock(nn.Module):
    """Pre-norm block (M, L, D) -> (M, L, D). ``init_values`` > 0 scales both branches by learnt gammas (LayerScale)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        init_values: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = VideoMAEAttention(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.mlp_drop = nn.Dropout(drop)  # behind the whole MLP only, as published
        self.drop_path = DropPath(drop_path)
        self.gamma_1 = nn.Parameter(torch.full((dim,), float(init_values))) if init_values else None
        self.gamma_2 = nn.Parameter(torch.full((dim,), float(init_values))) if init_values else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = self.attn(self.norm1(x))
        x = x + self.drop_path(r if self.gamma_1 is None else self.gamma_1 * r)
        r = self.mlp_drop(self.mlp(self.norm2(x)))
        return x + self.drop_path(r if self.gamma_2 is None else self.gamma_2 * r)


# ----------------------------------------------------------------------------------------------------- the classifier


@MODEL_REGISTRY.register()
class VideoMAE(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes), raw in training and in evaluation.

    ViT-S, B, L and H are embed_dim 384, 768, 1024, 1280; depth 12, 12, 24, 32; num_heads 6, 12, 16, 16.

    Args:
        img_size: pixels, an int or (H, W); ``all_frames``: frames. What the position table is made for; other sizes and
            frame counts work in ``forward`` too, exactly as if the model had been built for them.
        patch_size, tubelet_size: a token's side in pixels and length in frames; they divide the video.
        in_chans: channels of the video.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, embed_dim).
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias, ln_eps: sizes of the transformer; ViT-B by default.
        drop_rate, attn_drop_rate: dropout of the tokens and of the attention weights, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0 in the first one.
        fc_drop_rate: dropout before the head, in [0, 1).
        init_values: first value of LayerScale; 0 = none, as in all published weights.
        use_mean_pooling: features are the LayerNorm of the mean over tokens; else the first token behind the last norm.
        init_scale: factor of the head's first weights; the published fine-tuning uses 0.001.
        init_std: spread of the first weights; the published one is 0.02.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^patch_embed"
    beyond_tokens = r"^(?:fc_norm|head)\."

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
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        fc_drop_rate: float = 0.0,
        all_frames: int = 16,
        tubelet_size: int = 2,
        init_values: float = 0.0,
        use_mean_pooling: bool = True,
        init_scale: float = 0.001,
        init_std: float = 0.02,
        ln_eps: float = 1e-6,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate}
        check_arguments(
            "VideoMAE",
            above_zero={"in_chans": in_chans, "depth": depth, "mlp_ratio": mlp_ratio},
            from_zero={"num_classes": num_classes, "init_values": init_values, "init_scale": init_scale},
            rates={**rates, "fc_drop_rate": fc_drop_rate},
            multiples=[
                *clip_multiples(height, width, patch_size, all_frames, tubelet_size),
                ("embed_dim", embed_dim, "num_heads", num_heads),
            ],
        )
        self.patch_size, self.tubelet_size, self.in_chans = patch_size, tubelet_size, in_chans
        self.num_classes = num_classes
        self.embed_dim = self.num_features = embed_dim
        self.num_heads = num_heads
        self.use_mean_pooling = use_mean_pooling
        self.init_scale, self.init_std = init_scale, init_std
        self.set_grad_checkpointing(act_checkpoint)
        self.patch_embed = TubeletEmbed(patch_size, tubelet_size, in_chans, embed_dim)
        tokens = (all_frames // tubelet_size) * (height // patch_size) * (width // patch_size)
        self.positions = SinusoidPositions(tokens, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        sizes: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "init_values": init_values,
            "norm_eps": ln_eps,
        }
        self.blocks = nn.ModuleList(
            VideoMAEBlock(embed_dim, num_heads, drop=drop_rate, attn_drop=attn_drop_rate, drop_path=rate, **sizes)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.Identity() if use_mean_pooling else nn.LayerNorm(embed_dim, eps=ln_eps)
        self.fc_norm = nn.LayerNorm(embed_dim, eps=ln_eps) if use_mean_pooling else None
        self.fc_dropout = nn.Dropout(fc_drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, init_std)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.VIDEOMAE
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
            "drop_rate": node.DROP_RATE,
            "attn_drop_rate": node.ATTN_DROP_RATE,
            "drop_path_rate": node.DROP_PATH_RATE,
            "fc_drop_rate": node.HEAD_DROP_RATE,
            "all_frames": cfg.DATA.NUM_FRAMES,
            "tubelet_size": node.TUBELET_SIZE,
            "init_values": node.INIT_VALUES,
            "use_mean_pooling": node.USE_MEAN_POOLING,
            "init_scale": node.INIT_SCALE,
            "init_std": node.INIT_STD,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> tokens (B, N, D) behind the last block (and its norm, without mean pooling)."""
        check_video(
            "VideoMAE", video, in_chans=self.in_chans, patch_size=self.patch_size, tubelet_size=self.tubelet_size
        )
        x = self.patch_embed(video)  # (B, N, D)
        x = self.pos_drop(x + self.positions(x.shape[1]))
        for block in self.blocks:
            x = run_block(block, self.act_checkpoint, x)
        return self.norm(x)

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> no class token (B, 0, D), and the tokens (B, T', H', W', D). The norm of mean
        pooling is not theirs: it stands behind the mean, and files of the pre-training have none."""
        tokens = self.forward_features(video)
        return tokens[:, :0], tokens.unflatten(1, (-1, *(size // self.patch_size for size in video.shape[-2:])))

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens (B, N, D) -> logits (B, num_classes), or with ``pre_logits`` the features (B, D)."""
        features = tokens[:, 0] if self.fc_norm is None else self.fc_norm(tokens.mean(dim=1))
        return features if pre_logits else self.head(self.fc_dropout(features))

    # ---------------------------------------------------------------------------------- what a classifier offers

    def no_weight_decay(self) -> set[str]:
        """Return the biases and scales whose names do not say that they are some."""
        return {
            name for name, _ in self.named_parameters() if name.endswith(("q_bias", "v_bias", "gamma_1", "gamma_2"))
        }

    def constants(self) -> dict[str, Any]:
        """Return the facts that are compared. Hugging Face's configuration of ViT-S (384 wide) has wrong heads: they
        are not compared."""
        pooling = "mean" if self.use_mean_pooling else "token"
        heads = {} if self.embed_dim == 384 else {"num_heads": self.num_heads}
        return {"activation": "gelu", "pooling": pooling, **heads}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return the published classifiers' and pre-trainings' tensors, in the authors' or Hugging Face's layout, under
        this model's names; ``notes`` gets a line for all that was changed. There are no positions to resize: the table
        is computed.
        """
        state = to_official_names(state, notes, self.num_heads)
        state = {re.sub(r"^(backbone|encoder)\.", "", key): tensor for key, tensor in state.items()}
        check_patches(
            state,
            "patch_embed.proj.weight",
            self.patch_embed.proj.weight.shape,
            "VIDEOMAE.PATCH_SIZE and TUBELET_SIZE",
        )
        if self.use_mean_pooling and {"norm.weight", "head.weight"} <= set(state) and "fc_norm.weight" not in state:
            raise CheckpointError(
                "the file's classifier reads the first token behind the last norm, the model's the mean of all: set "
                "VIDEOMAE.USE_MEAN_POOLING False"
            )
        unused = r"decoder\.|encoder_to_decoder\.|mask_token$" + ("|norm\\." if self.use_mean_pooling else "")
        fill_query_biases(state, dict(self.named_parameters()), notes)
        dropped = [key for key in state if re.match(unused, key)]
        if dropped:
            notes.append(f"{len(dropped)} tensors of the pre-training are not used: decoder, mask token, last norm")
        return {key: tensor for key, tensor in state.items() if key not in dropped}


# -------------------------------------------------------------------------------------------- other files' weights

_HUGGING_FACE = [
    (r"^videomae\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^decoder\.decoder_layers\.(\d+)\.", r"decoder.blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(q_bias|v_bias)$", r".attn.\1"),
    (r"\.attention\.attention\.query\.bias$", ".attn.q_bias"),
    (r"\.attention\.attention\.value\.bias$", ".attn.v_bias"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]


def to_official_names(state: State, notes: list[str], num_heads: int) -> State:
    """Translate Hugging Face's layout, and one joint bias of queries, keys and values, as the authors' files have it.

    Always a new dict. ``num_heads`` is the model's, for a warning: Hugging Face's ViT-S says 16 where it was
    trained with 6, which no shape shows.
    """
    if any(re.match(r"(videomae\.)?(embeddings|encoder\.layer)\.", key) for key in state):
        state = _from_hugging_face(state, notes)
        proj = state.get("patch_embed.proj.weight")
        if proj is not None and proj.shape[0] == 384 and num_heads != 6:
            notes.append(
                f"the model has num_heads={num_heads}, but VideoMAE ViT-S was trained with 6: Hugging Face's "
                "configuration of it says 16, and the outputs of that are wrong"
            )
            logger.warning("%s", notes[-1])
    official: State = {}
    for key, tensor in state.items():
        if key.endswith(("attn.qkv.bias", "attn.key.bias")):  # a key's bias shifts all scores alike: no effect
            if key.endswith("qkv.bias"):
                q_bias, _, v_bias = tensor.chunk(3)
                official[key.replace("qkv.bias", "q_bias")], official[key.replace("qkv.bias", "v_bias")] = (
                    q_bias,
                    v_bias,
                )
            notes.append(f"{key}: without the keys' part, which changes nothing")
        else:
            official[key] = tensor
    return official


def fill_query_biases(state: State, own: Iterable[str], notes: list[str]) -> None:
    """Give attention that the file has without biases (qkv_bias False) such of zeros, which is the same."""
    biases = [name for name in own if name.endswith((".attn.q_bias", ".attn.v_bias"))]
    if any(name in state for name in biases):
        return
    for name in biases:
        weight = state.get(re.sub(r"[qv]_bias$", "qkv.weight", name))
        if weight is not None:
            state[name] = torch.zeros(weight.shape[1], dtype=weight.dtype)
    if any(name in state for name in biases):
        notes.append("biases of queries and values, which the file goes without, are zeros, which is the same")


def _from_hugging_face(state: State, notes: list[str]) -> State:
    renamed: State = {}
    for key, tensor in state.items():
        for pattern, ours in _HUGGING_FACE:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    for key in [key for key in renamed if key.endswith(".attention.attention.query.weight")]:
        parts = [key.replace("query", name) for name in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            joint = key.replace("attention.attention.query", "attn.qkv")
            renamed[joint] = torch.cat([renamed.pop(part) for part in parts])
    renamed = {key.replace(".attention.attention.key.bias", ".attn.key.bias"): t for key, t in renamed.items()}
    notes.append("names translated from Hugging Face's layout")
    return renamed
