"""Stored features with identity: written once, read by memory map."""

from dust.utils.features.formats import DTYPES, FORMATS, id_to_name, name_to_id
from dust.utils.features.store import FeatureStore, recorded_shape
from dust.utils.features.writer import FeatureWriter

__all__ = [
    "DTYPES",
    "FORMATS",
    "FeatureStore",
    "FeatureWriter",
    "id_to_name",
    "name_to_id",
    "recorded_shape",
]
