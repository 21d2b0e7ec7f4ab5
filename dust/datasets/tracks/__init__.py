"""Datasets of point tracks of one camera or several."""

from dust.utils.package import offered

PUBLIC = {"PointTracks": "dust.datasets.tracks.tracks"}
__all__ = [*PUBLIC]
__getattr__, __dir__ = offered(__name__, PUBLIC)
