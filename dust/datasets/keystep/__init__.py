"""Datasets of recorded procedures: key frames, windows, whole recordings."""
