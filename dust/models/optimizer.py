"""Parameter groups and optimizers. SlowFast's three are torch's own; every other name is timm's."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dust.models import protocol
from dust.utils.errors import ConfigError

logger = logging.getLogger(__name__)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    bn_weight_decay: float = 0.0,
    zero_wd_1d: bool = False,
    layer_decay: float = 1.0,
    backbone_lr_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Return every trainable parameter in exactly one group, with its ``weight_decay`` and its ``lr_scale``.

    - Parameters of batch norms decay by ``bn_weight_decay`` (SlowFast).
    - Names in ``model.no_weight_decay()`` never decay; neither do biases and 1-D tensors if ``zero_wd_1d``.
    - ``layer_decay`` < 1: a parameter of layer i of L (by ``model.group_matcher()``, as in timm) learns at
      ``layer_decay ** (L - i)`` of the rate, the last layer (head) at the full rate.
    - What does not belong to the classifier (``model.get_classifier()``, else ``head``) learns at
      ``backbone_lr_scale`` of the rate besides.
    - A model with ``lr_scales()`` says itself, ``{parameter name: factor}``, what learns at another rate; one with
      ``weight_decays()``, ``{parameter name: weight decay}``, what decays by another.
    """
    exempt, decays = protocol.no_weight_decay(model), protocol.weight_decays(model)
    batch_norm = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, BATCH_NORMS)
        for parameter in module.parameters(recurse=False)
    }
    scales = _layer_scales(model, layer_decay)
    if backbone_lr_scale != 1.0:
        classifier = {id(parameter) for parameter in _classifier(model).parameters()}
        for name, parameter in model.named_parameters():
            if id(parameter) not in classifier:
                scales[name] = scales.get(name, 1.0) * backbone_lr_scale
    for name, scale in protocol.lr_scales(model).items():
        scales[name] = scales.get(name, 1.0) * scale
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in batch_norm:
            decay = bn_weight_decay
        elif name in exempt or (zero_wd_1d and (parameter.ndim <= 1 or name.endswith(".bias"))):
            decay = 0.0
        else:
            decay = decays.get(name, weight_decay)
        scale = scales.get(name, 1.0)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def _classifier(model: nn.Module) -> nn.Module:
    if isinstance(model, protocol.HasClassifier):
        head: Any = model.get_classifier()
    else:
        head = dict(model.named_children()).get("head")
    if not isinstance(head, nn.Module):
        raise ConfigError(f"SOLVER.BACKBONE_LR_SCALE: {type(model).__name__} has no head; write 1.0")
    return head


def _layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    if layer_decay == 1.0:
        return {}
    if not isinstance(model, protocol.HasLayers):
        raise ConfigError(
            f"SOLVER.LAYER_DECAY {layer_decay}: {type(model).__name__} has no group_matcher(), so its layers have no "
            "order. Set SOLVER.LAYER_DECAY 1.0."
        )
    from timm.models import group_parameters

    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: layer_decay ** (last - layer) for name, layer in layers.items()}


def build_optimizer(
    model: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
    bn_weight_decay: float = 0.0,
    zero_wd_1d: bool = False,
    layer_decay: float = 1.0,
    backbone_lr_scale: float = 1.0,
) -> torch.optim.Optimizer:
    """Build ``sgd`` | ``adam`` | ``adamw`` with SlowFast's meanings, or any optimizer that timm knows by name."""
    groups = parameter_groups(
        model,
        weight_decay=weight_decay,
        bn_weight_decay=bn_weight_decay,
        zero_wd_1d=zero_wd_1d,
        layer_decay=layer_decay,
        backbone_lr_scale=backbone_lr_scale,
    )
    if not groups:
        raise ConfigError(f"{type(model).__name__} has no trainable parameters: nothing to optimize")
    logger.info("%s over %d tensors in %d groups", name, sum(len(group["params"]) for group in groups), len(groups))
    fused = has_fused_step(name, [parameter for group in groups for parameter in group["params"]])
    if name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov and momentum > 0,
            weight_decay=weight_decay,
            fused=fused,
        )
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, weight_decay=weight_decay, fused=fused)
    from timm.optim import create_optimizer_v2, list_optimizers

    if name not in list_optimizers():
        import difflib

        known = [str(other) for other in list_optimizers()]
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or "see timm.optim.list_optimizers()"
        raise ConfigError(f"SOLVER.OPTIMIZING_METHOD {name!r} is no optimizer of torch or timm; near: {near}")
    return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, momentum=momentum)


def has_fused_step(name: str, parameters: Sequence[torch.Tensor]) -> bool | None:
    """Tell whether one kernel steps all tensors, which can skip a step that is not finite; None: torch's choice. A CPU
    keeps the plain loop, and torch has no such kernel of SGD for parameters that are shared out."""
    if not all(map(on_cuda, parameters)):
        return None
    return None if name == "sgd" and any(hasattr(one, "placements") for one in parameters) else True


def on_cuda(parameter: torch.Tensor) -> bool:
    """Tell whether it lies on a GPU."""
    return parameter.is_cuda


def construct_optimizer(model: nn.Module, cfg) -> torch.optim.Optimizer:
    """Return the optimizer that cfg.SOLVER and cfg.BN describe."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        name=solver.OPTIMIZING_METHOD,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        momentum=solver.MOMENTUM,
        dampening=solver.DAMPENING,
        nesterov=solver.NESTEROV,
        betas=tuple(solver.BETAS),
        bn_weight_decay=cfg.BN.WEIGHT_DECAY,
        zero_wd_1d=solver.ZERO_WD_1D_PARAM,
        layer_decay=solver.LAYER_DECAY,
        backbone_lr_scale=solver.BACKBONE_LR_SCALE,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its own ``lr_scale``. (torch's schedulers would ignore the scale.)"""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
