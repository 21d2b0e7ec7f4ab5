"""The task registry."""

from typing import TYPE_CHECKING

from dust.config import CfgNode
from dust.utils.registry import Registry, build

if TYPE_CHECKING:
    from dust.tasks.task import DataInfo, Task

TASK_REGISTRY = Registry(
    "task", aliases={"": "Classification", "contrastive": "Contrastive", "keystep": "KeyStep", "masked": "Masked"}
)


def build_task(cfg: CfgNode, info: "DataInfo") -> "Task":
    """The task that ``cfg.TASK`` names, for data that ``info`` describes."""
    cls = TASK_REGISTRY.get(cfg.TASK)
    return build(cls, cfg, info)
