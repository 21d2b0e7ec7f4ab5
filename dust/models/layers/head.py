"""What classifiers offer besides an answer: a head that can be replaced, counted layers, checkpointed activations."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

from dust.models.layers.common import init_linear


def new_head(in_features: int, num_classes: int, std: float = 0.02, scale: float = 1.0) -> nn.Module:
    """Return a linear classifier with ViT's first weights times ``scale``; an identity for 0 classes."""
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(in_features, num_classes)
    init_linear(head, std)
    if scale != 1.0:
        with torch.no_grad():
            head.weight.mul_(scale)
    return head


def run_block(block: nn.Module, act_checkpoint: bool, *tensors: torch.Tensor) -> Any:
    """Return ``block(*tensors)``; with ``act_checkpoint`` it is computed again in the backward pass, not kept.

    Batch norms count a batch once: the second time leaves their running statistics alone.
    """
    if not (act_checkpoint and torch.is_grad_enabled()):
        return block(*tensors)
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return checkpoint(block, *tensors, use_reentrant=False)

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_kept(norms)

    return checkpoint(block, *tensors, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _statistics_kept(norms: Sequence[Any]) -> Iterator[None]:
    """Let batch norms see a batch again with a weight of zero."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Checkpointed(nn.Module):
    """A model that runs its blocks by :func:`run_block` with ``act_checkpoint``."""

    act_checkpoint: bool

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations a second time in the backward pass, or keep them."""
        self.act_checkpoint = enable
        if enable:  # torch.utils.checkpoint imports this (150 MiB) when first called: here, not in the first step
            import torch._dynamo  # noqa: F401


class ClassifierHead(nn.Module):
    """A model whose last layer is ``head``, (..., num_features) -> (..., num_classes).

    ``init_std`` and ``init_scale`` are of a new head's weights; ``layer_stem`` and ``layer_blocks`` are patterns of
    the parameters of layer 0 and, with the block's number as group 1, of the blocks.
    """

    head: nn.Module
    num_classes: Any
    num_features: int
    init_std: float = 0.02
    init_scale: float = 1.0
    layer_stem: str
    layer_blocks: str = r"^blocks\.(\d+)"
    #: Where a subclass has ``forward_tokens``: what that does not use, and the channels of what it gives.
    beyond_tokens: str = r"^head\."

    @property
    def token_dim(self) -> int:
        return self.num_features

    def get_classifier(self) -> nn.Module | dict[str, nn.Module]:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new head there, for another number of classes; 0 takes it away."""
        self.num_classes = num_classes
        self.head = self._new_head(num_classes)

    def _new_head(self, num_classes: int) -> nn.Module:
        head = new_head(self.num_features, num_classes, self.init_std, self.init_scale)
        return head.to(next(self.parameters()))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Describe the layers for layer decay as timm does: the stem 0, block i is i + 1, the rest comes last."""
        return {"stem": self.layer_stem, "blocks": [(self.layer_blocks, None)]}
