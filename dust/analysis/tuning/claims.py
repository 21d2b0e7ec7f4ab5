"""Who writes the journal now, and who runs a trial: locks of the operating system, which end with their processes."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path

from dust.utils.errors import DustError
from dust.utils.files import refuse_in_place

#: Seconds between two signs of life of a claim.
BEAT_S = 10.0
#: Seconds without one, after which a claim of another machine counts no more. For file systems whose locks are seen on
#: one machine only; elsewhere the lock itself tells, at once.
SILENCE_S = 60.0
CLAIM = ".claim"


class JournalLock:
    """The right to write to a study's journal, held for moments. Optuna's journal takes it for its own lock.

    A process that is killed as it writes leaves a part of a line. Whoever holds the lock next cuts it off: nobody has
    read it.

    Args:
        folder: of the study.
        journal: its file.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        self.journal, self.depth = journal, 0
        own = folder / ".journal.lock"
        try:
            refuse_in_place(journal)
            refuse_in_place(own)
            # open as long as the process lives: to close any handle of a file gives up a process's record locks on it
            self.file = os.open(own, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DustError(f"{error.filename or own}: cannot be written to ({error.strerror})") from error

    def acquire(self) -> bool:
        if not self.depth:
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX)
            except OSError as error:
                raise _no_locks(self.journal.parent, error) from error
            self._cut_torn_line()
        self.depth += 1
        return True

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            fcntl.lockf(self.file, fcntl.LOCK_UN)

    def __enter__(self) -> "JournalLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _cut_torn_line(self) -> None:
        with contextlib.suppress(FileNotFoundError), open(self.journal, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if not size or os.pread(file.fileno(), 1, size - 1) == b"\n":
                return
            file.truncate(file_end(self.journal))
            os.fsync(file.fileno())


def file_end(file: Path) -> int:
    """Return how many bytes there are up to the end of the last whole line."""
    return file.read_bytes().rfind(b"\n") + 1


def _no_locks(folder: Path, error: OSError) -> DustError:
    return DustError(
        f"OUTPUT_DIR {folder}: its file system has no locks ({error.strerror}), without which two could run the same "
        "trial. Choose a folder on another one (NFS 4, Lustre with flock, a local disk)."
    )


class Claim:
    """The right to run one trial; :meth:`take` makes it.

    The lock belongs to the open file, which the trial's own process inherits: it lasts until both are gone. So a trial
    whose driver was killed is not started a second time while it still runs.
    """

    def __init__(self, file: int, path: Path) -> None:
        self.file, self.path, self.beaten = file, path, time.monotonic()

    @classmethod
    def take(cls, folder: Path) -> "Claim | None":
        """Claim the trial in ``folder``, which is made if need be; None where somebody else holds it.

        Raises:
            DustError: the folder cannot be written to, or its file system has no locks.
        """
        path = folder / CLAIM
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_in_place(path)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DustError(f"{folder}: cannot be written to ({error.strerror})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise _no_locks(folder, error) from error
        if _lives_elsewhere(file, path):
            os.close(file)
            return None
        claim = cls(file, path)
        os.ftruncate(file, 0)
        os.pwrite(file, holder().encode(), 0)
        return claim

    def beat(self) -> None:
        """Give a sign of life, now and then."""
        if time.monotonic() - self.beaten > BEAT_S:
            self.beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def release(self) -> None:
        """Let another one have the trial, at once."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.file, 0)
        os.close(self.file)


def holder() -> str:
    """Return this process, for people and for :func:`_lives_elsewhere`."""
    return f"host {socket.gethostname()} pid {os.getpid()}"


def _lives_elsewhere(file: int, path: Path) -> bool:
    """Tell whether a claim of another machine, whose lock is not seen here, has given a sign of life lately."""
    words = os.pread(file, 200, 0).decode(errors="replace").split()
    if len(words) < 2 or words[1] == socket.gethostname():
        return False
    probe = path.with_name(f".clock.{os.getpid()}")  # the file server's clock, which may not be ours
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime < SILENCE_S
    finally:
        probe.unlink(missing_ok=True)
