"""Services that keep the curves of runs: Weights & Biases, MLflow. None of them can end a run.

Both keep an id in OUTPUT_DIR, so that a resumed training continues in the same run there.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import yaml

from dust.config import CfgNode, flatten
from dust.utils.errors import DustError
from dust.utils.package import import_extra

logger = logging.getLogger(__name__)

#: MLflow refuses longer values of parameters.
LONGEST_PARAMETER = 500


class Tracker(Protocol):
    """What takes scalars; the whole of what is asked of a service."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take ``{"Train/loss": ...}`` of a step; ``group/step`` is among them."""

    def finish(self) -> None:
        """Note that the run is over."""


class Guarded:
    """A tracker whose troubles cost its curves, not the run: the first one is logged, and it is not asked again."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker = name, tracker
        self.works = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._ask(lambda: self.tracker.log(values, step))

    def finish(self) -> None:
        """End the run there although a line was refused: the next stage begins one of its own."""
        self.works = True
        self._ask(self.tracker.finish)

    def _ask(self, what: Callable[[], None]) -> None:
        if not self.works:
            return
        try:
            what()
        except Exception as error:  # whatever a service raises
            self.works = False
            logger.error("%s: %s. The run continues without it", self.name, error)


class Wandb:
    """A run of Weights & Biases (extra ``wandb``)."""

    def __init__(self, cfg: CfgNode, output_dir: Path) -> None:
        wandb = import_extra("wandb", "wandb", "WANDB.ENABLE True")
        run_id = kept_id(output_dir / ".wandb_id", wandb.util.generate_id)
        self.run = wandb.init(
            project=cfg.WANDB.PROJECT,
            name=cfg.WANDB.NAME or output_dir.name,
            id=run_id,
            resume="allow",
            mode=cfg.WANDB.MODE,
            dir=str(output_dir),
            config=yaml.safe_load(cfg.dump()),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values))  # steps of training and validation differ; each group has its own

    def finish(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow (extra ``mlflow``)."""

    def __init__(self, cfg: CfgNode, output_dir: Path) -> None:
        mlflow = import_extra("mlflow", "mlflow", "MLFLOW.ENABLE True")
        self.mlflow = mlflow
        if cfg.MLFLOW.TRACKING_URI:
            mlflow.set_tracking_uri(cfg.MLFLOW.TRACKING_URI)
        mlflow.set_experiment(cfg.MLFLOW.EXPERIMENT)
        name = cfg.MLFLOW.NAME or output_dir.name
        made: list[str] = []

        def begin() -> str:
            made.append(mlflow.start_run(run_name=name).info.run_id)
            return made[0]

        run_id = kept_id(output_dir / ".mlflow_id", begin)
        if not made:
            mlflow.start_run(run_id=run_id)
        else:
            mlflow.log_params({key: str(value)[:LONGEST_PARAMETER] for key, value in flatten(cfg).items()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics({name: float(value) for name, value in values.items()}, step=step)

    def finish(self) -> None:
        self.mlflow.end_run()


def kept_id(file: Path, make: Callable[[], str]) -> str:
    """Return the id that a file holds; a new one is written where there is none, or a start was cut off."""
    known = file.read_text().strip() if file.exists() else ""
    if not known:
        known = make()
        file.write_text(known)
    return known


def build_trackers(cfg: CfgNode, output_dir: Path) -> list[Guarded]:
    """Return the services that a configuration names. DustError, which says what to install, where a package is
    absent."""
    made: list[Guarded] = []
    kinds = (("Weights & Biases", cfg.WANDB.ENABLE, Wandb), ("MLflow", cfg.MLFLOW.ENABLE, Mlflow))
    for name, enabled, kind in kinds:
        if not enabled:
            continue
        try:
            made.append(Guarded(name, kind(cfg, output_dir)))
        except DustError:  # it is not installed, which is said before anything is begun
            raise
        except Exception as error:  # no connection, no account: whatever a service raises
            logger.error("%s: %s. The run continues without it", name, error)
    return made
