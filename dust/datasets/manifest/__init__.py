"""Lists of clips and labels: from a csv, folders, or another project's annotation files."""

from dust.datasets.manifest.clips import Clip, Clips
from dust.datasets.manifest.labels import read_class_list, write_class_list
from dust.datasets.manifest.manifest import (
    Manifest,
    available_splits,
    detect_format,
    read_manifest,
)

__all__ = [
    "Clip",
    "Clips",
    "Manifest",
    "available_splits",
    "detect_format",
    "read_class_list",
    "read_manifest",
    "write_class_list",
]
