"""Which of a model's outputs is a feature: what the classifier sees, the map before pooling, tokens, or any layer's."""

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dust.models.backbones import no_tokens
from dust.models.layers.tokens import TokenPooling
from dust.models.protocol import GivesTokens, HasFeatures
from dust.utils.errors import ConfigError

TOKENS = "tokens"  # the layer whose views are not averaged


def layer_output(
    model: nn.Module, layer: str, pooling: TokenPooling | None = None
) -> Callable[[nn.Module, dict[str, Any]], Any]:
    """Return ``forward(model, inputs)`` that returns what ``layer`` makes of the inputs.

    Args:
        layer: ``pooled``: what the classifier sees, (B, num_features); ``map``: ``forward_features``, before pooling;
            ``tokens``: of a model that gives them, (B, N, D); else the name of a submodule, whose output is taken as it
            comes.
        pooling: which tokens; None for all.

    Raises:
        ConfigError: the model has no such layer.
    """
    if layer == TOKENS:
        if not isinstance(model, GivesTokens):
            raise ConfigError(f"FEATURES.LAYER tokens: {no_tokens(type(model).__name__)}")
        pool = pooling or TokenPooling()
        return lambda model, inputs: pool(*model.forward_tokens(**inputs))  # type: ignore[operator]
    if layer in ("pooled", "map"):
        if not isinstance(model, HasFeatures):
            raise ConfigError(
                f"FEATURES.LAYER {layer}: {type(model).__name__} has no forward_features and forward_head; name one of "
                f"its submodules: {', '.join(name for name, _ in model.named_children())}"
            )
        return _map if layer == "map" else _pooled
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.5) or names[:8]
        raise ConfigError(
            f"FEATURES.LAYER {layer}: the model has no such layer; choose pooled, map, or {', '.join(near)}"
        )
    return _Hooked(layer)


def _map(model: Any, inputs: dict[str, Any]) -> Any:
    return model.forward_features(**inputs)


def _pooled(model: Any, inputs: dict[str, Any]) -> Any:
    return model.forward_head(model.forward_features(**inputs), pre_logits=True)


class _Hooked:
    """Runs the model and keeps the output of one submodule."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        kept: list[Any] = []
        handle = model.get_submodule(self.name).register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            model(**inputs)
        finally:
            handle.remove()
        batch = len(next(iter(inputs.values())))
        if len(kept) != 1 or (isinstance(kept[0], Tensor) and len(kept[0]) != batch):
            what = f"ran {len(kept)} times" if len(kept) != 1 else f"gave {tuple(kept[0].shape)} for {batch} samples"
            raise ConfigError(f"FEATURES.LAYER {self.name}: {what}, so its output is not one feature per sample")
        return as_tensor(kept[0], self.name)


def as_tensor(output: Any, layer: str) -> Tensor:
    """Return a layer's output. ConfigError where it is something else than one tensor."""
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"FEATURES.LAYER {layer}: its output is a {type(output).__name__}, not one tensor; name another"
        )
    return output
