"""Loaded before a driver: its trials are forked from it, in moments, instead of started as new interpreters."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from dust.analysis.tuning import worker


class Forked:
    def __init__(self, pid: int) -> None:
        self.pid, self.code = pid, None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)


def start(words, folder: Path, environment, claim: int) -> Forked:
    """As ``start_process``; the claim's file is open in the child as in every fork."""
    pid = os.fork()
    if pid:
        return Forked(pid)
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    console = os.open(folder / worker.CONSOLE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(console, 1)
    os.dup2(console, 2)
    os.environ.clear()
    os.environ.update(environment)
    import dust.launch.launcher
    from dust.cli.main import main

    dust.launch.launcher.get_context = lambda method: multiprocessing.get_context("fork")
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


worker.Worker.__dataclass_fields__["start"].default = start
worker.Worker.__init__.__defaults__ = tuple(
    start if value is worker.start_process else 0.02 if value == worker.PAUSE_S else value
    for value in worker.Worker.__init__.__defaults__
)
