"""CPU time of a process with its workers, and peak memory."""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MIB = 2**20


def rss_mib() -> float:
    """Return resident memory of this process now, MiB."""
    return psutil.Process().memory_info().rss / MIB


def peak_rss_mib() -> float:
    """Return the largest resident memory that this process ever had, MiB.

    On Linux this is VmHWM: ``ru_maxrss`` survives an exec, so that a process started by a large one would begin with
    the size of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def cpu_seconds() -> tuple[float, float]:
    """Return CPU seconds (user and system, all threads) of this process, and of its children living and gone.

    The living are read from the system, in ticks of about 10 ms; ``getrusage`` knows only those that have ended.
    """
    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = gone.ru_utime + gone.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended since the list was made
            continue
        children += times.user + times.system
    return time.process_time(), children


def cpu_of(action: Callable[[], object]) -> float:
    """Return the CPU seconds that this process (all threads) spends in ``action``."""
    start = time.process_time()
    action()
    return time.process_time() - start


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
