"""Several configurations as stages: where each writes, what it takes over from earlier ones, whether it is finished."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust.config import KEYS, CfgNode, dump, flatten, with_values
from dust.config.values import same
from dust.engine.checkpoints import CheckpointChoice, build_checkpoint_to_extract, build_checkpoint_to_test
from dust.engine.classes import build_with_classes
from dust.engine.extract import features_config
from dust.engine.run_dir import RunDir, differing_keys
from dust.engine.state import malformed
from dust.launch.requeue import begun_by_this_job
from dust.utils import distributed
from dust.utils.checkpoint import file_sha256, list_checkpoints, read_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DataError, DustError
from dust.utils.features import FeatureStore
from dust.utils.files import sha256_of_text
from dust.utils.stages import StageToCome, stage_checkpoint, stage_features
from dust.utils.structured import parse_yaml, read_json

logger = logging.getLogger(__name__)


def build_settled(cfg: CfgNode) -> Any:
    """Return the configuration with all that it leaves to other stages, to its data or to its checkpoint: see
    :func:`build_inherited` and :func:`dust.engine.classes.build_with_classes`."""
    return build_with_classes(build_inherited(cfg))


def build_inherited(cfg: CfgNode) -> Any:
    """Return the configuration with the sections that it takes over from other stages' checkpoints, which the first of
    several processes reads.

    Raises:
        ConfigError, CheckpointError: the stage has not run, and neither has this one.
    """
    return with_values(cfg, distributed.from_main(lambda: inherited_values(flatten(cfg), cfg.OUTPUT_DIR)))


def inherited_values(values: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """Return those of a configuration's ``{key: value}`` that other stages' checkpoints say otherwise
    (``inherits`` of its keys). Where the other stage is gone, this run's own checkpoint says what they were.

    Raises:
        ConfigError, CheckpointError: the stage has not run, and neither has this one.
    """
    inherited: dict[str, Any] = {}
    for key, section in ((key, facts.inherits) for key, facts in KEYS.items() if facts.inherits):
        name = values[key]
        if not name:
            continue
        try:
            saved = _saved_config(_upstream_checkpoint(key, str(name), output_dir))
        except StageToCome as stage:
            start = f"{section}."
            own = {whole.removeprefix(start): value for whole, value in stage.values.items() if whole.startswith(start)}
            saved = {section: own}
        if saved is None:
            logger.info("%s %s holds weights alone: %s.* stay as configured", key, name, section)
            continue
        for leaf, value in saved.get(section, {}).items():
            whole, dropout = f"{section}.{leaf}", leaf.endswith("_RATE")  # no weight depends on dropout
            here = inherited.get(whole, values.get(whole))
            if whole in values and not dropout and not same(here, value):
                logger.info("%s %s as in %s (here: %s)", whole, value, name, here)
                inherited[whole] = value
    return inherited


def upstream(values: Mapping[str, Any], output_dir: str) -> dict[str, str]:
    """Return ``{key: SHA-256}`` of the checkpoints that a stage stands on: those of every key that names an earlier
    stage which is still there; for stored features, of the checkpoint that made those of training.

    Args:
        values: ``{key: value}`` of the stage's configuration.
        output_dir: of the stage.
    """
    digests = {}
    for key, stage in ((key, facts.stage) for key, facts in KEYS.items() if facts.stage in ("checkpoint", "features")):
        name = str(values[key])
        if not name:
            continue
        try:
            if stage == "features":
                store = FeatureStore.open(stage_features(name, output_dir, key), "train")
                digests[key] = str(store.meta["checkpoint_sha256"])
            else:
                digests[key] = file_sha256(stage_checkpoint(name, output_dir, key))
        except (ConfigError, CheckpointError, DataError, KeyError):
            continue  # gone, a zoo's name, or features that do not say who made them
    return digests


@dataclass(frozen=True)
class Stage:
    """What a stage enables, and what its results would look like if they were there.

    Attributes:
        values, text: its configuration, as ``{key: value}`` and as text.
        auto_resume: what is there counts.
        max_epoch, patience: of its training; None where it does not train.
        tested, extracted: which checkpoint is tested, and gives features; None where it does not.
        splits: whose features are extracted.
        skip_bad: a test or extraction that had to leave clips out is finished.
    """

    output_dir: str
    values: Mapping[str, Any]
    text: str
    auto_resume: bool = True
    max_epoch: int | None = None
    patience: int = 0
    tested: CheckpointChoice | None = None
    extracted: CheckpointChoice | None = None
    splits: Sequence[str] = ()
    skip_bad: bool = False

    def finished(self) -> bool:
        """Tell whether all that is enabled is there: the last checkpoint, results and features, made by this very
        configuration from the checkpoints that the earlier stages hold now.

        Raises:
            DustError, OSError, ValueError, KeyError, TypeError, AttributeError: something there is damaged or missing.
        """
        if not self.auto_resume:
            return False
        run = RunDir(self.output_dir)
        return self._is_trained(run) and self._is_tested(run) and self._is_extracted(run)

    def _is_trained(self, run: RunDir) -> bool:
        if self.max_epoch is None:
            return True
        checkpoints = list_checkpoints(run.checkpoints)
        if not checkpoints:
            return False
        saved = read_checkpoint(checkpoints[-1])
        if malformed(saved):
            return False  # resuming says what of it
        stale = self.patience and saved["best"].get("stale", 0) >= self.patience
        last = saved["complete"] and (saved["epoch"] + 1 >= self.max_epoch or stale)
        same_start = saved["sources"] == upstream(self.values, self.output_dir)
        return bool(last) and not differing_keys(saved["cfg"], self.text) and same_start

    def _is_tested(self, run: RunDir) -> bool:
        if self.tested is None:
            return True
        report = read_json(run.results / "test.json")
        if not self.skip_bad and report["counts"]["bad_clips"]:
            return False
        return report["config_sha256"] == sha256_of_text(self.text) and report["checkpoint_sha256"] == file_sha256(
            self.tested.path()
        )

    def _is_extracted(self, run: RunDir) -> bool:
        if self.extracted is None:
            return True
        wanted = (sha256_of_text(features_config(self.values)), file_sha256(self.extracted.path()))
        stores = [FeatureStore.open(run.features, split) for split in self.splits]
        if not self.skip_bad and any(store.missing for store in stores):
            return False
        return all((store.meta["config_sha256"], store.meta["checkpoint_sha256"]) == wanted for store in stores)


def build_stage(cfg: CfgNode) -> Stage:
    """Return the stage that cfg describes, with what it takes over from earlier ones.

    Raises:
        ConfigError, CheckpointError: an earlier stage has not run, and neither has this one.
    """
    cfg = build_settled(cfg)
    return Stage(
        cfg.OUTPUT_DIR,
        flatten(cfg),
        dump(cfg),
        auto_resume=cfg.TRAIN.AUTO_RESUME or begun_by_this_job(cfg.OUTPUT_DIR),
        max_epoch=cfg.SOLVER.MAX_EPOCH if cfg.TRAIN.ENABLE else None,
        patience=cfg.TRAIN.EARLY_STOPPING_PATIENCE,
        tested=build_checkpoint_to_test(cfg) if cfg.TEST.ENABLE else None,
        extracted=build_checkpoint_to_extract(cfg) if cfg.FEATURES.ENABLE else None,
        splits=tuple(cfg.FEATURES.SPLITS),
        skip_bad=cfg.TEST.ON_BAD_CLIP == "skip",
    )


def finished(build: Callable[[], Stage], output_dir: str) -> bool:
    """Tell whether a stage need not run again. Where its results are damaged it must, and the run itself will say why.

    Args:
        build: returns the stage; it may raise, as :func:`build_stage` does.
        output_dir: of the stage.
    """
    if not Path(output_dir).is_dir():
        return False
    try:
        return build().finished()
    except (DustError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _upstream_checkpoint(key: str, name: str, output_dir: str) -> Path:
    try:
        return stage_checkpoint(name, output_dir, key)
    except StageToCome:
        raise
    except (ConfigError, CheckpointError):
        checkpoints = list_checkpoints(Path(output_dir) / "checkpoints")
        if not checkpoints:
            raise
        logger.warning("%s %s is gone; its settings are taken from %s", key, name, checkpoints[-1])
        return checkpoints[-1]


def _saved_config(path: Path) -> dict[str, Any] | None:
    text = read_checkpoint(path).get("cfg")
    return parse_yaml(text, f"the configuration in {path}") if isinstance(text, str) else None
