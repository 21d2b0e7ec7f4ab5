"""Runs in processes of their own, started in moments; see tests/zygote.py."""

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers import ROOT

#: Seconds after which a run is taken to hang. Not a measure of speed.
PATIENCE = 240.0
KILL = signal.SIGKILL


@dataclass
class Run:
    """A run that was started; much of it is what subprocess.Popen offers."""

    zygote: "Zygote"
    pid: int
    out: Path
    err: Path

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal that ended it; None before it is known."""
        return self.zygote.codes.get(self.pid)

    def poll(self) -> int | None:
        self.zygote.listen(0.0)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            self.zygote.listen(0.5)
            if time.monotonic() > deadline:
                self.send(KILL, group=True)
                raise AssertionError(f"it does not end within {timeout:g} s: {self.said[-3000:]}")
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """What it said on both its streams, once it has ended."""
        self.wait(timeout)
        return self.out.read_text(errors="replace"), self.err.read_text(errors="replace")

    @property
    def said(self) -> str:
        """On both its streams, until now."""
        return "".join(path.read_text(errors="replace") for path in {self.out, self.err} if path.is_file())

    def send(self, signum: int, *, group: bool = False) -> None:
        """``group`` for every process of the run, as Slurm and a terminal do it."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def ended(self) -> bool:
        return not psutil.pid_exists(self.pid)

    def workers(self) -> list[psutil.Process]:
        """All its processes but itself."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        """Of a run of several processes those that train, the first one first."""
        own = [one for one in self.workers() if one.ppid() == self.pid]
        return sorted(
            (one for one in own if "resource_tracker" not in " ".join(one.cmdline())), key=lambda one: one.pid
        )


class Zygote:
    """Starts runs. What it has to say is read whenever somebody waits for it."""

    def __init__(self) -> None:
        self.folder, self.count = Path(tempfile.mkdtemp(prefix="dust_runs_")), 0
        self.codes: dict[int, int] = {}
        self.events: deque[dict] = deque()
        self.held = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, bufsize=0,
        )  # fmt: skip
        atexit.register(self.close)
        self._next()

    def start(self, argv: list[str], *, console: str | Path = "", **more) -> Run:
        """Run ``run_net`` with these words. ``console``: where both its streams go; ``more``: see tests/zygote.py."""
        self.count += 1
        out, err = (Path(console or self.folder / f"{self.count}.{name}") for name in ("out", "err"))
        order = {"argv": [*map(str, argv)], "out": str(out), "err": str(err), **more}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return Run(self, self._next()["pid"], out, err)

    def finish(self, argv: list[str], **more) -> Run:
        """Run to the end, which has to be a good one."""
        run = self.start(argv, **more)
        code = run.wait()
        assert code == 0, (code, run.said[-3000:])
        return run

    def listen(self, seconds: float) -> None:
        """Take in what it says within so many seconds."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            return
        got = os.read(self.process.stdout.fileno(), 1 << 16)
        assert got, "the zygote is gone"
        *whole, self.held = (self.held + got).split(b"\n")
        for event in map(json.loads, whole):
            if "code" in event:
                self.codes[event["pid"]] = event["code"]
            else:
                self.codes.pop(event.get("pid"), None)  # of another one, long ago
                self.events.append(event)

    def _next(self) -> dict:
        deadline = time.monotonic() + PATIENCE
        while not self.events:
            assert time.monotonic() < deadline, f"nothing happens for {PATIENCE:g} s"
            self.listen(1.0)
        return self.events.popleft()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def zygote() -> Zygote:
    """The one of this test process."""
    return Zygote()


def until(condition, what: str, run: Run | None = None) -> None:
    """Wait, without assuming how fast this machine is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert run is None or not run.ended() or condition(), f"it ended before {what}: {run.said[-3000:]}"
        assert time.monotonic() < deadline, f"{what} does not happen. {run.said[-2000:] if run else ''}"
        time.sleep(0.005)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
