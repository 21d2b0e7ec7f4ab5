"""Lists that a whole command asks for several times, read once: whoever looks at all its stages owns what is known.

with reading_once():  # until here nothing is known, and behind it nothing is any more
    read_manifest(root="data", split="train")
    read_manifest(root="data", split="train")  # the same clips, and no file is opened
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_KNOWN: ContextVar[dict[Hashable, Any] | None] = ContextVar("lists that were read", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Let what is read in the same way again be what was read before, also if the files have changed meanwhile."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def once(read: Callable[P, R]) -> Callable[P, R]:
    """Make a reader one that :func:`reading_once` knows.

    Args:
        read: takes arguments by name, all of plain values, and returns an object, of which everybody gets a copy whose
            parts are shared. Its errors are not kept. What it found with ``num_classes`` None is also what it finds
            with just as many.
    """

    @functools.wraps(read)
    def asked(*args: P.args, **options: P.kwargs) -> R:
        known = _KNOWN.get()
        if known is None or args:
            return read(*args, **options)
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        classes = plain.pop("num_classes", None)
        rest = (read, *sorted(plain.items(), key=lambda pair: pair[0]))
        key, left_open = (classes, rest), (None, rest)
        if classes is not None and left_open in known and len(known[left_open].class_names) == classes:
            key = left_open
        if key not in known:
            known[key] = read(*args, **options)
        return copy.copy(known[key])

    return asked
