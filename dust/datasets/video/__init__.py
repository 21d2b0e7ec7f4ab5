"""Datasets of video clips."""
