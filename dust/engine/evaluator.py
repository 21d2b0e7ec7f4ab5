"""One split through the evaluation loop into a task's evaluation, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dust.datasets.sample import BadClip
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.inference import Inference
from dust.engine.run_dir import BadClipLog
from dust.engine.setup import autocast_of
from dust.launch.signals import InterruptFlag, StopEarly
from dust.tasks.task import Evaluation, Task
from dust.utils import distributed
from dust.utils.logging import progress


def evaluate(
    cfg,
    model: nn.Module,
    task: Task,
    loader: DataLoader[Any],
    *,
    split: str,
    device: torch.device,
    transform: DeviceTransform,
    bad_clips: BadClipLog,
    on_sample: Callable[[int, int], None] = lambda done, total: None,
    interrupt: InterruptFlag | None = None,
) -> tuple[Evaluation, dict[str, int]]:
    """Returns the evaluation of every sample exactly once, and ``{"samples", "bad_clips"}`` over all processes.

    Raises Interrupted in all of them if a signal has come to any that listens with ``interrupt``."""
    bad_ids: set[str] = set()

    def note(bad: BadClip) -> None:  # a sample that comes in pieces is bad once
        if bad.id not in bad_ids:
            bad_ids.add(bad.id)
            bad_clips(bad)

    loop = Inference(
        model,
        task.forward,
        transform,
        device,
        micro_batch=cfg.TEST.BATCH_SIZE,
        autocast=autocast_of(cfg, device),
        on_bad=note,
        should_stop=interrupt.check_alone if interrupt else lambda: None,
    )
    evaluation = task.evaluation(split)
    total = len(loader)

    def watched() -> Iterator[Any]:
        for done, item in enumerate(progress(loader, total=total, desc=split), start=1):
            yield item
            on_sample(done, total)

    with contextlib.suppress(StopEarly):
        for record in evaluation.infer(loop, watched()):
            evaluation.update(record)
    if interrupt:
        interrupt.check()
    gathered = distributed.all_gather_objects((evaluation.records(), bad_clips.count))
    evaluation.replace_records([record for records, _ in gathered for record in records])
    return evaluation, {"samples": len(evaluation.records()), "bad_clips": sum(count for _, count in gathered)}
