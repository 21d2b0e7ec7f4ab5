"""How a command that was asked to stop leaves: after USR1 or USR2 its Slurm job is queued again, after TERM or INT not.

Everything is saved by then. The job starts with the same command, finds its checkpoint and continues. One that makes no
step from one start to the next is not queued again (:mod:`dust.launch.lives`).
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dust.launch.lives import Lives
from dust.launch.signals import REQUEUE_SIGNALS, ignore_further_signals, most_urgent
from dust.utils.files import open_file, write_atomically

logger = logging.getLogger(__name__)

#: Seconds that the other processes stay for the first one, which may still be saving, if they can see it.
SAVE_TIMEOUT_S = 600.0
#: The same where they cannot see it: it has nothing to save. Also what the first one waits for them to hear it.
EXIT_DELAY_S = 10.0
#: In OUTPUT_DIR: which life of which job began the run there from the start.
BEGUN = ".begun.json"
#: The exit code of a job that is not queued again because it gets nowhere: it has failed.
NOWHERE = 1


class ExitHandler:
    """Ends this process's part of a command, after a signal.

    ``first`` is the process that speaks for all; ``rendezvous`` (a :class:`dust.launch.rendezvous.Rendezvous`) is where
    the others can see it, if they have met.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.environ = environ
        self.began = time.monotonic()
        self.first = all(environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "RANK"))
        self.rendezvous: Any = None
        self.lives: Lives | None = None

    def watch(self, folders: Iterable[str]) -> None:
        """Watch the stages of the command, which write to these folders, from now on: note what is there."""
        job = job_of(self.environ)
        if job and self.first:
            self.lives = Lives(job, [Path(folder).absolute() for folder in folders], self.began, self.environ)

    def done(self) -> None:
        """Note that the command has done all that it was asked for."""
        if self.first and self.lives is not None:
            self.lives.forget()

    def failed(self, code: int) -> int:
        """Leave with ``code``, which is decided, and return it.

        Whatever started several processes (srun, torchrun) ends the rest by TERM as soon as one has gone, and what
        they end with is what the job ends with. So all that fail for one reason wait for each other, two seconds at
        most, and TERM changes nothing any more.
        """
        if code and self.rendezvous is not None:
            ignore_further_signals()
            with contextlib.suppress(RuntimeError):
                if self.first:
                    self.rendezvous.announce_exit(code)
                else:
                    self.rendezvous.wait_for_exit()
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))  # also once the handlers are no more
        return code

    def __call__(self, signum: int) -> int:
        """Ask for the job again if ``signum``, or one that came since, means that. Returns the exit code: 128 + the
        signal, or NOWHERE.

        The first process asks. The others stay until it has: with srun's ``--kill-on-bad-exit`` one that ends earlier
        would end it in the midst of saving.
        """
        signum = most_urgent(signum)
        code = 128 + signum
        if self.first:
            if signum in REQUEUE_SIGNALS:
                if self.lives is None or self.lives.go_on(signum):
                    requeue(signum, self.environ)
                else:
                    code = NOWHERE
            if self.rendezvous is not None:
                with contextlib.suppress(RuntimeError):
                    # on a busy machine another may come to this late; without a word it leaves as by srun's TERM
                    self.rendezvous.announce_exit(code, EXIT_DELAY_S)
        elif self.rendezvous is not None:
            if self.rendezvous.wait_for_exit(SAVE_TIMEOUT_S) == NOWHERE:
                code = NOWHERE
        elif len({"SLURM_STEP_ID", "RANK"} & self.environ.keys()):
            time.sleep(EXIT_DELAY_S)
        return code


def job_of(environ: Mapping[str, str]) -> str:
    """Return the Slurm job that this process belongs to: ``123``, in an array ``120_3``; empty outside Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environ and "SLURM_ARRAY_TASK_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def note_begin(folder: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Note that this life of a Slurm job has begun a run from the start in ``folder``; outside Slurm do nothing.

    Raises OSError.
    """
    job = job_of(environ)
    if job:
        write_atomically(folder / BEGUN, json.dumps({"job": job, "restart": _restart(environ)}))


def begun_by_this_job(folder: str | os.PathLike, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether an earlier life of this Slurm job has begun the run in ``folder`` from the start, so that this one,
    queued again, continues from there in spite of TRAIN.AUTO_RESUME False. A second command of the same life begins
    from the start again."""
    try:
        with open_file(Path(folder) / BEGUN) as file:
            record: Any = json.loads(file.read(1000))
        return bool(record["job"] == job_of(environ) and record["restart"] < _restart(environ))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _restart(environ: Mapping[str, str]) -> int:
    """Return how often Slurm has queued this job again."""
    count = environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def requeue(signum: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Ask Slurm to run this job again; whether it will. Says in one line what comes next."""
    name, job = signal.Signals(signum).name, job_of(environ)
    if not job:
        logger.warning("%s: start the same command again to continue from here", name)
        return False
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        code, why = asked.returncode, asked.stderr.strip() or asked.stdout.strip() or f"exit code {asked.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        code, why = 1, str(error)
    # a job that is queued again is ended at once, and scontrol is a part of it
    if code in (0, -signal.SIGTERM, -signal.SIGKILL):
        logger.warning("%s: job %s is queued again and will continue from here", name, job)
        return True
    logger.error("%s: job %s could not be queued again (%s); submit it again to continue from here", name, job, why)
    return False
