"""What is asked of a model: each task owns the loss, the training statistics and the evaluation."""

from dust.tasks.build import TASK_REGISTRY, build_task
from dust.tasks.classification import Classification
from dust.tasks.contrastive import Contrastive
from dust.tasks.keystep import KeyStep
from dust.tasks.masked import Masked
from dust.tasks.probe import ProbeGrid
from dust.tasks.task import Evaluation, Task
from dust.tasks.tstl import GroupSelection, Routing
from dust.tasks.verb_noun import VerbNoun

__all__ = [
    "TASK_REGISTRY",
    "Classification",
    "Contrastive",
    "Evaluation",
    "GroupSelection",
    "KeyStep",
    "Masked",
    "ProbeGrid",
    "Routing",
    "Task",
    "VerbNoun",
    "build_task",
]
