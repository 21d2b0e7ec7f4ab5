"""Clips of video files (or frame folders), their labels and their views."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.clips import Clips
from dust.datasets.manifest.labels import read_class_list
from dust.datasets.manifest.manifest import Clip, Manifest, read_new_clips
from dust.datasets.manifest.several import read_folders
from dust.datasets.manifest.shards import build_shard_cache
from dust.datasets.manifest.votes import Votes
from dust.datasets.sample import BadClip, SampleRequest, class_counts, target_of
from dust.datasets.transforms.augment import build_augmentations
from dust.datasets.transforms.clip import EvalTransform, TrainTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.transforms.reversal import draw_reversal, reversed_classes
from dust.datasets.video.windows import SlidingWindows
from dust.decode.clip import reader_class
from dust.decode.reader import ClipReader, FrameRequest, open_clip
from dust.decode.segment import part_of
from dust.utils.errors import VideoError
from dust.utils.registry import build
from dust.utils.rng import numpy_rng


@DATASET_REGISTRY.register()
class VideoDataset(Dataset[Any]):
    """A manifest's clips as uint8 tensors.

    With a ``train_transform``, item ``SampleRequest(epoch, sample)`` is a list of ``num_sample`` augmented views of one
    decode, each ``{"inputs": {"video": (C, T, H, W)}, "label", "id", "path"}``. Without, item ``index`` is one video
    with all its views, ``inputs["video"]`` (V, C, T, H, W), temporal views outermost. A clip that cannot be read, or is
    damaged, is a :class:`BadClip` instead.

    Args:
        manifest: the clips and the class names.
        sampler: which frames make a view.
        train_transform, eval_transform: one of them: augmentation, or fixed crops.
        num_temporal_views: views in time of an evaluation item; 1 is the centre clip if ``centre`` is set.
        num_sample: augmented views per decode in training (repeated augmentation).
        resize: ``swscale`` (fast) | ``torch`` (the published protocols' bilinear).
        aspect: of pixels that are not square: ``stored`` (as published protocols read them) | ``displayed``.
        index_cache: folder of cached frame indices, or empty.
        decoder: what reads video files: pyav | torchcodec | one that is registered, see :mod:`dust.decode.clip`.
        frame_pattern: which pictures of a folder are its frames, see :func:`dust.decode.folders.scan_pictures`.
        seed: the run's seed, from which augmentation is drawn.
        multi_label: labels become (K,) float zeros and ones.
        time_reversal: classes whose training clips are played backwards half of the time, see
            :func:`dust.datasets.transforms.reversal.reversed_classes`.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        sampler: ClipSampler,
        train_transform: TrainTransform | None = None,
        eval_transform: EvalTransform | None = None,
        num_temporal_views: int = 1,
        centre: bool = False,
        num_sample: int = 1,
        resize: str = "swscale",
        aspect: str = "stored",
        index_cache: str = "",
        decoder: str = "pyav",
        frame_pattern: str = "",
        seed: int = 0,
        multi_label: bool = False,
        time_reversal: Sequence[Any] = (),
    ) -> None:
        if (train_transform is None) == (eval_transform is None):
            raise ValueError("give either train_transform or eval_transform")
        self._listed = Clips.of(manifest.clips)
        self.clips: Sequence[Clip] = self._listed  # a subclass may put a list in its place
        self.class_names = list(manifest.class_names)
        self.votes = manifest.votes
        self.sampler = sampler
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.num_temporal_views = num_temporal_views
        self.centre = centre
        self.num_sample = num_sample
        self.resize = resize
        self.aspect = aspect
        self.index_cache = index_cache or None
        self.decoder = decoder
        reader_class(decoder)  # an error of it comes now, not with the first clip
        self.frame_pattern = frame_pattern
        self.seed = seed
        self.multi_label = multi_label
        self.reversed = reversed_classes(time_reversal, self.class_names)

    #: What a configuration that leaves DATA.SAMPLING and DATA.FORMAT open gets.
    default_sampling = "dense"
    default_format = "auto"

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        data = cfg.DATA
        build_shard_cache(cfg)
        if class_names is None and data.CLASS_LIST:
            class_names = read_class_list(data.CLASS_LIST)
        manifest = read_folders(
            data.PATH_TO_DATA_DIR,
            split,
            format=data.FORMAT if data.FORMAT != "auto" else cls.default_format,
            separator=data.PATH_LABEL_SEPARATOR,
            path_prefix=data.PATH_PREFIX,
            class_names=class_names,
            multi_label=data.MULTI_LABEL,
            num_classes=max(cfg.MODEL.NUM_CLASSES, 0) or None,
            split_number=data.SPLIT_NUMBER,
            check_files=data.CHECK_FILES,
            group_column=data.GROUP_COLUMN,
            corrections=data.CORRECTIONS,
            segment_unit=data.SEGMENT_UNIT,
            extra_columns=data.EXTRA_COLUMNS,
            soft_labels=data.SOFT_LABELS,
            annotations=data.ANNOTATIONS,
            epic_label=data.EPIC_LABEL,
            background=build(Background, cfg) if data.BACKGROUND else None,
            cache=data.INDEX_CACHE,
            shared=True,
        )
        return {"manifest": manifest, **cls.reading_from_config(cfg, views or split)}

    @classmethod
    def for_clips(cls, cfg, manifest: Manifest, fitted: Mapping[str, Any]) -> "VideoDataset":
        """Return a test's dataset of clips that no list of the data folder names."""
        return cls(manifest=manifest, **cls.reading_from_config(cfg, "test"))

    @classmethod
    def read_new_clips(cls, cfg, path: str) -> list[Clip]:
        """Return the clips of a csv list that are to be predicted, without labels."""
        data = cfg.DATA
        return read_new_clips(
            path,
            separator=data.PATH_LABEL_SEPARATOR,
            path_prefix=data.PATH_PREFIX,
            segment_unit=data.SEGMENT_UNIT,
            extra_columns=data.EXTRA_COLUMNS,
        )

    @classmethod
    def reading_from_config(cls, cfg, views: str) -> dict[str, Any]:
        """Return how clips are read, whatever manifest they are of: all arguments but ``manifest``."""
        data, train = cfg.DATA, views == "train"
        build_shard_cache(cfg)
        sampler = ClipSampler(
            mode=data.SAMPLING or cls.default_sampling,
            num_frames=data.NUM_FRAMES,
            sampling_rate=data.SAMPLING_RATE,
            target_fps=data.TARGET_FPS,
            use_offset_sampling=data.USE_OFFSET_SAMPLING,
            jitter_fps=data.TRAIN_JITTER_FPS if train else 0.0,
            clips_per_view=data.CLIPS_PER_VIEW,
        )
        return {
            "sampler": sampler,
            "train_transform": train_transform(cfg) if train else None,
            "eval_transform": None if train else cls.eval_transform_for(cfg, views),
            "num_temporal_views": cfg.TEST.NUM_ENSEMBLE_VIEWS if views == "test" else 1,
            "centre": views == "val",
            "num_sample": cfg.AUG.NUM_SAMPLE if train and cfg.AUG.ENABLE else 1,
            "resize": data.RESIZE,
            "aspect": data.PIXEL_ASPECT,
            "index_cache": data.INDEX_CACHE,
            "decoder": data.DECODER,
            "frame_pattern": data.FRAME_PATTERN,
            "seed": cfg.RNG_SEED,
            "multi_label": data.MULTI_LABEL,
            "time_reversal": cfg.AUG.TIME_REVERSAL if train and cfg.AUG.ENABLE else (),
        }

    @classmethod
    def eval_transform_for(cls, cfg, views: str) -> EvalTransform:
        """Return for validation: a centre crop as large as in training. Test: SlowFast's rule for the short side."""
        if views != "test":
            return EvalTransform(
                crop_size=cfg.DATA.TRAIN_CROP_SIZE, short_side=cfg.DATA.TRAIN_JITTER_SCALES[0], num_crops=1
            )
        crops = cfg.TEST.NUM_SPATIAL_CROPS
        short = cfg.DATA.TEST_CROP_SIZE if crops > 1 else cfg.DATA.TRAIN_JITTER_SCALES[0]
        return EvalTransform(crop_size=cfg.DATA.TEST_CROP_SIZE, short_side=short, num_crops=crops)

    def __len__(self) -> int:
        return len(self.clips)

    def class_counts(self) -> list[int]:
        """Return how many clips each class has, in the order of ``class_names``."""
        number = len(self.class_names)
        return self.clips.counts(number) if isinstance(self.clips, Clips) else class_counts(self.clips, number)

    @property
    def identity(self) -> Any:
        """What a resumed training must find again: the parts of files, and what several people said."""
        clips = self._listed
        parts = [one.part for one in clips.segments() if one is not None] if clips.has_segments else []
        return [*parts, *(f"{name} {said}" for name, said in self.votes.items())] or None

    def __getitem__(self, key: SampleRequest | int) -> Any:
        index = key.sample if isinstance(key, SampleRequest) else key
        clip = self.clips[index]
        try:
            if self.train_transform is not None:
                assert isinstance(key, SampleRequest), "a training sample is asked for with its epoch"
                return self._training_views(clip, key)
            return self.read_views(clip, self.evaluation_views)
        except VideoError as error:
            return BadClip(clip.id, clip.path, error.reason)

    def open(self, clip: Clip) -> ClipReader:
        """Return a reader of the clip, of its segment alone if it is one. VideoError where it cannot be opened."""
        reader = open_clip(
            clip.path,
            decoder=self.decoder,
            resize=self.resize,
            aspect=self.aspect,
            index_cache=self.index_cache,
            pattern=self.frame_pattern,
        )
        return part_of(reader, clip.segment)

    def _training_views(self, clip: Clip, draw: SampleRequest) -> Any:
        assert self.train_transform is not None
        rngs = [numpy_rng(self.seed, "augment", draw.epoch, draw.sample, view) for view in range(self.num_sample)]
        with self.open(clip) as reader:
            requests, geometries = [], []
            for rng in rngs:
                indices = self.sampler.train(len(reader), reader.fps, rng)
                geometry = self.train_transform.geometry(reader.height, reader.width, rng)
                requests.append(FrameRequest(indices, geometry.box, geometry.size, geometry.crops))
                geometries.append(geometry)
            arrays = reader.read(requests)
            if reader.report.damaged:
                return BadClip(clip.id, clip.path, reader.report.reason)
        samples = []
        for array, request, geometry, rng in zip(arrays, requests, geometries, rngs, strict=True):
            frames = torch.from_numpy(array)
            frames = frames[0] if frames.ndim == 5 else frames  # one crop
            video = self.train_transform(frames.permute(0, 3, 1, 2), geometry, rng)  # (T, C, H, W)
            seen = self.as_seen(clip, request.indices)
            backwards, label = draw_reversal(seen.label, self.reversed, rng)
            if backwards:
                seen, video = replace(seen, label=label), video.flip(0)
            samples.append(self.sample(seen, video.permute(1, 0, 2, 3).contiguous()))  # (C, T, H, W)
        return samples

    def as_seen(self, clip: Clip, frames: Sequence[int]) -> Clip:
        """Return the clip as training sees it in these frames, for datasets whose labels depend on them."""
        return clip

    def evaluation_views(self, video_len: int, fps: float) -> list[list[int]]:
        """Return the frames of each view in time of an evaluation item, of a video of ``video_len`` frames."""
        if self.centre:
            return [self.sampler.val(video_len, fps)]
        return self.sampler.test(video_len, fps, self.num_temporal_views)

    def windows(self, *, stride: int, chunk: int) -> SlidingWindows:
        """Return the same clips as windows that slide over each whole video, ``chunk`` of them per item."""
        return SlidingWindows(self, stride=stride, chunk=chunk)

    def read_views(
        self,
        clip: Clip,
        choose: Callable[[int, float], list[list[int]]],
        reader: ClipReader | None = None,
        *,
        keep_damaged: bool = False,
    ) -> Any:
        """Return one evaluation sample of the views whose frames ``choose(video_len, fps)`` names.

        Args:
            reader: of the clip, open; None opens it by its path. It is closed at the end.
            keep_damaged: what can be read of a damaged clip makes a sample; else it is a :class:`BadClip`.

        Raises:
            VideoError: the clip cannot be read.
        """
        assert self.eval_transform is not None
        with reader if reader is not None else self.open(clip) as source:
            views = choose(len(source), source.fps)
            geometry = self.eval_transform.geometry(source.height, source.width)
            arrays = source.read([FrameRequest(view, geometry.box, geometry.size, geometry.crops) for view in views])
            if source.report.damaged and not keep_damaged:
                return BadClip(clip.id, clip.path, source.report.reason)
        # each (crops, T, H, W, C); SlowFast numbers a video's views temporal * crops + spatial
        video = torch.cat([torch.from_numpy(array) for array in arrays])
        return self.sample(clip, video.permute(0, 4, 1, 2, 3).contiguous())  # (V, C, T, H, W)

    def said_of(self, clip: Clip) -> Votes | None:
        """Return what several people said of a training clip; a test measures by the class that most of them said."""
        return None if self.train_transform is None else self.votes.get(clip.id)

    def sample(self, clip: Clip, video: Tensor) -> dict[str, Any]:
        """Return a sample of pixels that were read: uint8 (C, T, H, W) in training, (V, C, T, H, W) in evaluation."""
        return {
            "inputs": {"video": video},
            "label": target_of(clip.label, len(self.class_names), self.multi_label, self.said_of(clip)),
            "id": clip.id,
            "path": clip.path,
        }


@DATASET_REGISTRY.register()
class SSv2(VideoDataset):
    """Something-Something V2: its json files, one frame of each of T segments, and its test's short side."""

    default_sampling = "segments"
    default_format = "ssv2"

    @classmethod
    def eval_transform_for(cls, cfg, views: str) -> EvalTransform:
        """Return the transform as VideoDataset does, but the short side of a test is TEST_CROP_SIZE whatever the number
        of crops."""
        if views != "test":
            return super().eval_transform_for(cfg, views)
        size = cfg.DATA.TEST_CROP_SIZE
        return EvalTransform(crop_size=size, short_side=size, num_crops=cfg.TEST.NUM_SPATIAL_CROPS)


def train_transform(cfg) -> TrainTransform:
    """Return the augmentation that cfg.DATA and cfg.AUG describe."""
    data, aug = cfg.DATA, cfg.AUG
    return TrainTransform(
        crop_size=data.TRAIN_CROP_SIZE,
        jitter_scales=tuple(data.TRAIN_JITTER_SCALES),
        inv_uniform=data.INV_UNIFORM_SAMPLE,
        scales_relative=tuple(data.TRAIN_JITTER_SCALES_RELATIVE),
        aspect_relative=tuple(data.TRAIN_JITTER_ASPECT_RELATIVE),
        random_flip=data.RANDOM_FLIP,
        auto_augment=aug.AA_TYPE if aug.ENABLE and not aug.LIST and aug.AA_WHERE == "workers" else "",
        color_jitter=aug.COLOR_JITTER if aug.ENABLE and not aug.AA_TYPE else 0.0,
        interpolation=aug.INTERPOLATION,
        augmentations=build_augmentations(aug.LIST) if aug.ENABLE and aug.LIST else None,
    )
