"""What somebody who watches a training on a terminal wants to know: a row for each epoch.

``stdout.log``, and the console where it is no terminal, have the ``json_stats`` lines instead.
"""

import contextlib
import datetime
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dust.engine.hooks import EpochEnd, EvaluationEnd, Hook, StepEnd
from dust.engine.state import TrainState
from dust.utils import distributed
from dust.utils.logging import write_above_progress
from dust.utils.meters import TrainMeter

#: From this share of its time on that training waits for data, a line says so and what to do.
SLOW_DATA = 0.25
#: The header is written again after so many rows.
PAGE = 20
METRIC = "metric"  # the column of the figure that says which epoch is best, which has that figure's name
#: What is left out first where a terminal is too narrow for a row.
LESS = ("clips/s", "best", "eta", "data")


@dataclass
class _Epoch:
    """Of one epoch, in this process: samples, seconds of computing and of waiting for data, and its loss's sum."""

    samples: int = 0
    computing: float = 0.0
    waiting: float = 0.0
    loss: float = 0.0
    unread: list[StepEnd] = field(default_factory=list)  # the last one: a device would have to be waited for
    begun: float = field(default_factory=time.perf_counter)

    def read(self) -> None:
        for step in self.unread:
            losses = [value for name, value in step.stats.items() if name == "loss" or name.endswith("_loss")]
            self.loss += sum(losses) * step.samples
        self.unread.clear()


def columns_of_terminal() -> int:
    """Return how many characters a line of the terminal has, by default 200."""
    return shutil.get_terminal_size((200, 24)).columns


class EpochTable(Hook):
    """Writes ``epoch  loss  METRIC  best  clips/s  data  eta`` after each epoch, as many of these as a line holds.

    Args:
        meter: of the training, whose stopwatch tells waiting from computing.
        metric: the validation figure that says which epoch is best.
        write: takes a line.
        processes: that learn side by side; the speed is that of all.
        columns: says how long a line may be.
    """

    def __init__(
        self,
        meter: TrainMeter,
        metric: str,
        write: Callable[[str], None] = write_above_progress,
        processes: int = 1,
        columns: Callable[[], int] = columns_of_terminal,
    ) -> None:
        self.meter, self.metric, self.write, self.processes, self.columns = meter, metric, write, processes, columns
        self.epoch = _Epoch()
        self.value: float | None = None
        self.rows = 0
        self.slow = False  # whether the last row waited too long for data
        self.heads: list[str] = []
        self.widths = {
            "epoch": 9,
            "loss": 9,
            METRIC: max(10, len(metric)),
            "best": 9,
            "clips/s": 8,
            "data": 5,
            "eta": 8,
        }

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        one = self.epoch
        one.samples += step.samples
        one.waiting += self.meter.watch.dt_data
        one.computing += self.meter.watch.dt_net
        one.read()
        one.unread.append(step)

    def after_evaluation(self, state: TrainState, result: EvaluationEnd) -> None:
        self.value = result.metrics.get(self.metric)

    def after_epoch(self, state: TrainState, end: EpochEnd) -> None:
        one, total = self.epoch, self.meter.max_epoch
        one.read()
        spent = one.waiting + one.computing
        share = one.waiting / spent if spent else 0.0
        loss = f"{one.loss / one.samples:.4f}" if one.samples else "-"
        value = "-" if self.value is None else f"{self.value:.2f}" + ("*" if end.improved else " ")
        best = state.best.get("value")
        shown = f"{best:.2f}" if isinstance(best, int | float) else "-"
        speed = f"{self.processes * one.samples / spent:.1f}" if spent else "-"
        whole = time.perf_counter() - one.begun  # with evaluation and saving
        left = datetime.timedelta(seconds=round(whole * (total - end.epoch)))
        cells = (f"{end.epoch:>4}/{total:<4}", loss, value, shown, speed, f"{share:.0%}", str(left))
        self._say_row(dict(zip(self.widths, cells, strict=True)))
        slow, self.slow = self.slow, share >= SLOW_DATA
        if self.slow and (not slow or self.rows % PAGE == 1):  # not below every row
            self._say(f"    waiting {share:.0%} for data: more NUM_WORKERS, or dust prepare")
        self.epoch, self.value = _Epoch(), None

    def _say_row(self, cells: dict[str, str]) -> None:
        heads, room = list(self.widths), self.columns()
        for less in LESS:
            if sum(self.widths[head] + 2 for head in heads) - 2 > room:
                heads.remove(less)
        if not self.rows % PAGE or heads != self.heads:
            named = (self.metric if head == METRIC else head for head in heads)
            self._say("  ".join(f"{name:>{self.widths[head]}}" for head, name in zip(heads, named, strict=True)))
        self._say("  ".join(f"{cells[head]:>{self.widths[head]}}" for head in heads))
        self.rows, self.heads = self.rows + 1, heads

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that was closed; the log continues in its file
            self.write(line)


def build_epoch_table(meter: TrainMeter, metric: str) -> list[Hook]:
    """Return the table, where the first process's console is a terminal."""
    if not (sys.stdout.isatty() and distributed.is_main()):
        return []
    return [EpochTable(meter, metric, processes=distributed.world_size())]
