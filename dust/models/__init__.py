"""Models. Importing a file registers its classes; one line for each."""

from dust.models import (
    cast,
    clip_moments,
    clip_vit,
    clip_zero_shot,
    dual_swin,
    hugging_face_video,
    keystep,
    keystep_frames,
    keystep_video,
    mvit,
    probe,
    series_rocket,
    series_swin,
    slowfast,
    timesformer,
    torchvision_video,
    tracks,
    tstl,
    video_swin,
    videomae_pretrain,
    videomae_vit,
    vjepa2,
    x3d,
)
from dust.models.build import MODEL_REGISTRY, build_model

__all__ = ["MODEL_REGISTRY", "build_model"]
