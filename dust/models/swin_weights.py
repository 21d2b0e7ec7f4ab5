"""Other people's weights in VideoSwin and SeriesSwin: names, buffers, and image Swins made into video models."""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

State = dict[str, torch.Tensor]

_BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")
_OFFICIAL = [(r"^backbone\.", ""), (r"^cls_head\.fc_cls\.", "head.")]
_SWIN_1D = [(r"^classifier\.2\.", "head.")]
_TORCHVISION = [(r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2.")]


def adapt(model: nn.Module, state: State, notes: list[str]) -> State:
    """A foreign file's tensors under the model's names; ``notes`` gets a line for all that was changed.

    Knows Video Swin's files (``backbone.*``, ``cls_head.fc_cls.*``), torchvision's, Swin-1D's, DUST's (ours), and image
    Swins (the authors', timm's, torchvision's) for a video model. What does not fit stays as it is, for
    :func:`dust.utils.checkpoint.load_weights` to report.
    """
    state = _renamed(state, _OFFICIAL, "Video Swin's", notes)
    state = _renamed(state, _SWIN_1D, "Swin-1D's", notes)
    state = _from_torchvision(state, notes)
    state = _from_timm(state, notes)
    state = _without_buffers(model, state, notes)
    weight = state.get("patch_embed.proj.weight")
    if weight is not None and weight.ndim == 4 and hasattr(model, "window_size"):
        state = inflate(model, state, notes)
    return state


def _renamed(state: State, names: Sequence[tuple[str, str]], whose: str, notes: list[str]) -> State:
    renamed = {}
    for key, tensor in state.items():
        for pattern, ours in names:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    if renamed.keys() != state.keys():
        notes.append(f"names translated from {whose} layout")
    return renamed


def _from_torchvision(state: State, notes: list[str]) -> State:
    """Stages and mergings take turns in ``features``; an image model's has the patches before them."""
    if not any(key.startswith("features.") for key in state):
        return state
    first = 1 if "features.0.0.weight" in state else 0

    def ours(match: re.Match[str]) -> str:
        number = int(match[1]) - first
        return f"layers.{number // 2}." + ("downsample." if number % 2 else "blocks.")

    image = [(r"^features\.0\.0\.", "patch_embed.proj."), (r"^features\.0\.2\.", "patch_embed.norm.")] if first else []
    state = _renamed(state, [*image, *_TORCHVISION], "torchvision's", notes)
    return {re.sub(r"^features\.(\d+)\.", ours, key): tensor for key, tensor in state.items()}


def _from_timm(state: State, notes: list[str]) -> State:
    """timm merges patches at the start of a stage, all others at the end of the one before."""
    merging = re.compile(r"^layers\.(\d+)\.downsample\.")
    stages = {int(match[1]) for match in map(merging.match, state) if match}
    if not stages or 0 in stages:
        return state
    notes.append("merging of patches moved to the stage before, from timm's layout")
    return {merging.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", k): t for k, t in state.items()}


def _without_buffers(model: nn.Module, state: State, notes: list[str]) -> State:
    dropped = [key for key in state if key.rsplit(".", 1)[-1] in _BUFFERS]
    if not dropped:
        return state
    kinds = sorted({key.rsplit(".", 1)[-1] for key in dropped})
    notes.append(f"{len(dropped)} tables that are computed and not learnt ({', '.join(kinds)}) are not needed")
    if getattr(model, "mask", None) == "exact":
        notes.append(
            "the file comes from code whose attention mask is 'legacy' and this model's is 'exact', so that its "
            "outputs differ a little: build it with mask='legacy' (SERIES_SWIN.MASK) for the same"
        )
    return {key: tensor for key, tensor in state.items() if key not in dropped}


def inflate(model: nn.Module, state: State, notes: list[str]) -> State:
    """An image Swin's tensors for a video model, by Video Swin's rule.

    The kernel of the patches is repeated along time and divided by the number of frames. Tables of biases are resized
    (bicubic) to the window's height and width and repeated for each offset in time. The classifier of images is left.
    """
    own = model.state_dict()
    frames = own["patch_embed.proj.weight"].shape[2]
    depth, height, width = (2 * side - 1 for side in model.window_size)  # type: ignore[arg-type,union-attr]
    state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    tables = [key for key in state if key.endswith("relative_position_bias_table") and key in own]
    for key in tables:
        table = state[key]
        rows, heads = table.shape
        side = math.isqrt(rows)
        if heads != own[key].shape[1] or side * side != rows:
            continue  # reported as misshapen
        if rows != height * width:
            square = table.float().t().reshape(1, heads, side, side)
            square = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
            table = square.reshape(heads, height * width).t()
        state[key] = table.repeat(depth, 1)
    notes.append(
        f"an image model, inflated: kernel of the patches over {frames} frames, {len(tables)} tables of biases over "
        f"{depth} offsets in time; its classifier is not used"
    )
    return state
