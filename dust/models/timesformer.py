"""TimeSformer: "Is Space-Time Attention All You Need for Video Understanding?", Bertasius, Wang, Torresani, ICML 2021.

https://arxiv.org/abs/2102.05095. Written from the paper and from the published parameter names and numbers, not from
the authors' code (https://github.com/facebookresearch/TimeSformer), whose licence, like that of its weights, is
CC-BY-NC 4.0. Tests compare with numbers that the authors' code gave.
"""

import math
import re
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange

from dust.models.build import MODEL_REGISTRY
from dust.models.layers import Attention, Block, DropPath, Mlp, PatchEmbed, init_linear, resize_grid, resize_sequence
from dust.models.layers.checks import check_arguments, check_video
from dust.models.layers.common import drop_path_rates
from dust.models.layers.foreign import check_patches, fill_biases, require, with_class_position
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")
POS_EMBED_RESIZE = ("official", "bicubic")
NORM_EPS = 1e-6
State = dict[str, torch.Tensor]


class DividedBlock(nn.Module):
    """Attention over time at each place, then over space in each frame, then an MLP.

    Class token and patches are two tensors, joined only behind a LayerNorm. A copy there costs no memory in training:
    for the backward pass the norm keeps its own input, and the next Linear keeps the copy.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.temporal_norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.temporal_attn = Attention(dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.temporal_fc = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, cls: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map cls (B, 1, D), patches (B, N, T, D) -> the same shapes."""
        B, N, T, D = patches.shape
        # time: one sequence of T for each place; the class token takes no part
        r = self.temporal_attn(self.temporal_norm1(patches).flatten(0, 1))  # (B*N, T, D)
        # drop-path stands before temporal_fc, whose bias is therefore never dropped
        patches = patches + self.temporal_fc(self.drop_path(r)).view(B, N, T, D)

        # space: one sequence [class token, N patches] for each frame; the frames' class tokens are averaged after it
        one = self.norm1(cls).unsqueeze(1).expand(B, T, 1, D)
        frames = torch.cat([one, self.norm1(patches).transpose(1, 2)], dim=2)  # (B, T, 1+N, D)
        r = self.drop_path(self.attn(frames.flatten(0, 1))).view(B, T, 1 + N, D)
        r_cls, r_patches = r.split([1, N], dim=2)
        cls = cls + r_cls.mean(dim=1)
        patches = patches + r_patches.transpose(1, 2)

        r = torch.cat([self.norm2(cls), self.norm2(patches).flatten(1, 2)], dim=1)  # (B, 1 + N*T, D)
        r_cls, r_patches = self.drop_path(self.mlp(r)).split([1, N * T], dim=1)
        return cls + r_cls, patches + r_patches.unflatten(1, (N, T))


@MODEL_REGISTRY.register()
class TimeSformer(ClassifierHead, Checkpointed):
    """Video (B, C, T, H, W) -> logits (B, num_classes), raw in training and in evaluation.

    Args:
        img_size: pixels, an int or (H, W); what ``pos_embed`` is made for. Other sizes work in ``forward`` too.
        patch_size: pixels; H and W must be multiples of it.
        in_chans: channels of the video.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, embed_dim).
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias: sizes of the transformer; ViT-B by default.
        drop_rate, attn_drop_rate: dropout of the tokens and of the attention weights, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0 in the first one.
        num_frames: frames that ``time_embed`` is made for. Other counts work in ``forward`` too.
        attention_type: divided_space_time, joint_space_time or space_only.
        pretrained_model: a weight file for :func:`dust.utils.checkpoint.load_weights`; nothing is ever downloaded.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
        pos_embed_resize: how a file's position embeddings of another image size are resized on loading. "official" is
            the published code's rule (nearest, along the sequence of tokens), "bicubic" treats them as a picture.
        init_std, time_embed_std: spread of the first weights. The defaults are the published ones, meant to start from
            image weights; a small model from scratch learns the order of frames sooner with more (0.2 and 1).

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:cls_token|pos_embed|time_embed|patch_embed)"
    fresh_parts = r"\.temporal_fc\."  # images have no time

    def __init__(
        self,
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
        drop_path_rate: float = 0.1,
        num_frames: int = 8,
        attention_type: str = "divided_space_time",
        pretrained_model: str = "",
        act_checkpoint: bool = False,
        pos_embed_resize: str = "official",
        init_std: float = 0.02,
        time_embed_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else (int(img_size[0]), int(img_size[1]))
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.embed_dim = self.num_features = embed_dim
        self.num_frames = num_frames
        self.num_heads = num_heads
        self.attention_type = attention_type
        self.set_grad_checkpointing(act_checkpoint)
        self.pos_embed_resize = pos_embed_resize
        self.init_std = init_std
        height, width = self.img_size
        uneven = patch_size > 0 and (height % patch_size or width % patch_size)
        check_arguments(
            "TimeSformer",
            above_zero={
                "patch_size": patch_size, "in_chans": in_chans, "num_frames": num_frames, "image height": height,
                "image width": width, "depth": depth, "mlp_ratio": mlp_ratio,
            },
            from_zero={"num_classes": num_classes},
            rates={"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "drop_path_rate": drop_path_rate},
            choices={
                "attention_type": (attention_type, ATTENTION_TYPES),
                "pos_embed_resize": (pos_embed_resize, POS_EMBED_RESIZE),
            },
            multiples=[("embed_dim", embed_dim, "num_heads", num_heads)],
            more=[f"img_size {height}x{width} is not a multiple of patch_size {patch_size}"] if uneven else [],
        )  # fmt: skip
        self.grid = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        self.divided = attention_type == "divided_space_time"
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        if attention_type != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        block = DividedBlock if self.divided else Block
        self.blocks = nn.ModuleList(
            block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                norm_eps=NORM_EPS,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.head: nn.Module = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self._init_weights(time_embed_std)
        if pretrained_model:
            load_weights(self, pretrained_model)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.TIMESFORMER
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
            "num_frames": cfg.DATA.NUM_FRAMES,
            "attention_type": node.ATTENTION_TYPE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "pos_embed_resize": cfg.MODEL.POS_EMBED_RESIZE,
            "init_std": node.INIT_STD,
            "time_embed_std": node.TIME_EMBED_STD,
        }

    def _init_weights(self, time_embed_std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, self.init_std)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=self.init_std)
        if time_embed_std and hasattr(self, "time_embed"):
            nn.init.normal_(self.time_embed, std=time_embed_std)
        for block in self.blocks:
            if isinstance(block, DividedBlock):  # at the first step a divided model is an image model on each frame
                nn.init.zeros_(block.temporal_fc.weight)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens (B, L, D) -> logits (B, num_classes), or with ``pre_logits`` the class token (B, D)."""
        features = tokens[:, 0]
        return features if pre_logits else self.head(features)

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> tokens behind the last norm, the class token first.

        (B, 1 + N*T, D) with time as the fastest index; (B, 1 + N, D), averaged over time, in space_only.
        """
        check_video("TimeSformer", video, in_chans=self.in_chans, patch_size=self.patch_size)
        B, _, T, H, W = video.shape
        grid = (H // self.patch_size, W // self.patch_size)
        pos = self._positions(grid)
        tokens = self.patch_embed(video.transpose(1, 2).flatten(0, 1))  # (B*T, N, D)
        cls = self.pos_drop(self.cls_token + pos[:, :1])
        if self.attention_type == "space_only":
            tokens = self.pos_drop(tokens + pos[:, 1:])
            x = torch.cat([cls.expand(B * T, -1, -1), tokens], dim=1)  # (B*T, 1+N, D)
            for block in self.blocks:
                x = run_block(block, self.act_checkpoint, x)
            return self.norm(x.unflatten(0, (B, T)).mean(dim=1))

        tokens = rearrange(self.pos_drop(tokens + pos[:, 1:]), "(b t) n d -> b n t d", b=B, t=T)
        time: torch.Tensor = self.time_embed
        if time.shape[1] != T:
            time = resize_sequence(time, T)
        patches = self.pos_drop(tokens + time.unsqueeze(1)).contiguous()  # (B, N, T, D)
        cls = cls.expand(B, -1, -1)  # (B, 1, D); the time embedding is not for the class token
        if self.divided:
            for block in self.blocks:
                cls, patches = run_block(block, self.act_checkpoint, cls, patches)
            return self.norm(torch.cat([cls, patches.flatten(1, 2)], dim=1))
        x = torch.cat([cls, patches.flatten(1, 2)], dim=1)  # (B, 1 + N*T, D)
        for block in self.blocks:
            x = run_block(block, self.act_checkpoint, x)
        return self.norm(x)

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, T, H, W) float -> the class token (B, 1, D), patches (B, T, H', W', D); T is 1 if space_only."""
        tokens, (rows, columns) = self.forward_features(video), (size // self.patch_size for size in video.shape[-2:])
        return tokens[:, :1], rearrange(tokens[:, 1:], "b (h w t) d -> b t h w d", h=rows, w=columns)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Return position embeddings (1, 1 + N, D) for a grid of patches. As in the published code they are resized
        (nearest, as a picture) only where the number of patches differs from the model's own."""
        if grid[0] * grid[1] == self.grid[0] * self.grid[1]:
            return self.pos_embed
        return torch.cat([self.pos_embed[:, :1], resize_grid(self.pos_embed[:, 1:], self.grid, grid)], dim=1)

    # ---------------------------------------------------------------------------------- what a classifier offers

    def no_weight_decay(self) -> set[str]:
        return {name for name in ("pos_embed", "cls_token", "time_embed") if hasattr(self, name)}

    # ------------------------------------------------------------------------------------- other files' weights

    def constants(self) -> dict[str, Any]:
        return {"activation": "gelu", "num_heads": self.num_heads, "norm_eps": NORM_EPS, "pooling": "token"}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return a foreign file's tensors under this model's names and shapes; ``notes`` gets a line for all that was
        changed.

        Knows Hugging Face's layout and the image ViTs of timm and DeiT. What cannot be brought into shape stays as it
        is, for :func:`load_weights` to report. Raises CheckpointError for variants that compute something else.
        """
        state = _from_hugging_face(state, notes)
        require(state, _NEEDED, sign="blocks")
        state = _without_pre_logits(state, notes)
        state = _without_distillation(state, notes)
        self._adapt_patch_embed(state, notes)
        check_patches(state, "patch_embed.proj.weight", self.patch_embed.proj.weight.shape, "TIMESFORMER.PATCH_SIZE")
        for biases in (
            r"attn\.qkv\.bias$",
            r"\.attn\.proj\.bias$",
            r"mlp\.fc[12]\.bias$",
            r"^patch_embed\.proj\.bias$",
        ):
            own = [name for name, _ in self.named_parameters() if "temporal" not in name]
            fill_biases(state, own, biases, notes)
        self._adapt_pos_embed(state, notes, pos_embed_resize or self.pos_embed_resize)
        if self.attention_type != "space_only" and "time_embed" not in state and "blocks.0.norm1.weight" in state:
            notes.append(
                f"an image model's: GELU, {self.num_heads} heads and the class token's answer are taken for its"
            )
        self._adapt_time(state, notes)
        return state

    def _adapt_patch_embed(self, state: State, notes: list[str]) -> None:
        key, side = "patch_embed.proj.weight", self.patch_size
        weight = state.get(key)
        if weight is None:
            return
        if weight.ndim == 2 and weight.shape[1] % (side * side) == 0:
            weight = weight.unflatten(1, (-1, side, side))
            notes.append(f"{key}: flat {tuple(state[key].shape)} read as {tuple(weight.shape)}")
        if weight.ndim == 4 and weight.shape[1] != self.in_chans:
            stored = weight.shape[1]
            if self.in_chans == 1:
                weight = weight.float().sum(dim=1, keepdim=True)
                notes.append(f"{key}: {stored} input channels summed into 1")
            elif stored == 3:
                repeats = math.ceil(self.in_chans / 3)
                weight = weight.float().repeat(1, repeats, 1, 1)[:, : self.in_chans] * (3 / self.in_chans)
                notes.append(f"{key}: 3 input channels repeated to {self.in_chans} and scaled by 3/{self.in_chans}")
        state[key] = weight

    def _adapt_pos_embed(self, state: State, notes: list[str], rule: str) -> None:
        if rule not in POS_EMBED_RESIZE:
            raise ConfigError(f"pos_embed_resize is {rule!r}, it must be official or bicubic")
        pos = state.get("pos_embed")
        if pos is None or pos.ndim != 3:
            return
        wanted = self.grid[0] * self.grid[1]
        state["pos_embed"] = pos = with_class_position(pos, wanted, "pos_embed", notes)
        stored = pos.shape[1] - 1
        if stored == wanted:
            notes.append(f"pos_embed: {stored} patch positions as they are (rule {rule}: nothing to resize)")
            return
        cls, patches = pos[:, :1].float(), pos[:, 1:].float()
        if rule == "official":
            patches = resize_sequence(patches, wanted)
            how = "nearest along the sequence of tokens, as the published code does; bicubic keeps the picture"
        else:
            side = math.isqrt(stored)
            if side * side != stored:
                raise CheckpointError(
                    f"pos_embed has {stored} patch positions, which are not a square, so that they cannot be resized "
                    f"as a picture: use pos_embed_resize official (MODEL.POS_EMBED_RESIZE)"
                )
            patches = resize_grid(patches, (side, side), self.grid, "bicubic")
            how = f"bicubic, as a picture {side}x{side} -> {self.grid[0]}x{self.grid[1]}"
        state["pos_embed"] = torch.cat([cls, patches], dim=1)
        notes.append(f"pos_embed: {stored} -> {wanted} patch positions by rule {rule} ({how})")

    def _adapt_time(self, state: State, notes: list[str]) -> None:
        time = state.get("time_embed")
        resizable = self.attention_type != "space_only" and time is not None and time.ndim == 3
        if time is not None and resizable and time.shape[1] != self.num_frames:
            state["time_embed"] = resize_sequence(time.float(), self.num_frames)
            notes.append(f"time_embed: {time.shape[1]} -> {self.num_frames} frames, nearest")
        if not self.divided:
            return
        copied = 0
        for key in list(state):
            twin = re.sub(r"^(blocks\.\d+\.)(attn|norm1)\.", r"\1temporal_\2.", key)
            if twin not in state:
                state[twin] = state[key]
                copied += 1
        if copied:
            notes.append(
                f"{copied} tensors of temporal attention are copies of the spatial attention's, as the file has none; "
                f"temporal_fc and time_embed keep the model's values (zero in a new model)"
            )


_NEEDED = {
    "cls_token": "no class token",
    "pos_embed": "no positions, or rotary ones",
    "norm.weight": "no norm at its end, or fc_norm behind a mean",
    "norm.bias": "another kind of norm",
}
_HUGGING_FACE = [
    (r"^timesformer\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.time_embeddings$", "time_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.attention\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]


def _from_hugging_face(state: State, notes: list[str]) -> State:
    """Translate Hugging Face's names to ours, with or without its ``timesformer.`` prefix; a new dict in any case."""
    if not any(re.match(r"(timesformer\.)?(embeddings|encoder)\.", key) for key in state):
        return dict(state)
    renamed = {}
    for key, tensor in state.items():
        for pattern, ours in _HUGGING_FACE:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    notes.append("names translated from Hugging Face's layout")
    return renamed


def _without_pre_logits(state: State, notes: list[str]) -> State:
    """Drop the layer before the head of a ViT of ImageNet-21k's year, and the head, which needs it."""
    dropped = [key for key in state if key.startswith("pre_logits.")]
    if not dropped:
        return state
    dropped += [key for key in state if key.startswith("head.")]
    notes.append(f"{', '.join(dropped)} dropped: this head stands behind a layer (pre_logits) that the model has not")
    return {key: tensor for key, tensor in state.items() if key not in dropped}


def _without_distillation(state: State, notes: list[str]) -> State:
    """Return a distilled DeiT without its distillation token, that token's position (the second) and its head."""
    if "dist_token" not in state:
        return state
    pos = state.get("pos_embed")
    if pos is not None:
        state["pos_embed"] = torch.cat([pos[:, :1], pos[:, 2:]], dim=1)
    dropped = [key for key in state if key == "dist_token" or key.startswith("head_dist.")]
    for key in dropped:
        del state[key]
    notes.append(
        f"distilled DeiT: {', '.join(dropped)} and the second position of pos_embed dropped; that token took part in "
        "attention, so that outputs differ from DeiT's own"
    )
    return state
