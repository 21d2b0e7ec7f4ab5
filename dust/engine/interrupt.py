"""Ctrl-C and TERM, taken at a safe point."""

import contextlib
import logging
import signal
from collections.abc import Iterator

from dust.utils import distributed

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """Training was asked to stop, its state is saved. ``exit_code`` is 128 + the signal (130 for Ctrl-C)."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class InterruptFlag:
    """Remembers the first INT or TERM; a second one acts at once, as it does without dust."""

    def __init__(self) -> None:
        self.signum = 0

    @contextlib.contextmanager
    def installed(self) -> Iterator["InterruptFlag"]:
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal has come, to whichever process: all stop at the same step."""
        signum = distributed.highest(self.signum)
        if signum:
            raise Interrupted(signum)

    def check_alone(self) -> None:
        """The same in a stretch that processes go through each at its own pace: only a single process stops there."""
        if distributed.world_size() == 1:
            self.check()

    def _note(self, signum: int, frame) -> None:
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum
        logger.warning(
            "%s: stopping after this step, with a checkpoint; once more stops at once", signal.Signals(signum).name
        )
