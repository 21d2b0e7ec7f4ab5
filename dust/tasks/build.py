"""The task registry."""

from typing import TYPE_CHECKING

from dust.config import CfgNode
from dust.utils.errors import ConfigError
from dust.utils.registry import Registry

if TYPE_CHECKING:
    from dust.tasks.task import DataInfo, Task

TASK_REGISTRY = Registry(
    "task", aliases={"": "Classification", "contrastive": "Contrastive", "keystep": "KeyStep", "masked": "Masked"}
)


def build_task(cfg: CfgNode, info: "DataInfo") -> "Task":
    """Return the task that ``cfg.TASK`` names, for data that ``info`` describes.

    Raises ConfigError: TEST.METRICS names metrics, and the task takes none (``metrics`` of its constructor).
    """
    cls = TASK_REGISTRY.get(cfg.TASK)
    arguments = cls.from_config(cfg, info)
    if cfg.TEST.METRICS and "metrics" not in arguments:
        raise ConfigError(
            f"TEST.METRICS {', '.join(cfg.TEST.METRICS)}: the task {cls.__name__} measures its own metrics alone; "
            "leave the list empty"
        )
    return cls(**arguments)
