"""How the process of a command ends."""

import atexit
import functools
import gc


@functools.cache
def end_in_moments() -> None:
    """Let this process, once it has ended, be taken apart in moments.

    Python looks at every object several times then, half a million where torch was imported: over a second. Here it
    looks once for what nobody holds any more, and leaves the rest to the kernel. Only for a process that runs no code
    but dust's: a file that somebody else's module still holds open would lose what it has not written yet.
    """
    atexit.register(gc.freeze)  # what is registered last is called first
    atexit.register(gc.collect)


def end_whole() -> None:
    """Take :func:`end_in_moments` back: code of others is in this process."""
    atexit.unregister(gc.freeze)
