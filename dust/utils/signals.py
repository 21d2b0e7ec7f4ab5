"""Which signals a helper process minds."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

#: What schedulers send to every process of a job, not only to the one that can act on it.
FOR_THE_PARENT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

#: Seconds between two looks whether the parent is still there.
LOOK = 2.0


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Let signals wait while this lasts, and in processes that are started meanwhile until these say what they mind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *FOR_THE_PARENT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mind_only_the_parent() -> None:
    """Let, in a loader's worker, only its parent end it from now on, by what it says or by being gone.

    Ctrl-C and Slurm's TERM, USR1 and USR2 reach all processes of a job. A worker that died of one would take the
    training process down with it before that has saved. The parent's own TERM (``Process.terminate``) still ends it.
    And so does its death, at whatever moment: torch's own watch takes a worker's second parent for its first one, if
    that was killed early enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    if not hasattr(signal, "sigtimedwait"):  # macOS, where nothing tells who sent a signal
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_PARENT)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    parent = multiprocessing.parent_process()
    number = os.getppid() if parent is None or parent.pid is None else parent.pid
    threading.Thread(target=_watch, args=(number,), name="signals", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait(FOR_THE_PARENT, LOOK)
        if sent is not None and sent.si_signo == signal.SIGTERM and sent.si_pid == parent:
            break
    os._exit(0)
