"""What a second process brings: clips per second of whole optimizer steps, data in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from dust.benchmark.cost import usable_cores
from dust.benchmark.in_memory import Stamps, in_memory_config, train_in_memory
from dust.benchmark.report import Report
from dust.utils.errors import DustError

METHOD = (
    "dust's own training loop (Trainer.fit, launched as run_net launches it) on random uint8 clips in memory, without "
    "loader workers: loader, normalising, forward, loss, backward, exchange of gradients (DDP over gloo), clipping and "
    "the optimizer's step. Every row and round is a training of its own; in each round the rows run one after the "
    "other. clips_per_s is that of all processes together over the steps after the warm-up, the median of the rounds; "
    "times is the median of the rounds' ratios to the first row. fastest is the best round's clips_per_s and "
    "fastest_times its ratio to the first row's best: on a machine that others use too, the figure they disturb least. "
    "cpu_ms is the CPU time of a process per step. The row without exchange is what the machine allows: the same "
    "trainings side by side, each alone."
)


@dataclass(frozen=True)
class Case:
    """A row: ``processes`` that train together, or ``runs`` side by side, with ``batch`` clips per step in all."""

    name: str
    processes: int
    runs: int
    batch: int


def cases(processes: int, batch: int) -> list[Case]:
    """Return the rows that are compared; ``batch`` clips for the single process."""
    return [
        Case("1 process", 1, 1, batch),
        Case(f"{processes} processes without exchange", 1, processes, processes * batch),
        Case(f"{processes} processes, same batch each", processes, 1, processes * batch),
        Case(f"{processes} processes, same global batch", processes, 1, batch),
    ]


def benchmark_scaling(
    cfg_file: str,
    overrides: Sequence[str] = (),
    *,
    processes: int = 2,
    threads: int = 1,
    steps: int = 60,
    warmup: int = 5,
    rounds: int = 5,
) -> Report:
    """Compare one process against several, each with ``threads`` threads: with the same batch per process, and with the
    same global batch. The configuration's TRAIN.BATCH_SIZE is that of the single process.

    Raises:
        DustError: counts that are too small.
    """
    counts = {"--threads": threads, "--steps": steps, "--warmup": warmup, "--rounds": rounds}
    problems = [f"{name} {value}: at least 1" for name, value in counts.items() if value < 1]
    problems += [f"--processes {processes}: at least 2"] if processes < 2 else []
    if problems:
        raise DustError("; ".join(problems))
    rows = cases(processes, in_memory_config(cfg_file, overrides, "NUM_PROCS_PER_NODE", "1").TRAIN.BATCH_SIZE)
    cfgs = [_config(cfg_file, overrides, case) for case in rows]
    rates: list[list[float]] = [[] for _ in rows]
    cpu: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for number, (case, cfg) in enumerate(zip(rows, cfgs, strict=True)):
            stamps = train_in_memory(cfg, warmup + steps + 1, threads=threads, runs=case.runs)
            rates[number].append(clips_per_second(stamps, warmup, case.batch))
            cpu[number].append(median(np.diff(one.cpu[warmup:]).mean() for one in stamps))
    figures = [_row(case, rates[n], cpu[n], rates[0]) for n, case in enumerate(rows)]
    settings = {
        "model": cfgs[0].MODEL.MODEL_NAME,
        "frames": cfgs[0].DATA.NUM_FRAMES,
        "crop": cfgs[0].DATA.TRAIN_CROP_SIZE,
        "steps": steps,
        "warmup": warmup,
        "rounds": rounds,
        "threads_per_process": threads,
    }
    notes = ["GLOBAL_BATCH_SIZE is left out: every batch is a step here"] if _accumulates(cfg_file, overrides) else []
    if processes * threads > usable_cores():
        notes.append(f"{processes} processes of {threads} threads share {usable_cores()} cores")
    return Report("scaling", METHOD, figures, notes, settings)


def _config(cfg_file: str, overrides: Sequence[str], case: Case):
    batch = case.batch // case.runs
    keys = {"NUM_PROCS_PER_NODE": case.processes, "TRAIN.BATCH_SIZE": batch, "GLOBAL_BATCH_SIZE": 0}
    return in_memory_config(cfg_file, overrides, *(str(word) for pair in keys.items() for word in pair))


def _accumulates(cfg_file: str, overrides: Sequence[str]) -> bool:
    return bool(in_memory_config(cfg_file, overrides, "NUM_PROCS_PER_NODE", "1").GLOBAL_BATCH_SIZE)


def clips_per_second(stamps: Sequence[Stamps], warmup: int, batch: int) -> float:
    """Return the clips per second of all processes, over the time in which all of them are past their warm-up and none
    has ended.

    Args:
        warmup: batches of each process that do not count.
        batch: clips per step, all processes together.
    """
    begin, end = max(one.wall[warmup] for one in stamps), min(one.wall[-1] for one in stamps)
    # the number of the batch, fractions of a step included, that each process works on at a moment
    done = [float(np.diff(np.interp([begin, end], one.wall, np.arange(len(one.wall))))[0]) for one in stamps]
    return sum(done) * (batch / len(stamps)) / (end - begin)


def _row(case: Case, rates: list[float], cpu: list[float], base: list[float]) -> dict[str, Any]:
    return {
        "case": case.name,
        "batch": case.batch,
        "clips_per_s": median(rates),
        "times": median(one / other for one, other in zip(rates, base, strict=True)),
        "fastest": max(rates),
        "fastest_times": max(rates) / max(base),
        "ms_per_step": 1e3 * case.batch / median(rates),
        "cpu_ms": 1e3 * median(cpu),
    }
