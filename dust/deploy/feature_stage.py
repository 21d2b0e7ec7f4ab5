"""The stage whose stored features a model was trained on, run again for what is new."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dust.config import CfgNode, flatten
from dust.config.parser import load_saved_config
from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.data import ProcedureData
from dust.datasets.keystep.frames import RecordingFrames
from dust.datasets.sample import BadClip
from dust.engine.extract import FeatureOptions, build_feature_loop, features_config
from dust.engine.feature_layers import as_tensor
from dust.engine.inference import Inference
from dust.utils.checkpoint import file_sha256
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.files import read_text
from dust.utils.stages import stage_path


def build_feature_stage(
    name: str, key: str, output_dir: str, trained: Mapping[str, Any], device: torch.device
) -> tuple[CfgNode, Inference, FeatureOptions, dict[str, str]]:
    """Return the configuration of a stage that extracted features, the loop that makes them, what is stored of each,
    and what is stored with them.

    Args:
        name, key: the stage or its folder, and the key that names it.
        trained: what the training noted of its features.

    Raises:
        ConfigError: the stage is gone. CheckpointError: it is another model now.
    """
    folder = stage_path(name, output_dir, key)
    folder = folder.parent if folder.name == "features" else folder
    config = folder / "config.yaml"
    if not config.is_file():
        raise ConfigError(
            f"{key} {name}: {folder} has no config.yaml, so nobody knows how to make features of what is new: predict "
            "where the stages that were trained lie"
        )
    values = {"OUTPUT_DIR": str(folder), "NUM_GPUS": 0, "TRAIN.ENABLE": False, "TEST.ENABLE": False}
    stage = load_saved_config(read_text(config), values, str(config))
    loop, options, path, _ = build_feature_loop(stage, torch.device("cpu"))
    made = {"checkpoint_sha256": file_sha256(path), "layer": options.layer}
    differ = [f"{key} {value}, not {trained[key]}" for key, value in made.items() if trained.get(key, value) != value]
    if differ:
        raise CheckpointError(f"{Path(path)}: not what made the features of the training ({'; '.join(differ)})")
    loop = replace(loop, model=loop.model.to(device).eval(), device=device)
    return stage, loop, options, made | {"config": features_config(flatten(stage))}


def rounded(features: torch.Tensor, dtype: str) -> np.ndarray:
    """Return float32, as they come back from a store of this dtype."""
    return features.to(getattr(torch, dtype)).float().numpy()


@dataclass(frozen=True)
class MadeEmbeddings:
    """Embeddings that were made now, with the face of a :class:`dust.utils.features.FeatureStore`.

    Attributes:
        rows: recording -> (frames or clips, D), or (clips, N, D) of tokens.
        meta: what the stage stores with its features.
    """

    rows: Mapping[str, np.ndarray]
    meta: Mapping[str, str]
    path: str = "the features of these recordings"
    format: str = "per_video"
    missing: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return list(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.rows.values())).shape[1:]

    def get(self, sample_id: str) -> np.ndarray:
        """Return the rows of one recording."""
        return self.rows[sample_id]


def build_embedder(
    cfg: CfgNode, trained: Mapping[str, Any], device: torch.device
) -> Callable[[ProcedureData], MadeEmbeddings]:
    """Return ``embed(data)``: embeddings of recordings, as KEYSTEP.FEATURES_FROM made those of the training. It raises
    DataError for a recording that cannot be read."""
    name, key = cfg.KEYSTEP.FEATURES_FROM, "KEYSTEP.FEATURES_FROM"
    stage, loop, options, meta = build_feature_stage(name, key, cfg.OUTPUT_DIR, trained, device)
    cls = DATASET_REGISTRY.get(stage.TRAIN.DATASET)
    if not (isinstance(cls, type) and issubclass(cls, RecordingFrames)):
        raise ConfigError(
            f"{key} {name}: its features are of TRAIN.DATASET {stage.TRAIN.DATASET}, which reads lists; extract by "
            "RecordingClips, and train on those"
        )
    reading: Any = cls.reading_from_config(stage)

    def embed(data: ProcedureData) -> MadeEmbeddings:
        clips = cls(data=data, **reading).windows(stride=options.stride, chunk=options.batch_size)
        bad: list[BadClip] = []
        rows = defaultdict(list)
        for record in replace(loop, on_bad=bad.append)(clips[index] for index in range(len(clips))):
            rows[record["id"]].append(rounded(as_tensor(record["outputs"], options.layer), options.dtype))
        if bad or not rows:
            raise DataError("; ".join(f"{one.id}: {one.reason}" for one in bad[:3]) or "no recording")
        return MadeEmbeddings({name: np.concatenate(found) for name, found in rows.items()}, meta)

    return embed
