"""Several configurations as stages: where each writes, what it takes over from earlier ones, whether it is finished."""

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from dust.config import KEYS, flatten, with_values
from dust.config.values import same
from dust.engine.extract import checkpoint_to_extract, features_config
from dust.engine.run_dir import RunDir, config_sha256, differing_keys
from dust.engine.test import checkpoint_to_test
from dust.utils.checkpoint import file_sha256, list_checkpoints, read_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DataError, DustError
from dust.utils.features import FeatureStore
from dust.utils.files import sha256_of_text
from dust.utils.stages import stage_checkpoint, stage_features

logger = logging.getLogger(__name__)


def inherit(cfg):
    """``cfg`` with the sections that it takes over from other stages' checkpoints (``inherits`` of its keys).

    Where the other stage is gone, this run's own checkpoint says what they were.

    Raises:
        ConfigError, CheckpointError: the stage has not run, and neither has this one.
    """
    flat, taken = flatten(cfg), {}
    for key, section in ((key, facts.inherits) for key, facts in KEYS.items() if facts.inherits):
        name = flat[key]
        if not name:
            continue
        saved = _saved_config(_source(cfg, key, str(name)))
        if saved is None:
            logger.info("%s %s holds weights alone: %s.* stay as configured", key, name, section)
            continue
        for leaf, value in saved.get(section, {}).items():
            own, dropout = f"{section}.{leaf}", leaf.endswith("_RATE")  # no weight depends on dropout
            if own in flat and not dropout and not same(flat[own], value):
                logger.info("%s %s as in %s (here: %s)", own, value, name, flat[own])
                taken[own] = value
    return with_values(cfg, taken)


def sources(cfg) -> dict[str, str]:
    """``{key: SHA-256}`` of the checkpoints that this stage stands on: those of every key that names an earlier stage
    which is still there; for stored features, of the checkpoint that made those of training."""
    found, flat = {}, flatten(cfg)
    for key, stage in ((key, facts.stage) for key, facts in KEYS.items() if facts.stage in ("checkpoint", "features")):
        name = str(flat[key])
        if not name:
            continue
        try:
            if stage == "features":
                store = FeatureStore.open(stage_features(name, cfg.OUTPUT_DIR, key), "train")
                found[key] = str(store.meta["checkpoint_sha256"])
            else:
                found[key] = file_sha256(stage_checkpoint(name, cfg.OUTPUT_DIR, key))
        except (ConfigError, CheckpointError, DataError, KeyError):
            continue  # gone, a zoo's name, or features that do not say who made them
    return found


def finished(cfg) -> bool:
    """Whether all that ``cfg`` enables is there: the last checkpoint, results and features, made by this very
    configuration from the checkpoints that the earlier stages hold now."""
    if not Path(cfg.OUTPUT_DIR).is_dir() or not cfg.TRAIN.AUTO_RESUME:
        return False
    run = RunDir(cfg.OUTPUT_DIR)
    try:
        cfg = inherit(cfg)
        return (
            (not cfg.TRAIN.ENABLE or _trained(cfg, run))
            and (not cfg.TEST.ENABLE or _tested(cfg, run))
            and (not cfg.FEATURES.ENABLE or _extracted(cfg, run))
        )
    except (DustError, OSError, ValueError, KeyError):
        return False  # whatever is wrong there, the run itself will say it


def _trained(cfg, run: RunDir) -> bool:
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        return False
    saved = read_checkpoint(checkpoints[-1])
    stale = cfg.TRAIN.EARLY_STOPPING_PATIENCE and saved["best"].get("stale", 0) >= cfg.TRAIN.EARLY_STOPPING_PATIENCE
    last = saved["complete"] and (saved["epoch"] + 1 >= cfg.SOLVER.MAX_EPOCH or stale)
    return bool(last) and not differing_keys(saved["cfg"], cfg.dump()) and saved["sources"] == sources(cfg)


def _tested(cfg, run: RunDir) -> bool:
    report = json.loads((run.results / "test.json").read_text(encoding="utf-8"))
    return report["config_sha256"] == config_sha256(cfg) and report["checkpoint_sha256"] == file_sha256(
        checkpoint_to_test(cfg, run)
    )


def _extracted(cfg, run: RunDir) -> bool:
    wanted = (sha256_of_text(features_config(cfg)), file_sha256(checkpoint_to_extract(cfg, run)))
    stores = [FeatureStore.open(run.features, split) for split in cfg.FEATURES.SPLITS]
    return all((store.meta["config_sha256"], store.meta["checkpoint_sha256"]) == wanted for store in stores)


def _source(cfg, key: str, name: str) -> Path:
    try:
        return stage_checkpoint(name, cfg.OUTPUT_DIR, key)
    except (ConfigError, CheckpointError):
        own = list_checkpoints(Path(cfg.OUTPUT_DIR) / "checkpoints")
        if not own:
            raise
        logger.warning("%s %s is gone; its settings are taken from %s", key, name, own[-1])
        return own[-1]


def _saved_config(path: Path) -> dict[str, Any] | None:
    text = read_checkpoint(path).get("cfg")
    return yaml.safe_load(text) if isinstance(text, str) else None
