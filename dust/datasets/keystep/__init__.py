"""Datasets of recorded procedures: key frames, windows, whole recordings."""

from dust.datasets.keystep.key_frames import KeyFrames

__all__ = ["KeyFrames"]
