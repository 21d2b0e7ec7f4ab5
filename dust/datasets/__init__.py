"""Data: manifests, decoding, sampling, transforms, and the loader that batches them. A line for each dataset.

Everything is imported when it is asked for: what only reads and writes lists does not wait for torch.
"""

from dust.utils.package import offered

PUBLIC = {
    "DATASET_REGISTRY": "dust.datasets.build",
    "build_dataset": "dust.datasets.build",
    "construct_loader": "dust.datasets.loader",
    "BadClip": "dust.datasets.sample",
    "SampleRequest": "dust.datasets.sample",
    "Charades": "dust.datasets.video.charades",
    "EmbeddingWindows": "dust.datasets.keystep.windows",
    "EpicKitchens": "dust.datasets.video.epic",
    "FusedDataset": "dust.datasets.multimodal.fusion",
    "GroupedVideo": "dust.datasets.video.tstl_groups",
    "KeyFrames": "dust.datasets.keystep.key_frames",
    "PointTracks": "dust.datasets.tracks.tracks",
    "ProcedureRecordings": "dust.datasets.keystep.recordings",
    "RecordingFrames": "dust.datasets.keystep.frames",
    "SSv2": "dust.datasets.video.video",
    "StoredTokens": "dust.datasets.video.tokens",
    "VideoDataset": "dust.datasets.video.video",
    "VideoWindows": "dust.datasets.keystep.windows",
}
__all__ = [*PUBLIC]
__getattr__, __dir__ = offered(__name__, PUBLIC)
