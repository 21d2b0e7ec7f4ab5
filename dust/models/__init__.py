"""Models. Importing a file registers its classes; one line for each."""

from dust.models import (
    cast,
    clip_vit,
    dual_swin,
    keystep,
    keystep_frames,
    keystep_video,
    series_swin,
    timesformer,
    tracks,
    tstl,
    video_swin,
    videomae_pretrain,
    videomae_vit,
    vjepa2,
)
from dust.models.build import MODEL_REGISTRY, build_model

__all__ = [
    "MODEL_REGISTRY",
    "build_model",
    "cast",
    "clip_vit",
    "dual_swin",
    "keystep",
    "keystep_frames",
    "keystep_video",
    "series_swin",
    "timesformer",
    "tracks",
    "tstl",
    "video_swin",
    "videomae_pretrain",
    "videomae_vit",
    "vjepa2",
]
