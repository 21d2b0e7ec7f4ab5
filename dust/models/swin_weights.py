"""Other people's weights in VideoSwin and SeriesSwin: names, buffers, and image Swins made into video models."""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.layers.foreign import check_patches, fill_biases
from dust.models.layers.window_attention import SwinBlock, WindowAttention, relative_index
from dust.utils.errors import CheckpointError

State = dict[str, torch.Tensor]

_BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")
_OFFICIAL = [(r"^backbone\.", ""), (r"^cls_head\.fc_cls\.", "head.")]
_SWIN_1D = [(r"^classifier\.2\.", "head.")]
_TORCHVISION = [(r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.3\.", ".mlp.fc2.")]


def adapt(model: nn.Module, state: State, notes: list[str]) -> State:
    """Return a foreign file's tensors under the model's names; ``notes`` gets a line for all that was changed.

    Knows Video Swin's files (``backbone.*``, ``cls_head.fc_cls.*``), torchvision's, Swin-1D's, DUST's (ours), and image
    Swins (the authors', timm's, torchvision's) for a video model. What does not fit stays as it is, for
    :func:`dust.utils.checkpoint.load_weights` to report. Raises CheckpointError for variants that compute something
    else: other windows or patches, another order of norms.
    """
    _check_norms(model, state)
    state = _renamed(state, _OFFICIAL, "Video Swin's", notes)
    state = _renamed(state, _SWIN_1D, "Swin-1D's", notes)
    state = _from_torchvision(state, notes)
    state = _from_timm(state, notes)
    state = _without_buffers(model, state, notes)
    weight = state.get("patch_embed.proj.weight")
    if weight is not None and weight.ndim == 4 and hasattr(model, "window_size"):
        state = inflate(model, state, notes)
    own = dict(model.named_parameters())
    kernel, norm = "patch_embed.proj.weight", "patch_embed.norm.weight"
    for biases in (r"\.attn\.qkv\.bias$", r"^patch_embed\.proj\.bias$"):
        fill_biases(state, own, biases, notes)
    check_patches(state, kernel, own[kernel].shape, "PATCH_SIZE")
    if norm in own and kernel in state and norm not in state:
        raise CheckpointError("the file has no norm behind its patches: set PATCH_NORM False")
    return state


def _check_norms(model: nn.Module, state: State) -> None:
    """Raise CheckpointError if a series file's layout shows where its norms stand, and the model's stand elsewhere."""
    block = next((module for module in model.modules() if isinstance(module, SwinBlock)), None)
    if block is None or not hasattr(model, "seq_len"):
        return
    before = any(key.startswith("classifier.2.") for key in state)  # Swin-1D V1
    behind = any(re.search(r"blocks\.\d+\.attn_mask$", key) for key in state)  # V2 and DUST keep it in the block
    if (before and not block.norm_first) or (behind and block.norm_first):
        stands, norm = ("before", "pre") if before else ("behind", "respost")
        raise CheckpointError(f"the file's norms stand {stands} attention and MLP: set SERIES_SWIN.NORM {norm}")


def _check_window(model: nn.Module, key: str, index: torch.Tensor) -> None:
    """Raise CheckpointError if a stored ``relative_position_index`` is that of another window: tables of windows 2x7
    and 7x2 have the same shape."""
    try:
        attention = model.get_submodule(key.removesuffix(".relative_position_index"))
    except AttributeError:
        return
    if not isinstance(attention, WindowAttention):
        return
    tokens = math.prod(attention.window)
    if index.numel() == tokens * tokens:
        same = torch.equal(index.flatten().long(), relative_index(attention.window, tokens, index.device))
    else:
        same = not attention.cosine  # a table of biases has another shape then, which is reported
    if not same:
        raise CheckpointError(
            f"{key} is that of another window than {attention.window} ({math.isqrt(index.numel())} tokens, here "
            f"{tokens}): set WINDOW_SIZE (of a series also SERIES.LENGTH) as the file's model had it"
        )


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
    """Translate torchvision's names. Stages and mergings take turns in ``features``; an image model's has the patches
    before them."""
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
    """Translate timm's names. It merges patches at the start of a stage, all others at the end of the one before."""
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
    for key in dropped:
        if key.endswith("relative_position_index"):
            _check_window(model, key, state[key])
    notes.append(f"{len(dropped)} tables that are computed and not learnt ({', '.join(kinds)}) are not needed")
    if getattr(model, "mask", None) == "exact":
        notes.append(
            "the file comes from code whose attention mask is 'legacy' and this model's is 'exact', so that its "
            "outputs differ a little: build it with mask='legacy' (SERIES_SWIN.MASK) for the same"
        )
    return {key: tensor for key, tensor in state.items() if key not in dropped}


def inflate(model: nn.Module, state: State, notes: list[str]) -> State:
    """Return an image Swin's tensors for a video model, by Video Swin's rule.

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
