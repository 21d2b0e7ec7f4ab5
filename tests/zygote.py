"""Starts runs in moments: imports once, then forks one child per run, each a process of its own to kill.

    python -m tests.zygote < one line of JSON per run > one line per event

A line ``{"argv": [...], "out": path, "err": path, ...}`` is answered by ``{"pid": n}``, and when that run has ended by
``{"pid": n, "code": n}``, negative for a signal. Several may go at the same time. What else a line may say:

* ``"env": {...}``: added to the environment; ``"cwd": folder``: where it runs;
* ``"load": path``: a file of Python that is run before the run;
* ``"command": true``: the words are those behind ``dust``, and not those of ``run_net``;
* ``"spawn": true``: processes of the run are started as users' are, each a new interpreter that imports all again
  (seconds of work for the processor). Else they are forked, which is the same to all but what is imported when;
* ``"kill_at": [event, n]``: SIGKILL right before the n-th ``open`` (for writing), ``fsync``, ``rename`` or ``remove``
  of this process in OUTPUT_DIR/checkpoints;
* ``"file_size": n``: the kernel ends the process as it writes byte n of a file; ``"small_files": n``: it refuses that;
* ``"clock": s``: the wall clock is wrong by s seconds, and jumps back and forth by as much.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import resource
import runpy
import select
import signal
import sys
import time
from collections.abc import Iterator

from dust.datasets.build import DATASET_REGISTRY

#: What a run imports by and by.
MODULES = (
    "dust.launch.launcher", "dust.engine.train", "dust.engine.test", "dust.engine.stages", "dust.engine.run_net",
    "dust.engine.extract", "dust.visualization.plots", "dust.utils.checkpoint", "sklearn.metrics",
    "torch.distributed.checkpoint", "PIL.Image",
    "matplotlib.pyplot", "tqdm", "av", "timm.utils", "matplotlib.backends.backend_agg", "dust.analysis.report",
    "dust.engine.preflight",
)  # fmt: skip


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    list(DATASET_REGISTRY)  # imports all of them
    gc.freeze()  # Python's collector writes to all that it looks at, and then each run has a copy: 0.5 s of work
    gc.unfreeze = lambda: None  # a training does that at its end
    say({"ready": True})
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for line in lines(ended):
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(ended)
            os.close(wake)
            run(json.loads(line))
        say({"pid": pid})


def say(event: dict) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


def lines(ended: int) -> Iterator[bytes]:
    """The lines that come in; meanwhile, what has ended is told."""
    held = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            for pid, status in iter(child_that_ended, (0, 0)):
                say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})
        if 0 in ready:
            got = os.read(0, 1 << 16)
            if not got:
                return
            *whole, held = (held + got).split(b"\n")
            yield from whole


def child_that_ended() -> tuple[int, int]:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)
    return 0, 0


def run(order: dict) -> None:
    """Be the run, as tools/run_net.py is."""
    from dust.engine import run_net
    from dust.utils.ending import end_in_moments

    end_in_moments()
    os.setsid()  # a job of its own, whose whole group can be sent a signal
    files = {name: os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("out", "err")}
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, files["out"]), (2, files["err"])):
        os.dup2(source, target)
    os.environ.update(order.get("env", {}))
    os.chdir(order.get("cwd", "."))
    if "load" in order:
        runpy.run_path(order["load"])
    if not order.get("spawn"):
        import dust.launch.launcher

        dust.launch.launcher.get_context = lambda method: multiprocessing.get_context("fork")
    prepare(order)
    if order.get("command"):
        from dust.cli.main import main as command

        sys.exit(command(order["argv"]))
    sys.exit(run_net.main(order["argv"]))


def prepare(order: dict) -> None:
    if "kill_at" in order:
        _kill_at(*order["kill_at"])
    for kind, action in (("file_size", signal.SIG_DFL), ("small_files", signal.SIG_IGN)):
        if kind in order:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (order[kind],) * 2)
            signal.signal(signal.SIGXFSZ, action)
    if "clock" in order:
        _wrong_clock(order["clock"])


def _kill_at(event: str, number: int) -> None:
    own, left = os.getpid(), [number]

    def count(seen: str) -> None:
        if seen == event and os.getpid() == own:  # not in the loader's workers
            left[0] -= 1
            if not left[0]:
                os.kill(own, signal.SIGKILL)

    def hook(name: str, arguments: tuple) -> None:
        if name not in ("open", "os.rename", "os.remove") or "/checkpoints/" not in str(arguments[0]):
            return
        if name != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            count(name.removeprefix("os."))

    def fsync(handle: int, real=os.fsync) -> None:  # the one call of these that is not audited
        with contextlib.suppress(OSError):
            if "/checkpoints" in os.readlink(f"/proc/self/fd/{handle}"):
                count("fsync")
        real(handle)

    sys.addaudithook(hook)
    os.fsync = fsync


def _wrong_clock(seconds: float) -> None:
    real, calls = time.time, [0]

    def wrong() -> float:
        calls[0] += 1
        return real() + (seconds if calls[0] % 2 else -seconds)

    time.time = wrong


if __name__ == "__main__":
    main()
