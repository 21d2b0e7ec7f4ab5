"""Datasets of video clips."""

from dust.datasets.video.video import SSv2, VideoDataset

__all__ = ["SSv2", "VideoDataset"]
