"""MViT's published files under our names: SlowFast's, and torchvision's."""

import re

import torch
import torch.nn.functional as F

from dust.models.layers.pooling_attention import resize_tables

State = dict[str, torch.Tensor]

_TORCHVISION = [
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^pos_encoding\.class_token$", "cls_token"),
    (r"^pos_encoding\.(spatial|temporal|class)_pos$", r"pos_embed_\1"),
    (r"\.attn\.pool_(\w)\.pool\.", r".attn.pool_\1."),
    (r"\.attn\.pool_(\w)\.norm_act\.0\.", r".attn.norm_\1."),
    (r"\.attn\.project\.0\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^(blocks\.\d+)\.project\.", r"\1.proj."),
    (r"^head\.1\.", "head."),
]


def our_names(state: State, notes: list[str], own: State, grid: tuple[int, int, int]) -> State:
    """Return the tensors of a file under the names of :class:`dust.models.mvit.MViT`, positions resampled to the sizes
    in ``own``, that model's state."""
    if any(key.startswith(("conv_proj.", "pos_encoding.")) for key in state):
        notes.append("names translated from torchvision's layout")
        renamed = {}
        for key, tensor in state.items():
            for pattern, ours in _TORCHVISION:
                key = re.sub(pattern, ours, key)
            renamed[key] = tensor
        state = renamed
    state = {re.sub(r"^head\.projection\.", "head.", key): tensor for key, tensor in state.items()}
    fitted: State = {}
    for key, tensor in state.items():
        wanted = own.get(key)
        if wanted is not None and key.startswith(("cls_token", "pos_embed")):
            while tensor.ndim < wanted.ndim:
                tensor = tensor.unsqueeze(0)
        if wanted is not None and tensor.ndim == wanted.ndim and tensor.shape != wanted.shape:
            tensor = _resampled(key, tensor, wanted, grid, notes)
        fitted[key] = tensor
    return fitted


def _resampled(
    key: str, tensor: torch.Tensor, wanted: torch.Tensor, grid: tuple[int, int, int], notes: list[str]
) -> torch.Tensor:
    """Return a table of positions in the size of ``wanted``; what is no such table stays, to be reported."""
    if ".rel_pos_" in key and tensor.shape[1] == wanted.shape[1]:
        resized = resize_tables(tensor, len(wanted))
    elif key == "pos_embed_temporal" and tensor.shape[2] == wanted.shape[2]:
        resized = F.interpolate(tensor.float().transpose(1, 2), wanted.shape[1], mode="linear").transpose(1, 2)
    elif key == "pos_embed_spatial" and tensor.shape[2] == wanted.shape[2]:
        side = round(tensor.shape[1] ** 0.5)
        if side * side != tensor.shape[1]:
            return tensor
        picture = tensor.float().transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(picture, grid[1:], mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    else:
        return tensor
    notes.append(f"{key}: resampled from {tuple(tensor.shape)} to {tuple(resized.shape)}")
    return resized.to(tensor.dtype)
