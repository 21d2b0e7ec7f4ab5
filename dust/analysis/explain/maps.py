"""A map of what in a clip speaks for an answer: by attention where the tokens keep their places, else by Grad-CAM."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dust.analysis.explain.attention import KeptAttention, TokenGrid, last_attention, roll_out
from dust.models.protocol import GivesTokens, HasFeatures
from dust.utils.errors import ConfigError

#: From inputs (1, ...) to the number that is explained.
Score = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Map:
    """``values``: (times, rows, columns), 0 and more, on the model's own grid. ``method``: how it was made."""

    values: Tensor
    method: str


def make_map(model: nn.Module, inputs: dict[str, Tensor], forward: Callable, score: Score, method: str = "auto") -> Map:
    """Map one view of a clip.

    Args:
        inputs: (1, ...) each, among them ``video`` (1, C, T, H, W), as the model takes them.
        forward: ``forward(model, inputs)`` -> outputs.
        score: the logit that is explained, of the outputs.
        method: auto | attention (gradient-weighted) | rollout | gradcam (Selvaraju et al., ICCV 2017).

    Raises:
        ConfigError: the model has no map, by this method or by any.
    """
    if "video" not in inputs:
        raise ConfigError(f"{type(model).__name__} takes no video: maps are of video; occlusion works on every input")
    convolutional = isinstance(model, HasFeatures) and method in ("auto", "gradcam")
    with torch.enable_grad():
        if convolutional:
            values = _gradcam(model, inputs, score)
            if values is not None:
                return Map(values, "gradcam")
        if method != "gradcam":
            found = _by_attention(model, inputs, forward, score, weighted=method != "rollout")
            if found is not None:
                return found
    what = "" if method == "auto" else f" by {method}"
    raise ConfigError(
        f"{type(model).__name__} has no map{what}: its tokens do not keep their places, or it has several encoders; "
        "occlusion works on every model"
    )


def _gradcam(model: Any, inputs: dict[str, Tensor], score: Score) -> Tensor | None:
    """Return Grad-CAM of the last map of features; of several pathways their maps, each stretched to the most times.
    None where the features are no map (B, C, T, H, W) or (B, C, H, W)."""
    with _frozen(model):
        made = model.forward_features(**{name: _leaf(value) for name, value in inputs.items()})
        features = list(made) if isinstance(made, list | tuple) else [made]
        dims = (5,) if isinstance(model, GivesTokens) else (4, 5)  # (B, T, L, D) are tokens of pictures
        if not all(isinstance(one, Tensor) and one.ndim in dims for one in features):
            return None
        features = [one.detach().requires_grad_() for one in features]
        outputs = model.forward_head(features if isinstance(made, list | tuple) else features[0])
        gradients = torch.autograd.grad(score(outputs), features, allow_unused=True)
    maps = []
    for one, gradient in zip(features, gradients, strict=True):
        if gradient is not None:
            over = tuple(range(2, one.ndim))
            cam = (gradient.mean(dim=over, keepdim=True) * one.detach()).sum(dim=1).clamp(min=0)[0].float().cpu()
            maps.append(cam if cam.ndim == 3 else cam[None])  # a picture of the whole clip is of one time
    if not maps:
        return None
    shape = [max(one.shape[axis] for one in maps) for axis in range(3)]
    return torch.stack([_stretched(one, shape) for one in maps]).sum(dim=0)


def _by_attention(
    model: nn.Module, inputs: dict[str, Tensor], forward: Callable, score: Score, *, weighted: bool
) -> Map | None:
    source = next((one for one in model.modules() if isinstance(one, GivesTokens)), None)
    if source is None:
        return None
    with torch.no_grad():
        extra, tokens = source.forward_tokens(inputs["video"])
    grid = TokenGrid(extra.shape[1], *tokens.shape[1:4])
    leaves = {name: _leaf(value) for name, value in inputs.items()}
    with _frozen(model), KeptAttention() as kept:
        found = score(forward(model, leaves))
        if found.requires_grad:
            found.backward()
    frames = inputs["video"].shape[2]
    if kept.found and grid.times == 1 and len(kept.found[0].mean) == frames:  # each picture by itself
        grid = TokenGrid(frames * (kept.found[0].mean.shape[-1] - grid.places), frames, grid.rows, grid.columns)
    values = roll_out(kept.found, grid, weighted=weighted) if kept.found else None
    if values is not None:
        return Map(values, "attention" if weighted else "rollout")
    values = last_attention(kept.found, grid) if weighted else None
    return None if values is None else Map(values, "attention of the last layer")


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_(value.is_floating_point())


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let parameters go without gradients meanwhile: the inputs' suffices, and a frozen model has one too."""
    learns = [one for one in model.parameters() if one.requires_grad]
    for one in learns:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in learns:
            one.requires_grad_(True)


def _stretched(values: Tensor, shape: list[int]) -> Tensor:
    made = nn.functional.interpolate(values[None, None], size=tuple(shape), mode="trilinear", align_corners=False)
    return made[0, 0]
