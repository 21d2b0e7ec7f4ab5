"""The model registry, and the one place where a configuration becomes a model."""

from typing import Any

import torch.nn as nn

from dust.models.protocol import PROTOCOLS, FromConfig
from dust.utils.errors import ConfigError
from dust.utils.registry import Registry

MODEL_REGISTRY = Registry("model", aliases={"vit_base_patch16_224": "TimeSformer"}, protocols=PROTOCOLS, base=nn.Module)


def build_model(cfg: Any, **overrides: Any) -> nn.Module:
    """Return the model that ``cfg.MODEL.MODEL_NAME`` names, on the CPU, freshly initialised.

    A class with ``from_config`` gets plain keyword arguments, of which ``overrides`` replace some. A class without it
    (a SlowFast user's own) is called with ``cfg`` itself and takes no overrides.
    """
    cls: Any = MODEL_REGISTRY.get(cfg.MODEL.MODEL_NAME)
    if cfg.MODEL.NUM_CLASSES < 0 and "num_classes" not in overrides:
        raise ConfigError(
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}: as many as the data has, and there is no data here: give the "
            "number, or load the config.yaml that a run left in its OUTPUT_DIR"
        )
    if isinstance(cls, FromConfig):
        return cls(**{**cls.from_config(cfg), **overrides})
    if overrides:
        raise ConfigError(
            f"{cls.__name__} has no from_config, so it is built from cfg alone and cannot take "
            f"{', '.join(sorted(overrides))}: set them in cfg, or give the class a from_config"
        )
    return cls(cfg)
