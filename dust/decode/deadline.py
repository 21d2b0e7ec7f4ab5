"""How long a decode may take: who waits for it says so, and it ends between two packets once nobody waits any more.

    deadline = Deadline(120)
    with keep_to(deadline):  # in the thread that reads
        with open_clip("clip.mp4") as reader: ...  # OutOfTime after 120 s, or as soon as deadline.cancel() is called

Without a deadline, as in training, nothing is asked and nothing costs. No thread is killed: what reads closes its file
on the way out, and its thread is free for the next one.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

from dust.utils.errors import DustError


class OutOfTime(DustError):
    """A decode that nobody waits for any more. No VideoError: nothing is wrong with the clip."""


class Deadline:
    """The moment at which a decode has to end. Any thread may :meth:`cancel` it.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End it now, as nobody waits any more."""
        self._cancelled.set()

    def left(self) -> float:
        """Return the seconds that are left; 0 once it is over."""
        return 0.0 if self._cancelled.is_set() else max(0.0, self._end - time.monotonic())


_local = threading.local()


@contextlib.contextmanager
def keep_to(deadline: Deadline) -> Iterator[None]:
    """Let what this thread decodes meanwhile end with OutOfTime when the deadline is over."""
    before = getattr(_local, "deadline", None)
    _local.deadline = deadline
    try:
        yield
    finally:
        _local.deadline = before


def check_time() -> float:
    """Raise OutOfTime where this thread's deadline is over; else the seconds that are left. Whoever loops over the
    pieces of a file calls it for each."""
    deadline: Deadline | None = getattr(_local, "deadline", None)
    left = math.inf if deadline is None else deadline.left()
    if not left:
        raise OutOfTime("reading it took longer than anybody waits for")
    return left


def open_options() -> dict[str, Any]:
    """Return for ``av.open`` the seconds after which FFmpeg gives up opening, or one read, where it meets no packet.
    OutOfTime where none are left."""
    left = check_time()
    return {"timeout": left} if left < math.inf else {}
