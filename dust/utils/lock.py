"""A folder that one process at a time writes to."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dust.utils.errors import DustError
from dust.utils.files import refuse_in_place

logger = logging.getLogger(__name__)

LOCK = ".lock"  # in the folder; while it is held, who holds it stands there


@contextlib.contextmanager
def holding(folder: Path, name: str, way_out: str) -> Iterator[None]:
    """Hold a folder for this process; a second live one is refused with the first one's host and pid.

    The lock is the operating system's, so it ends with its process, however that ends. (A record lock, not flock:
    that one would live on in loader workers for the seconds in which they outlive a killed run.) On a file system
    without locks that is said, and nothing is held.

    Args:
        name: what the folder is called: ``OUTPUT_DIR runs/a``.
        way_out: what to do where it cannot be had: ``choose another OUTPUT_DIR``.

    Raises:
        DustError: another process holds it, or it cannot be written to.
    """
    try:
        refuse_in_place(folder / LOCK)
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - it lives as long as the lock
    except OSError as error:
        raise DustError(
            f"{name}: cannot be written to ({error.strerror}). {way_out[0].upper()}{way_out[1:]}."
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise DustError(f"{name} is in use by {holder}. Stop that run, or {way_out}.") from error
            logger.warning(
                "%s: its file system has no locks (%s): see to it that only one run uses it", name, error.strerror
            )
        holder = f"host {socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with contextlib.suppress(OSError):  # a full disk; what counts is the lock
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), 0)
