"""The FEATURES stage: what a trained model makes of every sample, once, in order, keyed by id."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from dust.config import KEYS, CfgNode, dump, flatten, with_values
from dust.datasets.build import build_dataset
from dust.datasets.loader import evaluation_loader
from dust.datasets.protocol import HasSlidingWindows
from dust.datasets.sample import BadClip
from dust.datasets.views import AugmentedViews
from dust.engine.checkpoints import build_checkpoint_to_extract
from dust.engine.feature_layers import TOKENS, as_tensor, layer_output
from dust.engine.inference import Inference
from dust.engine.run_dir import BadClipLog, RunDir
from dust.engine.setup import build_autocast, build_device, build_device_transform, build_for
from dust.engine.weights import build_weights_choice, load_trained
from dust.launch.signals import InterruptFlag, StopEarly
from dust.models.backbones import sha256_of_backbone
from dust.models.layers.tokens import TokenPooling
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, learnt_of
from dust.utils.checkpoint.store import load_for_all, reading_together
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureWriter, recorded_shape
from dust.utils.files import sha256_of_text
from dust.utils.logging import progress
from dust.utils.registry import build
from dust.utils.stages import takes_best
from dust.utils.structured import dump_yaml

logger = logging.getLogger(__name__)

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
    """Return of a configuration's ``{key: value}`` those that features depend on, as ``KEY: value`` lines; they are
    stored with the features."""
    flat = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    best = takes_best(values["TEST.CHECKPOINT"], values["TRAIN.EARLY_STOPPING_PATIENCE"])
    flat["TEST.CHECKPOINT"] = "best" if best else "last"
    kept = {key for key in flat.keys() & KEYS.keys() if KEYS[key].changes_features}
    if flat["FEATURES.AUGMENTED_VIEWS"]:
        kept |= {key for key in flat if key.startswith("AUG.")} | {"RNG_SEED"}
    kept -= {key for key, before in ADDED.items() if flat[key] == before}
    return dump_yaml({key: value for key, value in flat.items() if key in kept})


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
        loader_of: ``loader_of(dataset)``: its items, all for this process.
        stop: asks all processes, once each has done its share or has raised StopEarly, whether they shall stop.
    """

    def __init__(
        self,
        run: RunDir,
        loop: Inference,
        options: FeatureOptions,
        identity: Mapping[str, Any],
        dataset_of: Callable[[str], Any],
        loader_of: Callable[[Any], Iterable[Any]],
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.run, self.loop, self.options, self.identity = run, loop, options, dict(identity)
        self.dataset_of, self.loader_of, self.stop = dataset_of, loader_of, stop
        self.per_video = options.format == "per_video"

    def split(self, split: str) -> None:
        """Extract one split from where earlier runs stopped, shared out over all processes.

        What is computed together are always the same samples, blocks of ``batch_size`` from the first one on, so that
        a feature does not depend, to the last bit, on how many processes there are or where one was killed.

        Raises:
            DataError: a clip could not be used, and may not be left out; all others are written.
        """
        dataset = self._dataset(split)
        ids = [clip.id for clip in dataset.clips]
        bad_clips = BadClipLog(self.run.path / "bad_clips.csv", split, self.options.on_bad_clip, key="TEST.ON_BAD_CLIP")
        shape, writer = distributed.from_main(lambda: recorded_shape(self.run.features, split)), None
        if shape is not None:
            writer = self._writer(split, ids, shape)
        rows = self._own_rows(np.arange(len(ids)) if writer is None else writer.to_do())
        computed = self._computed(dataset, ids, rows, bad_clips)
        waiting: list[tuple[np.ndarray, list[Any]]] = []
        with contextlib.suppress(StopEarly):
            for block, features in computed if writer is None else ():
                waiting.append((block, features))
                if any(feature is not None for feature in features):
                    break  # it says what there is to store
        if writer is None:
            writer = self._begun_by_all(split, ids, waiting, bad_clips)
        with contextlib.suppress(StopEarly):
            for block, features in itertools.chain(waiting, computed):
                for start, stop in _spans(block, 1):
                    writer.write(int(block[start]), features[start:stop])
        self.stop()
        bad_clips.gather()
        missing = distributed.from_main(functools.partial(self._finished, writer, split, bad_clips))
        bad = f", {missing} of them bad clips without" if missing else ""
        logger.info(
            "features of %s: %d samples%s, %s each, in %s", split, len(ids), bad, writer.shape, self.run.features
        )

    def _begun_by_all(
        self, split: str, ids: list[str], waiting: list[tuple[np.ndarray, list[Any]]], bad_clips: BadClipLog
    ) -> FeatureWriter:
        """Return the writer of features whose shape is that of the first one that any process has made."""
        made = [feature for _, features in waiting for feature in features if feature is not None]
        own = (made[0].shape[1:] if self.per_video else made[0].shape) if made else None
        shapes = [shape for shape in distributed.all_gather_objects(own) if shape is not None]
        if not shapes:
            self.stop()
            bad_clips.gather()
            bad_clips.refuse_empty(len(ids))
        return self._writer(split, ids, shapes[0])

    def _finished(self, writer: FeatureWriter, split: str, bad_clips: BadClipLog) -> int:
        """Give the files their names once all processes are ready; returns how many samples are without a feature."""
        writer.join()
        missing = len(writer.missing)
        if missing and not bad_clips.count and self.options.on_bad_clip == "raise":
            raise DataError(
                f"{self.run.features} was finished with TEST.ON_BAD_CLIP skip, without {missing} clips of "
                f"the {split} split. Set it again, or remove the features to extract them again"
            )
        if missing:
            bad_clips.finish(f"{self.run.features} (unfinished: the same command tries those clips again)")
        writer.finish()
        return missing

    def _own_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return those of the samples to be done that are this process's: whole blocks, one behind the other."""
        starts = np.array([start for start, _ in _spans(rows // self.options.batch_size, 0)] + [len(rows)])
        rank, world, count = distributed.rank(), distributed.world_size(), len(starts) - 1
        return rows[starts[count * rank // world] : starts[count * (rank + 1) // world]]

    def _dataset(self, split: str) -> Any:
        """Return the split as fixed views, or as windows that slide over each video."""
        dataset = self.dataset_of(split)
        if not self.per_video:
            return dataset
        return dataset.windows(stride=self.options.stride, chunk=self.options.batch_size)

    def _computed(
        self, dataset: Any, ids: list[str], rows: np.ndarray, bad_clips: BadClipLog
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray | None]]]:
        """Yield (samples, their features) of block after block; None for a sample that cannot be used."""
        if not len(rows):
            return
        bad_ids: set[str] = set()

        def note(bad: BadClip) -> None:
            if bad.id not in bad_ids:  # once, also if it comes in pieces
                bad_ids.add(bad.id)
                bad_clips(bad)

        self.loop.on_bad = note
        numbers = self._items_of(dataset, rows)
        loader = self.loader_of(Subset(dataset, numbers))
        items = iter(progress(loader, total=len(numbers), desc=f"features in {self.run.features}"))
        for start, stop in _spans(rows // self.options.batch_size, 0):
            block = rows[start:stop]
            own = itertools.islice(items, len(self._items_of(dataset, block)))
            yield block, list(self._in_order(own, [ids[row] for row in block.tolist()], bad_ids))

    def _items_of(self, dataset: Any, rows: np.ndarray) -> Sequence[int]:
        """Return the numbers of the items of these samples: one each, or the pieces of a video."""
        first, last = int(rows[0]), int(rows[-1])
        if not self.per_video:
            return range(first, last + 1) if last - first + 1 == len(rows) else rows.tolist()
        count = len(dataset.clips)
        numbers: list[int] = []
        for row in rows.tolist():
            stop = dataset.first_item(row + 1) if row + 1 < count else len(dataset)
            numbers += range(dataset.first_item(row), stop)
        return numbers

    def _in_order(
        self, items: Iterable[Any], wanted: Sequence[str], bad_ids: Collection[str]
    ) -> Iterator[np.ndarray | None]:
        """Yield the feature of each of the samples with these ids."""
        left = iter(wanted)
        # the windows of one video come in several records, one behind the other
        for sample_id, records in groupby(self.loop(items), key=lambda record: record["id"]):
            while next(left) != sample_id:  # passed over: a bad clip
                yield None
            outputs = torch.cat([as_tensor(record["outputs"], self.options.layer) for record in records])
            if sample_id in bad_ids:  # some of its windows
                yield None
            else:
                whole = self.per_video or self.options.layer == TOKENS
                yield (outputs if whole else outputs.mean(dim=0)).numpy()
        for _ in left:
            yield None

    def _writer(self, split: str, ids: list[str], shape: Sequence[int]) -> FeatureWriter:
        """Return this process's writer; the first one has looked what is there, and counts bad clips as still to be
        done."""
        options, own = self.options, distributed.rank()
        made: list[FeatureWriter] = []

        def make(share: int) -> FeatureWriter:
            where = (self.run.features, split, ids, shape, options.dtype, self.identity, options.format)
            made.append(FeatureWriter(*where, share=share))
            return made[0]

        def look() -> tuple[Any, bool]:
            writer = make(0)
            if not self.per_video:
                said = writer.check_space()
                logger.info("features of %s: %d x %s %s: %s", split, len(ids), tuple(shape), options.dtype, said)
            writer.try_missing_again()
            return writer.counted, writer.complete

        told = distributed.from_main(look)
        if own:
            make(own).take_over(*told)
        return made[0]


def _spans(numbers: np.ndarray, step: int) -> Iterator[tuple[int, int]]:
    """Return (start, stop) of the stretches in which each number is the one before it plus ``step``."""
    bounds = [0, *(np.flatnonzero(np.diff(numbers) != step) + 1).tolist(), len(numbers)]
    return itertools.pairwise(bounds if len(numbers) else [])


def build_feature_loop(
    cfg: CfgNode, device: torch.device, should_stop: Callable[[], None] = lambda: None
) -> tuple[Inference, FeatureOptions, str, Mapping[str, Any] | None]:
    """Return the loop whose outputs are the features that cfg.FEATURES describes, its options, the checkpoint's path,
    and what that says the training split's dataset learnt.

    Raises:
        CheckpointError: there is no checkpoint, or it does not fit the model.
    """
    path = build_checkpoint_to_extract(cfg).path(together=True)
    model = build_for(cfg, device)
    saved = load_for_all(path, optimizer=False)
    with reading_together():
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
    return loop, options, str(path), learnt_of(saved, path)[1]


def build_pooling(cfg: CfgNode) -> TokenPooling:
    """Return how cfg.FEATURES makes one sequence of a backbone's tokens."""
    features = cfg.FEATURES
    return TokenPooling(features.TOKENS, tuple(features.TOKEN_GRID), features.TOKEN_QUERIES)


def build_fixed_views(cfg: CfgNode) -> tuple[CfgNode, str]:
    """Return the configuration of a dataset that gives the views of an extraction, and what kind of views they are."""
    features = cfg.FEATURES
    values = {
        "MODEL.NUM_CLASSES": 0,  # labels do not matter here
        "TEST.NUM_ENSEMBLE_VIEWS": features.NUM_VIEWS,
        "TEST.NUM_SPATIAL_CROPS": features.NUM_CROPS,
    }
    return with_values(cfg, values), "test" if features.NUM_VIEWS * features.NUM_CROPS > 1 else "val"


def build_extraction(cfg: CfgNode, run: RunDir, interrupt: InterruptFlag) -> Extraction:
    """Return the extraction that cfg.FEATURES describes, with the checkpoint that it names or OUTPUT_DIR's.

    Raises:
        CheckpointError: there is none, or it does not fit the model.
    """
    several = distributed.world_size() > 1  # then each goes at its own pace, and all are asked at the end
    should_stop = interrupt.check_alone if several else interrupt.check
    loop, options, path, fitted = build_feature_loop(cfg, build_device(cfg), should_stop)
    logger.info("features of %s by %s", options.layer, path)
    config = features_config(flatten(cfg))
    identity = {
        "checkpoint_sha256": distributed.from_main(lambda: file_sha256(path)),
        "config": config,
        "config_sha256": sha256_of_text(config),
        "layer": options.layer,
        "views": options.views,
    }
    if options.layer == TOKENS:  # so that a probe can be sure of its backbone, in whatever file that lies
        identity["backbone_sha256"] = sha256_of_backbone(loop.model)

    def dataset_of(split: str) -> Any:
        return build_split_to_extract(cfg, split, fitted)

    def loader_of(dataset: Any) -> Iterable[Any]:
        loader = evaluation_loader(cfg, dataset, shared=False)
        loader.waiting.on_wait = interrupt.check_alone if several else interrupt.check_waiting
        return loader

    return Extraction(run, loop, options, identity, dataset_of, loader_of, interrupt.check if several else lambda: None)


def build_split_to_extract(cfg: CfgNode, split: str, fitted: Mapping[str, Any] | None) -> Any:
    """Return a split's dataset in the fixed views that cfg.FEATURES describes, whatever its labels are."""
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
    interrupt = InterruptFlag()
    extraction = build_extraction(cfg, run, interrupt)
    if distributed.is_main():
        run.begin(dump(cfg))
    with interrupt.listening():
        for split in cfg.FEATURES.SPLITS:
            extraction.split(split)
