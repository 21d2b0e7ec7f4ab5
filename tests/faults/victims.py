"""Runs that are made to fail, and the question whether they came to the same end all the same."""

import contextlib
import csv
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from dust.utils.checkpoint import list_checkpoints, load_checkpoint
from tests.engine.conftest import TINY
from tests.engine.test_resume import RICH, assert_same
from tests.helpers import ROOT

#: A small run in which everything is on that has to survive: mixing, averaging, accumulation, two workers, and a
#: checkpoint after every optimizer step.
SETTINGS = {
    **TINY,
    **{key.replace("__", "."): value for key, value in RICH.items()},
    "DATA_LOADER.NUM_WORKERS": 2,
    "TRAIN.CHECKPOINT_PERIOD_ITERS": 2,
    "TRAIN.CHECKPOINT_KEEP_LAST": 2,
    "TRAIN.EVAL_PERIOD": 2,
    "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 1,
}
PARTS = ("model_state", "ema_state", "optimizer_state", "scaler_state", "meter", "best", "least_errors", "updates",
         "epoch", "iteration", "complete")  # fmt: skip
#: Ways to write checkpoints. Whatever the way, a run comes to the same end.
KINDS = {
    "plain": {},
    "background": {"TRAIN__CHECKPOINT_ASYNC": True},
    "sharded": {"TRAIN__CHECKPOINT_FORMAT": "sharded"},
    "sharded background": {"TRAIN__CHECKPOINT_FORMAT": "sharded", "TRAIN__CHECKPOINT_ASYNC": True},
}
#: Seconds after which a run is taken to hang. Not a measure of speed.
PATIENCE = 240.0


def words(clips, out, **overrides) -> list[str]:
    """The command line of a run; dots of keys are double underscores."""
    values = {**SETTINGS, "DATA.PATH_TO_DATA_DIR": clips, "OUTPUT_DIR": out}
    values.update({key.replace("__", "."): value for key, value in overrides.items()})
    return [str(word) for item in values.items() for word in item]


@dataclass
class Victim:
    """A run that was started. ``log`` holds what it wrote on its console."""

    zygote: "Zygote"
    pid: int
    log: Path

    def send(self, signum: int, *, group: bool = False) -> None:
        """``group`` for every process of the run, as Slurm and a terminal do it."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def wait(self) -> int:
        """The exit code, negative for a signal that ended it."""
        return self.zygote.read("code")

    def ended(self) -> bool:
        return not psutil.pid_exists(self.pid)

    def ranks(self) -> list[psutil.Process]:
        """Of a run of several processes those that train, the first one first."""
        found = [one for one in self.workers() if one.ppid() == self.pid and "spawn_main" in " ".join(one.cmdline())]
        return sorted(found, key=lambda one: one.pid)

    def workers(self) -> list[psutil.Process]:
        """All its processes but itself."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Zygote:
    """Starts runs one after the other; see tests/faults/zygote.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, bufsize=0,
        )  # fmt: skip
        self.read("ready")

    def start(self, argv: list[str], **fault) -> Victim:
        self.count += 1
        log = Path(fault.pop("console", self.folder / f"console_{self.count}.log"))
        order = {"argv": argv, "log": str(log), "fault": fault}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return Victim(self, self.read("pid"), log)

    def finish(self, argv: list[str], **fault) -> Victim:
        """Run to the end, which has to be a good one."""
        victim = self.start(argv, **fault)
        code = victim.wait()
        assert code == 0, (code, victim.said[-3000:])
        return victim

    def read(self, what: str):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, f"nothing happens for {PATIENCE:g} s"
        line = self.process.stdout.readline()
        assert line, "the zygote is gone"
        return json.loads(line)[what]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def until(condition, what: str, victim: Victim | None = None) -> None:
    """Wait, without assuming how fast this machine is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not happen. {victim.said[-2000:] if victim else ''}"
        time.sleep(0.005)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def saves(folder: Path, victim: Victim, count: int) -> None:
    """Wait until the run has written so many checkpoints into ``folder`` (each has a name of its own), or has ended."""
    last = list_checkpoints(folder)[-1:]

    def saved() -> bool:
        nonlocal last, count
        now = list_checkpoints(folder)[-1:]
        count -= now != last
        last = now
        return count <= 0 or victim.ended()

    until(saved, f"a checkpoint in {folder}", victim)


def newest(out: Path) -> dict:
    return load_checkpoint(list_checkpoints(Path(out) / "checkpoints")[-1])


def outcome(out: Path) -> dict:
    """All that a run has come to: its last and its best checkpoint, and its test."""
    saved = newest(out)
    best = load_checkpoint(Path(out) / "checkpoints" / "checkpoint_best.pyth")
    report = json.loads((Path(out) / "results" / "test.json").read_text())
    return {
        **{part: saved[part] for part in PARTS},
        "best_state": best["ema_state"],
        "metrics": report["metrics"],
        "counts": report["counts"],
        "predictions": predictions(out),
    }


def predictions(out: Path) -> list[dict[str, str]]:
    """Of every test clip, wherever it lies."""
    with open(Path(out) / "results" / "predictions.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "path"} for row in csv.DictReader(file)]


def assert_same_outcome(out: Path, expected: dict) -> None:
    assert_same(outcome(out), expected)
    names = sorted(path.name for path in (Path(out) / "checkpoints").iterdir())
    left = [name for name in names if name.startswith(".") or "_iter_" in name]
    assert not left, "temporary files and checkpoints within epochs go by themselves"


KILL = signal.SIGKILL
