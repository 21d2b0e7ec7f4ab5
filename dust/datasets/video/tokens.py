"""Stored tokens of clips, in place of the clips: what a probe is trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dust.config import KEYS, flatten, with_values
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.manifest.clips import Clips
from dust.datasets.manifest.manifest import Manifest
from dust.datasets.sample import AGAIN, BadClip, SampleRequest, target_of
from dust.datasets.video.video import VideoDataset
from dust.utils.errors import DataError
from dust.utils.features import FeatureStore
from dust.utils.rng import numpy_rng
from dust.utils.stages import stage_features
from dust.utils.structured import parse_yaml

#: What a clip becomes tokens by, besides the backbone's own keys: a test on clips must say the same.
SEEN = (
    "DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS", "DATA.SAMPLING", "DATA.TRAIN_CROP_SIZE", "DATA.MEAN",
    "DATA.STD", "DATA.REVERSE_INPUT_CHANNEL", "FEATURES.TOKENS", "FEATURES.TOKEN_GRID", "FEATURES.TOKEN_QUERIES",
)  # fmt: skip


@DATASET_REGISTRY.register()
class StoredTokens(VideoDataset):
    """The lists of VideoDataset with stored tokens (FEATURES.LAYER tokens) in place of the clips.

    In training, item ``SampleRequest(epoch, sample)`` is a list of one sample with ``inputs["tokens"]`` (N, D): one of
    the V views that were stored, in turn from epoch to epoch. Otherwise item ``index`` is a sample with all of them,
    (V, N, D). A clip without tokens is a :class:`BadClip`. Nothing is decoded, and nothing is augmented but by storing
    several views.

    Args:
        store: of this split.
        training: see above.
        answers: add ``inputs["answers"]``, the clips' classes, for nearest neighbours.
        options: of VideoDataset.
    """

    def __init__(self, *, store: FeatureStore, training: bool = False, answers: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if store.meta.get("layer") != "tokens" or len(store.shape) != 3:
            raise DataError(
                f"{store.path}: features of the layer {store.meta.get('layer', 'unknown')!r}, shape {store.shape}: "
                "StoredTokens reads what FEATURES.LAYER tokens stored"
            )
        self.store, self.training, self.answers = store, training, answers
        absent = set(store.missing)
        there = [name for name in Clips.of(self.clips).ids() if name not in absent]
        rows = dict(zip(there, store.rows(there).tolist(), strict=True))
        self._rows = np.fromiter((rows.get(name, -1) for name in Clips.of(self.clips).ids()), np.int64, len(self.clips))

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        arguments = super().from_config(cfg, split, class_names, views=views)
        key = "PROBE.TOKENS_FROM"
        store = FeatureStore.open(stage_features(cfg.PROBE.TOKENS_FROM, cfg.OUTPUT_DIR, key), split)
        made_by = parse_yaml(str(store.meta.get("config", "{}")), str(store.path))
        problems = _differences(flatten(cfg), made_by, f"{key} {cfg.PROBE.TOKENS_FROM}")
        if problems:
            raise DataError("\n  ".join(problems))
        training = (views or split) == "train"
        knows = training and cfg.PROBE.HEAD == "knn"
        return {**arguments, "store": store, "training": training, "answers": knows}

    @classmethod
    def for_clips(cls, cfg, manifest: Manifest, fitted: Mapping[str, Any]) -> VideoDataset:
        """Return a dataset of new clips. They have no stored tokens: they are read."""
        return VideoDataset.for_clips(cfg, manifest, fitted)

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        """Return the classes of the lists: the tokens need not be there yet."""
        open_cfg = with_values(cfg, {"MODEL.NUM_CLASSES": 0})
        return VideoDataset.from_config(open_cfg, split)["manifest"].class_names

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
    ) -> tuple[VideoDataset, list[str]]:
        """Return the lists, and what of the stage that will store the tokens does not fit."""
        key = f"PROBE.TOKENS_FROM {cfg.PROBE.TOKENS_FROM}"
        problems = _differences(flatten(cfg), expected, key)
        if expected["FEATURES.LAYER"] != "tokens":
            problems.append(f"{key}: will store {expected['FEATURES.LAYER']}; set its FEATURES.LAYER tokens")
        return VideoDataset(**VideoDataset.from_config(cfg, split, class_names, views=views)), problems

    @property
    def identity(self) -> Any:
        """What a resumed training must find again: the same tokens, too."""
        made_by = [str(self.store.meta.get(key)) for key in ("config_sha256", "checkpoint_sha256")]
        return [*(super().identity or []), *made_by]

    def __getitem__(self, key: SampleRequest | int) -> Any:
        index = key.sample if isinstance(key, SampleRequest) else key
        clip, row, count = self.clips[index], int(self._rows[index]), self.store.shape[0]
        if row < 0:
            return BadClip(clip.id, clip.path, "has no stored tokens: it could not be read when they were stored")
        if not isinstance(key, SampleRequest):
            return self._tokens_of(clip, np.array(self.store.features[row]))
        first = int(numpy_rng(self.seed, "stored view", key.sample).randint(count))
        drawn, again = key.epoch % AGAIN, key.epoch // AGAIN  # a clip that an epoch draws again has another view
        view = (first + drawn + again) % count
        return [self._tokens_of(clip, np.array(self.store.views[row * count + view]))]

    def _tokens_of(self, clip: Any, tokens: np.ndarray) -> dict[str, Any]:
        inputs = {"tokens": torch.from_numpy(tokens)}
        if self.answers:
            inputs["answers"] = torch.tensor(clip.label)
        label = target_of(clip.label, len(self.class_names), self.multi_label)
        return {"inputs": inputs, "label": label, "id": clip.id, "path": clip.path}


def _differences(values: Mapping[str, Any], made_by: Mapping[str, Any], key: str) -> list[str]:
    """Return a line for each key by which the tokens were (or will be) made otherwise than this stage would make
    them."""
    backbone = str(values["PROBE.BACKBONE"])
    lines = []
    if made_by.get("MODEL.MODEL_NAME", backbone) != backbone:
        lines.append(f"{key}: tokens of {made_by['MODEL.MODEL_NAME']}, PROBE.BACKBONE is {backbone}")
    for name in SEEN:
        before, here = made_by.get(name, KEYS[name].default), values[name]
        before, here = (list(value) if isinstance(value, tuple) else value for value in (before, here))
        if before != here:
            lines.append(f"{key}: {name} is {before} there and {here} here: set it as it was stored with")
    return lines
