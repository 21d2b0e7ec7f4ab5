"""The dataset registry."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from dust.datasets.protocol import PROTOCOLS, FromConfig
from dust.utils.registry import Registry

DATASET_REGISTRY = Registry(
    "dataset",
    aliases={"kinetics": "VideoDataset", "ssv2": "SSv2"},
    protocols=PROTOCOLS,
    base=Dataset,
    package="dust.datasets",
)


def build_dataset(
    name: str,
    cfg,
    split: str,
    class_names: Sequence[str] | None = None,
    *,
    views: str | None = None,
    fitted: Mapping[str, Any] | None = None,
) -> Dataset[Any]:
    """Return the registered dataset ``name`` for a split.

    Args:
        split: ``train`` | ``val`` | ``test``: which samples.
        class_names: the class list to follow (of training, or of a checkpoint); None to take it from the data.
        views: ``train`` (augmented) | ``val`` (one centre view) | ``test`` (all views): what is made of them; by
            default what the split's name says. Feature extraction reads every split with ``val`` or ``test`` views.
        fitted: what the training split's dataset learnt of its data (``.fitted``, e.g. a mean per channel), for
            classes whose constructor takes it.
    """
    cls: Any = DATASET_REGISTRY.get(name)
    if not isinstance(cls, FromConfig):
        return cls(cfg, split)
    arguments = cls.from_config(cfg, split, class_names, views=views or split)
    if fitted and "fitted" in inspect.signature(cls).parameters:
        arguments["fitted"] = fitted
    return cls(**arguments)
