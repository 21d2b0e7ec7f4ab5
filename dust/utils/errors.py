"""The errors that dust raises for bad input.

Each message names the thing, its value and the way out. The command line prints these without a stack trace;
anything else that surfaces is a defect in dust.
"""


class DustError(Exception):
    """Base of every error that is about the user's input, files or machine, not about dust's code."""


class ConfigError(DustError):
    """One or several problems in a configuration; the message lists all of them."""


class DataError(DustError):
    """A manifest, a split or a label that cannot be used."""


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
