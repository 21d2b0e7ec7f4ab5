"""Whether a long training holds more and more memory."""

import gc
import logging
import tempfile
from collections.abc import Sequence

import numpy as np
import psutil

from dust.benchmark.report import Report
from dust.config import load_config
from dust.engine.hooks import Hook, StepEnd
from dust.engine.run_dir import RunDir
from dust.engine.state import TrainState
from dust.engine.train import build_trainer
from dust.utils.errors import DustError

METHOD = (
    "One training in this process: decoding, augmentation, evaluations, checkpoints and log lines as the configuration "
    "says. After every so many steps the process's resident memory and the number of Python's objects are read, the "
    "garbage collector having run. "
    "growth_mb_per_1000_steps is the slope of a straight line through the second half of these figures."
)
#: A file of the run's own; everything else as configured.
OVERRIDES = ("TRAIN.AUTO_RESUME", "True", "TRAIN.ENABLE", "True", "DATA_LOADER.NUM_WORKERS", "0")
ROWS = 20


class _Enough(Exception):
    """So many steps were asked for."""


class _Memory(Hook):
    """Reads this process's memory ROWS times over ``steps`` optimizer steps, then ends the run."""

    def __init__(self, steps: int) -> None:
        self.steps, self.rows = steps, list[tuple[int, float, int]]()

    def after_step(self, state: TrainState, step: StepEnd) -> None:
        if step.stepped and state.updates % (self.steps // ROWS) == 0:
            gc.collect()
            resident = psutil.Process().memory_info().rss / 2**20
            self.rows.append((state.updates, resident, len(gc.get_objects())))
        if state.updates >= self.steps:
            raise _Enough


def benchmark_memory(cfg_file: str | None, overrides: Sequence[str] = (), *, steps: int = 10_000) -> Report:
    """Measure resident memory over a training of so many optimizer steps.

    Raises:
        DustError: fewer than 100 steps, or a training that ends before.
    """
    if steps < 100:
        raise DustError(f"--steps {steps}: at least 100")
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder:
        cfg = load_config(cfg_file, [*overrides, *OVERRIDES, "OUTPUT_DIR", folder])
        memory, level = _Memory(steps), logging.getLogger("dust").level
        logging.getLogger("dust").setLevel(logging.ERROR)
        trainer = build_trainer(cfg, RunDir(folder))
        trainer.hooks.append(memory)
        try:
            trainer.fit()
        except _Enough:
            pass
        finally:
            trainer.close()
            logging.getLogger("dust").setLevel(level)
    if len(memory.rows) < ROWS:
        raise DustError(f"the training ended after {trainer.state.updates} of {steps} steps: raise SOLVER.MAX_EPOCH")
    late = np.array(memory.rows[ROWS // 2 :])
    growth = 1000 * float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    names = ("steps", "resident_mb", "objects")
    figures = [dict(zip(names, (count, round(size, 1), objects), strict=True)) for count, size, objects in memory.rows]
    notes = [f"growth_mb_per_1000_steps {growth:.3f} over the second half"]
    return Report("memory", METHOD, figures, notes, {"steps": steps, "batch": cfg.TRAIN.BATCH_SIZE})
