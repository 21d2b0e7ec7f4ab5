"""Small heads over the tokens of a frozen backbone: attentive, linear, and nearest neighbours.

The attentive probe is V-JEPA 2's (https://arxiv.org/abs/2506.09985); nearest neighbours vote as in "Unsupervised
Feature Learning via Non-Parametric Instance Discrimination", https://arxiv.org/abs/1805.01978.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.layers.attentive import AttentivePooler, gather
from dust.models.layers.head import new_head
from dust.utils.errors import DustError

HEADS = ("attentive", "linear", "knn")
LEAST = 1e-6  # the probability of a class that no neighbour has


class TokenHead(nn.Module):
    """Tokens (B, N, D) -> logits (B, num_classes), in two steps: features (B, D), then ``head``."""

    head: nn.Module

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) -> (B, D)"""
        raise NotImplementedError

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(tokens))

    @staticmethod
    def together(heads: Sequence[Any], tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, G, num_classes) of G heads on the same tokens."""
        return torch.stack([head(tokens) for head in heads], dim=1)


class AttentiveProbe(TokenHead):
    """An :class:`~dust.models.layers.attentive.AttentivePooler` of one query, then a linear layer."""

    def __init__(self, dim: int, num_classes: int, *, num_heads: int = 16, depth: int = 4, norm_eps: float = 1e-5):
        super().__init__()
        self.pooler = AttentivePooler(dim, num_heads=num_heads, depth=depth, norm_eps=norm_eps)
        self.head = new_head(dim, num_classes)
        self.act_checkpoint = False

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.pooler(tokens, self.act_checkpoint)[:, 0]

    @staticmethod
    def together(heads: Sequence["AttentiveProbe"], tokens: torch.Tensor) -> torch.Tensor:
        """Pool for several heads of one block each: they share the normalised tokens and one product with them. Deeper
        ones one by one."""
        poolers = [head.pooler for head in heads]
        if len(poolers[0].blocks):
            return TokenHead.together(heads, tokens)
        blocks = [pooler.cross_attention_block for pooler in poolers]
        directions = [block.directions(pooler.query_tokens) for block, pooler in zip(blocks, poolers, strict=True)]
        gathered = gather(torch.cat(directions, dim=1), blocks[0].normalised(tokens)).chunk(len(heads), dim=1)
        answers = zip(heads, blocks, poolers, gathered, strict=True)
        return torch.stack(
            [head.head(block.answer(pooler.query_tokens, seen)[:, 0]) for head, block, pooler, seen in answers], dim=1
        )


class LinearProbe(TokenHead):
    """The mean over the tokens, normalised without weights, then a linear layer."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.head = new_head(dim, num_classes, std=0.01)

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens.mean(dim=1))

    @staticmethod
    def together(heads: Sequence["LinearProbe"], tokens: torch.Tensor) -> torch.Tensor:
        """Compute one pooling and one product for all G heads."""
        features = heads[0].pool(tokens)
        layers: list[Any] = [head.head for head in heads]
        if not isinstance(layers[0], nn.Linear):
            return features.unsqueeze(1).expand(-1, len(heads), -1)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        return F.linear(features, weight, bias).unflatten(1, (len(heads), -1))


class KNNProbe(TokenHead):
    """Nearest neighbours: the votes of the ``neighbours`` most similar training clips, by cosine of mean tokens, each
    weighing exp(cosine / temperature). Logits are logarithms of the shares.

    Training is one pass, in which it is shown each clip with its answer, keeps both, and says nothing. The temperature
    is a parameter without a gradient but zero, so that the training loop has one.
    """

    memory: torch.Tensor
    answers: torch.Tensor

    def __init__(self, dim: int, num_classes: int, *, neighbours: int = 20, temperature: float = 0.07) -> None:
        super().__init__()
        self.num_classes, self.neighbours = num_classes, neighbours
        self.head = nn.Identity()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.register_buffer("memory", torch.zeros(0, dim))
        self.register_buffer("answers", torch.zeros(0, dtype=torch.int64))
        self._shown: list[tuple[torch.Tensor, torch.Tensor]] = []

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(tokens.float().mean(dim=1), dim=1)

    def remember(self, tokens: torch.Tensor, answers: torch.Tensor) -> None:
        """Keep clips (B, N, D) with their classes (B,)."""
        self._shown.append((self.pool(tokens).detach(), answers.detach()))

    def settle(self) -> None:
        """Put what was shown into the buffers."""
        if self._shown:
            self.memory = torch.cat([self.memory, *(features for features, _ in self._shown)])
            self.answers = torch.cat([self.answers, *(answers for _, answers in self._shown)])
            self._shown = []

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features = self.pool(tokens)
        if not self.num_classes:
            return features
        if self.training:
            return features.new_zeros(len(features), self.num_classes) + 0 * self.log_temperature
        self.settle()
        if not len(self.memory):
            raise DustError("PROBE.HEAD knn: it remembers no clip: train it (one pass), or name its checkpoint")
        with torch.autocast(features.device.type, enabled=False):
            cosines, nearest = (features @ self.memory.T).topk(min(self.neighbours, len(self.memory)), dim=1)
            votes = ((cosines - 1) / self.log_temperature.exp()).softmax(dim=1)  # (B, neighbours)
            shares = votes.new_zeros(len(votes), self.num_classes).scatter_add(1, self.answers[nearest], votes)
        return (shares + LEAST).log()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        self._shown = []
        for name in ("memory", "answers"):  # as many as it was shown
            found = state.get(prefix + name)
            if found is not None and found.shape[1:] == getattr(self, name).shape[1:]:
                setattr(self, name, getattr(self, name).new_zeros(found.shape))
        super()._load_from_state_dict(state, prefix, *others)

    def _save_to_state_dict(self, *args: Any, **options: Any) -> None:
        self.settle()
        super()._save_to_state_dict(*args, **options)
