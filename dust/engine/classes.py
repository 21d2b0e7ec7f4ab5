"""MODEL.NUM_CLASSES -1: as many classes as the data has, or as the checkpoint that is tested was trained on."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dust.config import CfgNode, with_values
from dust.datasets.build import DATASET_REGISTRY, build_dataset
from dust.datasets.protocol import NamesClasses
from dust.engine.checkpoints import CheckpointChoice, build_checkpoint_to_extract, build_checkpoint_to_test
from dust.utils import distributed
from dust.utils.checkpoint import read_checkpoint
from dust.utils.errors import CheckpointError, DataError
from dust.utils.registry import import_extensions
from dust.utils.stages import StageToCome
from dust.utils.structured import parse_yaml
from dust.utils.text import MAX_CLASSES

logger = logging.getLogger(__name__)

#: The value that leaves the number open.
OPEN = -1


def build_with_classes(cfg: CfgNode) -> Any:
    """Return the configuration with the number of classes, where it leaves that open.

    A run that trains has the classes of its training split. One that does not has those of the checkpoint that it
    tests or extracts with; where that does not say, those of the split that it reads, as it reads it.

    Raises:
        DataError, ConfigError, CheckpointError: neither can be read.
    """
    if cfg.MODEL.NUM_CLASSES != OPEN:
        return cfg
    number, source = None, ""
    only_features = cfg.FEATURES.ENABLE and not cfg.TEST.ENABLE
    if not cfg.TRAIN.ENABLE:
        choice = build_checkpoint_to_extract(cfg) if only_features else build_checkpoint_to_test(cfg)
        number, source = distributed.from_main(lambda: _classes_of_checkpoint(choice))
    if number is None:
        split, dataset = cfg.TEST.SPLIT, cfg.TEST.DATASET
        if cfg.TRAIN.ENABLE or only_features:
            split = "train" if cfg.TRAIN.ENABLE else cfg.FEATURES.SPLITS[0]
            dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
        number = len(build_class_names(cfg, split, dataset))
        source = f"the {split} split of {cfg.DATA.PATH_TO_DATA_DIR} ({dataset})"
    logger.info("MODEL.NUM_CLASSES %d, as many as %s has", number, source)
    return with_values(cfg, {"MODEL.NUM_CLASSES": number})


def build_class_names(cfg: CfgNode, split: str, dataset: str) -> Sequence[str]:
    """Return the classes that the data of a split has, whatever their number, as the named dataset reads it. Files of
    clips may be missing."""
    import_extensions(cfg.IMPORTS)
    cls: Any = DATASET_REGISTRY.get(dataset)

    def read(check_files: bool) -> Sequence[str]:
        open_cfg = with_values(cfg, {"MODEL.NUM_CLASSES": 0, "DATA.CHECK_FILES": check_files})
        if isinstance(cls, NamesClasses):
            return cls.class_names_of(open_cfg, split)
        built: Any = build_dataset(dataset, open_cfg, split)
        return built.class_names

    try:
        return read(cfg.DATA.CHECK_FILES)  # as the run will, which then need not read it again
    except DataError:
        return read(False)


def _classes_of_checkpoint(choice: CheckpointChoice) -> tuple[int | None, str]:
    """Return the number that a checkpoint was trained with, and its name; (None, "") where there is none that says
    it."""
    try:
        path = choice.find()
        return (None, "") if path is None else (_number_in(read_checkpoint(path), path), str(path))
    except StageToCome as stage:
        number = stage.values["MODEL.NUM_CLASSES"]
        return (None if number == OPEN else number), f"stage {stage.name}"


def _number_in(saved: dict[Any, Any], path: Path) -> int | None:
    """Return MODEL.NUM_CLASSES of the configuration in a checkpoint, else the number of its class names.
    CheckpointError where it is absurd."""
    try:
        number = parse_yaml(saved["cfg"], "the checkpoint's cfg")["MODEL"]["NUM_CLASSES"]
    except (DataError, KeyError, TypeError, AttributeError):
        number = len(saved["class_names"]) if isinstance(saved.get("class_names"), list) else None
    if isinstance(number, int) and number > MAX_CLASSES:
        raise CheckpointError(f"{path}: its MODEL.NUM_CLASSES is above {MAX_CLASSES:,}, more classes than are taken")
    return number if isinstance(number, int) and number > 0 else None
