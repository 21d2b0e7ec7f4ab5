"""Layers that several models share."""

from dust.models.layers.common import (
    Attention,
    Block,
    DropPath,
    Mlp,
    PatchEmbed,
    init_linear,
    resize_grid,
    resize_sequence,
)

__all__ = ["Attention", "Block", "DropPath", "Mlp", "PatchEmbed", "init_linear", "resize_grid", "resize_sequence"]
