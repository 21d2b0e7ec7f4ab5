"""What the training loader gives, and what it costs."""

import time
from statistics import median
from typing import Any

from torch import Tensor

from dust.benchmark.cost import MIB, cpu_seconds
from dust.benchmark.report import Report
from dust.datasets.loader import construct_loader
from dust.utils.errors import DataError

METHOD = (
    "CPU time of the process and its workers over the measured batches only, after the warm-up batches (which start "
    "the workers and may leave frame indices in their caches). Clips per second is wall time, with nothing else done "
    "to the batches. Where a split has fewer batches than asked for, several epochs are read, each with its start."
)


def benchmark_loader(cfg, *, batches: int, warmup: int) -> Report:
    """Read ``warmup`` and then ``batches`` training batches of cfg's loader, as training does."""
    started, cpu_started = time.perf_counter(), time.process_time()
    loader = construct_loader(cfg, "train")
    ready_s, ready_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    dataset: Any = loader.dataset

    reader = _Epochs(loader)
    reader.read(warmup)
    main_before, workers_before = cpu_seconds()
    started = time.perf_counter()
    seen = reader.read(batches)
    wall = time.perf_counter() - started
    main, workers = (now - then for now, then in zip(cpu_seconds(), (main_before, workers_before), strict=True))
    if not seen.clips:
        raise DataError(f"none of the {seen.bad} clips of {batches} batches could be read: nothing to measure")
    row = {
        "workers": loader.num_workers,
        "clips_per_s": seen.clips / wall,
        "cpu_ms_per_clip": 1e3 * (main + workers) / seen.clips,
        "main_cpu_ms_per_clip": 1e3 * main / seen.clips,
        "batch_mib": median(seen.sizes) / MIB,
        "as_float32_mib": median(seen.float_sizes) / MIB,
        "batch_ms": 1e3 * wall / seen.batches,
        "clips": seen.clips,
        "bad_clips": seen.bad,
        "dataset_ready_s": ready_s,
        "dataset_ready_cpu_s": ready_cpu_s,
    }
    notes = [] if loader.num_workers else ["no workers: batch_mib is the size of a batch, nothing crosses a boundary"]
    settings = {
        "split": "train",
        "dataset_clips": len(dataset),
        "batch_size": cfg.TRAIN.BATCH_SIZE,
        "batches": batches,
        "warmup": warmup,
    }
    return Report("loader", METHOD, [row], notes, settings)


class _Seen:
    """Counts over some batches; sizes are bytes of all inputs of a batch."""

    def __init__(self) -> None:
        self.batches = self.clips = self.bad = 0
        self.sizes: list[int] = []
        self.float_sizes: list[int] = []

    def add(self, batch: dict[str, Any]) -> None:
        self.batches += 1
        self.clips += len(batch["id"])
        self.bad += len(batch["bad"])
        tensors = [value for value in batch.get("inputs", {}).values() if isinstance(value, Tensor)]
        if tensors:
            self.sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
            self.float_sizes.append(sum(tensor.numel() * 4 for tensor in tensors))


class _Epochs:
    """Reads any number of batches, epoch after epoch.

    The last epoch is cut in the sampler, so that no worker decodes a batch that is not counted.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.epoch = 0
        self.whole = len(loader.batch_sampler)

    def read(self, count: int) -> _Seen:
        seen = _Seen()
        sampler = self.loader.batch_sampler
        while seen.batches < count:
            sampler.set_position(self.epoch)
            sampler.num_batches = min(self.whole, count - seen.batches)
            for batch in self.loader:
                seen.add(batch)
            self.epoch += 1
        return seen
