"""The FEATURES stage: what a trained model makes of every sample, once, in order, keyed by id."""

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import Subset

from dust.config import KEYS, CfgNode, flatten, with_values
from dust.datasets.build import build_dataset
from dust.datasets.loader import evaluation_loader
from dust.datasets.protocol import HasSlidingWindows
from dust.datasets.sample import BadClip
from dust.datasets.views import AugmentedViews
from dust.engine.checkpoints import build_checkpoint_to_extract
from dust.engine.inference import Inference
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_autocast, build_device, build_device_transform, build_for
from dust.engine.weights import build_weights_choice, load_trained
from dust.launch.signals import InterruptFlag
from dust.models.backbones import no_tokens, sha256_of_backbone
from dust.models.layers.tokens import TokenPooling
from dust.models.protocol import GivesTokens, HasFeatures
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, load_checkpoint
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter, recorded_shape
from dust.utils.files import sha256_of_text
from dust.utils.logging import progress
from dust.utils.registry import build
from dust.utils.stages import takes_best

logger = logging.getLogger(__name__)

TOKENS = "tokens"  # the layer whose views are not averaged

#: Keys that came later, with what held before: left out at that value, so that features stored before stay valid.
ADDED = {
    "DATA.DECODER": "pyav",
    "TRAIN.FLOAT32": "auto",
    "FEATURES.TOKENS": "all",
    "FEATURES.TOKEN_GRID": [1, 1, 1],
    "FEATURES.TOKEN_QUERIES": 16,
    "FEATURES.AUGMENTED_VIEWS": 0,
}


def features_config(values: Mapping[str, Any]) -> str:
    """Of a configuration's ``{key: value}``, those that features depend on, as ``KEY: value`` lines; they are stored
    with the features."""
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    best = takes_best(values["TEST.CHECKPOINT"], values["TRAIN.EARLY_STOPPING_PATIENCE"])
    flat["TEST.CHECKPOINT"] = "best" if best else "last"
    kept = {key for key in flat.keys() & KEYS.keys() if KEYS[key].changes_features}
    if flat["FEATURES.AUGMENTED_VIEWS"]:
        kept |= {key for key in flat if key.startswith("AUG.")} | {"RNG_SEED"}
    kept -= {key for key, before in ADDED.items() if flat[key] == before}
    return yaml.safe_dump({key: value for key, value in flat.items() if key in kept})


@dataclass(frozen=True)
class FeatureOptions:
    """What is stored of every sample.

    Attributes:
        layer: see :func:`layer_output`.
        views: fixed views of a sample, over which its feature is the mean; 1: the centre view alone. Tokens are stored
            of each view by itself.
        augmented: of a training clip so many augmented views instead; 0: the fixed ones.
        format: memmap | npz | per_video; per_video: windows that slide over each video, every ``stride`` frames.
        dtype: float32 | float16 | bfloat16 of the stored features.
        batch_size: views per forward pass, and samples per write.
        on_bad_clip: raise | skip: a clip that cannot be used. With raise the split is not finished without it: the
            others are written, and the next start tries those clips alone.
    """

    layer: str = "pooled"
    views: int = 1
    augmented: int = 0
    format: str = "memmap"
    dtype: str = "float32"
    batch_size: int = 8
    stride: int = 1
    on_bad_clip: str = "raise"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        features = cfg.FEATURES
        return {
            "layer": features.LAYER,
            "views": features.NUM_VIEWS * features.NUM_CROPS,
            "augmented": features.AUGMENTED_VIEWS,
            "format": features.FORMAT,
            "dtype": features.DTYPE,
            "batch_size": features.BATCH_SIZE,
            "stride": features.STRIDE,
            "on_bad_clip": cfg.TEST.ON_BAD_CLIP,
        }


class Extraction:
    """Extracts features of split after split with one model.

    Args:
        run: where they are written.
        loop: the model's evaluation loop; its ``forward`` returns the layer's output.
        options: what is stored.
        identity: what is stored with the features of what made them; an earlier, unfinished extraction is gone on
            with only if its identity is the same.
        dataset_of: ``dataset_of(split)``: the split as fixed views.
        loader_of: ``loader_of(dataset, start)``: its items from number ``start`` on.
    """

    def __init__(
        self,
        run: RunDir,
        loop: Inference,
        options: FeatureOptions,
        identity: Mapping[str, Any],
        dataset_of: Callable[[str], Any],
        loader_of: Callable[[Any, int], Iterable[Any]],
    ) -> None:
        self.run, self.loop, self.options, self.identity = run, loop, options, dict(identity)
        self.dataset_of, self.loader_of = dataset_of, loader_of
        self.per_video = options.format == "per_video"

    def split(self, split: str) -> None:
        """Extract one split from where an earlier run stopped.

        Raises:
            DataError: a clip could not be used, and may not be left out; all others are written.
        """
        dataset = self._dataset(split)
        ids = [clip.id for clip in dataset.clips]
        shape, writer = recorded_shape(self.run.features, split), None
        if shape is not None:
            writer = self._writer(split, ids, shape)
        bad_clips = BadClipLog(self.run.path / "bad_clips.csv", split, self.options.on_bad_clip, key="TEST.ON_BAD_CLIP")
        if writer is not None and not writer.complete:
            self._try_again(writer, dataset, bad_clips)
        done = writer.done if writer else 0
        batch: list[Any] = []
        for feature in self._in_order(dataset, ids, range(done, len(ids)), bad_clips):
            if writer is None and feature is not None:
                writer = self._writer(split, ids, feature.shape[1:] if self.per_video else feature.shape)
            batch.append(feature)
            if writer is not None and len(batch) >= self.options.batch_size:
                writer.write(writer.done, batch)
                batch = []
        if writer is None:
            bad_clips.refuse_empty(len(ids))
        assert writer is not None
        if batch:
            writer.write(writer.done, batch)
        if writer.missing and not bad_clips.count and self.options.on_bad_clip == "raise":
            raise DataError(
                f"{self.run.features} was finished with TEST.ON_BAD_CLIP skip, without {len(writer.missing)} clips of "
                f"the {split} split. Set it again, or remove the features to extract them anew"
            )
        if writer.missing:
            bad_clips.finish(f"{self.run.features} (unfinished: the same command tries those clips again)")
        writer.finish()
        bad = f", {len(writer.missing)} of them bad clips without" if writer.missing else ""
        logger.info(
            "features of %s: %d samples%s, %s each, in %s", split, len(ids), bad, writer.shape, self.run.features
        )

    def _dataset(self, split: str) -> Any:
        """The split as fixed views, or as windows that slide over each video."""
        dataset = self.dataset_of(split)
        if not self.per_video:
            return dataset
        return dataset.windows(stride=self.options.stride, chunk=self.options.batch_size)

    def _try_again(self, writer: FeatureWriter, dataset: Any, bad_clips: BadClipLog) -> None:
        """Extract the clips that an earlier run could not use; one that still cannot be stays without a feature."""
        ids = [clip.id for clip in dataset.clips]
        missing = set(writer.missing)
        rows = [row for row, sample_id in enumerate(ids) if sample_id in missing]
        for row, feature in zip(rows, self._in_order(dataset, ids, rows, bad_clips), strict=True):
            if feature is not None:
                writer.fill(row, feature)

    def _items(self, dataset: Any, rows: Sequence[int]) -> Iterable[Any]:
        """The dataset's items of these samples: one each, or the pieces of a video."""
        first = dataset.first_item if self.per_video else lambda row: row
        start, total = first(rows[0]), len(dataset)
        loader: Iterable[Any]
        if rows[-1] - rows[0] + 1 == len(rows) and rows[-1] + 1 == len(dataset.clips):
            loader = self.loader_of(dataset, start)
        else:
            ends = [first(row + 1) if row + 1 < len(dataset.clips) else total for row in rows]
            numbers = [number for row, end in zip(rows, ends, strict=True) for number in range(first(row), end)]
            loader, start, total = self.loader_of(Subset(dataset, numbers), 0), 0, len(numbers)
        return progress(loader, total=total, initial=start, desc=f"features in {self.run.features}")

    def _in_order(
        self, dataset: Any, ids: list[str], rows: Sequence[int], bad_clips: BadClipLog
    ) -> Iterator[np.ndarray | None]:
        """The feature of each of these samples; None for one that cannot be used."""
        if not rows:
            return
        bad_ids: set[str] = set()

        def note(bad: BadClip) -> None:
            if bad.id not in bad_ids:  # once, also if it comes in pieces
                bad_ids.add(bad.id)
                bad_clips(bad)

        self.loop.on_bad = note
        wanted = iter(rows)
        # the windows of one video come in several records, one behind the other
        for sample_id, records in groupby(self.loop(self._items(dataset, rows)), key=lambda record: record["id"]):
            while ids[next(wanted)] != sample_id:  # passed over: a bad clip
                yield None
            outputs = torch.cat([_tensor(record["outputs"], self.options.layer) for record in records])
            if sample_id in bad_ids:  # some of its windows
                yield None
            else:
                whole = self.per_video or self.options.layer == TOKENS
                yield (outputs if whole else outputs.mean(dim=0)).numpy()
        for _ in wanted:
            yield None

    def _writer(self, split: str, ids: list[str], shape: Sequence[int]) -> FeatureWriter:
        options = self.options
        writer = FeatureWriter(self.run.features, split, ids, shape, options.dtype, self.identity, options.format)
        if not self.per_video:
            said = writer.check_space()
            logger.info("features of %s: %d x %s %s: %s", split, len(ids), tuple(shape), options.dtype, said)
        return writer


def build_feature_loop(
    cfg: CfgNode, device: torch.device, should_stop: Callable[[], None] = lambda: None
) -> tuple[Inference, FeatureOptions, str]:
    """The loop whose outputs are the features that cfg.FEATURES describes, its options, and the checkpoint's path.

    Raises:
        CheckpointError: there is no checkpoint, or it does not fit the model.
    """
    path = build_checkpoint_to_extract(cfg).path()
    model = build_for(cfg, device)
    saved = load_checkpoint(path)
    load_trained(
        model,
        path,
        saved,
        output_dir=cfg.OUTPUT_DIR,
        weights=build_weights_choice(cfg),
        head=False,
        tokens=cfg.FEATURES.LAYER == TOKENS,
    )
    options = build(FeatureOptions, cfg)
    loop = Inference(
        model,
        layer_output(model, options.layer, build_pooling(cfg)),
        build_device_transform(cfg),
        device,
        micro_batch=options.batch_size,
        autocast=build_autocast(cfg, device),
        should_stop=should_stop,
    )
    return loop, options, str(path)


def build_pooling(cfg: CfgNode) -> TokenPooling:
    """How cfg.FEATURES makes one sequence of a backbone's tokens."""
    features = cfg.FEATURES
    return TokenPooling(features.TOKENS, tuple(features.TOKEN_GRID), features.TOKEN_QUERIES)


def build_fixed_views(cfg: CfgNode) -> tuple[CfgNode, str]:
    """The configuration of a dataset that gives the views of an extraction, and what kind of views they are."""
    features = cfg.FEATURES
    values = {
        "MODEL.NUM_CLASSES": 0,  # labels do not matter here
        "TEST.NUM_ENSEMBLE_VIEWS": features.NUM_VIEWS,
        "TEST.NUM_SPATIAL_CROPS": features.NUM_CROPS,
    }
    return with_values(cfg, values), "test" if features.NUM_VIEWS * features.NUM_CROPS > 1 else "val"


def build_extraction(cfg: CfgNode, run: RunDir, interrupt: InterruptFlag) -> Extraction:
    """The extraction that cfg.FEATURES describes, with the checkpoint that it names or OUTPUT_DIR's.

    Raises:
        CheckpointError: there is none, or it does not fit the model.
    """
    loop, options, path = build_feature_loop(cfg, build_device(cfg), interrupt.check)
    logger.info("features of %s by %s", options.layer, path)
    fitted = load_checkpoint(path).get("fitted")
    config = features_config(flatten(cfg))
    identity = {
        "checkpoint_sha256": file_sha256(path),
        "config": config,
        "config_sha256": sha256_of_text(config),
        "layer": options.layer,
        "views": options.views,
    }
    if options.layer == TOKENS:  # so that a probe can be sure of its backbone, in whatever file that lies
        identity["backbone_sha256"] = sha256_of_backbone(loop.model)

    def dataset_of(split: str) -> Any:
        return build_split_to_extract(cfg, split, fitted)

    def loader_of(dataset: Any, start: int) -> Iterable[Any]:
        loader = evaluation_loader(cfg, dataset, start=start)
        loader.waiting.on_wait = interrupt.check_waiting
        return loader

    return Extraction(run, loop, options, identity, dataset_of, loader_of)


def build_split_to_extract(cfg: CfgNode, split: str, fitted: Mapping[str, Any] | None) -> Any:
    """A split's dataset in the fixed views that cfg.FEATURES describes, whatever its labels are."""
    fixed_views, views = build_fixed_views(cfg)
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    if split == "train" and cfg.FEATURES.AUGMENTED_VIEWS:
        augmented = build_dataset(name, fixed_views, split, views="train", fitted=fitted)
        return AugmentedViews(augmented, cfg.FEATURES.AUGMENTED_VIEWS)
    dataset = build_dataset(name, fixed_views, split, views=views, fitted=fitted)
    if cfg.FEATURES.FORMAT == "per_video" and not isinstance(dataset, HasSlidingWindows):
        raise ConfigError(
            f"FEATURES.FORMAT per_video: {type(dataset).__name__} has no sliding windows; choose memmap or npz"
        )
    return dataset


def run_stage(cfg: CfgNode, run: RunDir) -> None:
    """Write the features of every split of FEATURES.SPLITS into OUTPUT_DIR/features; what is there already is kept."""
    if distributed.world_size() > 1:
        raise ConfigError(
            "FEATURES.ENABLE True: features are extracted by one process; set NUM_GPUS 1 (or 0), NUM_SHARDS 1"
        )
    interrupt = InterruptFlag()
    extraction = build_extraction(cfg, run, interrupt)
    run.begin(cfg.dump())
    with interrupt.listening():
        for split in cfg.FEATURES.SPLITS:
            extraction.split(split)


def layer_output(
    model: nn.Module, layer: str, pooling: TokenPooling | None = None
) -> Callable[[nn.Module, dict[str, Any]], Any]:
    """``forward(model, inputs)`` that returns what ``layer`` makes of the inputs.

    Args:
        layer: ``pooled``: what the classifier sees, (B, num_features); ``map``: ``forward_features``, before pooling;
            ``tokens``: of a model that gives them, (B, N, D); else the name of a submodule, whose output is taken as it
            comes.
        pooling: which tokens; None for all.

    Raises:
        ConfigError: the model has no such layer.
    """
    if layer == TOKENS:
        if not isinstance(model, GivesTokens):
            raise ConfigError(f"FEATURES.LAYER tokens: {no_tokens(type(model).__name__)}")
        pool = pooling or TokenPooling()
        return lambda model, inputs: pool(*model.forward_tokens(**inputs))  # type: ignore[operator]
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
