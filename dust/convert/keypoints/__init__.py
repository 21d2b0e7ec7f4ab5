"""Keypoints of people, by any of the usual pose trackers, made point tracks or series of ours."""

from dust.convert.keypoints.convert import READERS, convert_keypoints

__all__ = ["READERS", "convert_keypoints"]
