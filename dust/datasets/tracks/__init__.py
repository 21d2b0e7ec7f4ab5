"""Datasets of point tracks of one camera or several."""

from dust.datasets.tracks.tracks import PointTracks

__all__ = ["PointTracks"]
