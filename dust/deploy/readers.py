"""Which reader a system's test has: of video, of video and series, of point tracks, of recordings of a procedure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dust.config import CfgNode
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.recordings import ProcedureRecordings
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.multimodal.fusion import FusedDataset
from dust.datasets.multimodal.fusion_manifest import FusedClip, FusedManifest, read_fused_manifest
from dust.datasets.protocol import ReadsNewClips
from dust.datasets.tracks.tracks import PointTracks
from dust.datasets.video.video import VideoDataset
from dust.deploy.feature_stage import build_feature_stage
from dust.deploy.reading import Reader, VideoClipReader
from dust.deploy.reading_fused import FusedReader, VideoFeatures
from dust.deploy.reading_procedures import build_procedure_reader
from dust.deploy.reading_tracks import build_track_reader
from dust.engine.extract import build_fixed_views
from dust.utils.errors import ConfigError


def build_reader(
    cfg: CfgNode,
    class_names: Sequence[str],
    fitted: Mapping[str, Any],
    files: Mapping[str, str],
    device: torch.device,
    procedure: str = "",
) -> Reader:
    """Return the reader of sources for the test that cfg describes.

    Args:
        class_names, fitted, files: as the checkpoint has them.
        device: on which another stage's model runs, where the samples hold its features.
        procedure: the name of what recordings show; "" for the first.

    Raises:
        ConfigError: the dataset of this system reads no new clips, or none of a procedure.
    """
    cls: Any = DATASET_REGISTRY.get(cfg.TEST.DATASET)
    if procedure and not (isinstance(cls, type) and issubclass(cls, ProcedureRecordings)):
        raise ConfigError(f"procedure {procedure}: TEST.DATASET {cfg.TEST.DATASET} holds no recordings of a procedure")
    new_clips: Any = isinstance(cls, ReadsNewClips)
    if not new_clips:
        raise ConfigError(
            f"TEST.DATASET {cfg.TEST.DATASET} has no for_clips, so it reads no clips but those of its "
            "lists; give it that classmethod, as VideoDataset has it"
        )
    if issubclass(cls, VideoDataset):
        return build_video_reader(cfg, cls, class_names, fitted)
    if issubclass(cls, FusedDataset):
        return build_fused_reader(cfg, cls, class_names, fitted, device)
    if issubclass(cls, PointTracks):
        return build_track_reader(cfg, cls, class_names, fitted)
    if issubclass(cls, ProcedureRecordings):
        return build_procedure_reader(cfg, class_names, fitted, files, device, procedure)
    raise ConfigError(
        f"TEST.DATASET {cfg.TEST.DATASET}: nobody has said what a source of it is; derive it from one that is"
    )


def build_video_reader(cfg: CfgNode, cls: Any, class_names: Sequence[str], fitted: Mapping[str, Any]) -> Reader:
    """Build the reader of clips of video."""
    names = list(class_names)

    def list_of(path: str) -> Sequence[Clip]:
        return cls.read_new_clips(cfg, path)

    return VideoClipReader(cls.for_clips(cfg, Manifest([], names, "", False), fitted), list_of)


def build_fused_reader(
    cfg: CfgNode, cls: Any, class_names: Sequence[str], fitted: Mapping[str, Any], device: torch.device
) -> Reader:
    """Build the reader of clips of video with their series, of one of both, or of series with the features of a
    video."""
    names, modalities = list(class_names), list(cfg.DATA.MODALITIES)
    sources = ["video" if name == "video_features" else name for name in modalities]

    def dataset_of(clips: Sequence[FusedClip]) -> FusedDataset:
        return cls.for_clips(cfg, FusedManifest(list(clips), names, "prediction", False), fitted)

    def read(path: str, wanted: Sequence[str]) -> list[FusedClip]:
        found = read_fused_manifest(
            root=path, split="test", modalities=wanted, separator=cfg.DATA.PATH_LABEL_SEPARATOR,
            path_prefix=cfg.DATA.PATH_PREFIX, class_names=names, multi_label=cfg.DATA.MULTI_LABEL,
            num_classes=cfg.MODEL.NUM_CLASSES, check_files=False, extra_columns=cfg.DATA.EXTRA_COLUMNS,
        )  # fmt: skip
        return found.clips

    def list_of(path: str) -> Sequence[FusedClip]:
        own, whole = read(path, modalities), read(path, sources)  # a test names a sample by what its modalities read
        pairs = zip(own, whole, strict=True)
        return [replace(both, label=None, path=one.path) for one, both in pairs]

    features = build_video_features(cfg, fitted, device) if "video_features" in modalities else None
    video = VideoDataset.for_clips(cfg, Manifest([], names, "", False), {}) if "video" in modalities else None
    return FusedReader(dataset_of, list_of, sources, video, features)


def build_video_features(cfg: CfgNode, fitted: Mapping[str, Any], device: torch.device) -> VideoFeatures:
    """Return the stage that extracted the features which cfg's model was trained on, to do the same with a new clip.

    Raises:
        ConfigError: the stage is gone. CheckpointError: it is another model now.
    """
    name, trained = cfg.FUSION.FEATURES_FROM, fitted.get("video_features", {})
    stage, loop, options, _ = build_feature_stage(name, "FUSION.FEATURES_FROM", cfg.OUTPUT_DIR, trained, device)
    views, kind = build_fixed_views(stage)
    reading = VideoDataset.reading_from_config(views, kind)
    return VideoFeatures(loop, VideoDataset(manifest=Manifest([], [], "", False), **reading), options.dtype)
