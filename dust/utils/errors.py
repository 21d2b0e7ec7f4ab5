"""The errors that dust raises for bad input.

Each message names the thing, its value and the way out. The command line prints these without a stack trace;
anything else that surfaces is a defect in dust.
"""

import os

from dust.utils.text import printable_lines

#: How many cases of one kind of problem are written out.
SHOWN = 10
LONGEST_LINE = 3000  # characters of a line of an error: what is not text may have any number of them


class DustError(Exception):
    """Base of every error that is about the user's input, files or machine, not about dust's code.

    Its text shows what in a name of a file would steer a terminal, or begin a line of its own, as an escape.
    """

    def __str__(self) -> str:
        lines = printable_lines(super().__str__()).split("\n")
        return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in lines)


class ConfigError(DustError):
    """One or several problems in a configuration; the message lists all of them."""


class DataError(DustError):
    """A manifest, a split or a label that cannot be used."""


class SampleError(DataError):
    """One sample's file that cannot be used. ``reason`` says why and the way out, ``detail`` what was found in it."""

    def __init__(self, path: str | os.PathLike, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = os.fspath(path), reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason, self.detail)


class ArgumentError(ConfigError, DataError, ValueError):
    """An argument of a public function that it cannot take. Also a ValueError, as Python's own functions raise."""


class NotFitted(DataError):
    """A split that must be read with what was learnt of training's, and there is nothing."""


class VideoError(DustError):
    """A clip that cannot be read as asked. ``path`` and ``reason`` are kept apart for reports."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


class CheckpointError(DustError):
    """A checkpoint or weight file that is damaged, unsafe to open, or fits nowhere in the model."""


class Problems:
    """Everything wrong with one source, by kind, so that it can be said at once."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, case: str) -> None:
        """Add a case. ``kind`` says what is wrong and the way out; ``case`` says where."""
        self.kinds.setdefault(printable_lines(kind), []).append(printable_lines(case))

    def count(self, kind: str) -> int:
        """Return how many cases of a kind there are."""
        return len(self.kinds.get(printable_lines(kind), ()))

    def raise_if_any(self, source: str) -> None:
        """Raise one DataError with every kind, its number of cases and the first ten of them."""
        if not self.kinds:
            return
        lines = [f"{source} cannot be used:"]
        for kind, cases in self.kinds.items():
            more = f"\n      ... and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
            count = f" ({len(cases)} cases)" if len(cases) > 1 else ""
            lines.append(f"  {kind}{count}:" + "".join(f"\n      {case}" for case in cases[:SHOWN]) + more)
        raise DataError("\n".join(lines))
