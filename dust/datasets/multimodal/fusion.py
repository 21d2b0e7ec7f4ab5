"""Samples of several modalities: video, a sensor series, stored video features; one csv names what belongs together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dust.config import with_values
from dust.datasets.arrays import ArrayFiles, StackedRows, is_row
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.labels import read_class_list
from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.manifest.several import one_folder
from dust.datasets.multimodal.fusion_manifest import FusedClip, FusedManifest, read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.multimodal.series_split import SplitSeries
from dust.datasets.multimodal.series_transforms import SeriesShaping
from dust.datasets.sample import BadClip, SampleRequest, class_counts, target_of
from dust.datasets.video.video import VideoDataset
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256
from dust.utils.errors import DataError, Problems, SampleError
from dust.utils.features import FeatureStore
from dust.utils.stages import stage_checkpoint, stage_features


class StackedVideos:
    """Videos that are rows of memory-mapped arrays (N, C, T, H, W): uint8 stays uint8 and is normalised on the device;
    floating values become float32 and stay as they are. One clip is read at a time.

    Raises:
        DataError: arrays of another kind, or clips of different shapes.
    """

    def __init__(self, references: Sequence[str], channels: int) -> None:
        self.rows = StackedRows(references, ArrayFiles())
        problems = Problems()
        shapes: dict[tuple[int, ...], str] = {}
        for path in self.rows.paths:
            try:
                array = self.rows.files.open(path)
            except SampleError as error:
                problems.add(error.reason, f"{error.path} ({error.detail})")
                continue
            found = f"{path}: {array.dtype} {array.shape}"
            if array.ndim != 5 or array.shape[1] != channels:
                problems.add(f"not (N, {channels}, T, H, W), with DATA.INPUT_CHANNEL_NUM {channels} channels", found)
            elif array.dtype != np.uint8 and array.dtype.kind != "f":
                problems.add("neither uint8 (0..255) nor floating values (already normalised): save as uint8", found)
            shapes.setdefault(array.shape[1:], found)
        if len(shapes) > 1 and not problems.kinds:
            for found in shapes.values():
                problems.add("clips of different shapes cannot be in one batch: make them alike", found)
        problems.raise_if_any("the stacked videos")

    def read(self, index: int) -> Tensor:
        """Return (C, T, H, W) uint8 or float32. SampleError for values that are not finite."""
        row = self.rows.one(index)
        if row.dtype == np.uint8:
            return torch.from_numpy(row)
        with np.errstate(over="ignore"):
            clip = np.array(row, np.float32)
        if not np.isfinite(clip).all():
            path = self.rows.paths[self.rows.file[index]]
            raise SampleError(path, "a clip with values that are not finite", f"row {self.rows.row[index]}")
        return torch.from_numpy(clip)


@DATASET_REGISTRY.register()
class FusedDataset(Dataset[Any]):
    """The samples of a fused manifest, with an input for each of ``modalities``:

    * ``video``: (C, T, H, W), read by an inner :class:`VideoDataset` (augmentation, views, decoding are its), or a row
      of a stacked array, as it is and in one view;
    * ``series``: (C', length) float32, see :class:`SplitSeries`;
    * ``video_features``: float32, what an earlier stage stored under the sample's id.

    In training, item ``SampleRequest(epoch, sample)`` is a list of samples, one per view that the inner dataset draws;
    series and features are the same in all of them. (Of series alone: ``num_sample`` views, each drawn by itself.)
    Otherwise item ``index`` is one sample whose inputs have a leading dimension V, the number of its views: 1 without
    video files, but of series alone with ``rules.fit`` windows, one for each window. A sample that cannot be read is a
    :class:`BadClip`.

    Attributes:
        clips, class_names: as in VideoDataset.
        fitted: ``{"series": {"mean", "std", "length"}, "video_features": {"checkpoint_sha256", "layer", "shape"}}``,
            as far as there are such modalities: what other splits, and later a test, must be read with.

    Args:
        split: train | val | test, for messages, and because only train may fit.
        training: see above.
        video: keyword arguments of the inner VideoDataset besides ``manifest``.
        channels: of videos that are rows of arrays.
        rules, shaping, normalize, noise: of the series.
        num_sample: training views of a sample of series alone.
        features: of this split.
        feature_dim: channels that the features must have; 0 = any.
        needs_map: the features must be maps (C, ...), not vectors.
        check: read every series once at the start.
        fitted: the training dataset's ``fitted``.

    Raises:
        DataError: series or arrays that cannot be used, samples without features, features of another kind.
    """

    def __init__(
        self,
        *,
        manifest: FusedManifest,
        modalities: Sequence[str],
        split: str,
        training: bool = False,
        video: Mapping[str, Any] | None = None,
        channels: int = 3,
        rules: SeriesRules | None = None,
        shaping: SeriesShaping | None = None,
        num_sample: int = 1,
        normalize: bool = True,
        noise: float = 0.0,
        features: FeatureStore | None = None,
        feature_dim: int = 0,
        needs_map: bool = False,
        seed: int = 0,
        check: bool = True,
        fitted: Mapping[str, Any] | None = None,
    ) -> None:
        self.clips: list[FusedClip] = manifest.clips
        self.class_names = list(manifest.class_names)
        self.multi_label = manifest.multi_label
        self.votes = manifest.votes if training else {}  # a test measures by the class that most people said
        self.identity = [f"{name} {said}" for name, said in self.votes.items()] or None
        self.modalities, self.split, self.training = tuple(modalities), split, training
        self.fitted: dict[str, Any] = {}
        alone = self.modalities == ("series",)
        self.num_sample = num_sample if alone else 1
        self.windowed = alone and rules is not None and rules.fit == "windows"
        ids = [clip.id for clip in self.clips]
        fitted = fitted or {}
        self.videos: VideoDataset | StackedVideos | None = None
        if "video" in modalities:
            self.videos = self._open_videos(manifest, video or {}, channels)
        self.series: SplitSeries | None = None
        if "series" in modalities:
            assert rules is not None, "series need rules"
            self.series = SplitSeries(
                ids=ids,
                references=[clip.series for clip in self.clips],
                cuts=[clip.window for clip in self.clips],
                rules=rules,
                shaping=shaping,
                split=split,
                normalize=normalize,
                noise=noise,
                seed=seed,
                training=training,
                statistics=fitted.get("series"),
                check=check,
            )
            self.fitted["series"] = self.series.statistics
        self.features: FeatureStore | None = None
        if "video_features" in modalities:
            assert features is not None, "video_features need a store"
            self.features = features
            self._check_features(features, feature_dim, needs_map, fitted.get("video_features"))
            self._feature_rows = features.rows(ids)

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        data, views = cfg.DATA, views or split
        modalities = list(data.MODALITIES)
        manifest = _manifest_of(cfg, split, class_names)
        features = None
        if "video_features" in modalities:
            features = _stored_features(cfg, split)
        return {
            "manifest": manifest,
            "modalities": modalities,
            "split": split,
            "training": views == "train",
            "video": VideoDataset.reading_from_config(cfg, views) if "video" in modalities else None,
            "channels": data.INPUT_CHANNEL_NUM[0],
            "rules": SeriesRules(**SeriesRules.from_config(cfg)) if "series" in modalities else None,
            "shaping": SeriesShaping(**SeriesShaping.from_config(cfg)),
            "num_sample": cfg.AUG.NUM_SAMPLE if views == "train" and cfg.AUG.ENABLE else 1,
            "normalize": cfg.SERIES.NORMALIZE,
            "noise": cfg.SERIES.NOISE,
            "features": features,
            "feature_dim": cfg.FUSION.FEATURE_DIM,
            "needs_map": cfg.FUSION.MODE == "cross_attention",
            "seed": cfg.RNG_SEED,
            "check": data.CHECK_FILES,
        }

    @classmethod
    def for_clips(cls, cfg, manifest: FusedManifest, fitted: Mapping[str, Any]) -> "FusedDataset":
        """Return a test's dataset of new samples, with the modalities that come from files: all but stored features."""
        modalities = [name for name in cfg.DATA.MODALITIES if name != "video_features"]
        return cls(
            manifest=manifest,
            modalities=modalities,
            split="test",
            video=VideoDataset.reading_from_config(cfg, "test") if "video" in modalities else None,
            channels=cfg.DATA.INPUT_CHANNEL_NUM[0],
            rules=SeriesRules(**SeriesRules.from_config(cfg)) if "series" in modalities else None,
            shaping=SeriesShaping(**SeriesShaping.from_config(cfg)),
            normalize=cfg.SERIES.NORMALIZE,
            seed=cfg.RNG_SEED,
            check=False,
            fitted=fitted,
        )

    @classmethod
    def look_ahead(
        cls,
        cfg,
        split: str,
        class_names: Sequence[str] | None = None,
        *,
        views: str | None = None,
        fitted: Mapping[str, Any] | None = None,
        expected: Mapping[str, Any],
    ) -> tuple["FusedDataset", list[str]]:
        """Return the samples with all but their features."""
        problems, key = [], f"FUSION.FEATURES_FROM {cfg.FUSION.FEATURES_FROM}"
        if expected["FEATURES.FORMAT"] == "per_video":
            problems.append(f"{key}: will store a file per video; set its FEATURES.FORMAT memmap or npz")
        if cfg.FUSION.MODE == "cross_attention" and expected["FEATURES.LAYER"] == "pooled":
            problems.append(
                f"{key}: will store a vector per sample, but FUSION.MODE cross_attention needs maps: set its "
                "FEATURES.LAYER map, or FUSION.MODE concat"
            )
        others = [name for name in cfg.DATA.MODALITIES if name != "video_features"]
        arguments = cls.from_config(with_values(cfg, {"DATA.MODALITIES": others}), split, class_names, views=views)
        return cls(**arguments, fitted=fitted), problems

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        return _manifest_of(cfg, split, None).class_names

    def _open_videos(self, manifest: FusedManifest, options: Mapping[str, Any], channels: int) -> Any:
        references = [clip.video for clip in self.clips]
        if all(map(is_row, references)):
            return StackedVideos(references, channels)
        clips = [Clip(clip.id, clip.video, clip.label, clip.group, clip.segment) for clip in self.clips]
        return VideoDataset(
            manifest=Manifest(clips, self.class_names, manifest.source, manifest.multi_label, votes=manifest.votes),
            **options,
        )

    def _check_features(
        self, store: FeatureStore, dim: int, needs_map: bool, trained: Mapping[str, Any] | None
    ) -> None:
        """Check that these features fit the model, and are of the kind that training had."""
        again = "extract the features again (FEATURES.*), or name others as FUSION.FEATURES_FROM"
        if store.format == "per_video":
            raise DataError(
                f"{store.path}: a file per video, of any number of windows: set FEATURES.FORMAT memmap or npz"
            )
        if dim and store.shape[:1] != (dim,):
            raise DataError(
                f"{store.path}: features of shape {store.shape}, where FUSION.FEATURE_DIM is {dim}: correct the "
                f"key, or {again}"
            )
        if needs_map and len(store.shape) < 2:
            raise DataError(
                f"{store.path}: features of shape {store.shape}, a vector per sample, but FUSION.MODE "
                "cross_attention needs maps: extract with FEATURES.LAYER map, or set FUSION.MODE concat"
            )
        meta = store.meta
        own = {
            "checkpoint_sha256": meta.get("checkpoint_sha256", ""),
            "layer": meta.get("layer", ""),
            "shape": list(store.shape),
        }
        differ = [f"{key} {own[key]}, not {trained[key]}" for key in own if trained and own[key] != trained.get(key)]
        if differ:
            raise DataError(
                f"{store.path}: not the kind of features that were trained with ({'; '.join(differ)}): {again}"
            )
        self.fitted["video_features"] = own

    def __len__(self) -> int:
        return len(self.clips)

    def class_counts(self) -> list[int]:
        """Return how many samples each class has, in the order of ``class_names``."""
        return class_counts(self.clips, len(self.class_names))

    def windows(self, *, stride: int, chunk: int) -> Dataset[Any]:
        """See :meth:`VideoDataset.windows`. DataError unless all there is are video files."""
        if self.modalities != ("video",) or not isinstance(self.videos, VideoDataset):
            raise DataError(f"windows slide over video files only; DATA.MODALITIES are {list(self.modalities)}")
        return self.videos.windows(stride=stride, chunk=chunk)

    # -------------------------------------------------------------------------------------------------------- items

    def __getitem__(self, key: SampleRequest | int) -> Any:
        index, epoch = (key.sample, key.epoch) if isinstance(key, SampleRequest) else (key, None)
        assert isinstance(key, SampleRequest) == self.training, (
            "a training sample is asked for with its epoch, others without"
        )
        clip = self.clips[index]
        samples: list[dict[str, Any]] = [self._sample(index, {})]
        try:
            if isinstance(self.videos, VideoDataset):
                read = self.videos[key]
                if isinstance(read, BadClip):
                    return read
                samples = read if self.training else [read]
            elif self.videos is not None:
                video = self.videos.read(index)
                samples[0]["inputs"]["video"] = video if self.training else video[None]
            if self.series is not None and self.windowed and not self.training:
                samples[0]["inputs"]["series"] = self.series.windows(index)
                return samples[0]
            if self.training and self.num_sample > 1:
                return [self._sample(index, self._only(index, epoch, view)) for view in range(self.num_sample)]
            others = self._only(index, epoch)
        except SampleError as error:
            reason = error.reason + (f" ({error.detail})" if error.detail else "")
            return BadClip(clip.id, error.path, reason)
        if self.training:
            for sample in samples:
                sample["inputs"] |= others
            return samples
        (sample,) = samples
        return with_others(sample, others)

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        """Return a batch of items at once, which PyTorch's loader asks for: series and features are read in one go."""
        if not self.training or self.videos is not None:
            return [self[key] for key in keys]
        indices, epochs = [key.sample for key in keys], [key.epoch for key in keys]
        items: list[list[Any]] = [[] for _ in keys]
        try:
            for view in range(self.num_sample):
                inputs = self._others(indices, epochs, view)
                rows = zip(*(values.unbind(0) for values in inputs.values()), strict=True)
                for item, index, row in zip(items, indices, rows, strict=True):
                    item.append(self._sample(index, dict(zip(inputs, row, strict=True))))
        except SampleError:  # one by one, so that only the bad ones are left out
            return [self[key] for key in keys]
        return items

    def _only(self, index: int, epoch: int | None, view: int = 0) -> dict[str, Tensor]:
        """Return the inputs of one sample but the video."""
        return {name: values[0] for name, values in self._others([index], [epoch], view).items()}

    def _others(self, indices: Sequence[int], epochs: Sequence[int | None], view: int = 0) -> dict[str, Tensor]:
        """Return all inputs but the video, (len(indices), ...). SampleError if one cannot be read."""
        inputs = {}
        if self.series is not None:
            inputs["series"] = self.series.batch(indices, epochs, view)
        if self.features is not None:
            found = self.features.features[self._feature_rows[indices]]
            inputs["video_features"] = torch.from_numpy(found.astype(np.float32, copy=False))
        return inputs

    def _sample(self, index: int, inputs: dict[str, Tensor]) -> dict[str, Any]:
        clip = self.clips[index]
        return {
            "inputs": inputs,
            "label": target_of(clip.label, len(self.class_names), self.multi_label, self.votes.get(clip.id)),
            "id": clip.id,
            "path": clip.path,
        }


def with_others(sample: dict[str, Any], others: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return an evaluation sample with inputs (...) that are the same in all of its views."""
    views = len(sample["inputs"]["video"]) if "video" in sample["inputs"] else 1
    sample["inputs"] |= {name: value.expand(views, *value.shape) for name, value in others.items()}
    return sample


def _manifest_of(cfg, split: str, class_names: Sequence[str] | None) -> FusedManifest:
    data = cfg.DATA
    if class_names is None and data.CLASS_LIST:
        class_names = read_class_list(data.CLASS_LIST)
    return read_fused_manifest(
        root=one_folder(data.PATH_TO_DATA_DIR, "FusedDataset"),
        split=split,
        modalities=data.MODALITIES,
        separator=data.PATH_LABEL_SEPARATOR,
        path_prefix=data.PATH_PREFIX,
        class_names=class_names,
        multi_label=data.MULTI_LABEL,
        num_classes=max(cfg.MODEL.NUM_CLASSES, 0) or None,
        check_files=data.CHECK_FILES,
        group_column=data.GROUP_COLUMN,
        corrections=data.CORRECTIONS,
        extra_columns=data.EXTRA_COLUMNS,
        soft_labels=data.SOFT_LABELS,
    )


def _stored_features(cfg, split: str) -> FeatureStore:
    """Return the split's features of FUSION.FEATURES_FROM, made by the checkpoint of FUSION.VIDEO_FROM where that is
    named."""
    fusion = cfg.FUSION
    store = FeatureStore.open(stage_features(fusion.FEATURES_FROM, cfg.OUTPUT_DIR, "FUSION.FEATURES_FROM"), split)
    if fusion.VIDEO_FROM:
        path = stage_checkpoint(fusion.VIDEO_FROM, cfg.OUTPUT_DIR, "FUSION.VIDEO_FROM")
        digest = distributed.from_main(lambda: file_sha256(path))
        store.check_checkpoint(digest, f"FUSION.VIDEO_FROM {fusion.VIDEO_FROM} ({path})")
    return store
