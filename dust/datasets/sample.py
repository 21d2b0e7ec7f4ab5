"""What travels between a sampler, a dataset and the engine besides samples."""

from typing import NamedTuple


class Draw(NamedTuple):
    """What a sampler asks a training dataset for: sample number ``sample`` as it looks in ``epoch``."""

    epoch: int
    sample: int


class BadClip(NamedTuple):
    """Stands in a sample's place when its clip cannot be read whole."""

    id: str
    path: str
    reason: str
