"""Data: manifests, decoding, sampling, transforms, and the loader that batches them."""

from dust.datasets.build import DATASET_REGISTRY, build_dataset
from dust.datasets.fused import FusedDataset
from dust.datasets.loader import construct_loader
from dust.datasets.sample import BadClip, Draw
from dust.datasets.tracks import PointTracks
from dust.datasets.video import SSv2, VideoDataset

__all__ = [
    "DATASET_REGISTRY",
    "BadClip",
    "Draw",
    "FusedDataset",
    "PointTracks",
    "SSv2",
    "VideoDataset",
    "build_dataset",
    "construct_loader",
]
