"""Datasets of video clips."""

from dust.utils.package import offered

PUBLIC = {"SSv2": "dust.datasets.video.video", "VideoDataset": "dust.datasets.video.video"}
__all__ = [*PUBLIC]
__getattr__, __dir__ = offered(__name__, PUBLIC)
