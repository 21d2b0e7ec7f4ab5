"""Seconds per video of multi-view testing, and how they divide between reading and the model."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from dust.benchmark.cost import cpu_seconds
from dust.benchmark.device import one_device, synchronize
from dust.benchmark.report import Report
from dust.config import with_values
from dust.datasets.loader import construct_loader
from dust.datasets.sample import BadClip
from dust.engine.inference import Inference
from dust.engine.setup import build_autocast, build_compiled, build_device_transform, build_for
from dust.engine.stages import build_settled
from dust.engine.weights import weights_file
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils.checkpoint import learnt_of, load_weights, read_checkpoint
from dust.utils.errors import DataError

METHOD = (
    "Every video once, all its views, through the evaluation loop that TEST runs; one video is run beforehand and not "
    "counted. data = what the loop waits for a video (with workers, less than decoding takes; their CPU time is in its "
    "CPU column); model = all the rest of the loop."
)


class _Timed:
    """Iterates and notes how long that takes: wall, and CPU of this process."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items
        self.wall = self.cpu = 0.0
        self.good = self.bad = self.views = 0

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.items)
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            item = next(iterator, None)
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            if item is None:
                return
            if isinstance(item, BadClip):
                self.bad += 1
            else:
                self.good += 1
                self.views += len(next(iter(item["inputs"].values())))
            yield item


def benchmark_test(cfg, *, checkpoint: str, device: str = "auto", limit: int = 0) -> Report:
    """Test the first ``limit`` videos (0: all) of cfg's test split with the weights of ``checkpoint``."""
    cfg, where = one_device(cfg, device)
    path = weights_file(checkpoint, cfg.OUTPUT_DIR)
    cfg = build_settled(with_values(cfg, {"TEST.CHECKPOINT_FILE_PATH": path, "TRAIN.ENABLE": False}))
    model = build_for(cfg, where)
    load_weights(model, path)
    loader: Any = construct_loader(cfg, "test", learnt_of(read_checkpoint(path), path)[0])
    task = build_task(cfg, DataInfo(loader.dataset.class_names)).to(where)
    if limit:
        loader.sampler.indices = loader.sampler.indices[:limit]
    loop = Inference(
        build_compiled(cfg, model),
        task.forward,
        build_device_transform(cfg),
        where,
        micro_batch=cfg.TEST.BATCH_SIZE,
        autocast=build_autocast(cfg, where),
    )
    _warm_up(loop, loader.dataset)

    data = _Timed(loader)
    main_before, workers_before = cpu_seconds()
    started = time.perf_counter()
    for _ in loop(data):
        pass
    synchronize(where)
    wall = time.perf_counter() - started
    main, workers = cpu_seconds()
    if not data.good:
        raise DataError(f"none of the {data.bad} test clips could be read: nothing to measure")
    main, workers = main - main_before, workers - workers_before
    parts = {
        "data": (data.wall, data.cpu + workers),
        "model": (wall - data.wall, main - data.cpu),
        "total": (wall, main + workers),
    }
    rows = [
        {"part": name, "s_per_video": part[0] / data.good, "cpu_s_per_video": part[1] / data.good}
        for name, part in parts.items()
    ]
    settings = {
        "videos": data.good,
        "bad_clips": data.bad,
        "views_per_video": data.views / data.good,
        "micro_batch": cfg.TEST.BATCH_SIZE,
        "workers": loader.num_workers,
        "device": str(where),
        "threads": torch.get_num_threads(),
    }
    return Report("test", METHOD, rows, [], settings)


def _warm_up(loop: Inference, dataset: Any) -> None:
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, BadClip):
            list(loop([item]))
            return
