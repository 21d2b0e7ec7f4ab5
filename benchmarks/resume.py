"""How long a run takes from its start to its first step, when it continues from a checkpoint."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from dust.benchmark.report import Report
from dust.config import load_config, processes_per_node
from dust.utils.errors import DustError

METHOD = (
    "A run is stopped by TERM after two iterations, so that it saves within an epoch. Then, in each round, in turns: "
    "processes that only import what a training imports (imports_s, from start to end of the import; where dust starts "
    "several processes, its own imports and then theirs, all at once), and the same run again, which resumes, until "
    "its first iteration is in the log (first_step_s, from the start of the command; resumed_s until the checkpoint is "
    "loaded), after which it is killed, so that every round resumes from the same checkpoint. beyond_imports_s is the "
    "median of the rounds' differences."
)
LAUNCHER = "import dust.engine.run_net, dust.launch.launcher"
TRAINING = f"{LAUNCHER}, dust.engine.extract, dust.engine.test, dust.engine.train"
#: Lines of the log, as a run writes them.
FIRST_STEP, RESUMED = '"_type": "train_iter"', "resumed from"
#: One line per iteration, and no checkpoint but the one that is resumed from.
OVERRIDES = (
    "TRAIN.ENABLE", "True", "TRAIN.AUTO_RESUME", "True", "TRAIN.CHECKPOINT_PERIOD_ITERS", "0", "LOG_PERIOD", "1",
)  # fmt: skip
PATIENCE = 300.0  # seconds


def benchmark_resume(cfg_file: str, overrides: Sequence[str] = (), *, rounds: int = 5) -> Report:
    """Measure the seconds to the first step of a resumed run of this configuration, on its own data.

    Raises:
        DustError: fewer than 1 round, or a run that fails; its own words stand above.
    """
    if rounds < 1:
        raise DustError(f"--rounds {rounds}: at least 1")
    overrides = [*overrides, *OVERRIDES]
    cfg = load_config(cfg_file, overrides)
    count = processes_per_node(cfg)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as folder:
        command = [sys.executable, "-m", "dust.engine.run_net", "--cfg", cfg_file, *overrides, "OUTPUT_DIR", folder]
        with _started(command) as process:
            _wait_for(process, FIRST_STEP)
            _wait_for(process, FIRST_STEP)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
        checkpoints = [path.name for path in (Path(folder) / "checkpoints").iterdir() if "_iter_" in path.name]
        if not checkpoints:
            raise DustError("the run that was stopped has saved nothing: it needs an epoch of three iterations or more")
        for _ in range(rounds):
            imports = (_import_seconds(LAUNCHER) if count > 1 else 0.0) + _import_seconds(TRAINING, count)
            with _started(command) as process:
                resumed = _wait_for(process, RESUMED)
                first = _wait_for(process, FIRST_STEP)
            rows.append({"imports_s": imports, "resumed_s": resumed, "first_step_s": first})
    figures = {name: median(row[name] for row in rows) for name in rows[0]}
    figures["beyond_imports_s"] = median(row["first_step_s"] - row["imports_s"] for row in rows)
    figures["least"] = min(row["first_step_s"] for row in rows) - min(row["imports_s"] for row in rows)
    settings = {
        "model": cfg.MODEL.MODEL_NAME,
        "data": cfg.TRAIN.DATASET,
        "workers": cfg.DATA_LOADER.NUM_WORKERS,
        "processes": count,
        "rounds": rounds,
    }
    return Report("resume", METHOD, [{"case": "resume", **figures}], [], settings)


class _Run(subprocess.Popen):
    """A process, the head of a group of its own, with the moment at which it was started."""

    def __init__(self, command: Sequence[str]) -> None:
        self.begun = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        super().__init__(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[_Run]:
    """Start a command that is killed with all its processes at the end, wherever it stands."""
    process = _Run(command)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_for(process: _Run, words: str) -> float:
    """Return the seconds from the start of the process to the line of its output that has these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return time.perf_counter() - process.begun
    code = process.wait()
    raise DustError(f"the run of the benchmark ended with exit code {code} before its log said {words!r}")


def _import_seconds(statement: str, count: int = 1) -> float:
    """Return the seconds from the start of ``count`` processes to the end of these imports in all of them."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", f"{statement}; print('imported', flush=True)"]
        first, *others = [stack.enter_context(_started(command)) for _ in range(count)]
        for process in others:
            _wait_for(process, "imported")
        _wait_for(first, "imported")
        return time.perf_counter() - first.begun
