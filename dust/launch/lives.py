"""Whether a Slurm job gets anywhere, or is only started again and again.

A life of a job lasts from the start of its command to the signal after which it asks to be queued again. One that
leaves nothing new on the disk has done no more than cost its start. The second such life in a row is the last.

This module does without torch, as :mod:`dust.launch.signals` does.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dust.utils.errors import DataError
from dust.utils.features.formats import PARTIAL, read_count
from dust.utils.files import open_file, read_bytes, write_atomically

logger = logging.getLogger(__name__)

#: In the first stage's OUTPUT_DIR, between a life without a step and the next one.
RECORD = ".lives.json"
#: Lives in a row without a step after which a job is not queued again.
MOST = 2
#: Bytes of a record that are looked at; ours are shorter.
LONGEST = 1000


def progress(folders: Iterable[Path]) -> frozenset[str]:
    """Return what the stages of these folders have done for good, a string for each piece.

    Whatever a life adds, the next one need not do again. A checkpoint counts by its name, which says how far it came,
    and a test by what it found: one that is only made again is no progress. Unfinished features count by how many
    there are.
    """
    pieces = set()
    for number, folder in enumerate(folders):
        for name in _names(folder / "checkpoints"):
            if name.startswith("checkpoint_epoch_") and name.endswith((".pyth", ".dcp")):
                pieces.add(f"{number} {name}")
        for name in _names(folder):
            if name.startswith("results") and not name.endswith(".partial"):
                with contextlib.suppress(OSError):
                    report = read_bytes(folder / name / "test.json")
                    pieces.add(f"{number} test {hashlib.sha256(report).hexdigest()}")
        for name in _names(folder / "features"):
            if name.endswith((".json", ".npz")):
                pieces.add(f"{number} {name}")
            elif ".count" in name and name.endswith(PARTIAL):
                pieces.add(f"{number} {name} {_counted(folder / 'features' / name)}")
    return frozenset(pieces)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not there yet; anything else the run says itself, as it writes there
        return []


def _counted(path: Path) -> int:
    """Return how many features are done; 0 where the count cannot be read, as its extraction will say."""
    try:
        return sum(stop - start for start, stop in read_count(path)[0])
    except DataError:
        return 0


class Lives:
    """The lives of one job; made at the start of each, asked when it ends.

    Args:
        job: its name for Slurm.
        folders: OUTPUT_DIRs of the command's stages, in order.
        began: of time.monotonic(), when the command began.
    """

    def __init__(self, job: str, folders: Iterable[Path], began: float, environ: Mapping[str, str]) -> None:
        self.job, self.began, self.environ = job, began, environ
        self.folders = list(folders)
        self.record = self.folders[0] / RECORD
        self.before = progress(self.folders)
        self._asked = threading.Lock()
        self._answer: bool | None = None

    def go_on(self, signum: int) -> bool:
        """Tell whether the job may be queued again after this signal. If not, says why and what to do.

        A life without a step is noted on the disk, and forgotten after the next one with some. Asked again, by
        another thread say, it answers the same and counts nothing twice.
        """
        with self._asked:
            if self._answer is None:
                self._answer = self._decide(signal.Signals(signum).name)
            return self._answer

    def _decide(self, name: str) -> bool:
        now, lasted = progress(self.folders), time.monotonic() - self.began
        if now - self.before:
            self.forget()
            return True
        earlier = self._earlier()
        if len(earlier) + 1 < MOST:
            self._note([*earlier, lasted], now)
            return True
        self.forget()  # whoever queues it again by hand has changed something
        logger.error(
            "%s: job %s made no step in %d lives in a row and is not queued again: the signal came %.0f s after this "
            "life had begun and %.0f s after the one before had, which was too early for a first step, a finished test "
            "or more features. %s. Submit it again with a longer limit (--timeout of dust submit, --time of sbatch), "
            "or with a signal that comes nearer to the end (--signal of sbatch); if it was preempted each time, where "
            "it is not",
            name, self.job, len(earlier) + 1, lasted, earlier[-1], time_limit(self.job, self.environ),
        )  # fmt: skip
        return False

    def forget(self) -> None:
        """Let no life before this one count any more."""
        try:
            self.record.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be removed (%s)", self.record, error.strerror)

    def _note(self, seconds: list[float], now: frozenset[str]) -> None:
        record = {"job": self.job, "seconds": [round(life, 1) for life in seconds], "progress": _digest(now)}
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.record, json.dumps(record).encode())
        except OSError as error:
            logger.warning("%s cannot be written (%s): this life without a step is not counted", self.record, error)

    def _earlier(self) -> list[float]:
        """Return seconds of each life without a step right before this one; of another job, or of this one before it
        got any further, they do not count."""
        try:
            if not self.record.is_file():
                return []
            with open_file(self.record) as file:
                record: Any = json.loads(file.read(LONGEST))
            seconds = record["seconds"]
            ours = record["job"] == self.job and record["progress"] == _digest(self.before)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return []
        if not ours or not isinstance(seconds, list):
            return []
        good = all(type(life) in (int, float) and 0 <= life < 1e9 for life in seconds)
        return [float(life) for life in seconds] if good else []


def _digest(pieces: frozenset[str]) -> str:
    return hashlib.sha256("\n".join(sorted(pieces)).encode("utf-8", "surrogateescape")).hexdigest()


def time_limit(job: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return a sentence that names a job's time limit, as Slurm says it now, or else its environment."""
    minutes = math.nan
    try:
        asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%l"], capture_output=True, text=True, timeout=20)
        if asked.returncode == 0 and asked.stdout.strip():
            minutes = minutes_of(asked.stdout.split()[0])
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("squeue: %s", error)
    if math.isnan(minutes):
        with contextlib.suppress(KeyError, ValueError):
            minutes = (int(environ["SLURM_JOB_END_TIME"]) - int(environ["SLURM_JOB_START_TIME"])) / 60
    if math.isnan(minutes):
        return "What its time limit is, Slurm does not say"
    return "It has no time limit" if math.isinf(minutes) else f"Its time limit is {minutes:g} min"


def minutes_of(limit: str) -> float:
    """Return Slurm's ``[days-]hours:minutes:seconds``, or ``minutes:seconds``, in minutes; ``infinite`` without end."""
    days, _, rest = limit.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
    except ValueError:
        return float("inf")  # infinite, n/a
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60
