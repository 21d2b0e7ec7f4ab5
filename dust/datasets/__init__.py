"""Data: manifests, decoding, sampling, transforms, and the loader that batches them. One import line per dataset."""

from dust.datasets.build import DATASET_REGISTRY, build_dataset
from dust.datasets.keystep.frames import RecordingFrames
from dust.datasets.keystep.key_frames import KeyFrames
from dust.datasets.keystep.recordings import ProcedureRecordings
from dust.datasets.keystep.windows import EmbeddingWindows, VideoWindows
from dust.datasets.loader import construct_loader
from dust.datasets.multimodal.fusion import FusedDataset
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.tracks.tracks import PointTracks
from dust.datasets.video.charades import Charades
from dust.datasets.video.epic import EpicKitchens
from dust.datasets.video.tokens import StoredTokens
from dust.datasets.video.tstl_groups import GroupedVideo
from dust.datasets.video.video import SSv2, VideoDataset

__all__ = [
    "DATASET_REGISTRY",
    "BadClip",
    "Charades",
    "EmbeddingWindows",
    "EpicKitchens",
    "FusedDataset",
    "GroupedVideo",
    "KeyFrames",
    "PointTracks",
    "ProcedureRecordings",
    "RecordingFrames",
    "SSv2",
    "SampleRequest",
    "StoredTokens",
    "VideoDataset",
    "VideoWindows",
    "build_dataset",
    "construct_loader",
]
