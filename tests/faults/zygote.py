"""Starts runs in moments: imports once, then forks one child per run, each a process of its own to kill.

    python -m tests.faults.zygote < one line of JSON per run > one line per event

A line ``{"argv": [...], "log": path, "fault": {...}}`` is answered by ``{"pid": n}`` and, when the run has ended, by
``{"code": n}``, negative for a signal. The fault happens within the run:

* ``{"kill_at": [event, n]}``: SIGKILL right before the n-th ``open`` (for writing), ``fsync``, ``rename`` or ``remove``
  of this process in OUTPUT_DIR/checkpoints;
* ``{"file_size": n}``: the kernel ends the process as it writes byte n of a file;
* ``{"clock": s}``: the wall clock is wrong by s seconds, and jumps back and forth by as much.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time

#: What a run imports by and by.
MODULES = (
    "dust.launch.launcher", "dust.engine.train", "dust.engine.test", "dust.engine.stages", "dust.engine.run_net",
    "dust.visualization.plots", "dust.utils.checkpoint", "sklearn.metrics", "matplotlib.pyplot", "tqdm", "av",
    "timm.utils",
)  # fmt: skip


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            run(order)
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


def run(order: dict) -> None:
    """Be the run, as tools/run_net.py is."""
    from dust.engine import run_net

    os.setsid()  # a job of its own, whose whole group can be sent a signal
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    prepare(order.get("fault", {}))
    sys.exit(run_net.main(order["argv"]))


def prepare(fault: dict) -> None:
    if "kill_at" in fault:
        _kill_at(*fault["kill_at"])
    if "file_size" in fault:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"],) * 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if "clock" in fault:
        _wrong_clock(fault["clock"])


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
