"""Datasets of recorded procedures: key frames, windows, whole recordings."""

from dust.utils.package import offered

PUBLIC = {"KeyFrames": "dust.datasets.keystep.key_frames"}
__all__ = [*PUBLIC]
__getattr__, __dir__ = offered(__name__, PUBLIC)
