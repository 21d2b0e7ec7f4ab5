"""One split through the evaluation loop into a task's evaluation, on one process or many."""

import contextlib
import itertools
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dust.config import CfgNode
from dust.datasets.loader import Loader
from dust.datasets.sample import BadClip
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.inference import Inference
from dust.engine.run_dir import RECORDS, BadClipLog
from dust.engine.setup import Autocast, build_autocast, build_device_transform
from dust.launch.signals import InterruptFlag, StopEarly
from dust.tasks.task import Evaluation, Task
from dust.utils import distributed, records
from dust.utils.logging import progress

#: Evaluations of this process, which are those of all others too: each has a folder of its own for its records.
_NUMBERS = itertools.count()


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

        Each process collects the records of its own samples, beyond some megabytes in a file beside ``bad_clips``; the
        first one reads them all, one by one.

        Args:
            bad_clips: is told of every sample that cannot be read, or whose output is not finite, once; afterwards it
                knows those of all processes.
            on_sample: called with the samples done and their number, of this process.
            interrupt: asked before every forward pass.

        Returns:
            The evaluation, and ``{"samples", "bad_clips"}`` over all processes. The first process's holds the records
            of all, the others' have done their part: figures are asked for by ``distributed.from_main``.

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
        folder = bad_clips.path.parent / RECORDS / str(next(_NUMBERS))
        own = records.Records(
            folder / f"{distributed.rank():05d}.records", records.HELD_BYTES // distributed.world_size()
        )
        evaluation.collect_into(own)
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
        own.close()
        if interrupt:
            interrupt.check()
        told = distributed.gather_to_main((own.part(), evaluation.condensed()))
        if told:
            joined = records.joined_records(part for part, _ in told)
            if isinstance(joined, records.JoinedRecords):
                weakref.finalize(joined, _remove, folder, os.getpid())
            evaluation.join(joined, [condensed for _, condensed in told])
        counts = {"samples": int(distributed.total(len(own))), "bad_clips": bad_clips.gather()}
        if not counts["samples"]:
            bad_clips.refuse_empty(counts["bad_clips"])
        return evaluation, counts


def _remove(folder: Path, owner: int) -> None:
    """Remove the records of an evaluation that nobody asks any more. Forked workers have a copy, and no say."""
    if os.getpid() != owner:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # those of another evaluation are there, too
        folder.parent.rmdir()


def build_evaluator(cfg: CfgNode, task: Task, device: torch.device) -> Evaluator:
    """Return the evaluator that cfg.TEST, cfg.DATA and cfg.TRAIN's precision describe."""
    return Evaluator(
        task,
        build_device_transform(cfg),
        device,
        micro_batch=cfg.TEST.BATCH_SIZE,
        autocast=build_autocast(cfg, device),
    )
