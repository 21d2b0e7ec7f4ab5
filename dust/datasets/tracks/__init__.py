"""Datasets of point tracks of one camera or several."""
