"""What is asked of a model: each task owns the loss, the training statistics and the evaluation."""

from dust.tasks.build import TASK_REGISTRY, build_task
from dust.tasks.classification import Classification
from dust.tasks.contrastive import Contrastive
from dust.tasks.keystep import KeyStep
from dust.tasks.masked import Masked
from dust.tasks.task import Evaluation, Task

__all__ = [
    "TASK_REGISTRY",
    "Classification",
    "Contrastive",
    "Evaluation",
    "KeyStep",
    "Masked",
    "Task",
    "build_task",
]
