"""The task registry."""

from typing import TYPE_CHECKING

from dust.utils.registry import Registry

if TYPE_CHECKING:
    from dust.tasks.task import DataInfo, Task

TASK_REGISTRY = Registry(
    "task", aliases={"": "Classification", "contrastive": "Contrastive", "keystep": "KeyStep", "masked": "Masked"}
)


def build_task(cfg, facts: "DataInfo") -> "Task":
    """The task that ``cfg.TASK`` names, for data of these facts."""
    cls = TASK_REGISTRY.get(cfg.TASK)
    return cls(**cls.from_config(cfg, facts))  # type: ignore[attr-defined]
