"""The FEATURES stage: what a trained model makes of every sample, once, in order, keyed by id."""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from dust.config import flatten
from dust.config.defaults import OWN_KEYS
from dust.datasets.build import build_dataset
from dust.datasets.loader import evaluation_loader
from dust.datasets.protocol import SlidesWindows
from dust.datasets.sample import BadClip
from dust.engine.inference import Inference
from dust.engine.run_dir import BadClipLog, RunDir, text_sha256
from dust.engine.setup import autocast_of, build_for, device_of, device_transform_of
from dust.engine.test import newest_checkpoint
from dust.engine.weights import load_trained, weights_file
from dust.launch.signals import InterruptFlag
from dust.models.protocol import HasFeatures
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, load_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.features import FeatureWriter, recorded_shape
from dust.utils.logging import progress

logger = logging.getLogger(__name__)


#: Sections and keys that change how features are computed, but not what they are.
WITHOUT_EFFECT = (
    "TRAIN", "TEST", "SOLVER", "EMA.DECAY", "EMA.WARMUP", "AUG", "MIXUP", "BN", "DATA_LOADER", "TENSORBOARD", "WANDB",
    "OUTPUT_DIR", "LOG_PERIOD", "LOG_MODEL_INFO", "NUM_GPUS", "NUM_SHARDS", "SHARD_ID", "NUM_PROCS_PER_NODE",
    "RNG_SEED", "DIST_BACKEND", "GLOBAL_BATCH_SIZE", "DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX", "DATA.INDEX_CACHE",
    "DATA.CHECK_FILES", "DATA.MAX_BAD_FRACTION", "FEATURES.ENABLE", "FEATURES.BATCH_SIZE", "FEATURES.SPLITS",
    "FEATURES.CHECKPOINT_FILE_PATH", "MODEL.PRETRAINED", "MODEL.NUM_CLASSES",
)  # fmt: skip

#: What does have an effect in those sections.
WITH_EFFECT = ("TRAIN.MIXED_PRECISION", "TRAIN.AMP_DTYPE", "TRAIN.DATASET", "TEST.DATASET", "TEST.CHECKPOINT")

#: Keys that came later, with what held before: left out at that value, so that features stored before stay valid.
ADDED = {"DATA.DECODER": "pyav"}


def features_config(cfg) -> str:
    """The keys of ``cfg`` that features depend on, as ``KEY: value`` lines; they are stored with the features."""
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in flatten(cfg).items()}
    free = {key for key in flat if any(key == name or key.startswith(name + ".") for name in WITHOUT_EFFECT)}
    kept = (OWN_KEYS - free) | set(WITH_EFFECT)
    kept -= {key for key, before in ADDED.items() if flat[key] == before}
    return yaml.safe_dump({key: value for key, value in flat.items() if key in kept})


def checkpoint_to_extract(cfg, run: RunDir) -> Path:
    """FEATURES.CHECKPOINT_FILE_PATH (a file, a stage or zoo://NAME), else OUTPUT_DIR's last or best, or an error."""
    if cfg.FEATURES.CHECKPOINT_FILE_PATH:
        key = "FEATURES.CHECKPOINT_FILE_PATH"
        return Path(weights_file(cfg, cfg.FEATURES.CHECKPOINT_FILE_PATH, key))
    found = newest_checkpoint(cfg, run)
    if found is None:
        raise CheckpointError(
            f"there is nothing to extract features with: FEATURES.CHECKPOINT_FILE_PATH is empty and {run.checkpoints} "
            "holds no checkpoint. Name a stage (stage1_video), a file or zoo://NAME."
        )
    return found


def extract(cfg, run: RunDir) -> None:
    """Write the features of every split of FEATURES.SPLITS into OUTPUT_DIR/features; what is there already is kept."""
    if distributed.world_size() > 1:
        raise ConfigError(
            "FEATURES.ENABLE True: features are extracted by one process; set NUM_GPUS 1 (or 0), NUM_SHARDS 1"
        )
    path = checkpoint_to_extract(cfg, run)
    saved = load_checkpoint(path)
    device = device_of(cfg)
    model = build_for(cfg, device)
    load_trained(cfg, model, path, saved, head=False)
    logger.info("features of %s by %s", cfg.FEATURES.LAYER, path)
    extraction = _Extraction(cfg, run, model, device, file_sha256(path), saved.get("fitted"))
    with extraction.interrupt.listening():
        for split in cfg.FEATURES.SPLITS:
            extraction.split(split)


class _Extraction:
    """One model over several splits."""

    def __init__(self, cfg, run: RunDir, model: nn.Module, device, sha256: str, fitted: dict[str, Any] | None) -> None:
        self.cfg, self.run, self.fitted = cfg, run, fitted
        self.features = cfg.FEATURES
        self.per_video = cfg.FEATURES.FORMAT == "per_video"
        self.interrupt = InterruptFlag()
        self.loop = Inference(
            model,
            layer_output(model, cfg.FEATURES.LAYER),
            device_transform_of(cfg),
            device,
            micro_batch=cfg.FEATURES.BATCH_SIZE,
            autocast=autocast_of(cfg, device),
            should_stop=self.interrupt.check,
        )
        config = features_config(cfg)
        self.meta = {
            "checkpoint_sha256": sha256,
            "config": config,
            "config_sha256": text_sha256(config),
            "layer": cfg.FEATURES.LAYER,
            "views": cfg.FEATURES.NUM_VIEWS * cfg.FEATURES.NUM_CROPS,
        }

    def split(self, split: str) -> None:
        """Extract one split from where an earlier run stopped."""
        dataset = self._dataset(split)
        ids = [clip.id for clip in dataset.clips]
        shape, writer = recorded_shape(self.run.features, split), None
        if shape is not None:
            writer = self._writer(split, ids, shape)
        done = writer.done if writer else 0
        batch: list[Any] = []
        for feature in self._in_order(dataset, split, ids, done):
            if writer is None and feature is not None:
                writer = self._writer(split, ids, feature.shape[1:] if self.per_video else feature.shape)
            batch.append(feature)
            if writer is not None and len(batch) >= self.features.BATCH_SIZE:
                writer.write(writer.done, batch)
                batch = []
        if writer is None:
            raise DataError(f"none of the {len(ids)} clips of the {split} split could be read; see {self.run.path}")
        if batch:
            writer.write(writer.done, batch)
        writer.finish()
        bad = f", {len(writer.missing)} of them bad clips without" if writer.missing else ""
        logger.info(
            "features of %s: %d samples%s, %s each, in %s", split, len(ids), bad, writer.shape, self.run.features
        )

    def _dataset(self, split: str) -> Any:
        """The split as fixed views; with FEATURES.STRIDE as windows that slide over each video."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.NUM_CLASSES = 0  # labels do not matter here
        cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = self.features.NUM_VIEWS, self.features.NUM_CROPS
        views = "test" if self.meta["views"] > 1 else "val"
        name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
        dataset: Any = build_dataset(name, cfg, split, views=views, fitted=self.fitted)
        if not self.per_video:
            return dataset
        if not isinstance(dataset, SlidesWindows):
            raise ConfigError(f"FEATURES.FORMAT per_video: {name} has no sliding windows; choose memmap or npz")
        return dataset.windows(stride=self.features.STRIDE, chunk=self.features.BATCH_SIZE)

    def _in_order(self, dataset: Any, split: str, ids: list[str], done: int) -> Iterator[np.ndarray | None]:
        """The feature of each sample from number ``done`` on; None for a clip that cannot be read."""
        if done == len(ids):
            return
        bad_clips = BadClipLog(
            self.run.path / "bad_clips.csv", split, self.cfg.TEST.ON_BAD_CLIP, key="TEST.ON_BAD_CLIP"
        )
        bad_ids: set[str] = set()

        def note(bad: BadClip) -> None:
            bad_clips(bad)
            bad_ids.add(bad.id)

        self.loop.on_bad = note
        start = dataset.first_item(done) if self.per_video else done
        loader = evaluation_loader(self.cfg, dataset, start=start)
        items = progress(loader, total=len(dataset), initial=start, desc=f"features of {split}")
        row_of = {sample_id: row for row, sample_id in enumerate(ids)}
        row = done
        # the windows of one video come in several records, one behind the other
        for sample_id, records in groupby(self.loop(items), key=lambda record: record["id"]):
            while row < row_of[sample_id]:  # passed over: a bad clip, which the policy allows
                yield None
                row += 1
            outputs = torch.cat([_tensor(record["outputs"], self.features.LAYER) for record in records])
            if sample_id in bad_ids:  # some of its windows could not be read
                yield None
            else:
                yield (outputs if self.per_video else outputs.mean(dim=0)).numpy()
            row += 1
        for _ in range(row, len(ids)):
            yield None

    def _writer(self, split: str, ids: list[str], shape: Sequence[int]) -> FeatureWriter:
        features = self.features
        return FeatureWriter(self.run.features, split, ids, shape, features.DTYPE, self.meta, features.FORMAT)


def layer_output(model: nn.Module, layer: str) -> Callable[[nn.Module, dict[str, Any]], Any]:
    """``forward(model, inputs)`` that returns what ``layer`` makes of the inputs.

    Args:
        layer: ``pooled``: what the classifier sees, (B, num_features); ``map``: ``forward_features``, before pooling;
            else the name of a submodule, whose output is taken as it comes.

    Raises:
        ConfigError: the model has no such layer.
    """
    if layer in ("pooled", "map"):
        if not isinstance(model, HasFeatures):
            raise ConfigError(
                f"FEATURES.LAYER {layer}: {type(model).__name__} has no forward_features and forward_head; name one of "
                f"its submodules: {', '.join(name for name, _ in model.named_children())}"
            )
        return _map if layer == "map" else _pooled
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.5) or names[:8]
        raise ConfigError(
            f"FEATURES.LAYER {layer}: the model has no such layer; choose pooled, map, or {', '.join(near)}"
        )
    return _Hooked(layer)


def _map(model: Any, inputs: dict[str, Any]) -> Any:
    return model.forward_features(**inputs)


def _pooled(model: Any, inputs: dict[str, Any]) -> Any:
    return model.forward_head(model.forward_features(**inputs), pre_logits=True)


class _Hooked:
    """Runs the model and keeps the output of one submodule."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        kept: list[Any] = []
        handle = model.get_submodule(self.name).register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            model(**inputs)
        finally:
            handle.remove()
        batch = len(next(iter(inputs.values())))
        if len(kept) != 1 or (isinstance(kept[0], Tensor) and len(kept[0]) != batch):
            what = f"ran {len(kept)} times" if len(kept) != 1 else f"gave {tuple(kept[0].shape)} for {batch} samples"
            raise ConfigError(f"FEATURES.LAYER {self.name}: {what}, so its output is not one feature per sample")
        return _tensor(kept[0], self.name)


def _tensor(output: Any, layer: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"FEATURES.LAYER {layer}: its output is a {type(output).__name__}, not one tensor; name another"
        )
    return output
