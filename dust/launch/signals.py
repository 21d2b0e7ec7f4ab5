"""Signals, taken at a safe point: INT and TERM stop a run, USR1 and USR2 also ask for it again (Slurm sends them).

While a loop listens (:meth:`InterruptFlag.listening`) a signal is only noted: the loop asks at each step, and saves
first. Where nothing is to be saved, a signal raises :class:`Interrupted` at once, as Ctrl-C raises KeyboardInterrupt.
Where not even that helps, because the process waits for others in a call that Python cannot break off, it is ended.

This module does without torch, so that it can be in place before the seconds of that import.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

#: The later one of two that came wins: a run that is asked to stop and to make room comes back.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
#: Those after which a job wants to be queued again.
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: Seconds in which a second INT is the same Ctrl-C, which came on two ways.
SAME_KEY_PRESS_S = 1.0
#: Seconds after a signal in which data that a step waits for may still come.
DATA_PATIENCE_S = 3.0
#: Seconds that the main thread gets to end by a second INT, before the process is ended.
SECOND_PRESS_TIMEOUT_S = 1.0
#: Seconds that the main thread gets to hear of a signal, where nobody listens, before the process is ended.
SIGNAL_RESPONSE_TIMEOUT_S = 3.0


class Interrupted(BaseException):
    """The run was asked to stop; what there was to save is saved. ``exit_code`` is 128 + the signal (130 for Ctrl-C).

    Not an ``Exception``, so that nothing takes it for an error of its own.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


class _SignalState:
    """The signals of this process, of which there is one set of handlers only."""

    def __init__(self) -> None:
        self.depth = 0
        self.reset()

    def reset(self) -> None:
        self.signum = 0  # the most urgent that came
        self.came = 0.0  # when the first did
        self.listeners = 0
        self.breakable = False  # what the main thread does may be broken off
        self.stopping = False  # Interrupted was raised: later signals change nothing but the reason
        self.pressed = 0.0
        self.forward: Callable[[int], None] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Take the signals while this lasts. They can only be taken in the main thread; elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not self.depth:
            self.reset()
        before = {number: signal.signal(number, self.note) for number in SIGNALS}
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(self, signum: int, frame: Any) -> None:
        """Note a signal, as its handler. It writes to no log: it may have come in the midst of a line."""
        if not self.depth:
            return  # a loader worker that has just been forked; its own handlers come with its first line
        first, self.signum = not self.signum, max(self.signum, signum, key=urgency)
        self.came = time.monotonic() if first else self.came
        if self.forward is not None:
            self.forward(signum)
            return
        if signum == signal.SIGINT:
            now = time.monotonic()
            if self.pressed and now - self.pressed > SAME_KEY_PRESS_S:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            self.pressed = self.pressed or now
        if self.stopping:
            return
        if self.listeners and not self.breakable:
            if first and _is_main():
                again = "; once more stops at once" if signum == signal.SIGINT else ""
                _say(f"{signal.Signals(signum).name}: stopping after this step, with what is done saved{again}\n")
            return
        self.stop(signum)

    def stop(self, signum: int) -> None:
        self.signum = max(self.signum, signum, key=urgency)
        self.stopping = True
        raise Interrupted(self.signum)

    def answered(self) -> bool:
        return bool(self.signum or (self.listeners and not self.breakable) or self.stopping)

    def forget(self) -> None:
        """Forget all in a forked child: it is another process, and nobody's signals are taken there yet."""
        self.depth = 0
        self.reset()


_signals = _SignalState()
os.register_at_fork(after_in_child=_signals.forget)


def urgency(signum: int) -> int:
    """Return 0 for none, then by the order of SIGNALS."""
    return SIGNALS.index(signal.Signals(signum)) + 1 if signum in SIGNALS else 0


def most_urgent(signum: int = 0) -> int:
    """Return the most urgent of ``signum`` and those that have come to this process; 0 if there are none."""
    return max(signum, _signals.signum, key=urgency)


def stop(signum: int) -> None:
    """Raise :class:`Interrupted` for ``signum``, which came by another way, or for a more urgent one that came here."""
    _signals.stop(signum)


def ignore_further_signals() -> None:
    """Note that what comes of this process is decided, a failure say: signals are noted, but change nothing any
    more."""
    _signals.stopping = True


def ignore_termination() -> None:
    """Let no TERM change the exit code of this process, which is about to leave. Blocked in this thread it would reach
    another one (of a process group, say), and where Python's own end has taken its handlers away it would kill."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))  # first: what comes meanwhile waits
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def forward_signals(send: Callable[[int], None]) -> Iterator[None]:
    """Hand signals on by ``send(signum)`` while this lasts, to processes that are to act on them."""
    with _signals.open():
        _signals.listeners += 1
        _signals.forward = send
        try:
            yield
        finally:
            _signals.forward = None
            _signals.listeners -= 1


@contextlib.contextmanager
def handle_signals(leave: Callable[[int], int]) -> Iterator[None]:
    """Take the signals of a whole process, from its first line to its last.

    Args:
        leave: called with the signal, in another thread, where the main thread does not hear of it within
            SIGNAL_RESPONSE_TIMEOUT_S seconds
            though nobody listens: it hangs in a rendezvous, say. The process is ended afterwards, with the exit code
            that this returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader, leave, over), name="signals", daemon=True).start()
    with _signals.open():
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # whoever started this process may have held them back
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)
            os.close(writer)


os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # the child's signals are not its parent's


def _watch(reader: int, leave: Callable[[int], int], over: threading.Event) -> None:
    """Read the signals' numbers, which the operating system's handler writes even while Python is stuck.

    ``over`` says that the block has been left. On a busy machine this thread may hear of a signal only then, and what
    the state says belongs to the next block: its silence is no reason to end the process.
    """
    pressed = 0.0
    with os.fdopen(reader, "rb", buffering=0) as numbers:
        while came := numbers.read(64):
            for signum in (number for number in came if number in SIGNALS):
                if signum == signal.SIGINT and _signals.forward is None:
                    if pressed and time.monotonic() - pressed > SAME_KEY_PRESS_S:
                        _end_unless(over, 128 + signum)
                    pressed = pressed or time.monotonic()
                deadline = time.monotonic() + SIGNAL_RESPONSE_TIMEOUT_S
                while not (over.is_set() or _signals.answered()) and time.monotonic() < deadline:
                    time.sleep(0.05)
                if not (over.is_set() or _signals.answered()):
                    code = 128 + signum
                    try:
                        code = leave(signum)
                    finally:
                        os._exit(code)


def _end_unless(over: threading.Event, code: int) -> None:
    """Handle the second Ctrl-C: end the process by it, unless the main thread is stuck in a call."""
    if not over.wait(SECOND_PRESS_TIMEOUT_S):
        os._exit(code)


class StopEarly(Exception):
    """This process has been asked to stop; what it was doing is of no use any more."""


class InterruptFlag:
    """What a loop asks whether it shall stop.

    A second Ctrl-C acts at once. TERM may come again without harm: Slurm, srun and launchers all send it.
    """

    @property
    def signum(self) -> int:
        return _signals.signum

    @contextlib.contextmanager
    def listening(self) -> Iterator["InterruptFlag"]:
        """Note signals and do no more while this lasts. Ends with :meth:`check`, so that none is forgotten."""
        with _signals.open():
            _signals.listeners += 1
            try:
                yield self
                self.check()
            finally:
                _signals.listeners -= 1

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """Raise :class:`Interrupted` at once for a signal that comes while this lasts, also while listening: what is
        done here changes nothing, and may take long (compiling)."""
        _signals.breakable = True
        try:
            yield
        finally:
            _signals.breakable = False

    def check_waiting(self) -> None:
        """Raise :class:`Interrupted` if this process still waits for data some time after a signal has come to it."""
        if self.signum and time.monotonic() - _signals.came > DATA_PATIENCE_S:
            _signals.stop(self.signum)

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal has come, to whichever process: all stop at the same step."""
        from dust.utils import distributed

        self.stop_if(distributed.highest(self.urgency))

    @property
    def urgency(self) -> int:
        """0 if no signal has come to this process; what all processes agree on is the highest of them."""
        return urgency(self.signum)

    def stop_if(self, agreed: int) -> None:
        """Raise :class:`Interrupted` if ``agreed``, the highest :attr:`urgency` of all processes, is not 0."""
        if agreed:
            _signals.stop(SIGNALS[agreed - 1])

    def check_alone(self) -> None:
        """Check the same in a stretch that processes go through each at its own pace: raise :class:`StopEarly` if a
        signal has come to this one. Where the stretch ends, :meth:`check` asks all."""
        if self.signum:
            raise StopEarly


def _is_main() -> bool:
    distributed: Any = sys.modules.get("dust.utils.distributed")
    return distributed is None or distributed.is_main()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
