"""Meters: they collect named scalars and write SlowFast's ``json_stats`` lines.

Values of an iteration line are medians over the last LOG_PERIOD iterations; values of an epoch line are
sample-weighted means. Errors are in percent, times in seconds.
"""

import datetime
import logging
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Iteration:
    """One that was learnt from: ``stats`` may have to be waited for."""

    stats: Mapping[str, float]
    times: Mapping[str, float]
    samples: int


class TrainMeter:
    """Statistics of one training epoch after another.

    The figures of an iteration are looked at when the next one is there, so that a device need not be waited for, or
    before anything is said of them: what is said is always up to the last iteration.
    """

    def __init__(self, iters_per_epoch: int, max_epoch: int, log_period: int) -> None:
        self.iters_per_epoch = iters_per_epoch
        self.max_epoch = max_epoch
        self.log_period = log_period
        self.watch = Stopwatch()
        self.reset()

    def reset(self) -> None:
        self.window: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=self.log_period))
        self._sums: dict[str, float] = defaultdict(float)
        self._samples: dict[str, int] = defaultdict(int)  # by name: a gradient norm comes once per accumulated step
        self._unread: list[_Iteration] = []
        self.lr = 0.0
        self.watch = Stopwatch()

    def update(self, stats: Mapping[str, float], lr: float, samples: int) -> None:
        """Add figures: ``stats`` are means over the ``samples`` of one iteration."""
        self.lr = lr
        self._read()
        self._unread.append(_Iteration(stats, self._times(), samples))

    def _read(self) -> None:
        """Count what has not been looked at."""
        unread, self._unread = self._unread, []
        for one in unread:
            for key, value in {**one.stats, **one.times}.items():
                self.window[key].append(value)
            for key, value in one.stats.items():
                self._sums[key] += value * one.samples
                self._samples[key] += one.samples

    def means(self) -> dict[str, float]:
        """Return sample-weighted means of the epoch so far."""
        self._read()
        return {key: total / self._samples[key] for key, total in self._sums.items()}

    def log_iter(self, epoch: int, iteration: int) -> None:
        """Write a ``train_iter`` line if this iteration (from 0) closes a log period."""
        if (iteration + 1) % self.log_period:
            return
        self._read()
        medians = {key: statistics.median(values) for key, values in self.window.items()}
        for key, value in self._times().items():  # all there is where an epoch begins with clips that cannot be read
            medians.setdefault(key, value)
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
        """Return what an epoch that is cut in two needs to report the same means."""
        self._read()
        return {"sums": dict(self._sums), "samples": dict(self._samples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where ``state`` was taken; what was counted since the last reset is forgotten."""
        self._unread = []
        self._sums = defaultdict(float, state["sums"])
        self._samples = defaultdict(int, state["samples"])

    def mark(self) -> Any:
        """Return where it stands, for :meth:`go_back`; looks at nothing that might have to be waited for."""
        return dict(self._sums), dict(self._samples), list(self._unread)

    def go_back(self, mark: Any) -> None:
        """Stand where ``mark`` was taken."""
        sums, samples, unread = mark
        self.reset()
        self.load_state_dict({"sums": sums, "samples": samples})
        self._unread = list(unread)

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
