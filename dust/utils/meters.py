"""Meters: they collect named scalars and write SlowFast's ``json_stats`` lines.

Values of an iteration line are medians over the last LOG_PERIOD iterations; values of an epoch line are
sample-weighted means. Errors are in percent, times in seconds.
"""

import datetime
import logging
import statistics
import time
from collections import defaultdict, deque
from typing import Any

import psutil
import torch

from dust.utils.logging import log_json_stats

logger = logging.getLogger(__name__)


def gpu_mem() -> str:
    used = torch.cuda.max_memory_allocated() / 1024**3 if torch.cuda.is_available() else 0.0
    return f"{used:.2f}G"


def ram() -> str:
    memory = psutil.virtual_memory()
    return f"{(memory.total - memory.available) / 1024**3:.2f}/{memory.total / 1024**3:.2f}G"


def _eta(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class Stopwatch:
    """Splits an iteration into waiting for data and computing. Seconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.dt_data = self.dt_net = 0.0

    def data_ready(self) -> None:
        now = time.perf_counter()
        self.dt_data, self._last = now - self._last, now

    def step_done(self) -> None:
        now = time.perf_counter()
        self.dt_net, self._last = now - self._last, now

    @property
    def dt(self) -> float:
        return self.dt_data + self.dt_net


class TrainMeter:
    """Statistics of one training epoch after another."""

    def __init__(self, iters_per_epoch: int, max_epoch: int, log_period: int) -> None:
        self.iters_per_epoch = iters_per_epoch
        self.max_epoch = max_epoch
        self.log_period = log_period
        self.watch = Stopwatch()
        self.reset()

    def reset(self) -> None:
        self.window: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=self.log_period))
        self.sums: dict[str, float] = defaultdict(float)
        self.samples: dict[str, int] = defaultdict(int)  # by name: a gradient norm comes once per accumulated step
        self.lr = 0.0
        self.watch = Stopwatch()

    def update(self, stats: dict[str, float], lr: float, samples: int) -> None:
        """``stats`` are means over the ``samples`` of one iteration."""
        self.lr = lr
        for key, value in {**stats, **self._times()}.items():
            self.window[key].append(value)
        for key, value in stats.items():
            self.sums[key] += value * samples
            self.samples[key] += samples

    def means(self) -> dict[str, float]:
        """Sample-weighted means of the epoch so far."""
        return {key: total / self.samples[key] for key, total in self.sums.items()}

    def log_iter(self, epoch: int, iteration: int) -> None:
        """Write a ``train_iter`` line if this iteration (from 0) closes a log period."""
        if (iteration + 1) % self.log_period:
            return
        medians = {key: statistics.median(values) for key, values in self.window.items()}
        left = (self.max_epoch - epoch) * self.iters_per_epoch - (iteration + 1)
        log_json_stats(
            logger,
            {
                "_type": "train_iter",
                "epoch": f"{epoch + 1}/{self.max_epoch}",
                "iter": f"{iteration + 1}/{self.iters_per_epoch}",
                "eta": _eta(medians["dt"] * left),
                "lr": self.lr,
                "gpu_mem": gpu_mem(),
                **medians,
            },
        )

    def log_epoch(self, epoch: int, extra: dict[str, Any] | None = None) -> dict[str, float]:
        """Write the ``train_epoch`` line and return its means."""
        means = self.means()
        left = (self.max_epoch - epoch - 1) * self.iters_per_epoch
        times = {key: statistics.median(self.window[key] or [0.0]) for key in self._times()}
        log_json_stats(
            logger,
            {
                "_type": "train_epoch",
                "epoch": f"{epoch + 1}/{self.max_epoch}",
                "eta": _eta(times["dt"] * left),
                "lr": self.lr,
                "gpu_mem": gpu_mem(),
                "RAM": ram(),
                **times,
                **means,
                **(extra or {}),
            },
        )
        return means

    def state_dict(self) -> dict[str, Any]:
        """What an epoch that is cut in two needs to report the same means."""
        return {"sums": dict(self.sums), "samples": dict(self.samples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums.update(state["sums"])
        self.samples.update(state["samples"])

    def _times(self) -> dict[str, float]:
        return {"dt": self.watch.dt, "dt_data": self.watch.dt_data, "dt_net": self.watch.dt_net}


class ValMeter:
    """Progress and results of validation; remembers the best error of each kind."""

    def __init__(self, max_epoch: int, log_period: int) -> None:
        self.max_epoch = max_epoch
        self.log_period = log_period
        self.best: dict[str, float] = {}
        self._start = time.perf_counter()

    def start(self) -> None:
        self._start = time.perf_counter()

    def log_iter(self, epoch: int, done: int, total: int) -> None:
        """Write a ``val_iter`` line every LOG_PERIOD samples' worth of calls."""
        if done % self.log_period:
            return
        spent = time.perf_counter() - self._start
        log_json_stats(
            logger,
            {
                "_type": "val_iter",
                "epoch": f"{epoch + 1}/{self.max_epoch}",
                "iter": f"{done}/{total}",
                "time_diff": spent / done,
                "eta": _eta(spent / done * (total - done)),
                "gpu_mem": gpu_mem(),
            },
        )

    def log_epoch(self, epoch: int, metrics: dict[str, float], extra: dict[str, int] | None = None) -> None:
        """Write the ``val_epoch`` line: SlowFast's errors beside the metrics, and the least errors so far."""
        errors = {key.replace("_acc", "_err"): 100.0 - value for key, value in metrics.items() if _is_topk(key)}
        for key, value in errors.items():
            self.best[f"min_{key}"] = min(value, self.best.get(f"min_{key}", float("inf")))
        log_json_stats(
            logger,
            {
                "_type": "val_epoch",
                "epoch": f"{epoch + 1}/{self.max_epoch}",
                "time_diff": time.perf_counter() - self._start,
                "gpu_mem": gpu_mem(),
                "RAM": ram(),
                **{key: value for key, value in metrics.items() if not _is_topk(key)},
                **errors,
                **self.best,
                **(extra or {}),
            },
        )


class TestMeter:
    """Progress and the final line of a test."""

    __test__ = False  # pytest would otherwise take the class for a test

    def __init__(self, log_period: int, split: str = "test_final") -> None:
        self.log_period = log_period
        self.split = split
        self._start = time.perf_counter()

    def log_iter(self, done: int, total: int) -> None:
        if done % self.log_period:
            return
        spent = time.perf_counter() - self._start
        eta = _eta(spent / done * (total - done))
        log_json_stats(logger, {"split": "test_iter", "cur_iter": f"{done}", "eta": eta, "time_diff": spent / done})

    def log_final(self, metrics: dict[str, float]) -> None:
        log_json_stats(logger, {"split": self.split, **{key: f"{value:.2f}" for key, value in metrics.items()}})


def _is_topk(key: str) -> bool:
    return key.startswith("top") and key.endswith("_acc")
