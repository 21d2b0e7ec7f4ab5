"""One split through the evaluation loop into a task's evaluation, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dust.config import CfgNode
from dust.datasets.loader import Loader
from dust.datasets.sample import BadClip
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.inference import Inference
from dust.engine.run_dir import BadClipLog
from dust.engine.setup import Autocast, build_autocast, build_device_transform
from dust.launch.signals import InterruptFlag, StopEarly
from dust.tasks.task import Evaluation, Task
from dust.utils import distributed
from dust.utils.logging import progress


class Evaluator:
    """Evaluates models on splits by one task.

    Args:
        transform: turns uint8 clips into what the model takes, on ``device``.
        micro_batch: views per forward pass.
        autocast: a context for the forward pass.
    """

    def __init__(
        self,
        task: Task,
        transform: DeviceTransform,
        device: torch.device,
        *,
        micro_batch: int,
        autocast: Autocast = contextlib.nullcontext,
    ) -> None:
        self.task, self.transform, self.device = task, transform, device
        self.micro_batch, self.autocast = micro_batch, autocast

    def evaluate(
        self,
        model: nn.Module,
        loader: DataLoader[Any],
        *,
        split: str,
        bad_clips: BadClipLog,
        on_sample: Callable[[int, int], None] = lambda done, total: None,
        interrupt: InterruptFlag | None = None,
    ) -> tuple[Evaluation, dict[str, int]]:
        """Evaluate every sample exactly once.

        Args:
            bad_clips: is told of every sample that cannot be read, or whose output is not finite, once; afterwards it
                knows those of all processes.
            on_sample: called with the samples done and their number, of this process.
            interrupt: asked before every forward pass.

        Returns:
            The evaluation with the records of all processes, and ``{"samples", "bad_clips"}`` over all of them.

        Raises:
            DataError: no sample is left.
            Interrupted: in all processes, if a signal has come to any that listens with ``interrupt``.
        """
        bad_ids: set[str] = set()

        def note(bad: BadClip) -> None:  # a sample that comes in pieces is bad once
            if bad.id not in bad_ids:
                bad_ids.add(bad.id)
                bad_clips(bad)

        loop = Inference(
            model,
            self.task.forward,
            self.transform,
            self.device,
            micro_batch=self.micro_batch,
            autocast=self.autocast,
            on_bad=note,
            should_stop=interrupt.check_alone if interrupt else lambda: None,
        )
        evaluation = self.task.evaluation(split)
        total = len(loader)

        def watched() -> Iterator[Any]:
            for done, item in enumerate(progress(loader, total=total, desc=split), start=1):
                yield item
                on_sample(done, total)

        asking: Any = contextlib.nullcontext()
        if interrupt and isinstance(loader, Loader):
            asking = loader.asking(interrupt.check_alone)
        with contextlib.suppress(StopEarly), asking:
            for record in evaluation.infer(loop, watched()):
                evaluation.update(record)
        if interrupt:
            interrupt.check()
        gathered = distributed.all_gather_objects(evaluation.records())
        evaluation.replace_records([record for records in gathered for record in records])
        counts = {"samples": len(evaluation.records()), "bad_clips": bad_clips.gather()}
        if not counts["samples"]:
            bad_clips.refuse_empty(counts["bad_clips"])
        return evaluation, counts


def build_evaluator(cfg: CfgNode, task: Task, device: torch.device) -> Evaluator:
    """The evaluator that cfg.TEST, cfg.DATA and cfg.TRAIN's precision describe."""
    return Evaluator(
        task,
        build_device_transform(cfg),
        device,
        micro_batch=cfg.TEST.BATCH_SIZE,
        autocast=build_autocast(cfg, device),
    )
