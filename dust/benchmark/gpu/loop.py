"""Stages that run dust's own training: what the loop costs around a step, exact resume, and what the loader gives."""

import importlib.util
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dust.benchmark.cost import MIB, usable_cores
from dust.benchmark.gpu.plan import Bench, Row
from dust.benchmark.gpu.speed import WAITED, BareStep, config, guarded, milliseconds, recipe
from dust.benchmark.in_memory import BATCHES, in_memory_config
from dust.benchmark.loader import benchmark_loader
from dust.config import with_values
from dust.engine.hooks import Hook, StepEnd
from dust.engine.run_dir import RunDir
from dust.engine.state import TrainState
from dust.engine.train import Trainer, build_trainer
from dust.launch.signals import Interrupted

#: Everything random at once.
RICH = (
    "AUG.ENABLE", "True", "AUG.AA_TYPE", "", "AUG.RE_PROB", "0.25", "MIXUP.ENABLE", "True", "EMA.ENABLED", "True",
    "SOLVER.CLIP_GRAD_L2NORM", "1.0",
)  # fmt: skip
_RANDOM = ("TIMESFORMER.DROP_RATE", "0.1", "TIMESFORMER.DROP_PATH_RATE", "0.1")
LOG_PERIOD = 10
#: Of 32 clips of 8x224x224, uint8. Workers hand them on through shared memory, of which a container may have little.
BATCH_BYTES = 32 * 3 * 8 * 224 * 224
SHARED_MEMORY = Path("/dev/shm")


def _in_memory(bench: Bench, folder: Path, batches: int, clips: int, *words: str) -> Any:
    """Return a training of the main model on clips in memory, which writes into ``folder``."""
    os.environ[BATCHES] = str(batches)
    file, overrides = recipe(bench, "TimeSformer-B")
    gpus = str(int(bench.device == "cuda"))
    size = ("TRAIN.BATCH_SIZE", str(clips), "GLOBAL_BATCH_SIZE", str(clips), "LOG_PERIOD", str(LOG_PERIOD))
    return in_memory_config(file, overrides, "NUM_GPUS", gpus, "OUTPUT_DIR", str(folder), *size, *words)


def workers(bench: Bench, most: int) -> int:
    """Return how many of the loader's workers this machine has cores and shared memory for; none in tiny sizes."""
    if not bench.full:
        return 0
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 2**40
    return max(0, min(most, usable_cores() - 1, free // (3 * BATCH_BYTES)))  # two batches ahead, and the one in work


@dataclass
class Probe(Hook):
    """Notes at the end of each batch, after all other hooks: the clock, the warnings so far, the device's memory."""

    warned: Sequence[Any] = ()
    stamps: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def after_step(self, state: TrainState, end: StepEnd) -> None:
        self.stamps.append(perf_counter())
        self.counts.append(len(self.warned))
        self.memory.append(torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)


@dataclass
class StopAt(Hook):
    """Ask the run to stop, as a queue does, when it has learnt from so many batches."""

    batches: int
    seen: int = 0

    def after_step(self, state: TrainState, end: StepEnd) -> None:
        self.seen += 1
        if self.seen == self.batches:
            os.kill(os.getpid(), signal.SIGTERM)


def _trained(cfg: Any, *hooks: Hook) -> Trainer:
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.hooks += hooks
    try:
        trainer.fit()
    finally:
        trainer.close()
    return trainer


def _tensors(trainer: Trainer) -> list[Tensor]:
    state = trainer.state
    averages = {} if state.ema is None else state.ema.module.state_dict()
    leaves = tree_leaves((state.model.state_dict(), state.optimizer.state_dict(), averages))
    return [one.detach().cpu().clone() for one in leaves if isinstance(one, Tensor)]


def resume(bench: Bench) -> Iterator[Row]:
    """Measure two epochs whole, and the same stopped by a signal and begun again, from each form of a checkpoint."""
    clips = 8 if bench.full else 2
    # bits do not depend on the depth, and what is saved and hashed, five times, is a third
    depth = ("TIMESFORMER.DEPTH", "4") if bench.full else ()
    words = (*RICH, *_RANDOM, *depth, "TRAIN.DETERMINISTIC", "True", "SOLVER.MAX_EPOCH", "2",
             "TRAIN.CHECKPOINT_PERIOD", "1", "GLOBAL_BATCH_SIZE", str(2 * clips))  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as name:
        whole = _tensors(_trained(_in_memory(bench, Path(name) / "whole", 4, clips, *words)))
        for form in ("full", "sharded"):
            cfg = _in_memory(bench, Path(name) / form, 4, clips, *words, "TRAIN.CHECKPOINT_FORMAT", form)
            yield from guarded(form, _resumed_rows(form, cfg, whole))


def _resumed_rows(form: str, cfg: Any, whole: list[Tensor]) -> Iterator[Row]:
    stopped = "no"
    try:
        _trained(cfg, StopAt(5))
    except Interrupted as error:
        stopped = str(error)
    yield Row(f"{form}: the run was stopped by", stopped, "", "SIGTERM")
    trainer = _trained(cfg)
    again = _tensors(trainer)
    same = len(whole) == len(again) and stopped != "no"
    differ = sum(not torch.equal(a, b) for a, b in zip(whole, again, strict=True)) if same else None
    yield Row(f"{form}: resumed / whole: of {len(whole)} tensors differ", differ, "", "0", at_most=0)
    yield Row(f"{form}: optimizer steps of the resumed run", trainer.state.updates, "", "4", at_most=4, at_least=4)


def loop(bench: Bench) -> Iterator[Row]:
    """Measure the whole loop beside the bare step: what it adds, where it waits, whether memory grows; and a pause to
    save."""
    device, clips = torch.device(bench.device), 32 if bench.full else 2
    bare = BareStep(config(bench, "TimeSformer-B"), device, clips)
    alone = milliseconds(bare, device, count=20 if bench.full else 2, warmup=5 if bench.full else 1)
    yield bench.speed("the bare step", alone, "ms")
    del bare
    batches = 40 if bench.full else 6
    loader = ("DATA_LOADER.NUM_WORKERS", str(workers(bench, 8)))
    yield Row("the loader's workers", int(loader[1]), "", "8; with none, batches are made between steps")
    for name, words in (("the loop", ()), ("with erasing, MixUp, EMA, clipping", RICH)):
        with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder:
            cfg = _in_memory(bench, Path(folder), batches, clips, *loader, *words)
            yield from guarded(name, _loop_rows(bench, name, alone, cfg))
    for name, asynchronous in (("synchronous", "False"), ("asynchronous", "True")):
        if bench.left() < (20 if bench.full else 2):
            yield Row(f"{name} save", "left out: no time")
            continue
        with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder:
            saves = (
                "TRAIN.CHECKPOINT_PERIOD_ITERS",
                "10" if bench.full else "3",
                "TRAIN.CHECKPOINT_ASYNC",
                asynchronous,
            )
            cfg = _in_memory(bench, Path(folder), batches, clips, *loader, *saves)
            probe = Probe()
            _trained(cfg, probe)
            yield _pause(bench, f"{name} save", probe, int(saves[1]))


def _loop_rows(bench: Bench, name: str, alone: float, cfg: Any) -> Iterator[Row]:
    cuda, first = bench.device == "cuda", 10 if bench.full else 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        probe = Probe([])
        probe.warned = caught
        try:
            _trained(cfg, probe)
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
    taken = [
        1e3 * (after - before) for before, after in zip(probe.stamps[first:], probe.stamps[first + 1 :], strict=False)
    ]
    limits = {"at_most": 1.0} if name == "the loop" else {}
    yield bench.speed(f"{name}: a batch", median(taken), "ms")
    yield bench.speed(f"{name}: more than the bare step", median(taken) - alone, "ms", "< 1", **limits)
    quiet = [number for number in range(first, len(probe.counts)) if (number + 1) % LOG_PERIOD]
    waits = [
        f"{Path(one.filename).name}:{one.lineno}"
        for number in quiet
        for one in caught[probe.counts[number - 1] : probe.counts[number]]
        if WAITED in str(one.message)
    ]
    words = ", ".join(f"{place} {waits.count(place)}x" for place in sorted(set(waits))[:6])
    limits = {"at_most": 0.0} if name == "the loop" else {}
    yield bench.speed(
        f"{name}: synchronisations a step without a log line", len(waits) / len(quiet), "", words or "0", **limits
    )
    grown = (probe.memory[-1] - probe.memory[first]) / MIB
    yield Row(f"{name}: memory more after {len(probe.memory)} batches", grown, "MiB", "0", at_most=1.0)


def _pause(bench: Bench, name: str, probe: Probe, period: int) -> Row:
    """Return how much longer a batch takes that ends with a save, and the one behind it, than the others."""
    taken = {
        number: after - before
        for number, (before, after) in enumerate(zip(probe.stamps, probe.stamps[1:], strict=False), 2)
    }
    saving = [number for number in taken if number % period == 0]
    others = [took for number, took in taken.items() if number % period > 1]
    steps = [taken[number] + taken.get(number + 1, median(others)) - 2 * median(others) for number in saving]
    return bench.speed(f"{name}: pause", median(steps), "s", "< 0.6; async < 0.05 with pinned memory")


def feed(bench: Bench) -> Iterator[Row]:
    """Measure what the loader gives from files of H.264: 340x256, 10 s, a key frame every 250 frames, made on the
    spot."""
    if importlib.util.find_spec("av") is None:
        yield Row("the loader", "left out: PyAV is not installed (pip install av)")
        return
    count, frames = (16, 300) if bench.full else (3, 12)
    loaders = workers(bench, 64)
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as name:
        folder = Path(name)
        names = 40 * count if bench.full else 2 * count  # a file has several names: an epoch of enough batches
        for number in range(names):
            path = folder / f"{number}.mp4"
            if number < count:
                _write_clip(path, frames, seed=number)
            else:
                path.symlink_to(folder / f"{number % count}.mp4")
        lines = [f"{number}.mp4,{number % count % 2}" for number in range(names)]
        (folder / "train.csv").write_text("\n".join(["path,label", *lines, ""]))
        words = ("DATA.PATH_TO_DATA_DIR", name, "DATA_LOADER.NUM_WORKERS", str(loaders), "MODEL.NUM_CLASSES", "2")
        batch = "32" if bench.full else "1"
        cfg = config(bench, "TimeSformer-B", *words, "TRAIN.BATCH_SIZE", batch, "GLOBAL_BATCH_SIZE", batch)
        randaugment = {"AUG.ENABLE": True, "AUG.NUM_SAMPLE": 1, "AUG.AA_TYPE": "rand-m7-n4-mstd0.5-inc1"}
        augmented = with_values(cfg, randaugment)
        for title, one, expected in (("the loader", cfg, "~400"), ("with RandAugment", augmented, "~250")):
            report = benchmark_loader(one, batches=12 if bench.full else 2, warmup=3 if bench.full else 1)
            row = report.figures[0]
            yield bench.speed(
                f"{title}: clips, {loaders} workers",
                row["clips_per_s"],
                "/s",
                f"{expected}; a GPU takes ~300",
            )
            yield bench.speed(f"{title}: CPU", row["cpu_ms_per_clip"], "ms a clip", "36" if one is cfg else "68")


def _write_clip(path: Path, frames: int, seed: int) -> None:
    import av
    import numpy as np

    rng = np.random.RandomState(seed)
    picture = np.kron(rng.randint(0, 256, (32, 43, 3)), np.ones((8, 8, 1))).astype(np.uint8)[:, :340]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"g": "250", "preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for number in range(frames):
            moved = np.ascontiguousarray(np.roll(picture, 2 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
