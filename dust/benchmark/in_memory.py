"""Real training on clips that stand in memory: what is timed is dust's own loop, from one batch to the next."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from dust.benchmark.device import with_classes
from dust.benchmark.model import in_own_process
from dust.config import CfgNode, load_config, processes_per_node, with_values
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.manifest import Clip
from dust.datasets.sample import SampleRequest, class_counts, target_of
from dust.engine.run_dir import RunDir
from dust.engine.train import build_trainer
from dust.launch.launcher import launch
from dust.utils import distributed
from dust.utils.errors import DustError

#: Different clips that stand in memory; a data set repeats them.
POOL = 32
#: What the loop is given instead of a configuration's own data; nothing else of the training changes.
OVERRIDES = (
    "TRAIN.ENABLE", "True", "TRAIN.DATASET", "InMemoryClips", "TRAIN.EVAL_PERIOD", "0", "TRAIN.CHECKPOINT_PERIOD", "0",
    "TRAIN.CHECKPOINT_FILE_PATH", "", "TEST.ENABLE", "False", "FEATURES.ENABLE", "False", "SOLVER.MAX_EPOCH", "1",
    "SOLVER.WARMUP_EPOCHS", "0", "DATA_LOADER.NUM_WORKERS", "0", "TENSORBOARD.ENABLE", "False", "WANDB.ENABLE", "False",
    "NUM_GPUS", "0", "NUM_SHARDS", "1",
)  # fmt: skip
#: Environment variables of the processes, for what a configuration has no key: how many batches the training set has,
#: and how many runs wait for each other.
BATCHES, RUNS = "DUST_BENCHMARK_BATCHES", "DUST_BENCHMARK_RUNS"


@DATASET_REGISTRY.register()
class InMemoryClips(Dataset[Any]):
    """Random uint8 clips (C, T, H, W) of the configured size, random labels, and the moment each batch is asked for.

    Read it without workers: the training process then asks for a batch right after the step before, so that the
    distance of two stamps (``wall`` and ``cpu`` seconds) is a whole step, with everything that dust does around it.

    Args:
        clip_shape: (C, T, H, W).
        length: number of clips.
        num_sample: views of each.
    """

    def __init__(
        self,
        *,
        clip_shape: tuple[int, int, int, int],
        length: int,
        num_classes: int,
        multi_label: bool = False,
        num_sample: int = 1,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pool = torch.randint(256, (POOL, *clip_shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(num_classes, (POOL,), generator=generator).tolist()
        self.clips = [Clip(id=f"{i:07d}", path="", label=labels[i % POOL]) for i in range(length)]
        self.class_names = [str(index) for index in range(num_classes)]
        self.multi_label, self.num_sample = multi_label, num_sample
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @classmethod
    def from_config(
        cls, cfg: CfgNode, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        """Return as many clips as the batches that the environment asks for."""
        side, frames = cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES * cfg.DATA.CLIPS_PER_VIEW
        return {
            "clip_shape": (cfg.DATA.INPUT_CHANNEL_NUM[0], frames, side, side),
            "length": int(os.environ[BATCHES]) * cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "multi_label": cfg.DATA.MULTI_LABEL,
            "num_sample": cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1,
            "seed": cfg.RNG_SEED,
        }

    def __len__(self) -> int:
        return len(self.clips)

    def class_counts(self) -> list[int]:
        return class_counts(self.clips, len(self.class_names))

    def __getitem__(self, draw: SampleRequest) -> list[dict[str, Any]]:
        clip = self.clips[draw.sample]
        sample = {
            "inputs": {"video": self.pool[draw.sample % POOL]},
            "label": target_of(clip.label, len(self.class_names), self.multi_label),
            "id": clip.id,
            "path": clip.path,
        }
        return [sample] * self.num_sample

    def __getitems__(self, draws: Sequence[SampleRequest]) -> list[list[dict[str, Any]]]:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        return [self[draw] for draw in draws]


def in_memory_config(cfg_file: str, overrides: Sequence[str], *more: str):
    """Return the configuration with its data in memory and nothing but training, on the CPU of this machine."""
    return with_classes(load_config(cfg_file, [*overrides, *OVERRIDES, *more]))


@dataclass(frozen=True)
class Stamps:
    """When one process asked for each batch: ``wall`` seconds of a clock that all processes share, and ``cpu`` seconds
    of all its threads. The work on the last batch has no end here."""

    wall: list[float]
    cpu: list[float]


def train_in_memory(cfg, batches: int, *, threads: int = 1, runs: int = 1) -> list[Stamps]:
    """Train once over ``batches`` batches, each process with ``threads`` threads, in processes of their own.

    Args:
        runs: so many trainings of a single process side by side that know nothing of each other. They begin together.

    Returns:
        The stamps of every process, by rank (or by run).

    Raises:
        DustError: the training failed; its own words stand above.
    """
    count = processes_per_node(cfg)
    settings = {BATCHES: batches, RUNS: runs, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder, _environment(settings):
        cfgs = [_in_folder(cfg, Path(folder) / f"run{run}") for run in range(runs)]
        if count > 1:  # launch starts them
            code = launch(cfgs[0], _train)
            if code:
                raise DustError(f"the training of the benchmark ended with exit code {code}")
        else:
            with ThreadPoolExecutor(runs) as pool:
                list(pool.map(lambda one: in_own_process(_train, one), cfgs))
        files = [Path(one.OUTPUT_DIR) / f"stamps{rank}.json" for one in cfgs for rank in range(count)]
        return [Stamps(**json.loads(file.read_text())) for file in files]


def _in_folder(cfg, folder: Path):
    return with_values(cfg, {"OUTPUT_DIR": str(folder)})


def _train(cfg) -> None:
    run = RunDir(cfg.OUTPUT_DIR)
    trainer = build_trainer(cfg, run)
    _wait_for_the_others(run.path)
    trainer.fit()
    dataset: Any = trainer.loader.dataset
    stamps = {"wall": dataset.wall, "cpu": dataset.cpu}
    (run.path / f"stamps{distributed.rank()}.json").write_text(json.dumps(stamps))


def _wait_for_the_others(folder: Path, patience: float = 120.0) -> None:
    """Return once all runs that were started side by side are this far."""
    (folder / "ready").touch()
    deadline = time.monotonic() + patience
    while len(list(folder.parent.glob("run*/ready"))) < int(os.environ[RUNS]):
        if time.monotonic() > deadline:
            raise DustError(f"another run of the benchmark was not ready within {patience:.0f} seconds")
        time.sleep(0.01)


@contextlib.contextmanager
def _environment(values: dict[str, Any]) -> Iterator[None]:
    """Set variables for the processes that are started while this lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
