"""The attentive pooler: a few queries look at all tokens and become the features that a linear layer classifies.

"Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA), https://arxiv.org/abs/2404.08471,
appendix, and "V-JEPA 2", https://arxiv.org/abs/2506.09985. Parameter names are those of the published probes.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.layers.common import Block, Mlp, init_linear
from dust.models.layers.head import run_block


class CrossAttention(nn.Module):
    """Queries (B, Q, D) over tokens (B, N, D) -> (B, Q, D), scale head_dim ** -0.5, without output projection.

    A few queries look at many tokens, so keys and values are made of no token: the key's weights go to the query, which
    becomes a direction for each head, and the value's weights see what the heads have gathered. The bias of the keys is
    the same for all tokens, which the softmax does not see. So a token costs 2 D heads products instead of 2 D^2.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def directions(self, queries: torch.Tensor) -> torch.Tensor:
        """Map (B, Q, D) -> (B, Q * heads, D), whose products with a token are its scores."""
        q = self.q(queries).unflatten(-1, (self.num_heads, -1))
        keys = self.kv.weight.unflatten(0, (2, self.num_heads, -1))[0]  # (heads, head_dim, D)
        return torch.einsum("bqhd,hdc->bqhc", q * q.shape[-1] ** -0.5, keys).flatten(1, 2)

    def values(self, gathered: torch.Tensor) -> torch.Tensor:
        """Join what each head has gathered, (B, Q * heads, D) -> (B, Q, D)."""
        values = self.kv.weight.unflatten(0, (2, self.num_heads, -1))[1]
        seen = torch.einsum("bqhc,hdc->bqhd", gathered.unflatten(1, (-1, self.num_heads)), values)
        return seen.flatten(2) + self.kv.bias.chunk(2)[1]


def gather(directions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Pool by directions (B or 1, L, D) over tokens (B, N, D) -> the weighted means (B, L, D) of the tokens."""
    weights = (tokens @ directions.transpose(1, 2)).softmax(dim=1)  # (B, N, L)
    return weights.transpose(1, 2) @ tokens


class CrossAttentionBlock(nn.Module):
    """Queries (B, Q, D), tokens (B, N, D) -> (B, Q, D). The tokens are normalised, the queries are not.

    The norm's weights go to the directions and to what was gathered, so that blocks beside each other share the rest of
    it (:meth:`normalised`).
    """

    def __init__(self, dim: int, num_heads: int, *, mlp_ratio: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.xattn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.answer(queries, gather(self.directions(queries), self.normalised(tokens)))

    def normalised(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens at mean 0 and spread 1."""
        return F.layer_norm(tokens, self.norm1.normalized_shape, eps=self.norm1.eps)

    def directions(self, queries: torch.Tensor) -> torch.Tensor:
        """Map (B, Q, D) -> (B, Q * heads, D), to be multiplied with normalised tokens."""
        return self.xattn.directions(queries) * self.norm1.weight

    def answer(self, queries: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor:
        """Map queries (B or 1, Q, D) and means of normalised tokens (B, Q * heads, D) -> (B, Q, D)."""
        queries = queries + self.xattn.values(gathered * self.norm1.weight + self.norm1.bias)
        return queries + self.mlp(self.norm2(queries))


class AttentivePooler(nn.Module):
    """Tokens (B, N, D) -> features (B, Q, D): ``depth - 1`` blocks of self-attention, then one in which queries look.

    Args:
        dim: D.
        num_heads: of all its blocks; the published probes have 16, whatever the encoder has.
        depth: all blocks, 1 or more; 4 in the published probes.
        num_queries: Q; one for each question that is asked.
        mlp_ratio: hidden width of the MLPs over D.
        norm_eps: 1e-5 in the authors' probes, 1e-6 in Hugging Face's.
        init_std: spread of the first weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 16,
        depth: int = 4,
        num_queries: int = 1,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-5,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, dim))
        nn.init.trunc_normal_(self.query_tokens, std=init_std)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps) for _ in range(depth - 1)
        )
        self.cross_attention_block = CrossAttentionBlock(dim, num_heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps)
        init_blocks(self, init_std)

    def forward(self, tokens: torch.Tensor, act_checkpoint: bool = False) -> torch.Tensor:
        for block in self.blocks:
            tokens = run_block(block, act_checkpoint, tokens)
        queries = self.query_tokens.expand(tokens.shape[0], -1, -1)
        return run_block(self.cross_attention_block, act_checkpoint, queries, tokens)


def init_blocks(module: nn.Module, std: float) -> None:
    """Give all linear layers below ``module`` their first weights. What block i adds to the residual stream is divided
    by sqrt(2 (i + 1)), as published: the sum keeps its size over the depth."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            init_linear(layer, std)
    blocks = getattr(module, "blocks", ())
    for index, block in enumerate(blocks):
        with torch.no_grad():
            block.attn.proj.weight.div_(math.sqrt(2 * (index + 1)))
            block.mlp.fc2.weight.div_(math.sqrt(2 * (index + 1)))
    last = getattr(module, "cross_attention_block", None)
    if last is not None:
        with torch.no_grad():
            last.mlp.fc2.weight.div_(math.sqrt(2 * (len(blocks) + 1)))
