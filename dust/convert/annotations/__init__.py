"""Annotation files of other tools, made lists of segments: path, start, end, label."""

from dust.convert.annotations.convert import READERS, convert_annotations

__all__ = ["READERS", "convert_annotations"]
