"""Runs a study's trials: each is a ``dust --cfg ...`` of its own, in a process and a folder of its own.

The worker starts it, reads its log, and tells the study how it ended. It may be killed at any moment: what it knows
lies in the folder, and a trial that was cut off continues from its checkpoint when somebody takes it up again.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import dust
from dust.analysis.predictions import read_report
from dust.analysis.status import read_status
from dust.analysis.tuning.outcome import line_of, rows_of, write_tables
from dust.analysis.tuning.study import Study, Trial
from dust.config import CfgNode, load_config
from dust.config.space import words_of_values
from dust.launch.lives import MOST, progress
from dust.utils.errors import ConfigError, DataError, DustError
from dust.utils.files import refuse_in_place
from dust.utils.logging import read_json_stats

#: Seconds between two looks at the trials that run.
PAUSE_S = 0.5
#: Seconds between two looks for trials that others might have left.
WAIT_S = 5.0
CONSOLE = "console.log"
#: What must not reach a trial: it is one run by itself, whatever job starts it.
_OF_JOBS = ("SLURM_", "SUBMITIT_", "PMI_", "PMIX_", "OMPI_")
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Process(Protocol):
    """What is asked of a trial's process, as subprocess.Popen has it."""

    def poll(self) -> int | None: ...

    def send_signal(self, signum: int, /) -> None: ...


#: ``start(words, folder, environment, claim)``: words behind ``dust``; the claim's file is to be inherited.
Start = Callable[[Sequence[str], Path, Mapping[str, str], int], Process]


@dataclass(frozen=True)
class Recipe:
    """How a trial becomes a command.

    Attributes:
        file: the configuration that all share.
        split: that trials are tested on.
        on_error: ``stop`` or ``fail``.
        devices: CUDA_VISIBLE_DEVICES for each trial that runs at the same time; empty to leave it alone.
    """

    file: Path
    split: str
    on_error: str
    devices: tuple[str, ...] = ()

    def words(self, trial: Trial) -> list[str]:
        """Return the overrides of one trial."""
        return [*words_of_values(trial.values), "TEST.SPLIT", self.split, "OUTPUT_DIR", str(trial.folder)]


def build_recipe(cfg: CfgNode, file: Path) -> Recipe:
    """Return how the trials of cfg are run, which stands in ``file`` by then.

    Raises:
        ConfigError: fewer GPUs than TUNE.JOBS trials take.
    """
    return Recipe(file, cfg.TUNE.SPLIT, cfg.TUNE.ON_ERROR, share_devices(cfg.NUM_GPUS, cfg.TUNE.JOBS))


def share_devices(gpus: int, jobs: int) -> tuple[str, ...]:
    """Return CUDA_VISIBLE_DEVICES for each of ``jobs`` trials with ``gpus`` each; empty where nothing is to be shared
    out."""
    if not gpus or jobs < 2:
        return ()
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if given is None else given.split(",")[:count]
    if len(names) < gpus * jobs:
        raise ConfigError(
            f"TUNE.JOBS {jobs} trials with NUM_GPUS {gpus} each need {gpus * jobs} GPUs, and this machine has "
            f"{len(names)}; set TUNE.JOBS {max(len(names) // gpus, 1)}"
        )
    return tuple(",".join(names[slot * gpus : (slot + 1) * gpus]) for slot in range(jobs))


def start_process(words: Sequence[str], folder: Path, environment: Mapping[str, str], claim: int) -> Process:
    """Start ``dust`` in a session of its own: a signal of a terminal or of Slurm reaches it once, by its worker.

    Raises:
        DustError: its console.log cannot be written to.
    """
    try:
        refuse_in_place(folder / CONSOLE)
        console = open(folder / CONSOLE, "ab")  # noqa: SIM115 - the process writes there, and this is closed below
    except OSError as error:
        raise DustError(f"{folder / CONSOLE}: cannot be written to ({error.strerror})") from error
    with console:
        return subprocess.Popen(
            [sys.executable, "-m", "dust", *words], stdin=subprocess.DEVNULL, stdout=console,
            stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True, pass_fds=[claim],
        )  # fmt: skip


@dataclass
class Running:
    """A trial that runs here.

    Attributes:
        slot: which of the places for trials at the same time it has.
        before: what it had done when it was started.
        barren: lives in a row in which it did nothing for good.
        read: bytes of its log that were read.
        pruned: it is being ended by the pruner.
    """

    trial: Trial
    slot: int
    process: Process | None = None
    before: frozenset[str] = frozenset()
    barren: int = 0
    read: int = 0
    pruned: bool = False


@dataclass
class Worker:
    """Runs trials until none is left, or a signal comes.

    Attributes:
        jobs: trials at the same time.
        say: takes lines for people.
        wait: stay for trials that others run, to take up those that they leave.
        signum: the signal that came last; 0 for none.
        error: why no more trials are started.
    """

    study: Study
    recipe: Recipe
    jobs: int
    say: Callable[[str], object]
    wait: bool = True
    start: Start = start_process
    pause: float = PAUSE_S
    running: list[Running] = field(default_factory=list)
    signum: int = 0
    error: str = ""
    _came: list[int] = field(default_factory=list)

    def signal(self, signum: int) -> None:
        """Note a signal, which the trials get next; safe in a handler."""
        self.signum = signum
        self._came.append(signum)

    def run(self) -> None:
        """Run the trials.

        Raises:
            DustError: a trial ended with an error, under TUNE.ON_ERROR stop; the others that ran here were finished.
        """
        told = False
        try:
            while True:
                self._fill()
                self._forward()
                if not self.running:
                    others = [] if self.signum or self.error else self.study.open_trials()
                    if not others or not self.wait:
                        break
                    if not told:
                        self.say(f"waiting for trials that others run: {', '.join(map(str, others))}")
                    told = True
                    time.sleep(min(WAIT_S, 10 * self.pause))
                    continue
                time.sleep(self.pause)
                for running in list(self.running):
                    running.trial.claim.beat()
                    self._look(running)
        finally:
            for running in self.running:  # an error of ours: the trials continue, and are taken up when they have ended
                os.close(running.trial.claim.file)
            self.running.clear()
        if self.error:
            raise DustError(self.error)

    def _fill(self) -> None:
        while len(self.running) < self.jobs and not self.signum and not self.error:
            trial = self.study.take()
            if trial is None:
                return
            slot = min(set(range(self.jobs)) - {one.slot for one in self.running})
            running = Running(trial, slot)
            self.running.append(running)
            self._begin(running)

    def _begin(self, running: Running) -> None:
        """Start the trial, or only tell how it ended, where it had: its worker may have been killed in between."""
        trial = running.trial
        try:
            cfg = load_config(self.recipe.file, self.recipe.words(trial))
        except DustError as error:
            self._end(running, failed=f"its configuration cannot be used: {error}")
            return
        if (trial.folder / "results" / "test.json").is_file() and _finished(cfg):
            self._judge(running)
            self._end(running)
        elif self._judge(running):
            self._end(running)
        else:
            self._launch(running)

    def _launch(self, running: Running) -> None:
        trial = running.trial
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_OF_JOBS)}
        for name in _OF_RANKS:
            environment.pop(name, None)
        if self.recipe.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.recipe.devices[running.slot]
        ours = str(Path(dust.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, environment.get("PYTHONPATH"))))
        running.before = progress([trial.folder])
        words = ["train", "--cfg", str(self.recipe.file), *self.recipe.words(trial)]
        running.process = self.start(words, trial.folder, environment, trial.claim.file)
        values = " ".join(words_of_values(trial.values))
        self.say(f"trial {trial.number} {'continues' if running.before else 'begins'}: {values}")

    def _forward(self) -> None:
        while self._came:
            signum = self._came.pop(0)
            for running in self.running:
                _send(running.process, signum)

    def _look(self, running: Running) -> None:
        assert running.process is not None
        code = running.process.poll()
        if not self.signum and not running.pruned and self._judge(running) and code is None:
            _send(running.process, signal.SIGTERM)
        if code is None:
            return
        if running.pruned or code == 0:
            self._end(running)
        elif read_status(running.trial.folder).state == "diverged":
            self._end(running, failed="its loss was not finite")
        elif self.signum:
            self._put_back(running)
        elif code < 0 or code > 128:
            self._again(running, abs(code) % 128)
        else:
            self._went_wrong(running, f"exit code {code}: {_last_line(running.trial.folder / CONSOLE)}")

    def _again(self, running: Running, signum: int) -> None:
        """Continue at once a trial that somebody has ended from outside, unless that leads nowhere."""
        done = progress([running.trial.folder]) - running.before
        running.barren = 0 if done else running.barren + 1
        name = signal.Signals(signum).name if signum in set(signal.Signals) else f"signal {signum}"
        if running.barren >= MOST:
            self._went_wrong(running, f"{name} ended it {MOST} times in a row before it had saved anything new")
            return
        self.say(f"trial {running.trial.number} was ended by {name}")
        self._launch(running)

    def _went_wrong(self, running: Running, reason: str) -> None:
        if self.recipe.on_error == "fail":
            self._end(running, failed=reason)
            return
        trial = running.trial
        self.error = self.error or (
            f"trial {trial.number} in {trial.folder}: {reason}. Mend it and start the same command: it continues from "
            "there. TUNE.ON_ERROR fail counts such trials as failed instead."
        )
        self._put_back(running)

    def _put_back(self, running: Running) -> None:
        self.running.remove(running)
        running.trial.claim.release()

    def _judge(self, running: Running) -> bool:
        """Tell the study what the log says of validations since the last look; whether the trial is to be pruned."""
        for epoch, value in self._validations(running):
            if self.study.report(running.trial.number, epoch, value):
                running.pruned = True
                return True
        return False

    def _validations(self, running: Running) -> list[tuple[int, float]]:
        log = running.trial.folder / "stdout.log"
        if self.study.pruner is None or not log.is_file():
            return []
        with open(log, "rb") as file:
            file.seek(running.read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        running.read += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        found = []
        for line in lines:
            stats = read_json_stats(line) if '"val_epoch"' in line else {}
            if stats:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    found.append(validation_of(stats, self.study.plan.metric))
        return found

    def _end(self, running: Running, failed: str = "") -> None:
        """Tell the study how the trial ended, then let it go: in between nobody else can take it."""
        trial, study = running.trial, self.study
        if running.pruned:
            study.prune(trial.number)
        elif failed:
            study.fail(trial.number, failed)
        else:
            try:
                study.complete(trial.number, *read_result(trial.folder, study.plan.metric))
            except DataError as error:
                self._went_wrong(running, str(error))
                return
        write_tables(study)
        self.say(line_of(rows_of(study)[trial.number], study.plan.metric))
        self._put_back(running)


def validation_of(stats: Mapping[str, Any], metric: str) -> tuple[int, float]:
    """Return (epoch from 1, value) of the figures of a validation in the log.

    Raises:
        DustError: the validation does not measure ``metric``.
    """
    value, error = stats.get(metric, ""), stats.get(metric.replace("_acc", "_err"), "")
    if value == "" and error == "":
        raise DustError(f"TUNE.METRIC {metric}: the validations of training do not measure it; set TUNE.PRUNER ''")
    if value == "":
        value = None if error is None else 100.0 - error
    return int(str(stats["epoch"]).partition("/")[0]), math.nan if value is None else float(value)


def read_result(folder: Path, metric: str) -> tuple[float, list[float] | None]:
    """Return what a tested run came to, and its interval, if it has one.

    Raises:
        DataError: there is no result, or not this one.
    """
    report = read_report(folder / "results" / "test.json")
    metrics: dict[str, Any] = report.get("metrics", {})
    value, interval = metrics.get(metric), report.get("intervals", {}).get(metric)
    if not isinstance(value, int | float):
        raise DataError(f"TUNE.METRIC {metric}: {folder}/results has no such figure; choose {', '.join(metrics)}")
    return float(value), interval


def _finished(cfg: CfgNode) -> bool:
    import functools

    from dust.engine.stages import build_stage, finished

    return finished(functools.partial(build_stage, cfg), cfg.OUTPUT_DIR)


def _send(process: Process | None, signum: int) -> None:
    if process is not None and process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)


def _last_line(file: Path) -> str:
    """Return the last line that says what is wrong, else the last line."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    said = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return " ".join(lines[said[-1] :]) if said else "".join(lines[-1:])
