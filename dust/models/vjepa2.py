"""V-JEPA 2 and 2.1: "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", Assran et
al. 2025, https://arxiv.org/abs/2506.09985, and "V-JEPA 2.1", https://arxiv.org/abs/2603.14482.

A plain ViT over tubelets whose positions are rotations of queries and keys, and an attentive pooler that classifies its
tokens. Code and weights of the authors (https://github.com/facebookresearch/vjepa2): MIT. Written from the formulas and
the published parameter names; tests compare with numbers of the authors' and of Hugging Face's code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.build import MODEL_REGISTRY
from dust.models.layers import DropPath
from dust.models.layers.attentive import AttentivePooler, init_blocks
from dust.models.layers.checks import check_arguments, check_video
from dust.models.layers.common import Attention, Block, drop_path_rates
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.videomae_vit import TubeletEmbed
from dust.models.vjepa2_weights import check_probe, encoder_names, load_probe, our_names
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from dust.utils.tensors import may_keep

VERSIONS = ("2.0", "2.1")
#: 2.1: the blocks whose outputs have a norm of their own, by the number of blocks.
HIERARCHY = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}
#: 2.1: rows and columns are counted as if the grid were the one of pre-training, by patch size.
PRETRAINED_GRID = {16: 256 // 16, 14: 252 // 14}
Tables = tuple[torch.Tensor, torch.Tensor]


def rotary_tables(grid: tuple[int, int, int], head_dim: int, version: str, patch_size: int = 16) -> Tables:
    """Make cosines and sines (N, head_dim), float64, of the N = T' H' W' tokens of a grid, by time, row and column.

    A third of the channels (rounded down to pairs) turns with the time, one with the row, one with the column; what is
    left over does not turn. In 2.0 the two channels of a pair have angles of two different speeds: its authors call
    that a mistake, and keep it for the weights. 2.1 turns pairs, and scales rows and columns to the grid of
    pre-training.
    """
    frames, height, width = grid
    part = 2 * (head_dim // 3 // 2)
    steps = part // 2
    speeds = 10000.0 ** (-torch.arange(steps, dtype=torch.float64) / max(1, steps))
    speeds = speeds.repeat(2) if version == "2.0" else speeds.repeat_interleave(2)
    positions = [torch.arange(size, dtype=torch.float64) for size in (frames, height, width)]
    if version == "2.1":
        last = PRETRAINED_GRID[patch_size] - 1
        positions[1:] = [rows * last / max(1, len(rows) - 1) for rows in positions[1:]]
    angles = torch.zeros(frames, height, width, head_dim, dtype=torch.float64)
    for axis, position in enumerate(positions):
        shape = [1, 1, 1, part]
        shape[axis] = len(position)
        angles[..., axis * part : (axis + 1) * part] = (position[:, None] * speeds).view(shape)
    angles = angles.flatten(0, 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Turn (M, heads, N, head_dim) by tables (N, head_dim): x cos + r(x) sin, where r(x) of channels 2i and 2i + 1 is
    -x of 2i + 1 and x of 2i."""
    cosine, sine = (table.to(x.dtype) for table in tables)
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return torch.addcmul(x * cosine, turned, sine)


class RotaryAttention(Attention):
    """Self-attention (M, N, D) -> (M, N, D) whose queries and keys are turned by their positions."""

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:  # type: ignore[override]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(rotate(q, tables), rotate(k, tables), v)
        return self.proj(x.transpose(1, 2).flatten(2))


class RotaryBlock(Block):
    """Pre-norm block (M, N, D) -> (M, N, D)."""

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float, drop_path: float, norm_eps: float) -> None:
        super().__init__(dim, num_heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps)
        self.attn = RotaryAttention(dim, num_heads)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        x = x + self.drop_path(self.attn(self.norm1(x), (cosine, sine)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VJEPA2Encoder(nn.Module):
    """Video (B, C, T, H, W) -> tokens (B, T/tubelet * H/patch * W/patch, D), by time, then row, then column.

    Args: as of :class:`VJEPA2`; ``out_layers`` are blocks (from 0) whose normed outputs are joined along the tokens,
    none for the last alone.
    """

    def __init__(
        self,
        *,
        version: str,
        patch_size: int,
        tubelet_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        norm_eps: float,
        out_layers: Sequence[int] = (),
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.version, self.patch_size, self.tubelet_size, self.in_chans = version, patch_size, tubelet_size, in_chans
        self.head_dim = embed_dim // num_heads
        self.out_layers = tuple(out_layers)
        self.patch_embed = TubeletEmbed(patch_size, tubelet_size, in_chans, embed_dim)
        self.blocks = nn.ModuleList(
            RotaryBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio, drop_path=rate, norm_eps=norm_eps)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.hierarchy: tuple[int, ...] = ()
        if version == "2.0":
            self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        else:
            self.hierarchy = HIERARCHY[depth]
            self.patch_embed_img = TubeletEmbed(patch_size, 1, in_chans, embed_dim)
            self.norms_block = nn.ModuleList(nn.LayerNorm(embed_dim, eps=norm_eps) for _ in self.hierarchy)
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, embed_dim))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, embed_dim))
            for parameter in (self.img_mod_embed, self.video_mod_embed):
                nn.init.trunc_normal_(parameter, std=init_std)
            used = self.out_layers or (depth - 1,)
            for layer, norm in zip(self.hierarchy, self.norms_block, strict=True):
                norm.requires_grad_(layer in used)
            self.patch_embed_img.requires_grad_(False)  # videos teach it nothing
            self.img_mod_embed.requires_grad_(False)
        init_blocks(self, init_std)
        self._tables: dict[tuple[int, int, int], Tables] = {}

    def forward(self, video: torch.Tensor, act_checkpoint: bool = False, frozen_blocks: int = 0) -> torch.Tensor:
        """Return the tokens; the first ``frozen_blocks`` blocks, and what is before them, run without gradient."""
        outputs = self.layers(video, self.out_layers or (len(self.blocks) - 1,), act_checkpoint, frozen_blocks)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def layers(
        self, video: torch.Tensor, wanted: Sequence[int], act_checkpoint: bool = False, frozen_blocks: int = 0
    ) -> list[torch.Tensor]:
        """Return the normed outputs (B, N, D) of the blocks ``wanted``, in the order of the blocks."""
        tubelet = self.tubelet_size if video.ndim == 5 and video.shape[2] > 1 else 1
        check_video("V-JEPA 2", video, in_chans=self.in_chans, patch_size=self.patch_size, tubelet_size=tubelet)
        outputs = []
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and not frozen_blocks):
            x, grid = self._embed(video)
        tables = self._positions(grid, x)
        for index, block in enumerate(self.blocks):
            with torch.set_grad_enabled(learns and index >= frozen_blocks):
                x = run_block(block, act_checkpoint, x, *tables)
            if index in wanted:
                outputs.append(self._norm(index)(x))
        return outputs

    def _embed(self, video: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Return tokens (B, N, D) and their grid. A single frame is an image: 2.1 has an embedding for those, 2.0 sees
        it twice."""
        _, _, frames, height, width = video.shape
        image = frames == 1
        if image and self.version == "2.0":
            video = video.expand(-1, -1, self.tubelet_size, -1, -1)
        grid = (max(1, frames // self.tubelet_size), height // self.patch_size, width // self.patch_size)
        if self.version == "2.0":
            return self.patch_embed(video), grid
        x = self.patch_embed_img(video) if image else self.patch_embed(video)
        return x + (self.img_mod_embed if image else self.video_mod_embed), grid

    def _positions(self, grid: tuple[int, int, int], like: torch.Tensor) -> Tables:
        """Return the tables of a grid, in the type and on the device of the tokens; those of the last grid are kept."""
        keep = may_keep()
        found = self._tables.get(grid) if keep else None
        if found is None or found[0].device != like.device or found[0].dtype != like.dtype:
            with torch.inference_mode(False):
                tables = rotary_tables(grid, self.head_dim, self.version, self.patch_size)
                cosine, sine = (table.to(device=like.device, dtype=like.dtype) for table in tables)
            found = cosine, sine
            if keep:
                self._tables = {grid: found}
        return found

    def _norm(self, index: int) -> nn.Module:
        return self.norms_block[self.hierarchy.index(index)] if self.hierarchy else self.norm

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of a published encoder under this one's names."""
        return encoder_names(state, notes, self)

    def constants(self) -> dict[str, Any]:
        """Return what of its computation no tensor shows."""
        first: Any = self.blocks[0]
        return {"activation": "gelu", "num_heads": first.attn.num_heads, "norm_eps": first.norm1.eps}


@MODEL_REGISTRY.register()
class VJEPA2(ClassifierHead, Checkpointed):
    """Video (B, C, S * T, H, W) of S clips -> logits (B, num_classes): encoder, attentive pooler, linear layer.

    The tokens of the S clips are joined before the pooler looks at them, as in the published evaluation. B, L, H, g and
    G are embed_dim 768, 1024, 1280, 1408, 1664; depth 12, 24, 32, 40, 48; num_heads 12, 16, 16, 22, 26; mlp_ratio 4, 4,
    4, 48/11, 64/13. Any frame count and size that tubelets and patches divide work in ``forward``, and a single frame.

    Args:
        version: ``2.0`` | ``2.1``: two ways to count positions; 2.1 has a norm for each of four depths.
        patch_size, tubelet_size: a token's side in pixels and length in frames.
        in_chans: channels of the video.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, embed_dim). Several
            questions are ``{name: classes}``: a query and a linear layer each, and ``forward`` returns a dict.
        embed_dim, depth, num_heads, mlp_ratio, norm_eps: of the encoder.
        out_layers: encoder's blocks (from 0) whose tokens the pooler sees side by side; none: those of the last.
        num_clips: S.
        probe_depth, probe_heads, probe_eps: see :class:`dust.models.layers.attentive.AttentivePooler`.
        train_blocks: blocks of the encoder that learn, counted from the end: 0 freezes it, -1 trains all.
        drop_path_rate: stochastic depth of the encoder's last block, in [0, 1); it rises linearly from 0.
        init_std: spread of the first weights.
        encoder_from, probe_from: files that encoder and probe begin with, for :meth:`load_parts`; "" for none.
        probe_number: which of the classifiers that the probe's file lists.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^encoder\.(?:patch_embed|img_mod_embed|video_mod_embed)"
    layer_blocks = r"^encoder\.blocks\.(\d+)"
    fresh_parts = r"^pooler\."  # of a file of the encoder alone
    beyond_tokens = r"^(?:pooler|head)\."

    def __init__(
        self,
        *,
        version: str = "2.0",
        patch_size: int = 16,
        tubelet_size: int = 2,
        in_chans: int = 3,
        num_classes: int | Mapping[str, int] = 400,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        out_layers: Sequence[int] = (),
        num_clips: int = 1,
        probe_depth: int = 4,
        probe_heads: int = 16,
        probe_eps: float = 1e-5,
        train_blocks: int = -1,
        drop_path_rate: float = 0.0,
        init_std: float = 0.02,
        encoder_from: str = "",
        probe_from: str = "",
        probe_number: int = 0,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        more = [f"out_layers names block {index}, there are {depth}" for index in out_layers if not 0 <= index < depth]
        if version == "2.1":
            known = ", ".join(map(str, HIERARCHY))
            if depth not in HIERARCHY:
                more.append(f"depth is {depth}, V-JEPA 2.1 has {known}")
            elif set(out_layers) - set(HIERARCHY[depth]):
                more.append(
                    f"out_layers of V-JEPA 2.1 with depth {depth} are of {HIERARCHY[depth]}: others have no norm"
                )
            if patch_size not in PRETRAINED_GRID:
                more.append(f"patch_size is {patch_size}, V-JEPA 2.1's positions are known for 16 and 14 only")
        if num_heads > 0 and embed_dim % num_heads == 0 and embed_dim // num_heads % 2:
            more.append(
                f"embed_dim / num_heads is {embed_dim // num_heads}: it must be even, for channels turn in pairs"
            )
        if not -1 <= train_blocks <= depth:
            more.append(f"train_blocks is {train_blocks}, it must be -1 (all) or 0 to {depth}")
        check_arguments(
            "VJEPA2",
            above_zero={
                "in_chans": in_chans, "depth": depth, "mlp_ratio": mlp_ratio, "patch_size": patch_size,
                "tubelet_size": tubelet_size, "num_clips": num_clips, "probe_depth": probe_depth,
            },
            from_zero={"num_classes": min(num_classes.values()) if isinstance(num_classes, Mapping) else num_classes},
            rates={"drop_path_rate": drop_path_rate},
            choices={"version": (version, VERSIONS)},
            multiples=[
                ("embed_dim", embed_dim, "num_heads", num_heads), ("embed_dim", embed_dim, "probe_heads", probe_heads)
            ],
            more=more,
        )  # fmt: skip
        self.num_classes, self.num_clips, self.init_std = num_classes, num_clips, init_std
        self.embed_dim = self.num_features = embed_dim
        self.encoder = VJEPA2Encoder(
            version=version, patch_size=patch_size, tubelet_size=tubelet_size, in_chans=in_chans, embed_dim=embed_dim,
            depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, norm_eps=norm_eps,
            out_layers=out_layers, init_std=init_std,
        )  # fmt: skip
        self.pooler = AttentivePooler(
            embed_dim, num_heads=probe_heads, depth=probe_depth, norm_eps=probe_eps, init_std=init_std,
            num_queries=1 if isinstance(num_classes, int) else len(num_classes),
        )  # fmt: skip
        self.frozen_blocks = 0 if train_blocks == -1 else depth - train_blocks
        self._freeze()
        parts = (("encoder", "VJEPA2.ENCODER_FROM", encoder_from), ("probe", "VJEPA2.PROBE_FROM", probe_from))
        self.init_from = {part: (key, path) for part, key, path in parts if path}
        self.probe_number = probe_number
        self.assembled_from_parts = len(self.init_from) == 2
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.VJEPA2
        return {
            "version": node.VERSION,
            "patch_size": node.PATCH_SIZE,
            "tubelet_size": node.TUBELET_SIZE,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_classes": {"verb": cfg.CAST.NUM_VERBS, "noun": cfg.CAST.NUM_NOUNS}
            if cfg.TASK == "VerbNoun"
            else cfg.MODEL.NUM_CLASSES,
            "embed_dim": node.EMBED_DIM,
            "depth": node.DEPTH,
            "num_heads": node.NUM_HEADS,
            "mlp_ratio": node.MLP_RATIO,
            "out_layers": list(node.OUT_LAYERS),
            "num_clips": cfg.DATA.CLIPS_PER_VIEW,
            "probe_depth": node.PROBE_DEPTH,
            "probe_heads": node.PROBE_HEADS,
            "probe_eps": node.PROBE_EPS,
            "train_blocks": node.TRAIN_BLOCKS,
            "drop_path_rate": node.DROP_PATH_RATE,
            "init_std": node.INIT_STD,
            "encoder_from": node.ENCODER_FROM,
            "probe_from": node.PROBE_FROM,
            "probe_number": node.PROBE_NUMBER,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def _freeze(self) -> None:
        if not self.frozen_blocks:
            return
        encoder = self.encoder
        trained = set() if self.frozen_blocks == len(encoder.blocks) else {"norm", "norms_block"}
        for name, child in encoder.named_children():
            if name != "blocks" and name not in trained:
                child.requires_grad_(False)
        for block in encoder.blocks[: self.frozen_blocks]:
            block.requires_grad_(False)
        for parameter in encoder.parameters(recurse=False):
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "VJEPA2":
        """Switch to training as usual; the frozen blocks stay in evaluation, so that nothing is dropped there."""
        super().train(mode)
        for block in self.encoder.blocks[: self.frozen_blocks]:
            block.eval()
        return self

    def forward(self, video: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map (B, C, S * T, H, W) float -> logits (B, num_classes), or those of each question by name."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, S * T, H, W) float -> tokens (B, S * N, D); N counts ``out_layers`` times."""
        if self.num_clips == 1:
            return self.encoder(video, self.act_checkpoint, self.frozen_blocks)
        if video.ndim != 5 or video.shape[2] % self.num_clips:
            raise DustError(
                f"VJEPA2 got video of shape {tuple(video.shape)}; it takes (B, C, S * T, H, W) with S = "
                f"{self.num_clips} clips of T frames each"
            )
        clips = video.unflatten(2, (self.num_clips, -1)).transpose(1, 2).flatten(0, 1)  # (B * S, C, T, H, W)
        tokens = self.encoder(clips, self.act_checkpoint, self.frozen_blocks)
        return tokens.reshape(video.shape[0], -1, tokens.shape[-1])

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, S * T, H, W) float -> no class token (B, 0, D), and the tokens (B, T', H', W', D); clips and
        ``out_layers`` follow each other along T'."""
        tokens, size = self.forward_features(video), self.encoder.patch_size
        return tokens[:, :0], tokens.unflatten(1, (-1, video.shape[-2] // size, video.shape[-1] // size))

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map tokens (B, N, D) -> what ``forward`` returns, or with ``pre_logits`` the pooled features (B, D), of each
        question by name where there are several."""
        pooled = self.pooler(tokens, self.act_checkpoint)
        if not isinstance(self.head, nn.ModuleDict):
            return pooled[:, 0] if pre_logits else self.head(pooled[:, 0])
        features = dict(zip(self.head, pooled.unbind(1), strict=True))
        return features if pre_logits else {name: self.head[name](value) for name, value in features.items()}

    # ---------------------------------------------------------------------------------- what a classifier offers

    def get_classifier(self) -> nn.Module | dict[str, nn.Module]:
        """Return the linear layer, or those of each question by name."""
        return dict(self.head.items()) if isinstance(self.head, nn.ModuleDict) else self.head

    def reset_classifier(self, num_classes: int | Mapping[str, int]) -> None:
        """Put a fresh head there for other classes of the same questions; 0 takes it away."""
        names = [""] if isinstance(num_classes, int) else list(num_classes)
        if len(names) != self.pooler.query_tokens.shape[1]:
            queries = self.pooler.query_tokens.shape[1]
            raise ConfigError(f"VJEPA2 was built for {queries} questions, num_classes {num_classes} is of {len(names)}")
        self.num_classes = num_classes if isinstance(num_classes, int) else dict(num_classes)
        if isinstance(num_classes, int):
            self.head = self._new_head(num_classes)
        else:
            self.head = nn.ModuleDict({name: self._new_head(count) for name, count in num_classes.items()})

    # ------------------------------------------------------------------------------------------------------- weights

    def load_parts(self, paths: Mapping[str, Path]) -> None:
        """Fill the encoder and the probe from the files that ``init_from`` stands for. A probe for other classes leaves
        the head as it is, so that the model is not assembled from parts.

        Raises CheckpointError where a file does not give its part whole.
        """
        for part, path in paths.items():
            report = load_weights(self.encoder, path) if part == "encoder" else load_probe(self, path)
            if report.absent_from_body:
                key, _ = self.init_from[part]
                raise CheckpointError(f"{key} {path}: it does not fit the model's {part} whole. {report}")
            self.assembled_from_parts &= not report.fresh_head

    def no_weight_decay(self) -> set[str]:
        """Return the tokens that are learnt as such."""
        return {name for name, _ in self.named_parameters() if name.endswith(("query_tokens", "mod_embed"))}

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return encoder and probe in the authors' or in Hugging Face's layout, under this model's names; ``notes``
        gets a line for all that was changed. There are no positions to resize: they are computed."""
        check_probe(state, notes, self.encoder, self.pooler)
        return our_names(state, notes, self.encoder)

    def constants(self) -> dict[str, Any]:
        """Return what of the encoder's computation no tensor shows; of the pooler's see :func:`check_probe`."""
        return self.encoder.constants()
