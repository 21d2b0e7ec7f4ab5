"""The dataset registry."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from dust.utils.registry import Registry

DATASET_REGISTRY = Registry("dataset", aliases={"kinetics": "VideoDataset", "ssv2": "SSv2"})


def build_dataset(name: str, cfg, split: str, class_names: Sequence[str] | None = None) -> Dataset[Any]:
    """The registered dataset ``name`` for a split.

    Args:
        split: ``train`` | ``val`` | ``test``.
        class_names: the class list to follow (of training, or of a checkpoint); None to take it from the data.
    """
    cls = DATASET_REGISTRY.get(name)
    if hasattr(cls, "from_config"):
        return cls(**cls.from_config(cfg, split, class_names))
    return cls(cfg, split)
