"""Temporal encoder of KeyStep, published as STORM-PSR: which components changed in a window of frame embeddings.

https://arxiv.org/abs/2510.12385. Origin of the architecture and of the weights' names:
https://github.com/shaohsuanhung/STORM-PSR (Apache-2.0). Written from the paper and from the published parameter names
and numbers; tests compare with numbers that the authors' code gave.
"""

import re
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.build import MODEL_REGISTRY
from dust.models.layers import Mlp
from dust.models.layers.checks import check_arguments
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.utils.errors import DataError

ENCODERS = ("transformer", "gru", "mlp")
POOLS = ("cls", "mean")
HEAD_STD = 0.02
State = dict[str, torch.Tensor]


class WideAttention(nn.Module):
    """Multi-head self-attention (B, L, D) -> (B, L, D) whose heads need not add up to D. qkv has no bias."""

    def __init__(self, dim: int, heads: int, dim_head: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.proj = nn.Linear(heads * dim_head, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, L, _ = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, L, dim_head)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.drop(self.proj(x.transpose(1, 2).reshape(B, L, -1)))


class TransformerBlock(nn.Module):
    """Pre-norm block (B, L, D) -> (B, L, D): x += attn(norm1 x); x += mlp(norm2 x)."""

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WideAttention(dim, heads, dim_head, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, drop=dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GRULayer(nn.Module):
    """One layer of a GRU (B, L, D) -> (B, L, D), with dropout of its outputs."""

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.gru(x)[0])


class ConcatLinear(nn.Module):
    """All frames side by side through one linear layer: (B, N, D) -> (B, 1, width)."""

    def __init__(self, seq_len: int, dim: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(seq_len * dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)).unsqueeze(1)


@MODEL_REGISTRY.register()
class TemporalEncoder(ClassifierHead, Checkpointed):
    """Window of frame embeddings (B, N, D) -> logits (B, num_classes), one per component, of "it changed".

    Args:
        seq_len: frames N of a window. Shorter ones work too, but not with the mlp encoder.
        dim: channels D of an embedding.
        depth: blocks of the transformer, layers of the GRU; the MLP has none.
        heads, dim_head: of the attention; ``heads * dim_head`` need not be ``dim``.
        mlp_dim: hidden width in the transformer's blocks; width of the MLP encoder (2048 in the original).
        dropout: rate in [0, 1) of the attention's output and of the MLPs, or of the GRU's layers; in training only.
        pool: what of the transformer's output the head sees: ``cls``, or the ``mean`` over all tokens, the class token
            included. The GRU gives its last output.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, num_features).
        encoder: ``transformer`` with learned positions | ``gru`` | ``mlp`` (frames side by side, a baseline).
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    The head is LayerNorm and Linear. Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:cls_token|pos_embed)"

    def __init__(
        self,
        seq_len: int = 65,
        dim: int = 128,
        depth: int = 6,
        heads: int = 8,
        dim_head: int = 128,
        mlp_dim: int = 4096,
        dropout: float = 0.1,
        pool: str = "cls",
        num_classes: int = 11,
        encoder: str = "transformer",
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"seq_len": seq_len, "dim": dim, "depth": depth, "heads": heads, "dim_head": dim_head}
        check_arguments(
            "TemporalEncoder",
            above_zero={**sizes, "mlp_dim": mlp_dim},
            from_zero={"num_classes": num_classes},
            rates={"dropout": dropout},
            choices={"pool": (pool, POOLS), "encoder": (encoder, ENCODERS)},
        )
        self.seq_len = seq_len
        self.dim = dim
        self.pool = pool
        self.encoder = encoder
        self.num_classes = num_classes
        self.num_features = mlp_dim if encoder == "mlp" else dim
        self.set_grad_checkpointing(act_checkpoint)
        blocks: list[nn.Module]
        if encoder == "transformer":
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=HEAD_STD))
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + seq_len, dim).normal_(std=HEAD_STD))
            blocks = [TransformerBlock(dim, heads, dim_head, mlp_dim, dropout=dropout) for _ in range(depth)]
        elif encoder == "gru":
            blocks = [GRULayer(dim, dropout=dropout if i < depth - 1 else 0.0) for i in range(depth)]
        else:
            blocks = [ConcatLinear(seq_len, dim, mlp_dim)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(self.num_features)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.KEYSTEP
        return {
            "seq_len": node.FRAMES,
            "dim": node.EMBED_DIM,
            "depth": node.TEMPORAL.DEPTH,
            "heads": node.TEMPORAL.HEADS,
            "dim_head": node.TEMPORAL.DIM_HEAD,
            "mlp_dim": node.TEMPORAL.MLP_DIM,
            "dropout": node.TEMPORAL.DROPOUT,
            "pool": node.TEMPORAL.POOL,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "encoder": node.TEMPORAL.TYPE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward_features(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) -> tokens (B, 1 + N, D), class token first; GRU (B, N, D); MLP (B, 1, mlp_dim)."""
        self._check_embeddings(embeddings)
        x = embeddings
        if self.encoder == "transformer":
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
            x = x + self.pos_embed[:, : x.shape[1]]
        for block in self.blocks:
            x = run_block(block, self.act_checkpoint, x)
        return x

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens -> logits (B, num_classes), or with ``pre_logits`` the normalised features (B, num_features)."""
        if self.encoder == "gru":
            pooled = tokens[:, -1]
        else:
            pooled = tokens.mean(dim=1) if self.pool == "mean" else tokens[:, 0]
        features = self.norm(pooled)
        return features if pre_logits else self.head(features)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(embeddings))

    def _check_embeddings(self, embeddings: torch.Tensor) -> None:
        what = f"TemporalEncoder got embeddings of {embeddings.dtype} and shape {tuple(embeddings.shape)}; "
        if embeddings.ndim != 3 or embeddings.shape[2] != self.dim or not embeddings.is_floating_point():
            raise DataError(what + f"it was built for floating-point numbers (B, N, {self.dim})")
        frames = embeddings.shape[1]
        if not 1 <= frames <= self.seq_len or (self.encoder == "mlp" and frames != self.seq_len):
            bound = "exactly" if self.encoder == "mlp" else "at most"
            raise DataError(what + f"a window of the {self.encoder} encoder has {bound} {self.seq_len} frames")

    # ---------------------------------------------------------------------------------- what a classifier offers

    def _new_head(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)
        return head.to(self.norm.weight)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"} if self.encoder == "transformer" else set()

    # ------------------------------------------------------------------------------------- other files' weights

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Translate STORM-PSR's names (``temporal_enc.*``, ``mlp_head.*``) to ours; a new dict in any case. Positions
        are of frames, not of a picture: nothing is resized."""
        if not any(key.startswith("temporal_enc.") for key in state):
            return dict(state)
        renamed = {}
        for key, tensor in state.items():
            if key.startswith("spatial_enc."):
                continue  # of the file's other part
            for pattern, ours in _STORM_PSR:
                key = re.sub(pattern, ours, key)
            renamed[key] = tensor
        notes.append("names translated from STORM-PSR's layout")
        return renamed


_STORM_PSR = [
    (r"^temporal_enc\.pos_embedding$", "pos_embed"),
    (r"^temporal_enc\.cls_token$", "cls_token"),
    (r"^temporal_enc\.layers\.(\d+)\.0\.fn\.norm\.", r"blocks.\1.norm1."),
    (r"^temporal_enc\.layers\.(\d+)\.0\.fn\.fn\.to_qkv\.", r"blocks.\1.attn.qkv."),
    (r"^temporal_enc\.layers\.(\d+)\.0\.fn\.fn\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"^temporal_enc\.layers\.(\d+)\.1\.fn\.norm\.", r"blocks.\1.norm2."),
    (r"^temporal_enc\.layers\.(\d+)\.1\.fn\.fn\.net\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^temporal_enc\.layers\.(\d+)\.1\.fn\.fn\.net\.3\.", r"blocks.\1.mlp.fc2."),
    (r"^mlp_head\.0\.", "norm."),
    (r"^mlp_head\.1\.", "head."),
]
