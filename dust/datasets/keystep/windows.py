"""Windows of recorded procedures, labelled by the components that change in them: of embeddings, or of frames.

Windows, labels and key-clip aware sampling are those of :mod:`dust.datasets.keystep.sampling`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.data import ProcedureData, Recording, text_of_procedure
from dust.datasets.keystep.embeddings import CsvEmbeddings, Embeddings, Pace, every_frame, open_embeddings
from dust.datasets.keystep.files import PROCEDURE
from dust.datasets.keystep.frames import FrameReader, names_of_outputs, procedures_of
from dust.datasets.keystep.sampling import kcas_density, sample_last_frame
from dust.datasets.sample import BadClip, SampleRequest
from dust.procedure.windows import clip_indices, output_names, state_changes, window_ends, window_labels, window_span
from dust.utils.errors import ConfigError, DataError, Problems, VideoError
from dust.utils.features import FeatureStore
from dust.utils.rng import numpy_rng
from dust.utils.stages import stage_features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowRules:
    """Which windows there are.

    Attributes:
        frames, skip: N, and how many frames lie between two of them.
        exe_mode: see :func:`state_changes`.
        strategy, sigma, sep, eps: of training windows, see :func:`kcas_density`.
        n_iter: training windows in an epoch.
        mistakes: share of them that are drawn around wrong installations, in exe_mode ``mistakes``.
        every: of the windows in order of time, each so many-th is evaluated.
        sanity: there are two windows only, of different labels: training draws them in turn, and evaluation has them.
    """

    frames: int = 65
    skip: int = 3
    exe_mode: str = "no_error"
    strategy: str = "bimodal"
    sigma: float = 15.0
    sep: float = 80.0
    eps: float = 1e-8
    n_iter: int = 160000
    mistakes: float = 0.0
    every: int = 1
    sanity: bool = False

    @classmethod
    def of(cls, cfg) -> "WindowRules":
        node, sampler = cfg.KEYSTEP, cfg.KEYSTEP.SAMPLER
        return cls(
            frames=node.FRAMES,
            skip=node.SKIP_FACTOR,
            exe_mode=node.EXE_MODE,
            strategy=sampler.STRATEGY,
            sigma=sampler.SIGMA,
            sep=sampler.SEP,
            eps=sampler.EPS,
            n_iter=sampler.N_ITER,
            mistakes=sampler.MISTAKES,
            every=node.VAL_EVERY,
            sanity=node.SANITY_CHECK,
        )


class StepWindows(Dataset[Any]):
    """Windows of recordings; a subclass says what a frame is.

    In training, item ``SampleRequest(epoch, i)`` is a list of one window: its recording is drawn uniformly, its last
    frame from the recording's density, both from (seed, epoch, i). Otherwise the items are, recording after recording,
    ``chunk`` windows in order of time, the same ones in every run. A window's ``label`` is (K,) zeros and ones,
    float32.

    An evaluation item also has ``last`` (V,), the frame that each window ends with, and ``padding`` (V,), how many
    frames it repeats because the recording is shorter than a window.

    Attributes:
        clips: the recordings that can be read.
        class_names: the components.
        identity: what a resumed training must find again besides the clips.
    """

    input_name = ""

    def __init__(
        self,
        *,
        data: ProcedureData,
        rules: WindowRules,
        class_names: Sequence[str] | None = None,
        training: bool = False,
        chunk: int = 0,
        seed: int = 0,
    ) -> None:
        self.class_names = checked_names(data, rules.exe_mode, class_names)
        self._count = len(data.components)
        self.rules, self.training, self.seed = rules, training, seed
        self.carried_files = {PROCEDURE: text_of_procedure(data)}
        self.clips = [one for one in data.recordings if one.num_frames]
        if not self.clips:
            raise DataError(f"{data.source}: none of the {len(data.recordings)} recordings can be read")
        self.identity = [[one.id, one.num_frames, one.states] for one in self.clips]
        self.changes = [state_changes(one.states, rules.exe_mode) for one in self.clips]
        if training or rules.sanity:
            how: dict[str, Any] = {"strategy": rules.strategy, "sigma": rules.sigma, "sep": rules.sep, "eps": rules.eps}
            both = list(zip(self.clips, self.changes, strict=True))
            self._density = [kcas_density(changes, one.num_frames, **how) for one, changes in both]
            self._around = [
                (number, kcas_density({frame: change}, one.num_frames, **how))
                for number, (one, changes) in enumerate(both)
                for frame, change in changes.items()
                if change[self._count :].any()
            ]
        if rules.sanity:
            self._two = self._find_two()
        if not training and rules.sanity:
            self._items = [(recording, np.array([last])) for recording, last in self._two]
        elif not training:
            self._items = [(r, part) for r in range(len(self.clips)) for part in self._parts(r, chunk)]

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        return names_of_outputs(cfg, split)

    def _parts(self, recording: int, chunk: int) -> list[np.ndarray]:
        ends = window_ends(self.clips[recording].num_frames, self.rules.frames, self.rules.skip)[:: self.rules.every]
        return [ends[i : i + chunk] for i in range(0, len(ends), chunk)] if chunk else [ends]

    def read(self, recording: int, indices: np.ndarray) -> Tensor:
        """Read windows (W, N) of frame numbers of one recording as the input, (W, ...). VideoError if it cannot be
        read."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.rules.n_iter if self.training else len(self._items)

    def class_counts(self) -> list[int]:
        """Return how often each component changes."""
        counts = sum((change.astype(int) for found in self.changes for change in found.values()), start=np.int64(0))
        return np.broadcast_to(counts, len(self.class_names)).tolist()

    def draw(self, epoch: int, index: int) -> tuple[int, int]:
        """Return (recording, last frame) of one training window."""
        return self._two[index % 2] if self.rules.sanity else self._draw(epoch, index)

    def _draw(self, epoch: int, index: int) -> tuple[int, int]:
        rng = numpy_rng(self.seed, "window", epoch, index)
        if self._around and self.rules.mistakes and rng.uniform() < self.rules.mistakes:
            recording, density = self._around[int(rng.randint(0, len(self._around)))]
            return recording, sample_last_frame(density, rng)
        recording = int(rng.randint(0, len(self.clips)))
        return recording, sample_last_frame(self._density[recording], rng)

    def _find_two(self) -> list[tuple[int, int]]:
        """Return the first window that would be drawn, and the next one of another label."""
        first = self._draw(0, 0)
        for index in range(1, 1000):
            other = self._draw(0, index)
            if not np.array_equal(self._labels(*other), self._labels(*first)):
                return [first, other]
        raise DataError(
            "KEYSTEP.SANITY_CHECK: 1000 windows have one and the same label: there is nothing to tell apart"
        )

    def _labels(self, recording: int, end: int) -> np.ndarray:
        frames, _ = clip_indices(end, self.rules.frames, self.rules.skip, self.clips[recording].num_frames)
        return self._labels_of(recording, frames[:1], frames[-1:])[0]

    def _labels_of(self, recording: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        changes, count = self.changes[recording], len(self.class_names)
        return window_labels(changes, first, last, count, toggles=self._count)

    def __getitem__(self, key: SampleRequest | int) -> Any:
        assert isinstance(key, SampleRequest) == self.training, (
            "a training window is asked for with its epoch, others without"
        )
        if not isinstance(key, SampleRequest):
            return self._windows(*self._items[key])
        recording, last = self.draw(key.epoch, key.sample)
        found = self._windows(recording, np.array([last]))
        if isinstance(found, BadClip):
            return found
        inputs = {name: value[0] for name, value in found["inputs"].items()}
        return [{"inputs": inputs, "label": found["label"][0], "id": found["id"], "path": found["path"]}]

    def _windows(self, recording: int, ends: np.ndarray) -> Any:
        one, rules = self.clips[recording], self.rules
        found = [clip_indices(int(end), rules.frames, rules.skip, one.num_frames) for end in ends]
        indices = np.stack([frames for frames, _ in found])
        labels = self._labels_of(recording, indices[:, 0], indices[:, -1])
        try:
            read = self.read(recording, indices)
        except VideoError as error:
            return BadClip(one.id, one.path, error.reason)
        return {
            "inputs": {self.input_name: read},
            "label": torch.from_numpy(labels).float(),
            "last": torch.from_numpy(indices[:, -1]),
            "padding": torch.tensor([padding for _, padding in found]),
            "id": one.id,
            "path": one.path,
        }


def checked_names(data: ProcedureData, exe_mode: str, trained: Sequence[str] | None) -> list[str]:
    """Return the names of a model's outputs. DataError where those that it was trained on are others."""
    names = output_names(data.components, exe_mode)
    if trained is not None and list(trained) != names:
        raise DataError(
            f"{data.source}: components {names}, where training had {list(trained)}: use the same procedure, and its "
            "KEYSTEP.EXE_MODE"
        )
    return names


def check_components(cfg, data: ProcedureData) -> None:
    """Raise ConfigError unless the model has an output for each component (and each wrong installation, in
    ``mistakes``)."""
    outputs = len(output_names(data.components, cfg.KEYSTEP.EXE_MODE))
    if cfg.MODEL.NUM_CLASSES not in (-1, 0, outputs):
        raise ConfigError(
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}: {data.source} has {len(data.components)} components, which "
            f"with KEYSTEP.EXE_MODE {cfg.KEYSTEP.EXE_MODE} makes {outputs} outputs; set it to that"
        )


def expected_embeddings(cfg, expected: Mapping[str, Any]) -> list[str]:
    """Return what will be wrong with the embeddings of a stage whose configuration is ``{key: value}``."""
    problems, key = [], f"KEYSTEP.FEATURES_FROM {cfg.KEYSTEP.FEATURES_FROM}"
    if expected["FEATURES.FORMAT"] != "per_video":
        problems.append(f"{key}: will store no embedding of every frame; set its FEATURES.FORMAT per_video")
    encoder = expected["MODEL.MODEL_NAME"] == "KeyStepFrameEncoder" and expected["FEATURES.LAYER"] == "pooled"
    if encoder and expected["KEYSTEP.EMBED_DIM"] != cfg.KEYSTEP.EMBED_DIM:
        problems.append(
            f"{key}: its KEYSTEP.EMBED_DIM is {expected['KEYSTEP.EMBED_DIM']}, that of this stage "
            f"{cfg.KEYSTEP.EMBED_DIM}"
        )
    return problems


def split_to_read(cfg, split: str) -> str:
    """Return the split to read: always train with KEYSTEP.SANITY_CHECK, which validates on two of its windows."""
    return "train" if cfg.KEYSTEP.SANITY_CHECK else split


@DATASET_REGISTRY.register()
class VideoWindows(StepWindows):
    """Windows of frames, input ``video`` uint8 (C, N, H, W) each, to train frame and temporal encoder together."""

    input_name = "video"

    def __init__(self, *, reader: FrameReader, **windows: Any) -> None:
        super().__init__(**windows)
        self.reader = reader

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        split, views = split_to_read(cfg, split), views or split
        data = procedures_of(cfg, split)
        check_components(cfg, data)
        return {
            "data": data,
            "rules": WindowRules.of(cfg),
            "class_names": class_names,
            "training": views == "train",
            "chunk": cfg.TEST.BATCH_SIZE,
            "seed": cfg.RNG_SEED,
            "reader": FrameReader.of(cfg),
        }

    def read(self, recording: int, indices: np.ndarray) -> Tensor:
        frames = self.reader.read(self.clips[recording].path, indices.ravel())
        return frames.view(*indices.shape, *frames.shape[1:]).transpose(1, 2)  # (W, N, C, H, W) -> (W, C, N, H, W)


@DATASET_REGISTRY.register()
class EmbeddingWindows(StepWindows):
    """Windows of stored embeddings, input ``embeddings`` float32 (N, D) each, to train the temporal encoder alone.

    Attributes:
        fitted: ``{"embeddings": {"checkpoint_sha256", "layer", "shape"}}``: what the embeddings were made by. Those of
            other splits must be made by the same.

    Args:
        data: recordings; their numbers of frames are those of the embeddings, where these are of every frame.
        features: (frames, D) for each recording's id; one whose video could not be read is left out, with a warning.
        dim: D that the model takes.
        fitted: the training dataset's.

    Raises:
        DataError: recordings without embeddings, of another width or encoder, or shorter than their labels.
    """

    input_name = "embeddings"

    def __init__(
        self,
        *,
        data: ProcedureData,
        features: FeatureStore | CsvEmbeddings,
        dim: int,
        fitted: Mapping[str, Any] | None = None,
        **windows: Any,
    ) -> None:
        self.features = features
        self.fitted = {"embeddings": self._check(dim, (fitted or {}).get("embeddings"))}
        rules = windows["rules"]
        lengths = self._with_lengths(data, window_span(rules.frames, rules.skip))
        super().__init__(data=replace(data, recordings=lengths), **windows)

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        node = cfg.KEYSTEP
        split, views = split_to_read(cfg, split), views or split
        data = procedures_of(cfg, split, frames=False)
        check_components(cfg, data)
        if not node.FEATURES_FROM:
            raise ConfigError("KEYSTEP.FEATURES_FROM is empty: name the stage (or folder) that holds the embeddings")
        folder = stage_features(node.FEATURES_FROM, cfg.OUTPUT_DIR, "KEYSTEP.FEATURES_FROM")
        features = open_embeddings(folder, split)
        if not every_frame(features):  # else the embeddings say how many frames there are, and no video is needed
            data = procedures_of(cfg, split)
        return {
            "data": data,
            "rules": WindowRules.of(cfg),
            "class_names": class_names,
            "training": views == "train",
            "seed": cfg.RNG_SEED,
            "features": features,
            "dim": node.EMBED_DIM,
        }

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
    ) -> tuple[None, list[str]]:
        """Check nothing more without embeddings; recordings and labels were read when these were missed."""
        return None, expected_embeddings(cfg, expected)

    def _check(self, dim: int, trained: Mapping[str, Any] | None) -> dict[str, Any]:
        store = self.features
        again = "extract them again (FEATURES.*), or name others as KEYSTEP.FEATURES_FROM"
        if store.format != "per_video":
            raise DataError(
                f"{store.path}: {store.format} features, one for each recording: KeyStep needs them along the time; "
                "extract with FEATURES.FORMAT per_video"
            )
        if store.shape[-1:] != (dim,) or len(store.shape) > 2:
            way = (
                f"set KEYSTEP.EMBED_DIM {store.shape[-1]}" if len(store.shape) < 3 else "extract FEATURES.LAYER pooled"
            )
            raise DataError(
                f"{store.path}: features of shape {store.shape} each, KEYSTEP.EMBED_DIM is {dim}: {way}, or name other "
                "ones as KEYSTEP.FEATURES_FROM"
            )
        own = {
            "checkpoint_sha256": store.meta.get("checkpoint_sha256", ""),
            "layer": store.meta.get("layer", ""),
            "shape": list(store.shape),
            "stride": Pace.of(store.meta, 10.0).stride,
        }
        known = [key for key in own if trained and key in trained]  # a training of before says no stride
        differ = [f"{key} {own[key]}, not {trained[key]}" for key in known if trained and own[key] != trained[key]]
        if differ:
            raise DataError(f"{store.path}: embeddings of another encoder ({'; '.join(differ)}): {again}")
        return own

    def _with_lengths(self, data: ProcedureData, span: int) -> list[Recording]:
        problems, found = Problems(), []
        self.embeddings = Embeddings(self.features, data.recordings, span, problems)
        for one in data.recordings:
            if one.id not in self.embeddings:
                continue
            if one.id in self.embeddings.missing:
                logger.warning("%s has no embeddings, as it could not be read: it is left out", one.id)
                continue
            count = self.embeddings.frames(one)
            latest = max((frame for frame, *_ in (*one.states, *one.steps)), default=0)
            if latest >= count:
                text = f"{one.id}: a label of frame {latest}, but {count} embeddings"
                problems.add("labels beyond the last embedding: of another recording, or not of every frame", text)
            found.append(replace(one, num_frames=count))
        problems.raise_if_any(str(self.features.path))
        return found

    def read(self, recording: int, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.embeddings.read(self.clips[recording].id, indices))
