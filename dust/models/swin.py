"""Shifted-window transformers: :class:`VideoSwin` for clips, :class:`SeriesSwin` for series of sensor values."""

from dust.models.series_swin import SeriesSwin
from dust.models.video_swin import VideoSwin

__all__ = ["SeriesSwin", "VideoSwin"]
