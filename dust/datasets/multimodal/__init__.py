"""Datasets of video, series and stored features, joined by id."""
