"""What checkpoints cost a training while it runs: synchronous and asynchronous, one file and sharded."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from dust.benchmark.in_memory import Stamps, in_memory_config, train_in_memory
from dust.benchmark.report import Report
from dust.utils.errors import DustError

METHOD = (
    "dust's own training loop on random clips in memory, saving within the epoch every 2 x PERIOD steps. The PERIOD "
    "steps from a save on (with its pause, and what is written behind them) are compared with the PERIOD steps before "
    "the next save, in which nothing is saved, so that both see the same machine: share_percent is how much of the "
    "time of a training that saves every PERIOD steps goes to saving, the median of all pairs, from low to high "
    "quartile. pause_ms is what the step with the save takes longer than the median step, pause_percent the same as a "
    "share of PERIOD steps; cpu_percent is share_percent in CPU time of all threads, which neighbours disturb less; it "
    "leaves out waiting for the disk. Each row and round is a training of its own; the disk is that of TMPDIR."
)
#: Rows: name and what is set.
VARIANTS = {
    "full": ("full", "False"),
    "full, asynchronous": ("full", "True"),
    "sharded": ("sharded", "False"),
    "sharded, asynchronous": ("sharded", "True"),
}


def benchmark_saving(
    cfg_file: str,
    overrides: Sequence[str] = (),
    *,
    period: int = 50,
    saves: int = 4,
    processes: int = 1,
    threads: int = 1,
    rounds: int = 3,
) -> Report:
    """Measure the cost of saving every ``period`` steps; ``saves`` of them in each training.

    Raises:
        DustError: counts below 1, or a period that leaves nothing to compare.
    """
    counts = {"--saves": saves, "--processes": processes, "--threads": threads, "--rounds": rounds}
    problems = [f"{name} {value}: at least 1" for name, value in counts.items() if value < 1]
    problems += [f"--period {period}: at least 2"] if period < 2 else []
    if problems:
        raise DustError("; ".join(problems))
    keys = ["NUM_PROCS_PER_NODE", str(processes), "GLOBAL_BATCH_SIZE", "0"]
    keys += ["TRAIN.CHECKPOINT_PERIOD_ITERS", str(2 * period)]
    cfgs = {
        name: in_memory_config(
            cfg_file, overrides, *keys, "TRAIN.CHECKPOINT_FORMAT", form, "TRAIN.CHECKPOINT_ASYNC", background
        )
        for name, (form, background) in VARIANTS.items()
    }
    batches = 2 * period * (saves + 1) + 1
    taken: dict[str, list[Stamps]] = {name: [] for name in cfgs}
    for _ in range(rounds):
        for name, cfg in cfgs.items():
            taken[name].append(train_in_memory(cfg, batches, threads=threads)[0])
    first = next(iter(cfgs.values()))
    settings = {
        "model": first.MODEL.MODEL_NAME,
        "optimizer": first.SOLVER.OPTIMIZING_METHOD,
        "batch": first.TRAIN.BATCH_SIZE,
        "period": period,
        "saves": saves,
        "rounds": rounds,
        "processes": processes,
        "threads_per_process": threads,
    }
    return Report("saving", METHOD, [_row(name, stamps, period) for name, stamps in taken.items()], [], settings)


def saving_cost(wall: Sequence[float], period: int) -> list[tuple[float, float]]:
    """Return (share, pause) of each save: the share of time that it costs a run which saves every ``period`` steps, and
    the seconds by which its own step is longer than the median one.

    Args:
        wall: when each batch was asked for, or CPU seconds until then; a save comes after every ``2 * period`` of them.
    """
    steps = np.diff(wall)
    usual = float(np.median(steps))
    costs = []
    for save in range(2 * period - 1, len(steps), 2 * period):  # the step at whose end there is a save
        after, before_next = steps[save : save + period], steps[save + period : save + 2 * period]
        if len(before_next) == period:
            share = 1.0 - float(before_next.sum() / after.sum())
            costs.append((share, float(steps[save]) - usual))
    return costs


def _row(name: str, taken: list[Stamps], period: int) -> dict[str, Any]:
    costs = [cost for stamps in taken for cost in saving_cost(stamps.wall, period)]
    shares = [100 * share for share, _ in costs]
    cpu = [100 * share for stamps in taken for share, _ in saving_cost(stamps.cpu, period)]
    step = median(float(np.median(np.diff(stamps.wall))) for stamps in taken)
    pause = median(pause for _, pause in costs)
    return {
        "checkpoint": name,
        "share_percent": median(shares),
        "low": float(np.quantile(shares, 0.25)),
        "high": float(np.quantile(shares, 0.75)),
        "pause_ms": 1e3 * pause,
        "pause_percent": 100 * pause / (period * step + pause),
        "cpu_percent": median(cpu),
        "step_ms": 1e3 * step,
        "saves": len(costs),
    }
